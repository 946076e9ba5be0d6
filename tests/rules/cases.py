"""The table of what every rule is checked on, with references written another way."""

import jax.numpy as jnp
import numpy as np

from jaxnn import rules
from tests.rules import (
    cases_activations,
    cases_arithmetic,
    cases_attention,
    cases_conv,
    cases_einsum,
    cases_norm,
    cases_recurrent,
    cases_reduce,
    cases_shape,
)
from tests.rules.common import SHAPES, Case, elementwise, normal


def standardize(mean, std):
    return lambda x: (x - mean) / std


def matmul(x, w):
    return jnp.einsum("...i,io->...o", x, w)


def affine(x, w, b):
    y = matmul(x, w)
    return y + jnp.broadcast_to(b, y.shape)


def product_cases(rule, reference, bias):
    table = {
        "batch": ((3, 4), 2),
        "all of size one": ((1, 1), 1),
        "no batch axis": ((4,), 3),
        "four axes": ((2, 1, 3, 5), 2),
        "no rows": ((0, 4), 3),
        "no features": ((2, 0), 3),
        "no units": ((2, 3), 0),
    }
    scales = dict.fromkeys(table, 1.0) | {"huge": 1e150, "tiny": 1e-150}
    cases = []
    for name, scale in scales.items():
        shape, width = table.get(name, ((3, 4), 2))
        args = (normal(*shape) * scale, normal(shape[-1], width, seed=1) * scale)
        if bias:
            args = (*args, normal(width, seed=2) * scale**2)
        cases.append(Case(name, rule, args, reference))
    return cases


def dropout(drop_rate):
    return lambda x, keep: x * keep / (1 - drop_rate)


def dropout_cases():
    masks = {f"shape {s}": normal(*s, seed=1) > 0 for s in SHAPES}
    cases = [
        Case(name, rules.dropout(), (normal(*keep.shape), keep), dropout(0.5))
        for name, keep in masks.items()
    ]
    for rate in (0.0, 0.3):
        for kept, keep in {
            "some": normal(3, 4, seed=1) > -0.5,
            "all": np.ones((3, 4), bool),
            "none": np.zeros((3, 4), bool),
        }.items():
            name = f"rate {rate}, {kept} kept"
            args = (normal(3, 4), keep)
            cases.append(Case(name, rules.dropout(rate), args, dropout(rate)))
    return cases


def batch_norm(epsilon):
    def reference(x, gamma, beta):
        rows = x.reshape(-1, x.shape[-1])  # (n, C)
        n, ones = len(rows), jnp.ones((len(rows), 1))
        mean = ones @ (rows.sum(0, keepdims=True) / n)
        var = ((rows - mean) ** 2).sum(0, keepdims=True) / n
        x_hat = (rows - mean) / (ones @ jnp.sqrt(var + epsilon))
        return (x_hat * (ones @ gamma[None]) + ones @ beta[None]).reshape(x.shape)

    return reference


def batch_norm_fixed(epsilon):
    def reference(x, gamma, beta, mean, var):
        gamma, beta, mean, var = (
            jnp.broadcast_to(v, x.shape) for v in (gamma, beta, mean, var)
        )
        return gamma * (x - mean) / jnp.sqrt(var + epsilon) + beta

    return reference


def batch_norm_cases(fixed: bool):
    make = rules.batch_norm_fixed if fixed else rules.batch_norm
    inputs = {
        "batch": (normal(5, 3), 1e-5),
        # With a small epsilon dx of two rows is rounding and nothing else.
        "two rows, one channel": (normal(2, 1), 1.0),
        "images": (normal(4, 1, 3, 2), 1e-3),
        "large mean": (100 + normal(6, 3), 1e-5),
        "spread below epsilon": (normal(6, 3) * 1e-6, 1e-5),
        "constant channel": (normal(6, 3) * np.array([1.0, 0, 1])[None], 1e-5),
        "batch of one": (normal(1, 4), 1e-5),
    }
    if fixed:  # no statistics are taken, so no rows are needed
        inputs["no rows"] = (normal(0, 3), 1e-5)
    cases = []
    for name, (x, epsilon) in inputs.items():
        c = x.shape[-1]
        args = (x, normal(c, seed=1), normal(c, seed=2))
        if fixed:
            args = (*args, normal(c, seed=3), normal(c, seed=4) ** 2)
        rule = make() if epsilon == 1e-5 else make(epsilon)
        reference = batch_norm_fixed(epsilon) if fixed else batch_norm(epsilon)
        constants = (3, 4) if fixed else ()
        cases.append(Case(name, rule, args, reference, constants))
    return cases


def flatten_cases():
    shapes = [(3, 4), (5,), (2, 3, 1, 2), (0, 4, 2), (2, 0, 3)]
    return [
        Case(
            f"shape {s}",
            rules.flatten,
            (normal(*s),),
            lambda x: x.reshape(len(x), x.size // len(x) if len(x) else 8),
        )
        for s in shapes
    ]


# The first case of each rule has default settings, and no cotangent of zeros. A new
# family of rules gets a file cases_<family>.py with a dict of this kind and one line at
# the end of this one: `**cases_<family>.CASES`.
CASES: dict[str, list[Case]] = {
    "affine": product_cases(rules.affine, affine, bias=True),
    "batch_norm": batch_norm_cases(fixed=False),
    "batch_norm_fixed": batch_norm_cases(fixed=True),
    "dropout": dropout_cases(),
    "flatten": flatten_cases(),
    "matmul": product_cases(rules.matmul, matmul, bias=False),
    "standardize": elementwise(rules.standardize(0.5, 0.25), standardize(0.5, 0.25)),
    **cases_activations.CASES,
    **cases_arithmetic.CASES,
    **cases_conv.CASES,
    **cases_einsum.CASES,
    **cases_reduce.CASES,
    **cases_shape.CASES,
    **cases_recurrent.CASES,
    **cases_norm.CASES,
    **cases_attention.CASES,
}
