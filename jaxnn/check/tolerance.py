"""When two gradients are the same: limits, rounding, and kinks.

One judge for every way to a gradient: `is_rounding_or_kink` is told how the gradient
can be had at other points, by `jax.vjp` or by differences, and nothing else.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.arrays import is_key
from jaxnn.check.points import AWAY, beside, cast, last_digits, nudged
from jaxnn.check.recorder import LayerRecord

LIMITS = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 0.0625}
"""Largest relative difference that passes, |manual - automatic| over the largest
|entry| of the leaf: 84 units in the last place of that entry in float32, 4,500 in
float64, 8 in bfloat16."""

DTYPES = {name: jnp.dtype(name) for name in LIMITS}
ULPS = (1, 4, 16)

AS_GOOD = 4.0
"""By hand passes if it is no more than so many times as far from the float64 gradient
as `jax.grad` in that precision is: float32 itself cannot do better, as with the
gradient of a trained network, a small difference of large terms."""
AS_CLOSE = "as close to the float64 gradient as jax.grad in this precision"

MARGIN = 32.0  # times the rounding that float32 shows, for its precision
SHRINK = float(jnp.finfo(jnp.float64).eps / jnp.finfo(jnp.float32).eps)
FLOOR = 8.0
"""A difference of no more than so many units in the last place of dy is rounding: a
saturated softmax or a norm over two channels takes terms as large as dy from each other
and leaves a derivative of 1e-20."""


class Tolerance(NamedTuple):
    """What a way to a gradient can tell.

    Attributes:
      limits: largest relative difference that passes, by precision.
      hair: how far beside a point another side of a kink is looked for, see `beside`.
      digits: relative difference up to which a cause explains a gradient.
    """

    limits: Mapping[str, float] = LIMITS
    hair: float = AWAY
    digits: float = 1e-9


SINGLE_STEPS = "not finite by jax.grad when compiled, but in single steps it agrees"
CLOSER = "rounding: in float32 it is as much closer as that has more digits"
KINK = "a kink: other values of the derivative are as good"
JUMP = 1e-3  # of the largest derivative: what counts as a kink
SAMPLES = 8  # entries at a kink that are looked at one by one


@dataclass(frozen=True)
class LeafComparison:
    """One gradient array, computed both ways.

    Attributes:
      leaf: path in the params tree such as "1/w", or "input".
      dtype: "float32", "float64" or "bfloat16".
      shape: of the array.
      max_abs: largest |manual - automatic|; infinite if nothing could be compared.
      max_relative: `max_abs` over the largest entry of either; 0 if both are all 0,
        infinite if an entry is not finite in one or in both.
      index: where `max_abs` is.
      manual: the hand-written gradient there.
      automatic: what `jax.grad` says there.
      passed: whether the difference is within `LIMITS`, or is rounding, or a kink.
      ulp_max: largest difference of two entries in units in their last place. Sums
        that nearly cancel make this large where nothing is wrong.
      ulp_within: share of entries within 1, 4 and 16 units in the last place.
      cosine: of the angle between the two arrays; 1 if both are all 0.
      sign_disagreements: entries of opposite sign, both larger than the limit.
      wrong: entries that differ by more than the limit.
      not_finite: entries that are NaN, or the same infinity, in both: these are not
        equal, there is nothing to compare, and the array does not pass.
      note: why it passed beyond the limit, or what else is to be said.
    """

    leaf: str
    dtype: str
    shape: tuple[int, ...]
    max_abs: float
    max_relative: float
    index: tuple[int, ...]
    manual: float
    automatic: float
    passed: bool
    ulp_max: float = 0.0
    ulp_within: tuple[float, float, float] = (1.0, 1.0, 1.0)
    cosine: float = 1.0
    sign_disagreements: int = 0
    wrong: int = 0
    not_finite: int = 0
    note: str = ""

    @property
    def waived(self) -> bool:
        """Whether it passed beyond the limit, for the reason in `note`."""
        return self.passed and bool(self.note)


def compare_arrays(
    leaf: str,
    manual: Any,
    automatic: Any,
    dtype: str,
    scale: float = 0.0,
    limit: float | None = None,
) -> LeafComparison:
    """Compare two arrays of one shape, entry by entry.

    Args:
      leaf: what to call them.
      manual: the array under test.
      automatic: what it should be.
      dtype: a name in `LIMITS`; the precision both were computed in.
      scale: size the limit is relative to where that is more than the largest entry.
      limit: another than that of `LIMITS`.

    Not finite in one alone is an infinite difference; not finite in both is neither
    agreement nor a difference, and counted apart.
    """
    a, b = as_float64(manual), as_float64(automatic)
    if a.size == 0:
        return LeafComparison(leaf, dtype, a.shape, 0.0, 0.0, (), 0.0, 0.0, True)
    with np.errstate(invalid="ignore"):
        gap = np.abs(a - b)
    same = (np.isnan(a) & np.isnan(b)) | (a == b)  # infinities of one sign too
    gap = np.where(same, 0.0, np.where(np.isfinite(gap), gap, np.inf))
    size = np.maximum(*(np.where(np.isfinite(c), np.abs(c), 0.0) for c in (a, b)))
    largest = float(size.max())
    index = np.unravel_index(int(gap.argmax()), gap.shape)
    worst = float(gap[index])
    allowed = limit_for(dtype, max(largest, scale), limit)
    beyond = gap > allowed
    info = jnp.finfo(DTYPES[dtype])
    exponent = np.frexp(np.maximum(size, float(info.tiny)))[1]
    # both NaN are not equal to the last digit
    ulps = np.where(
        np.isfinite(a), gap / np.ldexp(float(info.eps), exponent - 1), np.inf
    )
    opposite = (np.sign(a) * np.sign(b) < 0) & (np.abs(a) > allowed)
    lost = int((~np.isfinite(a) & (gap == 0)).sum())
    relative = worst and (worst / largest if largest else float("inf"))
    kind = "NaN" if np.isnan(a).any() else "infinite"
    within = [float((ulps <= count).mean()) for count in ULPS]
    note = f"not finite both ways: {kind} in {lost:,} of {a.size:,} entries"
    return LeafComparison(
        leaf, dtype, a.shape, worst, float("inf") if lost else relative,
        tuple(map(int, index)), float(a[index]), float(b[index]),
        not lost and not beyond.any(), float(ulps.max()),
        (within[0], within[1], within[2]), cosine(a, b),
        int((opposite & (np.abs(b) > allowed)).sum()), int(beyond.sum()), lost,
        note if lost else "",
    )  # fmt: skip


def no_numbers(leaf: str, dtype: str, note: str) -> LeafComparison:
    """A comparison that failed before any number was compared; `note` says why."""
    nan, inf = float("nan"), float("inf")
    return LeafComparison(
        leaf, dtype, (), inf, inf, (), nan, nan, False, inf, (0.0, 0.0, 0.0), nan,
        note=note,
    )  # fmt: skip


def limit_for(dtype: str, scale: float, limit: float | None = None) -> float:
    """Largest |difference| that passes between arrays of that size.

    Numbers near the smallest that the type can hold lose digits, or are flushed to
    zero: below `tiny / eps` nothing is compared.
    """
    info = jnp.finfo(DTYPES[dtype])
    return max((limit or LIMITS[dtype]) * scale, float(info.tiny) / float(info.eps))


def as_float64(a: Any) -> np.ndarray:
    """`a` as a NumPy array of the widest floats."""
    return np.asarray(a).astype(np.float64)


def largest_entry(tree: Any) -> float:
    """The largest |entry| in a tree that is finite, 0 if there is none."""
    leaves = [np.abs(as_float64(a)) for a in jax.tree.leaves(tree)]
    return max((float(a.max(initial=0, where=np.isfinite(a))) for a in leaves),
               default=0.0)  # fmt: skip


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Cosine of the angle between two arrays; NaN unless both are finite."""
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("nan")
    # scaled first: squares of very small or large entries leave the range of floats
    a, b = (c.ravel() / (np.abs(c).max() or 1) for c in (a, b))
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    if norms == 0:
        return 1.0 if a.any() == b.any() else 0.0
    return float(np.clip(a @ b / norms, -1, 1))


def is_rounding_or_kink(
    s: LayerRecord,
    argument: str,
    dtype: str,
    look: Callable,
    tolerance: Tolerance,
) -> str | None:
    """Why a difference beyond the limit is no error, None if it is one.

    Args:
      s: a layer at work.
      argument: of it, whose gradient differs.
      dtype: the precision.
      look: `(given, dtype) -> (got, want)` at any point and in any precision.
      tolerance: what `want` can tell.
    """

    def exactly(given, dtype="float64"):
        return as_float64(look(given, dtype)[1])

    given = s.given
    got, want = (as_float64(of[argument]) for of in (s.got, s.want))
    gap = np.abs(got - want)
    if not np.isfinite(gap).all():
        if np.isfinite(got).all():
            with jax.disable_jit():  # nothing compiled, so each thing computed once
                alone = compare_arrays("", got, exactly(given, dtype), dtype)
            if alone.passed:
                return SINGLE_STEPS
        return None
    last_digit = float(jnp.finfo(DTYPES[dtype]).eps)
    if gap.max() <= FLOOR * last_digit * largest_entry(given.dy):
        return "rounding: a difference of nothing beside dy"
    moved = [(seed, sign) for seed in range(4) for sign in (1, -1)]
    sides = np.stack([exactly(beside(given, *m, tolerance.hair)) for m in moved])
    size = float(np.abs(want).max())
    jumps = np.ptp(sides, axis=0) > JUMP * size
    # a jump is no rounding, so entries at a kink neither need nor give that excuse
    smooth = np.where(jumps, want, got)
    reason = _rounding(given, smooth, want, ~jumps, dtype, look, exactly)
    largest = max(size, float(np.abs(got).max()))
    beyond = gap > limit_for(dtype, largest, tolerance.limits[dtype])
    if reason is None and (beyond & ~jumps).any():
        return None
    wrong = jumps & beyond
    if not wrong.any():
        return reason
    kink = Kink(
        lambda moves: exactly(nudged(given, argument, moves, tolerance.hair)),
        got, sides,
    )  # fmt: skip
    return KINK if kink.has_room_for(wrong) else None


def _rounding(given, got, want, smooth, dtype, look, exactly) -> str | None:
    """Why the difference of the smooth entries is rounding, None if it is not."""

    def largest(gap):
        return float(np.abs(gap)[smooth].max(initial=0))

    gap, eps = largest(got - want), float(jnp.finfo(DTYPES[dtype]).eps)
    if dtype == "float64":
        rough = largest(exactly(given, "float32") - want)
        if np.isfinite(rough) and gap <= MARGIN * SHRINK * rough:
            return "rounding: jax.grad in float32 differs as much for its precision"
    else:
        narrow = jax.tree.map(
            lambda a: a if is_key(a) else np.asarray(a), cast(given, DTYPES[dtype])
        )
        truth = exactly(narrow)
        error = largest(got - truth)
        if error <= AS_GOOD * largest(want - truth):
            return AS_CLOSE
        if dtype == "bfloat16":
            # `jax.grad` of a forward that is wide inside is wide inside too; by hand
            # there may be more rounding. A wrong formula does not shrink with it, and
            # shows in float64
            digit = float(jnp.finfo(jnp.float32).eps)
            single = np.abs(as_float64(look(narrow, "float32")[0]) - truth).max()
            single = max(single, digit * np.abs(truth).max())
            if error <= MARGIN * eps / digit * single:
                return CLOSER
    if dtype != "bfloat16":  # whose last digit would step over kinks
        here = exactly(given)
        moved = [exactly(last_digits(given, eps, seed)) - here for seed in range(4)]
        if gap <= MARGIN * max(map(largest, moved)):
            return "rounding: the last digit of the inputs matters as much"
    return None


class Kink:
    """Whether a gradient at a kink is a choice among those close by.

    Every entry must lie between the slopes on the two sides of it, and so must the
    slope along directions in which several entries that meet in one kink move: a
    maximum may give its gradient to any of the equal entries, but not to each.

    Args:
      slopes: `moves -> gradient` where single entries, index -> so many hairs, are
        larger.
      got: the gradient by hand.
      sides: gradients at points beside, in any directions.
    """

    def __init__(self, slopes: Callable, got: np.ndarray, sides: np.ndarray):
        self.slopes, self.got, self.sides = slopes, got, sides
        self.draw = np.random.default_rng(0)

    def has_room_for(self, wrong: np.ndarray) -> bool:
        """Whether those entries may be as they are."""
        outside = wrong & ~_between(self.sides, self.got)
        for index in self._some(outside, SAMPLES):
            beside = self._beside(index)
            if not _between(beside[(slice(None), *index)], self.got[index]):
                return False
        return all(self._is_one_choice(i) for i in self._some(wrong, SAMPLES // 2))

    def _beside(self, index):
        """The gradients where that entry alone is a hair larger, and smaller."""
        return np.stack([self.slopes({index: 1}), self.slopes({index: -1})])

    def _is_one_choice(self, index) -> bool:
        beside = self._beside(index)
        size = np.abs(self.sides).max()
        group = [*map(tuple, np.argwhere(np.ptp(beside, axis=0) > JUMP * size))]
        if len(group) < 2:
            return True
        shown = group[:SAMPLES]
        near = [*beside, *self.sides, *(self.slopes({i: 1}) for i in shown)]
        for _ in range(SAMPLES // 2):
            away = self.draw.standard_normal(len(shown))
            near.append(self.slopes(dict(zip(shown, away, strict=True))))
        entries = tuple(np.transpose(group))
        several = np.stack([g[entries] for g in near])
        ways = [np.ones(len(group))]
        if len(group) == len(shown):
            ways += list(self.draw.standard_normal((3, len(group))))
        return all(bool(_between(several @ v, self.got[entries] @ v)) for v in ways)

    def _some(self, mask, count):
        found = [*map(tuple, np.argwhere(mask))]
        if len(found) <= count:
            return found
        return [found[i] for i in self.draw.choice(len(found), count, replace=False)]


def _between(several, one):
    low, high = several.min(0), several.max(0)
    slack = JUMP * np.abs(several).max()
    return (low - slack <= one) & (one <= high + slack)
