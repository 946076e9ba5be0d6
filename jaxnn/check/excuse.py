"""Second thoughts before an error is reported: is it rounding, or a kink?"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.check.measure import DTYPES, compare_arrays
from jaxnn.check.probe import beside, cast, last_digits
from jaxnn.check.watch import Given, Place, arguments, exact

AS_GOOD = 4.0
"""By hand passes if it is no more than so many times as far from the float64 gradient
as `jax.grad` in that precision is: float32 itself cannot do better, as with the
gradient of a trained network, a small difference of large terms."""

MARGIN = 32.0  # times the rounding that float32 shows, for its precision
SHRINK = float(jnp.finfo(jnp.float64).eps / jnp.finfo(jnp.float32).eps)
FLOOR = 8.0
"""A difference of no more than so many units in the last place of dy is rounding: a
saturated softmax or a norm over two channels takes terms as large as dy from each other
and leaves a derivative of 1e-20."""

KINK = "a kink: other values of the derivative are as good"
JUMP = 1e-3  # of the largest derivative: what counts as a kink


def excuse(given: Given, got: Any, want: Any, dtype: str, look: Callable) -> str | None:
    """Why a difference beyond the limit is no error, None if it is one.

    Args:
      given: what the layer was given.
      got: the gradient by hand for one argument.
      want: the same by `jax.grad`.
      dtype: the precision of both.
      look: `(given, dtype) -> (got, want)` at any point and in any precision.
    """

    def exactly(given, dtype):
        return _wide(look(given, dtype)[1])

    got, want = (np.asarray(a).astype(np.float64) for a in (got, want))
    gap = float(np.abs(got - want).max())
    if not np.isfinite(gap):
        if np.isfinite(got).all() and _in_single_steps(given, got, dtype, exactly):
            return "not finite by jax.grad when compiled, but in single steps it agrees"
        return None
    eps = float(jnp.finfo(DTYPES[dtype]).eps)
    if gap <= FLOOR * eps * _largest(given.dy):
        return "rounding: a difference of nothing beside dy"
    if dtype == "float64":
        rough = np.abs(exactly(given, "float32") - want).max()
        if np.isfinite(rough) and gap <= MARGIN * SHRINK * rough:
            return "rounding: jax.grad in float32 differs as much for its precision"
    else:
        narrow = jax.tree.map(_as_numpy, cast(given, DTYPES[dtype]))
        truth = exactly(narrow, "float64")
        error = np.abs(got - truth).max()
        if error <= AS_GOOD * np.abs(want - truth).max():
            return "as close to the float64 gradient as jax.grad in this precision"
        if dtype == "bfloat16" and _shrinks(look(narrow, "float32")[0], truth, error):
            return "rounding: in float32 it is as much closer as that has more digits"
    if dtype != "bfloat16":  # whose last digit would step over kinks
        moved = [exactly(last_digits(given, eps, seed), "float64") for seed in range(4)]
        if gap <= MARGIN * np.abs(moved - exactly(given, "float64")).max():
            return "rounding: the last digit of the inputs matters as much"
    sides = [
        exactly(beside(given, seed, sign), "float64")
        for seed in range(4)
        for sign in (1, -1)
    ]
    jump = (np.max(sides, axis=0) - np.min(sides, axis=0)).max()
    if gap <= 1.001 * jump and jump > JUMP * np.abs(want).max():
        return KINK
    return None


def own_look(place: Place, argument: str) -> Callable:
    """`look` for one argument of a layer by a program of its own."""
    program = _program(place.layer, place.train)

    def look(given, dtype):
        found = arguments(program(given=cast(given, DTYPES[dtype])))
        return None, found[argument]

    return look


@lru_cache(maxsize=64)
def _program(layer, train):
    return jax.jit(partial(exact, layer, train=train))


def _shrinks(got, truth, error) -> bool:
    """Whether the error in bfloat16 is what is to be expected by that in float32.

    `jax.grad` of a forward that is wide inside is wide inside too; by hand there may be
    more rounding. A wrong formula does not shrink, and shows in float64.
    """
    ratio = float(jnp.finfo(jnp.bfloat16).eps / jnp.finfo(jnp.float32).eps)
    least = float(jnp.finfo(jnp.float32).eps) * np.abs(truth).max()
    return bool(error <= MARGIN * ratio * max(np.abs(_wide(got) - truth).max(), least))


def _in_single_steps(given, got, dtype, exactly) -> bool:
    """Whether it is right if nothing is compiled, and so each thing computed once."""
    with jax.disable_jit():
        return compare_arrays("", got, exactly(given, dtype), dtype).passed


def _largest(tree) -> float:
    return max(float(np.abs(_wide(a)).max(initial=0)) for a in jax.tree.leaves(tree))


def _wide(a) -> np.ndarray:
    return np.asarray(a).astype(np.float64)


def _as_numpy(a):
    return a if jnp.issubdtype(a.dtype, jax.dtypes.prng_key) else np.asarray(a)
