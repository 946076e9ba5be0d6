"""Rules that move whole arrays of elements without changing them."""

import math
from collections.abc import Sequence
from numbers import Integral

import jax
import jax.numpy as jnp
from jax import lax

from jaxnn.errors import JaxnnError
from jaxnn.rules.broadcast import outline, unbroadcast
from jaxnn.rules.core import Rule


def _flatten_fwd(x):
    # x (B, ...) -> y (B, D)
    return x.reshape(x.shape[0], math.prod(x.shape[1:])), x[:0]


def _flatten_bwd(empty, dy):
    return (dy.reshape(dy.shape[0], *empty.shape[1:]),)


flatten = Rule("flatten", _flatten_fwd, _flatten_bwd)
"""y (B, D) = x (B, ...) with all but the batch axis joined; dx = dy unjoined.

Keeps x[:0], an array of no elements: caches hold arrays only, and its shape is all that
the way back needs."""


def reshape(shape: Sequence[int] | int = -1) -> Rule:
    """y = the elements of x in the same order, in `shape`; dx = dy in the shape of x.

    Keeps the shape of x. One size may be -1: what is left for it.

    Raises:
      JaxnnError: a shape of another number of elements.
    """
    wanted = tuple(shape) if isinstance(shape, Sequence) else (shape,)

    def fwd(x):
        return x.reshape(fill_in("reshape", wanted, x.shape)), outline(x)

    def bwd(like, dy):
        return (dy.reshape(like.shape[1:]),)

    return Rule("reshape", fwd, bwd)


def fill_in(name: str, wanted: Sequence[int], shape: Sequence[int]) -> tuple[int, ...]:
    """`wanted` with its -1 replaced, so that it holds the elements of `shape`.

    Raises:
      JaxnnError: that is impossible.
    """
    if not all(isinstance(n, Integral) for n in wanted):
        raise JaxnnError(f"{name}: got {tuple(wanted)}, expected whole numbers")
    size, known = math.prod(shape), math.prod(n for n in wanted if n != -1)
    free = list(wanted).count(-1)
    left = size // known if free and known else 1
    filled = tuple(left if n == -1 else n for n in wanted)
    # known = 0 would leave -1 without a value
    if free > 1 or (free and not known) or min(filled, default=0) < 0:
        fits = False
    else:
        fits = math.prod(filled) == size
    if not fits:
        raise JaxnnError(
            f"{name}: shape {tuple(shape)} has {size} elements, expected as many as "
            f"in {tuple(wanted)} (one -1 at most stands for what is left)"
        )
    return filled


def transpose(axes: Sequence[int] | None = None) -> Rule:
    """y = x with its axes in another order; dx = dy with them put back.

    y's axis i is x's axis `axes[i]`; None reverses them all. Keeps nothing.

    Raises:
      JaxnnError: `axes` does not name each axis of x once.
    """

    def order(ndim):
        if axes is None:
            return tuple(reversed(range(ndim)))
        found = tuple(a + ndim if a < 0 else a for a in axes)
        if sorted(found) != list(range(ndim)):
            raise JaxnnError(
                f"transpose: got axes {tuple(axes)} for an array of {ndim} axes, "
                "expected each of them once"
            )
        return found

    def fwd(x):
        return x.transpose(order(x.ndim)), ()

    def bwd(_, dy):
        there = order(dy.ndim)
        return (dy.transpose([there.index(a) for a in range(dy.ndim)]),)

    return Rule("transpose", fwd, bwd)


def concatenate(axis: int = -1) -> Rule:
    """y = the arguments, any number of them, one after another along `axis`.

    Each gets back its own part of dy. Keeps their shapes.

    Raises:
      JaxnnError: no argument, no such axis, or shapes that differ elsewhere.
    """

    def fwd(*xs):
        shapes = [x.shape for x in xs]
        ndim = len(shapes[0]) if shapes else 0
        rest = {(*s[:axis], *s[axis:][1:]) for s in shapes}
        if (
            not -ndim <= axis < ndim
            or len(rest) > 1
            or {len(s) for s in shapes} != {ndim}
        ):
            raise JaxnnError(
                f"concatenate: got shapes {', '.join(map(str, shapes)) or 'of nothing'}"
                f", expected at least one, all equal but for axis {axis}"
            )
        return jnp.concatenate(xs, axis), tuple(map(outline, xs))

    def bwd(likes, dy):
        parts, start, along = [], 0, axis % dy.ndim
        for like in likes:
            stop = start + like.shape[1:][along]
            parts.append(lax.slice_in_dim(dy, start, stop, axis=along))
            start = stop
        return tuple(part.astype(o.dtype) for part, o in zip(parts, likes, strict=True))

    return Rule("concatenate", fwd, bwd)


def broadcast_to(shape: Sequence[int]) -> Rule:
    """y = x repeated to `shape` as NumPy broadcasts; dx sums dy over the copies.

    Keeps the shape of x.

    Raises:
      JaxnnError: x does not broadcast to `shape`.
    """
    shape = tuple(shape)

    def fwd(x):
        fits = len(x.shape) <= len(shape) and all(
            n in (1, m) for n, m in zip(x.shape[::-1], shape[::-1], strict=False)
        )
        if not fits:
            raise JaxnnError(
                f"broadcast_to: x has shape {x.shape}, expected {shape}, or axes of "
                "size 1 where they differ, counted from the last"
            )
        return jnp.broadcast_to(x, shape), outline(x)

    def bwd(like, dy):
        return (unbroadcast(dy, jax.ShapeDtypeStruct(like.shape[1:], like.dtype)),)

    return Rule("broadcast_to", fwd, bwd)
