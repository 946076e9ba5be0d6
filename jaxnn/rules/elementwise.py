"""Rules that act on each element alone: y has the shape of x.

Masks are asked as `x <= 0`, never as `x > 0`: the comparison is false for NaN, so a
NaN passes through both directions instead of becoming a healthy-looking zero.
"""

import jax.numpy as jnp
from jax import nn

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
    return (dy * (1 - y * y),)


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


def standardize(mean: float, std: float) -> Rule:
    """y = (x - mean) / std with constants, so dx = dy / std. Keeps nothing."""

    def fwd(x):
        return (x - mean) * (1 / std), ()

    def bwd(_, dy):
        return (dy * (1 / std),)

    return Rule("standardize", fwd, bwd)


def _add_fwd(a, b):
    return a + b, ()


def _add_bwd(_, dy):
    return dy, dy


add = Rule("add", _add_fwd, _add_bwd)
"""y = a + b of equal shapes: the cotangent goes to both. Keeps nothing."""


def dropout(drop_rate: float = 0.5) -> Rule:
    """y = x / (1 - drop_rate) where `keep`, else 0; dx likewise, none for `keep`.

    x (...), keep bool (...) -> y (...). Keeps the mask. "Inverted" dropout: dividing
    here means that nothing is scaled at evaluation. Source: Srivastava et al. 2014.
    """
    scale = 1 / (1 - drop_rate)

    def fwd(x, keep):
        return jnp.where(keep, x * scale, 0), keep

    def bwd(keep, dy):
        return jnp.where(keep, dy * scale, 0), None

    return Rule("dropout", fwd, bwd)


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
