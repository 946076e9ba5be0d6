"""The rule that enlarges images."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnn.arrays import is_whole
from jaxnn.errors import JaxnnError, lookup
from jaxnn.rules.core import Rule
from jaxnn.rules.padding import copied, summed_back


def upsample(factor: int | Sequence[int] = 2, method: str = "nearest") -> Rule:
    """y = x enlarged by whole factors along the axes between the first and the last.

    x (B, H, W, C) -> y (B, H f, W f, C), and x (B, T, C) -> y (B, T f, C) alike. Keeps
    nothing.

    Args:
      factor: at least 1; one for all axes, or a sequence with one for each.
      method: "nearest" repeats each element f times, so dx sums dy over the copies.
        "linear" (bilinear for images) mixes the two nearest, at the border the
        outermost alone; dx sums dy by the same weights. As `jax.image.resize`, and as
        PyTorch with `align_corners=False`.

    Raises:
      JaxnnError: unknown method, a factor below 1, factors for other axes than x has.
    """
    methods = {"nearest": (_repeat, _sum_copies), "linear": (_mix, _sum_mixed)}
    enlarge, shrink = lookup("upsampling method", method, methods)

    def fwd(x):
        for axis, f in enumerate(_factors(factor, x.ndim), 1):
            x = enlarge(x, axis, f)
        return x, ()

    def bwd(_, dy):
        for axis, f in enumerate(_factors(factor, dy.ndim), 1):
            dy = shrink(dy, axis, f)
        return (dy,)

    return Rule("upsample", fwd, bwd)


def _repeat(x, axis, f):
    return jnp.repeat(x, f, axis)  # x (..., n, ...) -> y (..., n f, ...)


def _sum_copies(dy, axis, f):
    return _split(dy, axis, f).sum(axis + 1)


def _mix(x, axis, f):
    before, after = (copied(x, s, axis) for s in _neighbours(x.shape[axis]))
    mixed = []
    for t in _offsets(f):
        # not 0 * neighbour for t = 0: a NaN would come along
        other = abs(t) * (before if t < 0 else after) if t else 0
        mixed.append((1 - abs(t)) * x + other)
    return _joined(jnp.stack(mixed, axis + 1), axis)


def _sum_mixed(dy, axis, f):
    parts = _split(dy, axis, f)
    own = before = after = jnp.zeros_like(lax.index_in_dim(parts, 0, axis + 1, False))
    for i, t in enumerate(_offsets(f)):
        part = lax.index_in_dim(parts, i, axis + 1, False)
        own += (1 - abs(t)) * part
        before = before - t * part if t < 0 else before
        after = after + t * part if t > 0 else after
    n = own.shape[axis]
    for d, sources in zip((before, after), _neighbours(n), strict=True):
        own += summed_back(d, sources, n, axis)
    return own


def _offsets(f: int) -> list[float]:
    """Where the centres of the f parts of an element lie, in elements from its own."""
    return [(i + 0.5) / f - 0.5 for i in range(f)]


def _neighbours(n: int) -> tuple[np.ndarray, np.ndarray]:
    """For each of n places the one before and the one after, at the border itself."""
    places = np.arange(n)
    return np.maximum(places - 1, 0), np.minimum(places + 1, n - 1)


def _joined(v, axis):
    return v.reshape(
        *v.shape[:axis], v.shape[axis] * v.shape[axis + 1], *v.shape[axis + 2 :]
    )


def _split(v, axis, f):
    return v.reshape(*v.shape[:axis], v.shape[axis] // f, f, *v.shape[axis + 1 :])


def _factors(factor: int | Sequence[int], ndim: int) -> list[int]:
    """One for each axis between the first and the last."""
    inner = max(ndim - 2, 0)
    factors = list(factor) if isinstance(factor, Sequence) else [factor] * inner
    whole = all(map(is_whole, factors))
    if len(factors) != inner or not inner or not whole:
        raise JaxnnError(
            f"upsample({factor}): x has {ndim} axes, expected a whole factor of at "
            f"least 1 for each of the {inner} between the first (batch) and the last "
            "(channels)"
        )
    return factors
