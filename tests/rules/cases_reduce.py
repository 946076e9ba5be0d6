"""Cases of the reductions."""

import functools

import jax.numpy as jnp
import numpy as np

from jaxnn import rules
from tests.rules.common import Case, normal

# shape, axis; the first is the default
OVER = [
    ((3, 4), None), ((3, 4), 0), ((3, 4), (0, 1)), ((2, 3, 1, 2), (1, -1)),
    ((2, 3, 4), (2, 0)), ((7,), 0), ((2, 3), ()), ((), None), ((0, 4), 1),
]  # fmt: skip
EMPTY = [((0, 4), 0), ((2, 0, 3), None), ((2, 0, 3), (1,))]


def by_columns(function, axis, keepdims):
    """The reduction by `function` of a list of columns (R,)."""

    def reference(x):
        every = range(x.ndim)
        axes = every if axis is None else np.atleast_1d(np.asarray(axis, int)) % x.ndim
        rest = [a for a in every if a not in axes]
        shape = [1 if a in axes else x.shape[a] for a in every]
        n = int(np.prod([x.shape[a] for a in axes]))
        rows = int(np.prod([x.shape[a] for a in rest]))
        columns = x.transpose(*rest, *axes).reshape(rows, n)
        y = function([columns[:, i] for i in range(n)], rows)
        return y.reshape(shape if keepdims else [x.shape[a] for a in rest])

    return reference


def total(columns, rows):
    return functools.reduce(jnp.add, columns, jnp.zeros(rows))


def mean(columns, rows):
    return total(columns, rows) / jnp.asarray(len(columns), float)


def largest(columns, rows):
    return functools.reduce(lambda a, b: jnp.where(a < b, b, a), columns)


def log_sum(columns, rows):
    return functools.reduce(jnp.logaddexp, columns)


def reductions(make, function, over):
    return [
        Case(
            f"shape {shape}, axis {axis}{', kept' * keepdims}",
            make(axis, keepdims) if axis is not None or keepdims else make(),
            (normal(*shape, seed=3),),
            by_columns(function, axis, keepdims),
        )
        for shape, axis, keepdims in [
            *((*each, False) for each in over),
            *((*each, True) for each in over[:5]),
        ]
    ]


HUGE = np.array([[1e300, -1e300, 3], [1e4, 1e4 - 1, -1e4], [-800, -800.5, -801]])
MASKED = np.array([[-np.inf, 0.5, 1], [2, -np.inf, -np.inf]])
# of each row as many parts as it has largest elements
TIES = np.array([[1.0, 3, 3, -2], [5, 5, 5, 5], [0, -0.0, -1, -2], [1, 2, 3, 4]])

CASES = {
    "sum": reductions(rules.sum, total, OVER + EMPTY),
    "mean": reductions(rules.mean, mean, OVER + EMPTY),
    "max": [
        *reductions(rules.max, largest, OVER),
        Case("ties", rules.max(1), (TIES,), lambda x: jnp.max(x, 1)),
        Case("ties of all", rules.max(), (TIES,), jnp.max),
    ],
    "logsumexp": [
        *reductions(rules.logsumexp, log_sum, OVER),
        *(
            Case(name, rules.logsumexp(1), (x,), by_columns(log_sum, 1, False))
            for name, x in {"huge": HUGE, "masked": MASKED}.items()
        ),
    ],
}
