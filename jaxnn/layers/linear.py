"""Layers with weights: dense, tables of vectors, and where parameters start."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.nn import initializers as jax_initializers

from jaxnn import rules
from jaxnn.errors import JaxnnError, lookup
from jaxnn.layers.bounds import bounded, linear, monotone
from jaxnn.layers.core import (
    Layer,
    check_count,
    check_params,
    check_sequence,
    constructor,
    of_rule,
    register,
)
from jaxnn.rules import affine, matmul

__all__ = [
    "INITIALIZERS", "dense", "embedding", "initializer", "positional_embedding",
]  # fmt: skip

Initializer = Callable[..., Array]

INITIALIZERS: dict[str, Initializer] = {
    "zeros": jax_initializers.zeros,
    "normal": jax.random.normal,
    "xavier": jax_initializers.glorot_normal(),
    "xavier_normal": jax_initializers.glorot_normal(),
    "xavier_uniform": jax_initializers.glorot_uniform(),
    "he": jax_initializers.he_normal(),
    "he_normal": jax_initializers.he_normal(),
    "he_uniform": jax_initializers.he_uniform(),
    "lecun": jax_initializers.lecun_normal(),
    "lecun_normal": jax_initializers.lecun_normal(),
    "lecun_uniform": jax_initializers.lecun_uniform(),
    "orthogonal": jax_initializers.orthogonal(),
}
"""Name -> initializer; the bare names are the normal (truncated at two sigma) variants.

Standard deviations for w (I, O): `lecun` sqrt(1/I) (LeCun 1998), `he` sqrt(2/I)
(He 2015, for relu), `xavier` sqrt(2/(I+O)) (Glorot 2010, for tanh and sigmoid),
`normal` 1 (Nielsen's first network); `orthogonal`: Saxe 2014.
"""


def initializer(init: str | Initializer) -> Initializer:
    """The initializer `(key, shape, dtype) -> array` of that name, or `init` itself."""
    return init if callable(init) else lookup("initializer", init, INITIALIZERS)


def weight_and_bias(
    name: str, init: str | Initializer, bias: bool | str | Initializer
) -> Callable[[Array, tuple[int, ...]], dict[str, Array]]:
    """`(key, shape of w) -> {"w": ..., "b": ...}` for the layer `name`."""
    draw_w = initializer(init)
    draw_b = None if bias is False else initializer("zeros" if bias is True else bias)
    if isinstance(bias, str) and bias not in ("zeros", "normal"):
        raise JaxnnError(
            f"{name}: bias={bias!r} needs a matrix; expected True, False, zeros, "
            "normal or a function"
        )

    def draw(key, shape):
        dtype = jnp.result_type(float)
        params = {"w": draw_w(key, shape, dtype)}
        if draw_b is not None:
            # fold_in: w is the same draw with and without a bias
            params["b"] = draw_b(jax.random.fold_in(key, 1), shape[-1:], dtype)
        return params

    return draw


@constructor
def dense(
    width: int, init: str | Initializer = "he", bias: bool | str | Initializer = True
) -> Layer:
    """y = x w + b along the last axis: x (B, ..., I) -> y (B, ..., width).

    Args:
      width: number of units, at least 1.
      init: initializer of w (I, width).
      bias: True starts b (width,) at zero, False leaves it out, "zeros", "normal" or
        a function draws it (the other initializers need a matrix).
    """
    name = f"dense({width})"
    check_count(name, "width", width)
    draw = weight_and_bias(name, init, bias)
    rule, names = (matmul, ("w",)) if bias is False else (affine, ("w", "b"))

    def setup(key, in_shape):
        if not in_shape:
            raise JaxnnError(
                f"{name}: got in_shape=(), expected at least one axis (features); "
                "in_shape leaves out the batch axis only"
            )
        return draw(key, (in_shape[-1], width)), (), (*in_shape[:-1], width)

    def check(params, x):
        ends = [a.shape[-1:] == (width,) for a in jax.tree.leaves(params)]
        check_params(name, params, names, f" of width {width}", all(ends))
        w = params["w"]
        if x.ndim < 2 or x.shape[-1] != w.shape[0]:
            raise JaxnnError(
                f"{name}: input of shape {x.shape} has {x.shape[-1] if x.ndim else 0} "
                f"features but w has shape {w.shape}; expected (batch, {w.shape[0]}). "
                f"Was init called with in_shape={x.shape[1:]}?"
            )

    return bounded(of_rule(rule, names, setup, check, name), linear)


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
      init: initializer of w.
      padding: index that stands for "nothing": y is 0 there and it learns nothing.
    """
    name = f"embedding({count}, {width})"
    check_count(name, "count", count)
    check_count(name, "width", width)
    rule, draw = rules.embedding(padding), initializer(init)

    def setup(key, in_shape):
        # drawn as its transpose: `init` should scale by the vector's length
        w = draw(key, (width, count), jnp.result_type(float)).T
        return {"w": w}, (), (*in_shape, width)

    def forward(params, state, x, *, key=None, train):
        del key, train
        fits = [a.shape == (count, width) for a in jax.tree.leaves(params)]
        check_params(name, params, ("w",), f" {(count, width)}", all(fits))
        floating = jnp.issubdtype(x.dtype, jnp.floating)
        rows = jnp.where(x == jnp.floor(x), x, count).astype(int) if floating else x
        y, kept = rule.fwd(rows, params["w"])
        return y, state, (kept, jnp.zeros_like(x) if floating else None)

    def backward(cache, dy):
        kept, dx = cache
        return dx, {"w": rule.bwd(kept, dy)[1]}

    return Layer(setup, forward, backward, name, takes="numbers")


@constructor
def positional_embedding(init: str | Initializer | None = None) -> Layer:
    """Add a learned vector to each step: x (B, T, D) -> y = x + w[:T], (B, T, D).

    w has as many rows as `init` was told of steps; shorter sequences use the first.
    `init` None draws from N(0, 0.02^2), as GPT-2 does.
    """
    name = "positional_embedding"
    draw = jax_initializers.normal(0.02) if init is None else initializer(init)

    def setup(key, in_shape):
        check_sequence(name, in_shape)
        w = draw(key, tuple(in_shape), jnp.result_type(float))
        return {"w": w}, (), tuple(in_shape)

    def check(params, x):
        matrix = [a.ndim == 2 for a in jax.tree.leaves(params)]
        check_params(name, params, ("w",), " (steps, features)", all(matrix))
        steps, width = params["w"].shape
        if x.ndim != 3 or x.shape[1] > steps or x.shape[2] != width:
            raise JaxnnError(
                f"{name}: input of shape {x.shape}, expected (batch, up to {steps} "
                f"steps, {width}). Was init called with in_shape={x.shape[1:]}?"
            )

    # a sum of two: it rounds once
    layer = of_rule(rules.add_positions, ("w",), setup, check, name)
    return bounded(layer, monotone)


register(dense, embedding, positional_embedding)
