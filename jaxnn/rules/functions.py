"""Rules of one argument that are plain functions of each element.

Where dy is 0 so is dx, even if the slope is infinite (sqrt and log at 0, exp of a large
number) or NaN (see `if_used`).
"""

import jax.numpy as jnp

from jaxnn.rules.broadcast import if_used
from jaxnn.rules.core import Rule


def _exp_fwd(x):
    y = jnp.exp(x)
    return y, y


def _exp_bwd(y, dy):
    return (if_used(dy, dy * y),)


exp = Rule("exp", _exp_fwd, _exp_bwd)
"""y = e^x, dx = dy y. Keeps y. Smooth; infinite from x = 88.8 (float32) or 709.8
(float64) on, and so is dx."""


def _log_fwd(x):
    return jnp.log(x), x


def _log_bwd(x, dy):
    return (if_used(dy, dy / x),)


log = Rule("log", _log_fwd, _log_bwd)
"""y = log x, dx = dy / x. Keeps x. At 0: y = -inf and dx infinite; below 0 y is NaN."""


def _sqrt_fwd(x):
    y = jnp.sqrt(x)
    return y, y


def _sqrt_bwd(y, dy):
    return (if_used(dy, dy / (2 * y)),)


sqrt = Rule("sqrt", _sqrt_fwd, _sqrt_bwd)
"""y = x^(1/2), dx = dy / (2 y). Keeps y. At 0: dx is infinite; below 0 both are NaN."""


def _square_fwd(x):
    return x * x, x


def _square_bwd(x, dy):
    return (if_used(dy, 2 * dy * x),)


square = Rule("square", _square_fwd, _square_bwd)
"""y = x^2, dx = 2 dy x. Keeps x. Smooth."""


def _abs_fwd(x):
    return jnp.abs(x), x


def _abs_bwd(x, dy):
    return (if_used(dy, dy * jnp.sign(x)),)


abs = Rule("abs", _abs_fwd, _abs_bwd)
"""y = |x|, dx = dy sign x. Keeps x.

At the kink x = 0 the derivative is 0, as in PyTorch (`jax.grad` says 1)."""
