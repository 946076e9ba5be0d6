"""Cases of the rules of two arguments that broadcast, and of `where`."""

import jax.numpy as jnp
import numpy as np

from jaxnn import rules
from tests.rules.common import EXTREME, Case, normal

# shapes of a and b; the first is the plain one
PAIRS = [
    ((3, 4), (3, 4)), ((), ()), ((3, 4), (4,)), ((4,), (3, 4)), ((3, 1), (1, 4)),
    ((2, 1, 3), (5, 1)), ((2, 3), ()), ((1,), (1, 1)), ((0, 4), (1, 4)), ((4,), (0, 4)),
]  # fmt: skip


def broadcasting(reference):
    return lambda *args: reference(*jnp.broadcast_arrays(*args))


def pairs(rule, reference, change=lambda a, b: (a, b)):
    """A case for each pair of shapes, of `change`d normal draws."""
    return [
        Case(
            f"shapes {s} and {t}",
            rule,
            change(normal(*s), normal(*t, seed=1)),
            broadcasting(reference),
        )
        for s, t in PAIRS
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


CASES = {
    "add": [
        *pairs(rules.add, lambda a, b: a + b),
        extreme(rules.add, lambda a, b: a + b),
    ],
    "sub": [
        *pairs(rules.sub, lambda a, b: a + -1 * b),
        extreme(rules.sub, lambda a, b: a + -1 * b),
    ],
    "mul": [
        *pairs(rules.mul, lambda a, b: ((a + b) ** 2 - (a - b) ** 2) / 4),
        extreme(rules.mul, lambda a, b: a * b),
    ],
    "div": [
        *pairs(rules.div, lambda a, b: a * b**-1, away_from_zero),
        Case(
            "poles",
            rules.div,
            (np.array([1.0, -1, 0, 2, 0]), np.array([0.0, 0, 0, -0.0, 3])),
            lambda a, b: a * b**-1,
        ),
    ],
    "power": [
        *pairs(rules.power, lambda a, b: jnp.exp(b * jnp.log(a)), positive),
        Case(
            "whole powers of any number",
            rules.power,
            (
                np.array([[-2.0, -0.5, 3], [-2, 1.5, -1]]),
                np.array([[3, 2, 1], [-2, -1, 0]]),
            ),
            with_whole_power,
        ),
    ],
    "maximum": [
        *pairs(rules.maximum, larger),
        extreme(rules.maximum, jnp.maximum),
        Case("ties", rules.maximum, TIES, jnp.maximum),
    ],
    "minimum": [
        *pairs(rules.minimum, smaller),
        extreme(rules.minimum, jnp.minimum),
        Case("ties", rules.minimum, TIES, jnp.minimum),
    ],
    "where": where_cases(),
}
