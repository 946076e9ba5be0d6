"""Rules of two arguments that act on each element.

Arguments of unequal shapes broadcast as in NumPy and Python numbers may stand for
arrays; each cotangent has the shape and dtype of its argument, and is None for one
that is not float (`broadcast.py` does both). Where dy is 0 every cotangent is 0, at a
pole and beside a NaN too (see `if_used`).
"""

import jax.numpy as jnp

from jaxnn.errors import JaxnnError
from jaxnn.rules.broadcast import (
    if_used,
    outlines,
    spread,
    unbroadcast,
    unbroadcast_all,
)
from jaxnn.rules.core import Rule


def _add_fwd(a, b):
    wide_a, wide_b = spread("add", a, b)
    return wide_a + wide_b, outlines(a, b)


def _add_bwd(shapes, dy):
    return unbroadcast_all((dy, dy), shapes)


add = Rule("add", _add_fwd, _add_bwd)
"""y = a + b: the cotangent goes to both. Keeps nothing (of unequal shapes: these)."""


def _sub_fwd(a, b):
    wide_a, wide_b = spread("sub", a, b)
    return wide_a - wide_b, outlines(a, b)


def _sub_bwd(shapes, dy):
    return unbroadcast_all((dy, -dy), shapes)


sub = Rule("sub", _sub_fwd, _sub_bwd)
"""y = a - b: da = dy, db = -dy. Keeps nothing (of unequal shapes: these)."""


def _mul_fwd(a, b):
    wide_a, wide_b = spread("mul", a, b)
    return wide_a * wide_b, (jnp.asarray(a), jnp.asarray(b))


def _mul_bwd(cache, dy):
    a, b = cache
    wide_a, wide_b = spread("mul", a, b)
    da, db = if_used(dy, dy * wide_b), if_used(dy, dy * wide_a)
    return unbroadcast(da, a), unbroadcast(db, b)


mul = Rule("mul", _mul_fwd, _mul_bwd)
"""y = a b: da = dy b, db = dy a. Keeps both: each is the other's derivative."""


def _div_fwd(a, b):
    wide_a, wide_b = spread("div", a, b)
    return wide_a / wide_b, (jnp.asarray(a), jnp.asarray(b))


def _div_bwd(cache, dy):
    a, b = cache
    wide_a, wide_b = spread("div", a, b)
    da = if_used(dy, dy / wide_b)
    # not by b^2 (XLA makes it of a / b / b too): it overflows where db does not
    db = if_used(dy, -da * (wide_a / wide_b))
    return unbroadcast(da, a), unbroadcast(db, b)


div = Rule("div", _div_fwd, _div_bwd)
"""y = a / b: da = dy / b, db = -dy a / b^2. Keeps both.

At b = 0: y and both cotangents are infinite; 0 / 0 and its db are NaN, its da infinite.
"""


def _power_fwd(a, b):
    wide_a, wide_b = spread("power", a, b)
    y = jnp.power(wide_a, wide_b)
    return y, (jnp.asarray(a), jnp.asarray(b), y)


def _power_bwd(cache, dy):
    a, b, y = cache
    wide_a, wide_b = (v.astype(dy.dtype) for v in spread("power", a, b))
    # The two tests turn 0 * inf into its limit: a^0 is flat even where a^-1 is
    # infinite, and 0^b is 0 on both sides of b even where log a is.
    slope_a = jnp.where(wide_b == 0, 0, wide_b * jnp.power(wide_a, wide_b - 1))
    slope_b = jnp.where((wide_a == 0) & (wide_b >= 0), 0, y * jnp.log(wide_a))
    da, db = if_used(dy, dy * slope_a), if_used(dy, dy * slope_b)
    return unbroadcast(da, a), unbroadcast(db, b)


power = Rule("power", _power_fwd, _power_bwd)
"""y = a^b: da = dy b a^(b - 1), db = dy a^b log a. Keeps a, b and y.

At a = 0: da = 0 for b = 0, else infinite for b < 1; db = 0 for b > 0 (the limit) and
for b = 0 (as PyTorch), infinite for b < 0. For a < 0, y is NaN unless b is whole, and
db is NaN always; an int b has no cotangent.
"""


def _bigger(name, first):
    """maximum and minimum: b is taken where `first(a, b)`, and ties are shared."""

    def fwd(a, b):
        wide_a, wide_b = spread(name, a, b)
        # A NaN on either side is taken. Not lax.max: with fast min/max the XLA CPU
        # compiler may drop a NaN.
        take_b = first(wide_a, wide_b) | jnp.isnan(wide_b)
        y = jnp.where(take_b, wide_b, wide_a)
        return y, (take_b, wide_a == wide_b, outlines(a, b))

    def bwd(cache, dy):
        take_b, tie, shapes = cache
        half = dy / 2
        da = jnp.where(tie, half, jnp.where(take_b, 0, dy))
        db = jnp.where(tie, half, jnp.where(take_b, dy, 0))
        return unbroadcast_all((da, db), shapes)

    return Rule(name, fwd, bwd)


maximum = _bigger("maximum", lambda a, b: a < b)
"""y = the larger of a and b, whose cotangent is dy; the other's is 0.

Keeps two masks (2 bytes an element). A tie gives half of dy to each, as `jax.vjp` and
PyTorch do (so the slope of maximum(x, 0) at 0 is 1/2, that of `relu` is 0). If one is
NaN, y is NaN and dy goes to it; if both are, to b."""

minimum = _bigger("minimum", lambda a, b: a > b)
"""y = the smaller of a and b; otherwise as `maximum`."""


def _where_fwd(mask, a, b):
    if jnp.asarray(mask).dtype != bool:
        raise JaxnnError(
            f"where: mask has dtype {jnp.asarray(mask).dtype}, expected bool; write "
            "a comparison, mask != 0"
        )
    wide_mask, wide_a, wide_b = spread("where", mask, a, b)
    # `mask`, not its wide view, is what has to be kept
    return jnp.where(wide_mask, wide_a, wide_b), (jnp.asarray(mask), outlines(a, b))


def _where_bwd(cache, dy):
    mask, shapes = cache
    mask = jnp.broadcast_to(mask, dy.shape)
    da, db = jnp.where(mask, dy, 0), jnp.where(mask, 0, dy)
    return None, *unbroadcast_all((da, db), shapes)


where = Rule("where", _where_fwd, _where_bwd)
"""y = a where mask, else b: dy goes where y came from, and exactly 0 to the other.

mask bool, without cotangent. Keeps the mask. A NaN or inf in what is not taken reaches
neither y nor a cotangent: no multiplication by 0 is involved."""
