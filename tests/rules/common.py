"""What tables of cases are written and checked with; imports none of them."""

import zlib
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import numpy as np

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
    """Other shapes take no computing: see test_rules.py."""
    args = {"any shape": normal(3, 4), "extreme": EXTREME}
    return [Case(name, rule, (x,), reference) for name, x in args.items()]


def cotangent(case: Case, y) -> np.ndarray:
    """A dy for that case: the same draw in every process."""
    return normal(*np.shape(y), seed=zlib.crc32(case.name.encode()))


@partial(jax.jit, static_argnums=0, inline=True)  # each operation alone takes longer
def run(rule, args, dy):
    """y and the cotangents of the arguments that have one."""
    y, cache = rule.fwd(*args)
    return y, tuple(d for d in rule.bwd(cache, dy) if d is not None)


def vjp_of_reference(case, args, dy):
    """y and the cotangents, by `jax.vjp` of the case's reference."""

    def reference(*inputs):
        everything = list(args)
        for i, value in zip(case.wrt, inputs, strict=True):
            everything[i] = value
        return case.reference(*everything)

    y, pull_back = jax.vjp(reference, *(args[i] for i in case.wrt))
    return y, pull_back(dy)


def inputs(case):
    args = [jax.device_put(arg) for arg in case.args]
    dy = cotangent(case, jax.eval_shape(case.rule.fwd, *args)[0])
    return args, jax.device_put(dy)


def check(got, want):
    """The forward value, and every cotangent, of a rule and of its reference."""
    (y, cotangents), (want_y, want_cotangents) = got, want
    assert_close(y, want_y)
    assert len(cotangents) == len(want_cotangents)
    for d, want_d in zip(cotangents, want_cotangents, strict=True):
        assert_close(d, want_d)
