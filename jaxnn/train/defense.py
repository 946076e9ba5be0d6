"""What a defense is to a training step: another loss, with its gradients by hand."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import Array

from jaxnn.layers import Layer
from jaxnn.losses import Loss


def no_memory(shape: tuple[int, ...], dtype: Any) -> Any:
    """Keep nothing from step to step."""
    del shape, dtype
    return ()


class Defense(NamedTuple):
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


standard_training = Defense("standard training", _plain)
"""The loss of the images as they are."""
