"""Rules between the products of a network: y has the shape of x.

Masks are asked as `x <= 0`, never as `x > 0`: the comparison is false for NaN, so a
NaN passes through both directions instead of becoming a healthy-looking zero.
"""

import math

import jax.numpy as jnp
from jax import lax, nn

from jaxnn.rules.core import Rule


def _relu_fwd(x):
    off = x <= 0  # one byte per unit is all the backward pass needs
    return jnp.where(off, 0, x), off


def _relu_bwd(off, dy):
    return (jnp.where(off, 0, dy),)


relu = Rule("relu", _relu_fwd, _relu_bwd)
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

    def bwd(below, dy):
        return (jnp.where(below, slope * dy, dy),)

    return Rule("leaky_relu", fwd, bwd)


def _tanh_fwd(x):
    y = jnp.tanh(x)
    return y, y


def _tanh_bwd(y, dy):
    # not 1 - y^2: near saturation the square's rounding is all that would be left
    return (dy * (1 - y) * (1 + y),)


tanh = Rule("tanh", _tanh_fwd, _tanh_bwd)
"""y = tanh x, dx = dy (1 - y^2). Keeps y, which the next layer keeps anyway. Smooth."""


def _sigmoid_fwd(x):
    y = nn.sigmoid(x)  # lax.logistic: exp never overflows, unlike 1 / (1 + exp(-x))
    return y, y


def _sigmoid_bwd(y, dy):
    return (dy * y * (1 - y),)


sigmoid = Rule("sigmoid", _sigmoid_fwd, _sigmoid_bwd)
"""y = 1 / (1 + e^-x), dx = dy y (1 - y). Keeps y. Smooth; at most a quarter of dy comes
back, and nothing where |x| is large: the cause of vanishing gradients."""


def _softplus_fwd(x):
    return jnp.logaddexp(x, 0), x  # log(1 + e^x) as written overflows at x = 89


def _softplus_bwd(x, dy):
    return (dy * nn.sigmoid(x),)


softplus = Rule("softplus", _softplus_fwd, _softplus_bwd)
"""y = log(1 + e^x), dx = dy sigmoid(x). Keeps x. Smooth. Source: Dugas et al. 2001."""


def elu(alpha: float = 1.0) -> Rule:
    """y = x for x > 0, alpha (e^x - 1) below; dx = dy or dy alpha e^x.

    Keeps x: y would do, but y + alpha loses the digits of a small e^x. At x = 0 the
    derivative is alpha, as in `jax.nn.elu`: no kink for alpha = 1.
    Source: Clevert, Unterthiner, Hochreiter 2016.
    """

    def fwd(x):
        below = x <= 0
        return jnp.where(below, alpha * jnp.expm1(_only(below, x)), x), x

    def bwd(x, dy):
        below = x <= 0
        return (jnp.where(below, dy * (alpha * jnp.exp(_only(below, x))), dy),)

    return Rule("elu", fwd, bwd)


def _only(wanted, x):
    """x, and 0 where the result is not used and could overflow."""
    return jnp.where(wanted, x, 0)


SELU_ALPHA, SELU_SCALE = (
    1.6732632423543772848170429916717,
    1.0507009873554804934193349852946,
)
_elu = elu(SELU_ALPHA)


def _selu_fwd(x):
    y, cache = _elu.fwd(x)
    return SELU_SCALE * y, cache


def _selu_bwd(cache, dy):
    return _elu.bwd(cache, SELU_SCALE * dy)


selu = Rule("selu", _selu_fwd, _selu_bwd)
"""y = 1.0507 elu(x, alpha=1.6733): activations drift to mean 0 and variance 1.

Keeps x. At the kink x = 0 the derivative is that of the left side, 1.758, as in
`jax.nn.selu`. Source: Klambauer et al. 2017; the two constants solve its fixed point.
"""


def gelu(approximate: bool = False) -> Rule:
    """y = x P(z <= x) for a standard normal z; dx = dy (P(z <= x) + x density(x)).

    Keeps x. Smooth. With `approximate`, P is 1/2 (1 + tanh(sqrt(2 / pi) (x + 0.044715
    x^3))), within 5e-4 of the exact y; BERT and GPT-2 used it (PyTorch: "tanh").
    `jax.nn.gelu` approximates unless told not to. Source: Hendrycks, Gimpel 2016.
    """
    slope = _gelu_tanh if approximate else _gelu_exact

    def fwd(x):
        return x * slope(x)[0], x

    def bwd(x, dy):
        p, dp = slope(x)
        return (dy * (p + dp),)

    return Rule("gelu", fwd, bwd)


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


def swish(beta: float = 1.0) -> Rule:
    """y = x sigmoid(beta x); dx = dy (s + beta x s (1 - s)) with s = sigmoid(beta x).

    Keeps x. Smooth. With beta = 1 also called SiLU.
    Source: Ramachandran, Zoph, Le 2017.
    """

    def fwd(x):
        return x * nn.sigmoid(beta * x), x

    def bwd(x, dy):
        s = nn.sigmoid(beta * x)
        return (dy * (s + beta * (x * s) * (1 - s)),)

    return Rule("swish", fwd, bwd)


def _log_softmax_fwd(x):
    # x (..., N): subtracting the row's maximum first keeps exp from overflowing.
    shifted = x - x.max(-1, keepdims=True)
    y = shifted - jnp.log(jnp.exp(shifted).sum(-1, keepdims=True))
    return y, y


def _log_softmax_bwd(y, dy):
    return (dy - jnp.exp(y) * dy.sum(-1, keepdims=True),)


log_softmax = Rule("log_softmax", _log_softmax_fwd, _log_softmax_bwd)
"""y = x - log sum e^x over the last axis; dx = dy - e^y sum dy. x (..., N) -> (..., N).

Keeps y. Smooth. Nothing overflows however large the logits."""


def _softmax_fwd(x):
    # x (..., N): the row's maximum is subtracted as in log_softmax.
    e = jnp.exp(x - x.max(-1, keepdims=True))
    y = e / e.sum(-1, keepdims=True)
    return y, y


def _softmax_bwd(y, dy):
    return (y * (dy - (dy * y).sum(-1, keepdims=True)),)


softmax = Rule("softmax", _softmax_fwd, _softmax_bwd)
"""y = e^x / sum e^x over the last axis; dx = y (dy - sum dy y). x (..., N) -> (..., N).

Keeps y. Smooth; nothing overflows. A class masked by -inf has y = 0 and dx = 0. A row
that is -inf throughout has no distribution: 0 / 0 makes y NaN, here as in `log_softmax`
and in `jax.nn.softmax`; mask by a large negative number where that can happen."""
