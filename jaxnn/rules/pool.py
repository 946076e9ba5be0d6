"""Pooling: the largest element or the mean of each window, channel by channel."""

import functools
import math
import operator
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnn.errors import JaxnnError
from jaxnn.rules.core import Rule, register
from jaxnn.rules.window import Padding, Windows, read, stamp, windows

__all__ = ["avg_pool", "global_avg_pool", "global_max_pool", "max_pool"]


def max_pool(
    size: Sequence[int] = (2, 2),
    stride: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
) -> Rule:
    """y = the largest x of each window; dx sends dy to where it was found.

    x (B, H, W, C) -> y (B, H', W', C), or one spatial axis. `stride` is the size unless
    given: windows beside each other. Keeps the position of the maximum in its window
    (1 byte an output below 256 elements, else 4) and x[:0] for its shape. Kink: of
    equal maxima the first in reading order gets all of dy, as in the gradient of
    `lax.reduce_window`. Padding never wins. A NaN in a window is its maximum, the first
    of several, and gets its dy.
    """

    def fwd(x):
        at = placed("max_pool", x.shape[1:], size, stride, padding)
        y, found = _first_maximum(x, at)
        return y, (found, x[:0])

    def bwd(cache, dy):
        found, empty = cache
        at = placed("max_pool", empty.shape[1:], size, stride, padding)
        if all(s >= k for s, k in zip(at.stride, at.size, strict=True)):
            return (_tiled(found, dy, at),)
        parts = [
            stamp(jnp.where(found == i, dy, 0), at, dict(enumerate(element)))
            for i, element in enumerate(np.ndindex(*at.size))
        ]
        return (functools.reduce(operator.add, parts),)

    return Rule("max_pool", fwd, bwd)


def avg_pool(
    size: Sequence[int] = (2, 2),
    stride: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
) -> Rule:
    """y = mean of x over each window, over what it holds of the image only.

    x (B, H, W, C) -> y (B, H', W', C). Padding is not counted (as in Keras; PyTorch
    divides by the whole size unless told): the mean of ones is one everywhere. dx
    stamps dy / count on the window. Keeps x[:0] for its shape. Smooth.
    """

    def fwd(x):
        at = placed("avg_pool", x.shape[1:], size, stride, padding)
        total = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        for axis, count in enumerate(at.size):  # one axis after the other: fewer sums
            parts = [read(total, at, {axis: k}) for k in range(count)]
            total = functools.reduce(operator.add, parts)
        return (total * _share(at, total.dtype)).astype(x.dtype), x[:0]

    def bwd(empty, dy):
        at = placed("avg_pool", empty.shape[1:], size, stride, padding)
        dx = dy * _share(at, dy.dtype)
        for axis, count in enumerate(at.size):
            parts = [stamp(dx, at, {axis: k}) for k in range(count)]
            dx = functools.reduce(operator.add, parts)
        return (dx,)

    return Rule("avg_pool", fwd, bwd)


def _global_avg_pool_fwd(x):
    # x (B, ..., C) -> y (B, C)
    return x.mean(_inner(x)), x[:0]


def _global_avg_pool_bwd(empty, dy):
    shape = (dy.shape[0], *empty.shape[1:])
    each = dy * (1 / math.prod(shape[1:-1]))
    return (jnp.broadcast_to(jnp.expand_dims(each, _inner(empty)), shape),)


global_avg_pool = Rule("global_avg_pool", _global_avg_pool_fwd, _global_avg_pool_bwd)
"""y (B, C) = mean of x (B, ..., C) over all axes between; dx = dy / count everywhere.

Keeps x[:0] for its shape. Smooth. Source: Lin, Chen, Yan 2014, arXiv 1312.4400."""


def _global_max_pool_fwd(x):
    # x (B, ..., C) -> y (B, C)
    rows = x.reshape(x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1])
    found = rows.argmax(1)  # the first one, and a NaN before any number
    y = jnp.take_along_axis(rows, found[:, None], axis=1)[:, 0]
    return y, (found.astype(jnp.int32), x[:0])


def _global_max_pool_bwd(cache, dy):
    found, empty = cache
    count = math.prod(empty.shape[1:-1])
    here = jnp.arange(count)[None, :, None] == found[:, None]
    dx = jnp.where(here, dy[:, None], 0)
    return (dx.reshape(dy.shape[0], *empty.shape[1:]),)


global_max_pool = Rule("global_max_pool", _global_max_pool_fwd, _global_max_pool_bwd)
"""y (B, C) = largest of x (B, ..., C) over all axes between; dx = dy where it was.

Keeps the position (int32 an output) and x[:0]. Kink: the first of equal maxima gets all
of dy. A NaN is the maximum."""


def _inner(x):
    return tuple(range(1, x.ndim - 1))


def placed(where: str, in_shape, size, stride, padding) -> Windows:
    """The windows of a pooling over x (B, *in_shape), each with some of it inside."""
    size = tuple(size)
    if len(in_shape) != len(size) + 1:
        raise JaxnnError(
            f"{where}: input of shape (B, {', '.join(map(str, in_shape))}), expected "
            f"{len(size)} axes between batch and channels for a window of {size}"
        )
    stride = size if stride is None else stride
    at = windows(where, in_shape[:-1], size, stride, padding)
    if any(p >= k for pair, k in zip(at.pads, at.size, strict=True) for p in pair):
        raise JaxnnError(
            f"{where}: padding {at.pads} leaves windows of {at.size} without an "
            "element of the input; choose less padding than the size"
        )
    return at


def _first_maximum(x, at: Windows):
    """The maximum of each window, and its position 0 ... size - 1 in reading order.

    One axis after the other, the last one first: of the maxima of the rows the first is
    the first in reading order.
    """
    count = math.prod(at.size)
    found = jnp.zeros(x.shape, jnp.uint8 if count < 256 else jnp.int32)
    below = 1  # elements of the axes that are done
    for axis in reversed(range(len(at.size))):
        x, found = _first_along(axis, x, found, below, at)
        below *= at.size[axis]
    return x, found


def _first_along(axis, x, found, below, at):
    """`_first_maximum` along one axis: found is element * below + found there."""
    low, stride = at.pads[axis][0], at.stride[axis]
    first = np.maximum(low - np.arange(at.out_sizes[axis]) * stride, 0)
    first = first.reshape([-1 if i == axis + 1 else 1 for i in range(x.ndim)])
    best, chosen = read(x, at, {axis: 0}, -jnp.inf), read(found, at, {axis: 0})
    for k in range(1, at.size[axis]):
        part = read(x, at, {axis: k}, -jnp.inf)
        # Comparisons, not `maximum`: XLA's on CPU may swallow a NaN.
        better = (part > best) | ((part != part) & (best == best))
        if (first == k).any():  # all before it were padding, which loses to -inf too
            better |= first == k
        best = jnp.where(better, part, best)
        position = read(found, at, {axis: k}) + jnp.asarray(k * below, found.dtype)
        chosen = jnp.where(better, position, chosen)
    return best, chosen


def _tiled(found, dy, at: Windows):
    """dx of windows that do not overlap: a tile for each, dy where it was found.

    Written once, without sums: measured faster than `stamp` for each element.
    """
    tile, count = at.stride, math.prod(at.size)
    code = np.full(tile, count)  # what lies between the windows is found by none
    code[tuple(slice(k) for k in at.size)] = np.arange(count).reshape(at.size)
    axes = range(len(tile))
    # (B, H', 1, W', 1, C) against (1, 1, tile, 1, tile, 1)
    beside = tuple(2 * a + 2 for a in axes)
    code = code.reshape(1, *(n for s in tile for n in (1, s)), 1).astype(found.dtype)
    here = jnp.expand_dims(found, beside) == code
    dx = jnp.where(here, jnp.expand_dims(dy, beside), 0)
    sizes = [n * s for n, s in zip(at.out_sizes, tile, strict=True)]
    dx = dx.reshape(dy.shape[0], *sizes, dy.shape[-1])
    config = [
        (-low, low + n - made, 0)
        for n, made, (low, _) in zip(at.in_sizes, sizes, at.pads, strict=True)
    ]
    return lax.pad(dx, jnp.zeros((), dy.dtype), [(0, 0, 0), *config, (0, 0, 0)])


def _share(at: Windows, dtype):
    """1 / the number of elements of the input in each window, (1, *out_sizes, 1)."""
    count = np.ones((1,) * (len(at.size) + 2))
    for axis, (size, n, k, s, (low, _)) in enumerate(
        zip(at.in_sizes, at.out_sizes, at.size, at.stride, at.pads, strict=True)
    ):
        start = np.arange(n) * s - low
        inside = np.minimum(start + k, size) - np.maximum(start, 0)
        shape = [n if i == axis + 1 else 1 for i in range(count.ndim)]
        count = count * inside.reshape(shape)
    return jnp.asarray(1 / count, dtype)


register(avg_pool(), global_avg_pool, global_max_pool, max_pool())
