"""Memory for time: what is computed again need not be kept."""

from dataclasses import dataclass, field
from typing import Any

import jax
from jax import lax

from jaxnn.combine.parts import Parts
from jaxnn.layers import Layer, constructor, interval


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Replay:
    """Cache of `remat`: all that a forward pass takes; its mode is not an array."""

    params: Any
    state: Any
    x: Any
    key: Any
    train: bool = field(metadata={"static": True})


@constructor
def remat(layer: Layer) -> Layer:
    """`layer` that keeps its input only; backward runs forward once more.

    The cache is (params, state, x, key), so the second run draws the same dropout
    masks and takes the same batch statistics; the state it makes is dropped, running
    averages move once. Around the block of a `stack` this leaves one input a copy:
    `stack(remat(block), 12)`. Elsewhere it depends on the compiler: XLA for CPU takes
    the barrier out that should keep the second run, finds it equal to the first, and
    saves nothing.

    Source: Chen et al. 2016.
    """
    parts = Parts("remat", (layer,), recomputed=True)

    def init(key, in_shape):
        return parts.init(0, key, in_shape)

    def forward(params, state, x, *, key=None, train):
        y, new_state, _ = parts.forward(0, params, state, x, key=key, train=train)
        return y, new_state, Replay(params, state, x, key, train)

    def backward(cache, dy):
        # Without the barrier XLA sees two equal computations and keeps the first; with
        # dy inside, the second cannot start before its turn.
        c, dy = lax.optimization_barrier((cache, dy))
        _, _, cache = parts.forward(0, c.params, c.state, c.x, key=c.key, train=c.train)
        return parts.backward(0, cache, dy)

    def bounds():
        return remat(interval(layer))

    name = f"remat({layer.name})"
    return Layer(init, forward, backward, name, (layer,), bounds=bounds)
