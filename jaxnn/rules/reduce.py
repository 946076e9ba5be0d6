"""Rules that join the elements along some axes into one.

`axis` is an int, a tuple of them, or None for all; `keepdims` leaves the joined axes
in with size 1. Each keeps what the way back needs to spread dy out again.
"""

import math
from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array

from jaxnn.errors import JaxnnError
from jaxnn.rules.core import Rule, outline, register

__all__ = ["logsumexp", "max", "mean", "sum"]

Axis = int | Sequence[int] | None


def sum(axis: Axis = None, keepdims: bool = False) -> Rule:
    """y = sum of x over the axes; every element gets dy. Keeps the shape of x.

    >>> import jax.numpy as jnp
    >>> y, cache = sum(axis=0).fwd(jnp.ones((2, 3)))
    >>> y.tolist()
    [2.0, 2.0, 2.0]
    """

    def fwd(x):
        axes = _axes("sum", axis, x.shape)
        return x.sum(axes, keepdims=keepdims), outline(x)

    def bwd(like, dy):
        return (_spread_out(dy, like.shape[1:], axis),)

    return Rule("sum", fwd, bwd)


def mean(axis: Axis = None, keepdims: bool = False) -> Rule:
    """y = mean of x over the axes; each of the n elements gets dy / n.

    Keeps the shape of x. Of no elements the mean is 0 / 0 = NaN. Errors as in `sum`.
    """

    def fwd(x):
        axes = _axes("mean", axis, x.shape)
        return x.mean(axes, keepdims=keepdims), outline(x)

    def bwd(like, dy):
        shape = like.shape[1:]
        n = math.prod(shape[a] for a in _axes("mean", axis, shape))
        return (_spread_out(dy, shape, axis) / n if n else jnp.zeros(shape, dy.dtype),)

    return Rule("mean", fwd, bwd)


def max(axis: Axis = None, keepdims: bool = False) -> Rule:
    """y = the largest element along the axes, to which dy goes.

    Keeps one mask (1 byte an element of x). Ties share dy equally, as in `jax.vjp` and
    PyTorch's `amax`. A NaN is the largest: y is NaN and dy goes to the NaNs.
    """

    def fwd(x):
        axes = _axes("max", axis, x.shape)
        if 0 in (x.shape[a] for a in axes):
            raise JaxnnError(
                f"max: x of shape {x.shape} has no element along axis {axis}, expected "
                "at least one"
            )
        nan = jnp.isnan(x)
        # asked for by name: with fast min/max the XLA CPU compiler may drop a NaN
        y = jnp.where(
            nan.any(axes, keepdims=True), jnp.nan, x.max(axes, keepdims=True)
        ).astype(x.dtype)
        largest = (x == jnp.broadcast_to(y, x.shape)) | nan
        return y if keepdims else y.squeeze(axes), largest

    def bwd(largest, dy):
        axes = _axes("max", axis, largest.shape)
        n = largest.sum(axes, keepdims=True).astype(dy.dtype)
        share = _spread_out(dy.reshape(n.shape) / n, largest.shape, axis)
        return (jnp.where(largest, share, 0),)

    return Rule("max", fwd, bwd)


def logsumexp(axis: Axis = None, keepdims: bool = False) -> Rule:
    """y = log of the sum of e^x over the axes; dx = dy e^(x - y), a softmax.

    Keeps e^(x - the largest x), which cannot overflow, and its sum: their ratio is that
    softmax. Of elements that are all -inf, or of none, y = -inf and dx = 0 (automatic
    differentiation makes it NaN). An element of +inf makes y = inf and its dx NaN.
    Errors as in `sum`.
    """

    def fwd(x):
        axes = _axes("logsumexp", axis, x.shape)
        top = x.max(axes, keepdims=True, initial=-jnp.inf)
        # +-inf - +-inf would be NaN
        top = jnp.where(jnp.isinf(top), 0, top)
        parts = jnp.exp(x - jnp.broadcast_to(top, x.shape))
        total = parts.sum(axes, keepdims=True)
        y = jnp.log(total) + top
        return y if keepdims else y.squeeze(axes), (parts, total)

    def bwd(cache, dy):
        parts, total = cache
        total = jnp.where(total == 0, 1, total)  # nothing but -inf: 0 / 1, not 0 / 0
        return (
            parts * _spread_out(dy.reshape(total.shape) / total, parts.shape, axis),
        )

    return Rule("logsumexp", fwd, bwd)


def _axes(name: str, axis: Axis, shape: tuple[int, ...]) -> tuple[int, ...]:
    """`axis` as a tuple of axes counted from the front."""
    ndim = len(shape)
    if axis is None:
        return tuple(range(ndim))
    given = tuple(axis) if isinstance(axis, Sequence) else (axis,)
    axes = tuple(a + ndim if a < 0 else a for a in given)
    if not all(0 <= a < ndim for a in axes) or len(set(axes)) < len(axes):
        raise JaxnnError(
            f"{name}: got axis={axis} for x of shape {shape}, expected different "
            f"axes between {-ndim} and {ndim - 1}"
        )
    return axes


def _spread_out(v: Array, shape: tuple[int, ...], axis: Axis) -> Array:
    """Repeat v along the joined axes, whether it has them (of size 1) or not."""
    joined = _axes("", axis, shape)
    kept = [1 if a in joined else n for a, n in enumerate(shape)]
    return jnp.broadcast_to(v.reshape(kept), shape)


register(logsumexp(), max(), mean(), sum())
