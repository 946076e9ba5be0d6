"""What to do about a bad step: the policies, and the optimizer that can slow down."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxnn.programs import remembered

POLICIES: dict[str, str] = {
    "skip": "leave the step out, bit for bit; after too many in a row, an error",
    "raise": "an error at the first bad step",
    "rollback": "back to the last sound state with half the learning rate; sound is "
    "one whose loss was seen, at the next step",
    "stop": "end the training, keeping the best parameters",
    "off": "take the step: NaN goes where it will",
}
"""Policy -> what it does about a step whose loss, gradients or updates are bad."""

MOST_ROLLBACKS = 20
EXPLODED = 3.0  # times the loss before training: no step of a sound run is so bad
CALM = 1.5  # times that loss: well below, so that other rows are not beyond it


def step_guard(policy: str) -> str:
    """The `guard` of `make_step` for a policy of `fit`."""
    return {"skip": "skip", "off": "off"}.get(policy, "halt")


class Slowed(NamedTuple):
    """State of `slowable`: all updates are multiplied by `scale`."""

    scale: Array
    inner: Any


@remembered
def slowable(optimizer: Any) -> Any:
    """The optimizer, its updates times a number that `slow_down` can halve."""

    def init(params):
        return Slowed(jnp.ones(()), optimizer.init(params))

    def update(updates, state, params=None):
        updates, inner = optimizer.update(updates, state.inner, params)
        slowed = jax.tree.map(lambda u: u * state.scale.astype(u.dtype), updates)
        return slowed, Slowed(state.scale, inner)

    return optax.GradientTransformation(init, update)


def slow_down(opt: Slowed, factor: Any) -> Slowed:
    """The state with its scale times `factor`, one number or one a seed."""
    return Slowed(opt.scale * jnp.asarray(factor, opt.scale.dtype), opt.inner)
