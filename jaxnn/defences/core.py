"""What a defence is to a training step: another loss, with its gradients by hand."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.errors import JaxnnError
from jaxnn.layers import Layer
from jaxnn.losses import Loss
from jaxnn.programs import remembered

Epsilon = float | Callable[[Array], Array]
"""A budget in pixel units of [0, 1], or the budget of each step (see `ramp`)."""


def no_memory(shape: tuple[int, ...], dtype: Any) -> Any:
    """Nothing is kept from step to step."""
    del shape, dtype
    return ()


class Defence(NamedTuple):
    """How the loss of a batch and its gradients are taken in training.

    Attributes:
      name: what reports call it.
      gradients: `(net, loss, params, state, x, y, *, key, step, memory) -> (value,
        dparams, state, memory)`; x (B, ...) floats, `loss` reduces to the mean by
        itself and to one value a sample with `reduction="none"`.
      memory: `(shape of x, dtype) ->` what is kept from step to step at the start.
      replays: how often each batch is used in a row.
      attack_steps: of the attack it trains on; 0 where bounds take an attack's place,
        None where images stay as they are. A single step can be hidden from.
    """

    name: str
    gradients: Callable[..., tuple[Array, Any, Any, Any]]
    memory: Callable[[tuple[int, ...], Any], Any] = no_memory
    replays: int = 1
    attack_steps: int | None = None


def value_and_gradients(
    net: Layer, loss: Loss, params: Any, state: Any, x: Array, y: Any, key: Any
) -> tuple[Array, Array, Any, Any]:
    """Mean loss in training mode, dx, dparams and the new state: one way back."""
    pred, state, cache = net.forward(params, state, x, key=key, train=True)
    with jax.named_scope("loss"):
        value, dpred = loss(pred, y)
    dx, dparams = net.backward(cache, dpred)  # XLA drops what is not used
    return value, dx, dparams, state


def _plain(net, loss, params, state, x, y, *, key, step, memory):
    del step
    value, _, dparams, state = value_and_gradients(net, loss, params, state, x, y, key)
    return value, dparams, state, memory


undefended = Defence("undefended", _plain)
"""The loss of the images as they are."""


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
    """Raise a `JaxnnError` for a budget that is not a number >= 0."""
    if not callable(epsilon) and not epsilon >= 0:
        raise JaxnnError(f"{name}: got epsilon {epsilon:g}, expected epsilon >= 0")
