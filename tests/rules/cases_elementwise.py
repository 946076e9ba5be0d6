"""Cases of the rules of each element: activations, functions, arithmetic."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn import rules
from tests.rules.common import EXTREME, SHAPES, Case, elementwise, normal

# ---- of one argument


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
    table = {"any shape": np.abs(normal(3, 4)), "poles": FROM_ZERO}
    return [Case(name, rule, (x,), reference) for name, x in table.items()]


def standardize(mean, std):
    return lambda x: (x - mean) / std


def dropout(drop_rate):
    return lambda x, keep: x * keep / (1 - drop_rate)


def dropout_cases():
    keep = normal(3, 4, seed=1) > -0.5
    table = {
        "any shape": (0.5, keep),
        "some kept": (0.3, keep),
        "all kept": (0.3, np.ones((3, 4), bool)),
        "none kept": (0.3, np.zeros((3, 4), bool)),
        "rate 0": (0.0, keep),
    }
    return [
        Case(name, rules.dropout(rate), (normal(3, 4), kept), dropout(rate))
        for name, (rate, kept) in table.items()
    ]


# ---- of two that broadcast


# shapes of a and b; the first is the plain one
FEW = [((3, 4), (3, 4)), ((2, 1, 3), (5, 1)), ((2, 3), ())]
PAIRS = [
    *FEW, ((), ()), ((3, 4), (4,)), ((4,), (3, 4)), ((3, 1), (1, 4)), ((1,), (1, 1)),
    ((0, 4), (1, 4)), ((4,), (0, 4)),
]  # fmt: skip


def broadcasting(reference):
    return lambda *args: reference(*jnp.broadcast_arrays(*args))


def pairs(rule, reference, change=lambda a, b: (a, b), table=FEW):
    """A case for each pair of shapes, of `change`d normal draws.

    How arguments are spread, and cotangents summed, is the same for all: `mul` and
    `where` take every pair.
    """
    return [
        Case(
            f"shapes {s} and {t}",
            rule,
            change(normal(*s), normal(*t, seed=1)),
            broadcasting(reference),
        )
        for s, t in table
    ]


def extreme(rule, reference):
    return Case("extreme", rule, (EXTREME, EXTREME[::-1].copy()), reference)


def away_from_zero(a, b):
    return a, np.sign(b) * (0.5 + np.abs(b))


def positive(a, b):
    return 0.1 + np.abs(a), b


def larger(a, b):
    return (a + b + jnp.abs(a - b)) / 2


def smaller(a, b):
    return (a + b - jnp.abs(a - b)) / 2


TIES = (np.array([[1.0, 2, -0.0], [3, 5, 7]]), np.array([[1.0, 1, 0.0], [3, 6, 8]]))


def where_cases():
    cases = []
    for s, t in PAIRS:
        shape = np.broadcast_shapes(s, t)
        masks = {"each": normal(*shape, seed=2) > 0, "one row": normal(4, seed=2) > 0}
        if not shape or shape[-1] != 4:
            del masks["one row"]
        for name, mask in masks.items():
            args = (mask, normal(*s), normal(*t, seed=1))
            name = f"shapes {s} and {t}, mask of {name}"
            cases.append(Case(name, rules.where, args, broadcasting(blend)))
    for value in (True, False):
        args = (np.array(value), normal(2, 3), normal(2, 3, seed=1))
        cases.append(Case(f"all {value}", rules.where, args, broadcasting(blend)))
    return cases


def blend(mask, a, b):
    return mask * a + ~mask * b


def with_whole_power(a, b):
    # every factor as often as b says, over 1 or under it
    up = jnp.ones_like(a)
    for i in range(1, 4):
        up = up * jnp.where(i <= jnp.abs(b), a, 1)
    return jnp.where(b < 0, 1 / up, up)


def arithmetic(rule, reference, at_extremes=None, table=FEW):
    cases = pairs(rule, reference, table=table)
    return [*cases, extreme(rule, at_extremes or reference)]


CASES = {
    "abs": elementwise(rules.abs, lambda x: jnp.maximum(x, -x)),
    "elu": elementwise(rules.elu(), elu(1.0))
    + with_setting({f"alpha {a}": (rules.elu(a), elu(a)) for a in (0.3, 2.0, 0.0)}),
    "exp": elementwise(rules.exp, lambda x: jnp.exp2(x / np.log(2))),
    "gelu": elementwise(rules.gelu(), gelu)
    + with_setting({"approximate": (rules.gelu(approximate=True), gelu_tanh)}),
    "leaky_relu": elementwise(rules.leaky_relu(), leaky_relu(0.01)) + with_setting(
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
    "dropout": dropout_cases(),
    "standardize": elementwise(rules.standardize(0.5, 0.25), standardize(0.5, 0.25)),
    "add": arithmetic(rules.add, lambda a, b: a + b),
    "sub": arithmetic(rules.sub, lambda a, b: a + -1 * b),
    "mul": arithmetic(rules.mul, lambda a, b: ((a + b) ** 2 - (a - b) ** 2) / 4,
                      lambda a, b: a * b, PAIRS),
    "div": [
        *pairs(rules.div, lambda a, b: a * b**-1, away_from_zero),
        Case("poles", rules.div,
             (np.array([1.0, -1, 0, 2, 0]), np.array([0.0, 0, 0, -0.0, 3])),
             lambda a, b: a * b**-1),
    ],
    "power": [
        *pairs(rules.power, lambda a, b: jnp.exp(b * jnp.log(a)), positive),
        Case("whole powers of any number", rules.power,
             (np.array([[-2.0, -0.5, 3], [-2, 1.5, -1]]),
              np.array([[3, 2, 1], [-2, -1, 0]])), with_whole_power),
    ],
    "maximum": [*arithmetic(rules.maximum, larger, jnp.maximum),
                Case("ties", rules.maximum, TIES, jnp.maximum)],
    "minimum": [*arithmetic(rules.minimum, smaller, jnp.minimum),
                Case("ties", rules.minimum, TIES, jnp.minimum)],
    "where": where_cases(),
}  # fmt: skip
