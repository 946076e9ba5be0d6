"""Budgets of adversarial training that grow from step to step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.errors import JaxnnError
from jaxnn.programs import remembered

Epsilon = float | Callable[[Array], Array]
"""A budget in pixel units of [0, 1], or the budget of each step (see `ramp`)."""


@remembered
def ramp(epsilon: float, steps: int, start: float = 0.0) -> Callable[[Array], Array]:
    """A budget that grows evenly from `start` to `epsilon` in so many steps.

    From a large budget a fresh network learns to say one class always: every other
    answer is punished. Growing budgets keep it learning (Gowal et al. 2018).
    """
    if not (steps >= 1 and 0 <= start <= epsilon):
        raise JaxnnError(
            f"ramp: got epsilon={epsilon:g}, steps={steps}, start={start:g}; expected "
            "steps >= 1 and 0 <= start <= epsilon"
        )

    def at(step):
        share = jnp.minimum(step / steps, 1.0)
        return start + share * (epsilon - start)

    return at


def budget_at(epsilon: Epsilon, step: Array, dtype: Any) -> Array:
    """The budget of this step, in the images' type."""
    value = epsilon(step) if callable(epsilon) else epsilon
    return jnp.asarray(value, dtype)


def check_epsilon(name: str, epsilon: Epsilon) -> None:
    """Raise a `JaxnnError` for a budget that no float >= 0 holds."""
    if callable(epsilon):
        return
    least = float(jnp.finfo(jax.dtypes.canonicalize_dtype(float)).tiny)
    if not (epsilon == 0 or epsilon >= least):
        raise JaxnnError(
            f"{name}: got epsilon {epsilon:g}, expected 0 or epsilon >= {least:.2g}"
        )
