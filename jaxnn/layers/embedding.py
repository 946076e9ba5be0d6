"""Layers that look vectors up in a table."""

import jax
import jax.numpy as jnp

from jaxnn import rules
from jaxnn.arrays import is_whole
from jaxnn.errors import JaxnnError
from jaxnn.layers.bounds import bounded, monotone
from jaxnn.layers.core import Layer, constructor
from jaxnn.layers.initializers import Initializer, initializer


@constructor
def embedding(
    count: int,
    width: int,
    init: str | Initializer = "lecun",
    padding: int | None = None,
) -> Layer:
    """A vector for each of `count` indices: x (B, ...) -> y (B, ..., width).

    x holds whole numbers in [0, count), as integers or, since `fit` hands every input
    over in the network's floating type, as floats (float32 is exact up to 2^24). Give
    `fit` int32 rather than uint8, which it takes for pixels. Anything else, -1 and
    0.5 too, gives a row of NaN, which the guard reports: nothing can be raised under
    jit. `backward` returns no dx for integers (None) and zeros for floats, so the layer
    belongs at the front of a network.

    Args:
      count: number of rows of the table w (count, width), at least 1.
      width: length of a vector, at least 1.
      init: initialiser of w.
      padding: index that stands for "nothing": y is 0 there and it learns nothing.

    Raises:
      JaxnnError: count or width < 1, unknown initialiser.
    """
    name, rule, draw = (
        f"embedding({count}, {width})",
        rules.embedding(padding),
        initializer(init),
    )
    for n in (count, width):
        if not is_whole(n):
            raise JaxnnError(f"{name}: expected whole numbers, at least 1 each")

    def setup(key, in_shape):
        # drawn as its transpose: `init` should scale by the vector's length
        w = draw(key, (width, count), jnp.result_type(float)).T
        return {"w": w}, (), (*in_shape, width)

    def forward(params, state, x, *, key=None, train):
        del key, train
        if not _is_table(params) or params["w"].shape != (count, width):
            raise JaxnnError(
                f"{name}: got params of shapes {jax.tree.map(jnp.shape, params)}, "
                f"expected w {(count, width)}; were they made by another network?"
            )
        floating = jnp.issubdtype(x.dtype, jnp.floating)
        rows = jnp.where(x == jnp.floor(x), x, count).astype(int) if floating else x
        y, kept = rule.fwd(rows, params["w"])
        return y, state, (kept, jnp.zeros_like(x) if floating else None)

    def backward(cache, dy):
        kept, dx = cache
        return dx, {"w": rule.bwd(kept, dy)[1]}

    return Layer(setup, forward, backward, name)


@constructor
def positional_embedding(init: str | Initializer | None = None) -> Layer:
    """Add a learned vector to each step: x (B, T, D) -> y = x + w[:T], (B, T, D).

    w has as many rows as `init` was told of steps; shorter sequences use the first.
    `init` None draws from N(0, 0.02^2), as GPT-2 does.

    Raises:
      JaxnnError: x is not (B, T, D), or longer than w.
    """
    name, rule = "positional_embedding", rules.add_positions
    draw = _small_normal if init is None else initializer(init)

    def setup(key, in_shape):
        if len(in_shape) != 2:
            raise JaxnnError(
                f"{name}: got in_shape={tuple(in_shape)}, expected (steps, features); "
                "in_shape leaves out the batch axis only"
            )
        w = draw(key, tuple(in_shape), jnp.result_type(float))
        return {"w": w}, (), tuple(in_shape)

    def forward(params, state, x, *, key=None, train):
        del key, train
        if not _is_table(params):
            raise JaxnnError(
                f"{name}: got params of shapes {jax.tree.map(jnp.shape, params)}, "
                "expected w (steps, features); were they made by another network?"
            )
        steps, width = params["w"].shape
        if x.ndim != 3 or x.shape[1] > steps or x.shape[2] != width:
            raise JaxnnError(
                f"{name}: input of shape {x.shape}, expected (batch, up to {steps} "
                f"steps, {width}). Was init called with in_shape={x.shape[1:]}?"
            )
        y, cache = rule.fwd(x, params["w"])
        return y, state, cache

    def backward(cache, dy):
        dx, dw = rule.bwd(cache, dy)
        return dx, {"w": dw}

    # a sum of two: it rounds once
    return bounded(Layer(setup, forward, backward, name), monotone)


def _small_normal(key, shape, dtype):
    return 0.02 * jax.random.normal(key, shape, dtype)


def _is_table(params) -> bool:
    return isinstance(params, dict) and set(params) == {"w"} and params["w"].ndim == 2
