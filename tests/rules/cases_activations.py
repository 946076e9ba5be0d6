"""Cases of the activations and of the plain functions of each element."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn import rules
from tests.rules.common import EXTREME, SHAPES, Case, elementwise, normal


def sigmoid(x):
    return jnp.exp(-jnp.logaddexp(jnp.zeros_like(x), -x))


def softplus(x):
    return jax.scipy.special.logsumexp(jnp.stack([x, jnp.zeros_like(x)]), axis=0)


def leaky_relu(slope):
    return lambda x: jax.nn.leaky_relu(x, slope)


def elu(alpha):
    return lambda x: jax.nn.elu(x, alpha)


def gelu(x):
    return x * jax.scipy.stats.norm.cdf(x)


def gelu_tanh(x):
    # (1 + tanh u) / 2 is sigmoid 2u
    return x * jax.nn.sigmoid(np.sqrt(8 / np.pi) * (x + 0.044715 * x**3))


def swish(beta):
    return lambda x: x * sigmoid(beta * x)


def with_setting(rules_and_references):
    return [
        Case(name, rule, (EXTREME,), reference)
        for name, (rule, reference) in rules_and_references.items()
    ]


LOGITS = {
    **{f"shape {s}": normal(*s) for s in [*SHAPES, (4, 1)]},
    "huge": np.array([[1e4, -1e4, 0], [800, 800, -800], [1e300, -1e300, 1e-300]]),
    "masked class": np.array([[-np.inf, 0.5, 1], [2, -np.inf, -np.inf]]),
}


def of_logits(rule, reference):
    return [Case(name, rule, (x,), reference) for name, x in LOGITS.items()]


# 0 is a pole of log and of the slope of sqrt; below it both are NaN
FROM_ZERO = np.array([[0.0, 1e-300, 0.5, 1, 37, 800, 1e300], [-1.0, 2, 3, 4, 5, 6, 7]])


def from_zero(rule, reference):
    table = {f"shape {s}": np.abs(normal(*s)) for s in SHAPES} | {"poles": FROM_ZERO}
    return [Case(name, rule, (x,), reference) for name, x in table.items()]


CASES = {
    "abs": elementwise(rules.abs, lambda x: jnp.maximum(x, -x)),
    "elu": elementwise(rules.elu(), elu(1.0))
    + with_setting({f"alpha {a}": (rules.elu(a), elu(a)) for a in (0.3, 2.0, 0.0)}),
    "exp": elementwise(rules.exp, lambda x: jnp.exp2(x / np.log(2))),
    "gelu": elementwise(rules.gelu(), gelu)
    + with_setting({"approximate": (rules.gelu(approximate=True), gelu_tanh)}),
    "leaky_relu": elementwise(rules.leaky_relu(), leaky_relu(0.01))
    + with_setting(
        {f"slope {s}": (rules.leaky_relu(s), leaky_relu(s)) for s in (0.2, 0.0, -1.0)}
    ),
    "log": from_zero(rules.log, lambda x: jnp.log2(x) * np.log(2)),
    "log_softmax": of_logits(rules.log_softmax, jax.nn.log_softmax),
    "relu": elementwise(rules.relu, jax.nn.relu),
    "selu": elementwise(rules.selu, jax.nn.selu),
    "sigmoid": elementwise(rules.sigmoid, sigmoid),
    "softmax": of_logits(rules.softmax, jax.nn.softmax),
    "softplus": elementwise(rules.softplus, softplus),
    "sqrt": from_zero(rules.sqrt, lambda x: jnp.power(x, 0.5)),
    "square": elementwise(rules.square, lambda x: x**2),
    "swish": elementwise(rules.swish(), swish(1.0))
    + with_setting({f"beta {b}": (rules.swish(b), swish(b)) for b in (0.5, 2.0, -1.0)}),
    "tanh": elementwise(rules.tanh, jnp.tanh),
}
