"""The table of what every rule is checked on, with references written another way."""

import zlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn import rules
from jaxnn.rules import Rule


class Case(NamedTuple):
    name: str
    rule: Rule
    args: tuple[np.ndarray, ...]
    reference: Callable  # (*args) -> y, differentiated by jax.vjp
    constants: tuple[int, ...] = ()  # positions of float arguments without derivative

    @property
    def wrt(self) -> tuple[int, ...]:
        """Positions of the arguments that have a derivative."""
        return tuple(
            i
            for i, arg in enumerate(self.args)
            if np.issubdtype(arg.dtype, np.floating) and i not in self.constants
        )


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    """N(0, 1) in float64, another draw for every shape and seed."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def assert_close(got, want, tolerance: float = 1e-12) -> None:
    """Equal shapes, and values within `tolerance` of the largest finite entry."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    scale = np.abs(want[np.isfinite(want)]).max(initial=0)
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * scale)


def assert_trees_close(got, want, tolerance: float = 1e-12) -> None:
    """`assert_close` leaf by leaf, of two trees of one structure."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert_close(g, w, tolerance)


SHAPES = [(3, 4), (1, 1), (7,), (1, 3, 1, 2), (0, 4)]
# Kinks, signed zero, the smallest magnitudes and saturation in one array.
EXTREME = np.array([[-800.0, -37.0, -1.0, -1e-300, -0.0], [0.0, 1e-300, 1, 37, 800]])


def elementwise(rule, reference):
    args = {f"shape {shape}": normal(*shape) for shape in SHAPES} | {"extreme": EXTREME}
    return [Case(name, rule, (x,), reference) for name, x in args.items()]


def leaky_relu(slope):
    return lambda x: jax.nn.leaky_relu(x, slope)


def standardize(mean, std):
    return lambda x: (x - mean) / std


def sigmoid(x):
    return jnp.exp(-jnp.logaddexp(jnp.zeros_like(x), -x))


def softplus(x):
    return jax.scipy.special.logsumexp(jnp.stack([x, jnp.zeros_like(x)]), axis=0)


LOGITS = {
    **{f"shape {s}": normal(*s) for s in [*SHAPES, (4, 1)]},
    "huge": np.array([[1e4, -1e4, 0], [800, 800, -800], [1e300, -1e300, 1e-300]]),
    "masked class": np.array([[-np.inf, 0.5, 1], [2, -np.inf, -np.inf]]),
}


def add_cases():
    pairs = {f"shape {s}": (normal(*s), normal(*s, seed=1)) for s in SHAPES}
    pairs["extreme"] = (EXTREME, EXTREME[::-1].copy())
    return [Case(name, rules.add, ab, lambda a, b: a + b) for name, ab in pairs.items()]


def matmul(x, w):
    return jnp.einsum("...i,io->...o", x, w)


def affine(x, w, b):
    y = matmul(x, w)
    return y + jnp.broadcast_to(b, y.shape)


def product_cases(rule, reference, bias):
    table = {
        "batch": ((3, 4), 2),
        "all of size one": ((1, 1), 1),
        "batch of one": ((1, 5), 3),
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
    shapes = [(3, 4), (1, 1), (5,), (2, 3, 1, 2), (1, 28, 28), (0, 4, 2), (2, 0, 3)]
    return [
        Case(
            f"shape {s}",
            rules.flatten,
            (normal(*s),),
            lambda x: x.reshape(len(x), x.size // len(x) if len(x) else 8),
        )
        for s in shapes
    ]


# The first case of each rule has default settings, and no cotangent of zeros.
CASES: dict[str, list[Case]] = {
    "add": add_cases(),
    "affine": product_cases(rules.affine, affine, bias=True),
    "batch_norm": batch_norm_cases(fixed=False),
    "batch_norm_fixed": batch_norm_cases(fixed=True),
    "dropout": dropout_cases(),
    "flatten": flatten_cases(),
    "leaky_relu": elementwise(rules.leaky_relu(), leaky_relu(0.01))
    + [
        Case(f"slope {slope}", rules.leaky_relu(slope), (EXTREME,), leaky_relu(slope))
        for slope in (0.2, 0.0, -1.0)
    ],
    "log_softmax": [
        Case(name, rules.log_softmax, (x,), jax.nn.log_softmax)
        for name, x in LOGITS.items()
    ],
    "matmul": product_cases(rules.matmul, matmul, bias=False),
    "relu": elementwise(rules.relu, jax.nn.relu),
    "sigmoid": elementwise(rules.sigmoid, sigmoid),
    "softplus": elementwise(rules.softplus, softplus),
    "standardize": [
        *elementwise(rules.standardize(0.5, 0.25), standardize(0.5, 0.25)),
        Case(
            "of MNIST",
            rules.standardize(0.1307, 0.3081),
            (EXTREME,),
            standardize(0.1307, 0.3081),
        ),
    ],
    "tanh": elementwise(rules.tanh, jnp.tanh),
}

ELEMENTWISE = (
    "add",
    "dropout",
    "leaky_relu",
    "log_softmax",
    "relu",
    "sigmoid",
    "softplus",
    "standardize",
    "tanh",
)


def cotangent(case: Case, y) -> np.ndarray:
    """A dy for that case: the same draw in every process."""
    return normal(*np.shape(y), seed=zlib.crc32(case.name.encode()))
