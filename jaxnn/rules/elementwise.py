"""Rules that act on each element alone, and softmax on the last axis.

Masks are asked as `x <= 0`, never as `x > 0`: the comparison is false for NaN, so a
NaN passes through both directions instead of becoming a healthy-looking zero.

Arguments of unequal shapes broadcast as in NumPy and Python numbers may stand for
arrays; each cotangent has the shape and dtype of its argument, and is None for one
that is not float. Where dy is 0 every cotangent of arithmetic is 0, at a pole (sqrt
and log at 0, exp of a large number) and beside a NaN too (see `if_used`).

Formulas stand as lambdas where they are one call, too: their line is what `compare` and
the guard tell, and a call from the maker's line would be of every rule alike.
"""

import math
import operator

import jax.numpy as jnp
from jax import lax, nn

from jaxnn.errors import JaxnnError
from jaxnn.rules.core import (
    Rule,
    broadcast,
    if_used,
    keeps_x,
    keeps_y,
    outlines,
    register,
    unbroadcast,
    unbroadcast_all,
)

__all__ = [
    "abs", "add", "div", "dropout", "elu", "exp", "gelu", "leaky_relu", "log",
    "log_softmax", "maximum", "minimum", "mul", "power", "relu", "selu", "sigmoid",
    "softmax", "softplus", "sqrt", "square", "standardize", "sub", "swish", "tanh",
    "where",
]  # fmt: skip


def _relu_fwd(x):
    off = x <= 0  # one byte per unit is all the backward pass needs
    return jnp.where(off, 0, x), off


relu = Rule("relu", _relu_fwd, lambda off, dy: (jnp.where(off, 0, dy),))
"""y = max(x, 0), dx = dy where x > 0. Keeps the mask (1 byte a unit). At the kink x = 0
the derivative is 0, as in `jax.nn.relu` (`grad(maximum(x, 0))` would say 0.5).
Source: Nair, Hinton 2010."""


def leaky_relu(slope: float = 0.01) -> Rule:
    """y = x for x >= 0, slope * x below; dx = dy or slope * dy.

    Keeps the mask. At the kink x = 0 the derivative is 1, as in `jax.nn.leaky_relu`.
    Source: Maas, Hannun, Ng 2013.
    """

    def fwd(x):
        below = x < 0
        return jnp.where(below, slope * x, x), below

    return Rule("leaky_relu", fwd, lambda b, dy: (jnp.where(b, slope * dy, dy),))


# not 1 - y^2: near saturation the square's rounding is all that would be left
tanh = keeps_y("tanh", lambda x: jnp.tanh(x), lambda y, dy: dy * (1 - y) * (1 + y))
"""y = tanh x, dx = dy (1 - y^2). Keeps y, which the next layer keeps anyway. Smooth."""

# nn.sigmoid is lax.logistic: exp never overflows, unlike 1 / (1 + exp(-x))
sigmoid = keeps_y("sigmoid", lambda x: nn.sigmoid(x), lambda y, dy: dy * y * (1 - y))
"""y = 1 / (1 + e^-x), dx = dy y (1 - y). Keeps y. Smooth; at most a quarter of dy comes
back, and nothing where |x| is large: the cause of vanishing gradients."""

softplus = keeps_x(
    "softplus",
    lambda x: jnp.logaddexp(x, 0),  # log(1 + e^x) as written overflows at x = 89
    lambda x, dy: dy * nn.sigmoid(x),
)
"""y = log(1 + e^x), dx = dy sigmoid(x). Keeps x. Smooth. Source: Dugas et al. 2001."""


def elu(alpha: float = 1.0) -> Rule:
    """y = x for x > 0, alpha (e^x - 1) below; dx = dy or dy alpha e^x.

    Keeps x: y would do, but y + alpha loses the digits of a small e^x. At x = 0 the
    derivative is alpha, as in `jax.nn.elu`: no kink for alpha = 1.
    Source: Clevert, Unterthiner, Hochreiter 2016.
    """

    def split(x):
        below = x <= 0
        return below, jnp.where(
            below, x, 0
        )  # above e^x is not used, and could overflow

    def f(x):
        below, low = split(x)
        return jnp.where(below, alpha * jnp.expm1(low), x)

    def back(x, dy):
        below, low = split(x)
        return jnp.where(below, dy * (alpha * jnp.exp(low)), dy)

    return keeps_x("elu", f, back)


SELU_ALPHA, SELU_SCALE = (
    1.6732632423543772848170429916717,
    1.0507009873554804934193349852946,
)
_elu = elu(SELU_ALPHA)
selu = Rule(
    "selu",
    lambda x: (SELU_SCALE * _elu.fwd(x)[0], x),
    lambda x, dy: _elu.bwd(x, SELU_SCALE * dy),
)
"""y = 1.0507 elu(x, alpha=1.6733): activations drift to mean 0 and variance 1.

Keeps x. At the kink x = 0 the derivative is that of the left side, 1.758, as in
`jax.nn.selu`. Source: Klambauer et al. 2017; the two constants solve its fixed point.
"""


def _gelu_exact(x):
    """P(z <= x), and x times its derivative."""
    # erfc, not 1 + erf: for x far below 0 that sum would round to 0
    p = 0.5 * lax.erfc(-math.sqrt(0.5) * x)
    return p, x * jnp.exp(-0.5 * x * x) * (1 / math.sqrt(2 * math.pi))


def _gelu_tanh(x):
    """The approximation of P(z <= x), and x times its derivative."""
    far = jnp.abs(x) > 100  # tanh is 1 there; cubes of yet larger x are not finite
    near = jnp.where(far, jnp.sign(x) * 100, x)
    scale = math.sqrt(2 / math.pi)
    t = jnp.tanh(scale * (near + 0.044715 * near * near * near))
    inner = scale * near * (1 + 3 * 0.044715 * near * near)
    return 0.5 * (1 + t), 0.5 * (1 - t * t) * inner


def gelu(approximate: bool = False) -> Rule:
    """y = x P(z <= x) for a standard normal z; dx = dy (P(z <= x) + x density(x)).

    Keeps x. Smooth. With `approximate`, P is 1/2 (1 + tanh(sqrt(2 / pi) (x + 0.044715
    x^3))), within 5e-4 of the exact y; BERT and GPT-2 used it (PyTorch: "tanh").
    `jax.nn.gelu` approximates unless told not to. Source: Hendrycks, Gimpel 2016.
    """
    slope = _gelu_tanh if approximate else _gelu_exact

    def back(x, dy):
        p, dp = slope(x)
        return dy * (p + dp)

    return keeps_x("gelu", lambda x: x * slope(x)[0], back)


def swish(beta: float = 1.0) -> Rule:
    """y = x sigmoid(beta x); dx = dy (s + beta x s (1 - s)) with s = sigmoid(beta x).

    Keeps x. Smooth. With beta = 1 also called SiLU.
    Source: Ramachandran, Zoph, Le 2017.
    """

    def back(x, dy):
        s = nn.sigmoid(beta * x)
        return dy * (s + beta * (x * s) * (1 - s))

    return keeps_x("swish", lambda x: x * nn.sigmoid(beta * x), back)


def _log_softmax_fwd(x):
    # x (..., N): subtracting the row's maximum first keeps exp from overflowing.
    shifted = x - x.max(-1, keepdims=True)
    y = shifted - jnp.log(jnp.exp(shifted).sum(-1, keepdims=True))
    return y, y


log_softmax = Rule(
    "log_softmax",
    _log_softmax_fwd,
    lambda y, dy: (dy - jnp.exp(y) * dy.sum(-1, keepdims=True),),
)
"""y = x - log sum e^x over the last axis; dx = dy - e^y sum dy. x (..., N) -> (..., N).

Keeps y. Smooth. Nothing overflows however large the logits."""


def _softmax(x):
    # x (..., N): the row's maximum is subtracted as in log_softmax.
    e = jnp.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


softmax = keeps_y(
    "softmax", _softmax, lambda y, dy: y * (dy - (dy * y).sum(-1, keepdims=True))
)
"""y = e^x / sum e^x over the last axis; dx = y (dy - sum dy y). x (..., N) -> (..., N).

Keeps y. Smooth; nothing overflows. A class masked by -inf has y = 0 and dx = 0. A row
that is -inf throughout has no distribution: 0 / 0 makes y NaN, here as in `log_softmax`
and in `jax.nn.softmax`; mask by a large negative number where that can happen."""


def standardize(mean: float, std: float) -> Rule:
    """y = (x - mean) / std with constants, so dx = dy / std. Keeps nothing."""

    def fwd(x):
        return (x - mean) * (1 / std), ()

    return Rule("standardize", fwd, lambda _, dy: (dy * (1 / std),))


def dropout(drop_rate: float = 0.5) -> Rule:
    """y = x / (1 - drop_rate) where `keep`, else 0; dx likewise, none for `keep`.

    x (...), keep bool (...) -> y (...). Keeps the mask. "Inverted" dropout: dividing
    here means that nothing is scaled at evaluation. Source: Srivastava et al. 2014.
    """
    scale = 1 / (1 - drop_rate)

    def fwd(x, keep):
        return jnp.where(keep, x * scale, 0), keep

    return Rule("dropout", fwd, lambda k, dy: (jnp.where(k, dy * scale, 0), None))


exp = keeps_y("exp", lambda x: jnp.exp(x), lambda y, dy: if_used(dy, dy * y))
"""y = e^x, dx = dy y. Keeps y. Smooth; infinite from x = 88.8 (float32) or 709.8
(float64) on, and so is dx."""

log = keeps_x("log", lambda x: jnp.log(x), lambda x, dy: if_used(dy, dy / x))
"""y = log x, dx = dy / x. Keeps x. At 0: y = -inf and dx infinite; below 0 y is NaN."""

sqrt = keeps_y("sqrt", lambda x: jnp.sqrt(x), lambda y, dy: if_used(dy, dy / (2 * y)))
"""y = x^(1/2), dx = dy / (2 y). Keeps y. At 0: dx is infinite; below 0 both are NaN."""

square = keeps_x("square", lambda x: x * x, lambda x, dy: if_used(dy, 2 * dy * x))
"""y = x^2, dx = 2 dy x. Keeps x. Smooth."""

abs = keeps_x("abs", lambda x: jnp.abs(x), lambda x, dy: if_used(dy, dy * jnp.sign(x)))
"""y = |x|, dx = dy sign x. Keeps x.

At the kink x = 0 the derivative is 0, as in PyTorch (`jax.grad` says 1)."""


def _keeps_shapes(name, f, back):
    """y = f(a, b); `back(dy)` gives da and db in y's shape."""

    def fwd(a, b):
        return f(*broadcast(name, a, b)), outlines(a, b)

    return Rule(name, fwd, lambda shapes, dy: unbroadcast_all(back(dy), shapes))


add = _keeps_shapes("add", lambda a, b: a + b, lambda dy: (dy, dy))
"""y = a + b: the cotangent goes to both. Keeps nothing (of unequal shapes: these)."""

sub = _keeps_shapes("sub", lambda a, b: a - b, lambda dy: (dy, -dy))
"""y = a - b: da = dy, db = -dy. Keeps nothing (of unequal shapes: these)."""


def _keeps_both(name, f, back):
    """y = f(a, b); `back(a, b, dy)` gives da and db in y's shape."""

    def fwd(a, b):
        return f(*broadcast(name, a, b)), (jnp.asarray(a), jnp.asarray(b))

    def bwd(cache, dy):
        da, db = back(*broadcast(name, *cache), dy)
        a, b = cache
        return unbroadcast(if_used(dy, da), a), unbroadcast(if_used(dy, db), b)

    return Rule(name, fwd, bwd)


mul = _keeps_both("mul", lambda a, b: a * b, lambda a, b, dy: (dy * b, dy * a))
"""y = a b: da = dy b, db = dy a. Keeps both: each is the other's derivative."""


def _div_back(a, b, dy):
    da = dy / b
    # not by b^2 (XLA makes it of a / b / b too): it overflows where db does not
    return da, -da * (a / b)


div = _keeps_both("div", lambda a, b: a / b, _div_back)
"""y = a / b: da = dy / b, db = -dy a / b^2. Keeps both.

At b = 0: y and both cotangents are infinite; 0 / 0 and its db are NaN, its da infinite.
"""


def _power_fwd(a, b):
    y = jnp.power(*broadcast("power", a, b))
    return y, (jnp.asarray(a), jnp.asarray(b), y)


def _power_bwd(cache, dy):
    a, b, y = cache
    wide_a, wide_b = (v.astype(dy.dtype) for v in broadcast("power", a, b))
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
        wide_a, wide_b = broadcast(name, a, b)
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


maximum = _bigger("maximum", operator.lt)
"""y = the larger of a and b, whose cotangent is dy; the other's is 0.

Keeps two masks (2 bytes an element). A tie gives half of dy to each, as `jax.vjp` and
PyTorch do (so the slope of maximum(x, 0) at 0 is 1/2, that of `relu` is 0). If one is
NaN, y is NaN and dy goes to it; if both are, to b."""

minimum = _bigger("minimum", operator.gt)
"""y = the smaller of a and b; otherwise as `maximum`."""


def _where_fwd(mask, a, b):
    if jnp.asarray(mask).dtype != bool:
        raise JaxnnError(
            f"where: mask has dtype {jnp.asarray(mask).dtype}, expected bool; write "
            "a comparison, mask != 0"
        )
    wide_mask, wide_a, wide_b = broadcast("where", mask, a, b)
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


register(
    abs, add, div, dropout(), elu(), exp, gelu(), leaky_relu(), log, log_softmax,
    maximum, minimum, mul, power, relu, selu, sigmoid, softmax, softplus, sqrt,
    square, standardize(0.5, 0.25), sub, swish(), tanh, where,
)  # fmt: skip
