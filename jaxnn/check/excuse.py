"""Second thoughts before an error is reported: is it rounding, or a kink?"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.arrays import is_key
from jaxnn.check.measure import DTYPES, as_float64, compare_arrays, limit_for
from jaxnn.check.probe import beside, cast, last_digits, nudged
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
SAMPLES = 8  # entries at a kink that are looked at one by one


def excuse(
    given: Given, argument: str, got: Any, want: Any, dtype: str, look: Callable
) -> str | None:
    """Why a difference beyond the limit is no error, None if it is one.

    Args:
      given: what the layer was given.
      argument: whose gradient it is.
      got: the gradient by hand for it.
      want: the same by `jax.grad`.
      dtype: the precision of both.
      look: `(given, dtype) -> (got, want)` at any point and in any precision.
    """
    exactly = partial(_by_jax, look)
    got, want = map(as_float64, (got, want))
    gap = np.abs(got - want)
    if not np.isfinite(gap).all():
        if np.isfinite(got).all() and _in_single_steps(given, got, dtype, exactly):
            return "not finite by jax.grad when compiled, but in single steps it agrees"
        return None
    if gap.max() <= FLOOR * float(jnp.finfo(DTYPES[dtype]).eps) * _largest(given.dy):
        return "rounding: a difference of nothing beside dy"
    sides = np.stack(
        [exactly(beside(given, seed, sign)) for seed in range(4) for sign in (1, -1)]
    )
    size = float(np.abs(want).max())
    jumps = np.ptp(sides, axis=0) > JUMP * size
    # a jump is no rounding, so entries at a kink neither need nor give that excuse
    reason = _rounding(given, np.where(jumps, want, got), want, ~jumps, dtype, look)
    limit = limit_for(dtype, max(size, float(np.abs(got).max())))
    if reason is None and (gap[~jumps] > limit).any():
        return None
    wrong = jumps & (gap > limit)
    if not wrong.any():
        return reason
    kink = _Kink(exactly, given, argument, got, sides)
    return KINK if kink.has_room_for(wrong) else None


def _rounding(given, got, want, smooth, dtype, look) -> str | None:
    """Why the difference of the smooth entries is rounding, None if it is not."""

    def largest(gap):
        return float(np.abs(gap)[smooth].max(initial=0))

    exactly = partial(_by_jax, look)
    gap, eps = largest(got - want), float(jnp.finfo(DTYPES[dtype]).eps)
    if dtype == "float64":
        rough = largest(exactly(given, "float32") - want)
        if np.isfinite(rough) and gap <= MARGIN * SHRINK * rough:
            return "rounding: jax.grad in float32 differs as much for its precision"
    else:
        narrow = jax.tree.map(_as_numpy, cast(given, DTYPES[dtype]))
        truth = exactly(narrow)
        error = largest(got - truth)
        if error <= AS_GOOD * largest(want - truth):
            return "as close to the float64 gradient as jax.grad in this precision"
        if dtype == "bfloat16" and _shrinks(look(narrow, "float32")[0], truth, error):
            return "rounding: in float32 it is as much closer as that has more digits"
    if dtype != "bfloat16":  # whose last digit would step over kinks
        here = exactly(given)
        moved = [exactly(last_digits(given, eps, seed)) - here for seed in range(4)]
        if gap <= MARGIN * max(map(largest, moved)):
            return "rounding: the last digit of the inputs matters as much"
    return None


def _by_jax(look, given, dtype="float64") -> np.ndarray:
    return as_float64(look(given, dtype)[1])


class _Kink:
    """Whether a gradient at a kink is a choice among those close by.

    Every entry must lie between the slopes on the two sides of it, and so must the
    slope along directions in which several entries that meet in one kink move: a
    maximum may give its gradient to any of the equal entries, but not to each.
    """

    def __init__(self, exactly, given, argument, got, sides):
        self.exactly, self.given, self.argument = exactly, given, argument
        self.got, self.sides = got, sides
        self.draw = np.random.default_rng(0)

    def has_room_for(self, wrong) -> bool:
        outside = wrong & ~_between(self.sides, self.got)
        for index in self._some(outside, SAMPLES):
            alone = self._alone(index)
            if not _between(alone[(slice(None), *index)], self.got[index]):
                return False
        return all(self._is_one_choice(i) for i in self._some(wrong, SAMPLES // 2))

    def _alone(self, index):
        """The gradients where that entry alone is a hair larger, and smaller."""
        return np.stack([self._at({index: 1}), self._at({index: -1})])

    def _is_one_choice(self, index) -> bool:
        alone = self._alone(index)
        size = np.abs(self.sides).max()
        group = [*map(tuple, np.argwhere(np.ptp(alone, axis=0) > JUMP * size))]
        if len(group) < 2:
            return True
        shown = group[:SAMPLES]
        near = [*alone, *self.sides, *(self._at({i: 1}) for i in shown)]
        for _ in range(SAMPLES // 2):
            away = self.draw.standard_normal(len(shown))
            near.append(self._at(dict(zip(shown, away, strict=True))))
        entries = tuple(np.transpose(group))
        several = np.stack([g[entries] for g in near])
        ways = [np.ones(len(group))]
        if len(group) == len(shown):
            ways += list(self.draw.standard_normal((3, len(group))))
        return all(bool(_between(several @ v, self.got[entries] @ v)) for v in ways)

    def _at(self, moves):
        return self.exactly(nudged(self.given, self.argument, moves))

    def _some(self, mask, count):
        found = [*map(tuple, np.argwhere(mask))]
        if len(found) <= count:
            return found
        return [found[i] for i in self.draw.choice(len(found), count, replace=False)]


def _between(several, one):
    low, high = several.min(0), several.max(0)
    slack = JUMP * np.abs(several).max()
    return (low - slack <= one) & (one <= high + slack)


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
    return bool(
        error <= MARGIN * ratio * max(np.abs(as_float64(got) - truth).max(), least)
    )


def _in_single_steps(given, got, dtype, exactly) -> bool:
    """Whether it is right if nothing is compiled, and so each thing computed once."""
    with jax.disable_jit():
        return compare_arrays("", got, exactly(given, dtype), dtype).passed


def _largest(tree) -> float:
    leaves = map(as_float64, jax.tree.leaves(tree))
    return max(float(np.abs(a).max(initial=0)) for a in leaves)


def _as_numpy(a):
    return a if is_key(a) else np.asarray(a)
