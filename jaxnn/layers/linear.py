"""Layers with weights."""

import jax
from jax import numpy as jnp

from jaxnn.arrays import is_whole
from jaxnn.errors import JaxnnError
from jaxnn.layers.bounds import bounded, linear
from jaxnn.layers.core import Layer, constructor
from jaxnn.layers.initializers import Initializer, initializer
from jaxnn.rules import affine, matmul


@constructor
def dense(
    width: int,
    init: str | Initializer = "he",
    bias: bool | str | Initializer = True,
) -> Layer:
    """y = x w + b along the last axis: x (B, ..., I) -> y (B, ..., width).

    Args:
      width: number of units, at least 1.
      init: initialiser of w (I, width).
      bias: True starts b (width,) at zero, False leaves it out, "zeros", "normal" or
        a function draws it (the other initialisers need a matrix).

    Raises:
      JaxnnError: width < 1, unknown initialiser, input of another width than w.
    """
    name = f"dense({width})"
    if not is_whole(width):
        raise JaxnnError(f"{name}: width must be at least 1, a whole number")
    draw_w = initializer(init)
    draw_b = None if bias is False else initializer("zeros" if bias is True else bias)
    if isinstance(bias, str) and bias not in ("zeros", "normal"):
        raise JaxnnError(
            f"{name}: bias={bias!r} needs a matrix; expected True, False, zeros, "
            "normal or a function"
        )

    names = {"w"} if draw_b is None else {"w", "b"}

    def setup(key, in_shape):
        if not in_shape:
            raise JaxnnError(
                f"{name}: got in_shape=(), expected at least one axis (features); "
                "in_shape leaves out the batch axis only"
            )
        params = {"w": draw_w(key, (in_shape[-1], width), jnp.result_type(float))}
        if draw_b is not None:
            # fold_in: w is the same draw with and without a bias
            params["b"] = draw_b(
                jax.random.fold_in(key, 1), (width,), jnp.result_type(float)
            )
        return params, (), (*in_shape[:-1], width)

    def forward(params, state, x, *, key=None, train):
        del key, train
        if not _fits(params, names, width):
            raise JaxnnError(
                f"{name}: got params of shapes {jax.tree.map(jnp.shape, params)}, "
                f"expected a dict of {' and '.join(sorted(names))} of width {width}; "
                "were they made by another network?"
            )
        w = params["w"]
        if x.ndim < 2 or x.shape[-1] != w.shape[0]:
            raise JaxnnError(
                f"{name}: input of shape {x.shape} has {x.shape[-1] if x.ndim else 0} "
                f"features but w has shape {w.shape}; expected (batch, {w.shape[0]}). "
                f"Was init called with in_shape={x.shape[1:]}?"
            )
        rule, args = (affine, (w, params["b"])) if draw_b else (matmul, (w,))
        y, cache = rule.fwd(x, *args)
        return y, state, cache

    def backward(cache, dy):
        if draw_b is None:
            dx, dw = matmul.bwd(cache, dy)
            return dx, {"w": dw}
        dx, dw, db = affine.bwd(cache, dy)
        return dx, {"w": dw, "b": db}

    return bounded(Layer(setup, forward, backward, name), linear)


def _fits(params, names, width) -> bool:
    return (
        isinstance(params, dict)
        and set(params) == names
        and all(a.shape[-1:] == (width,) for a in params.values())
    )
