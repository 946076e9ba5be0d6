"""How far one array is from another, in every unit that says something."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

LIMITS = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 0.0625}
"""Largest relative difference that passes, |manual - automatic| over the largest
|entry| of the leaf: 84 units in the last place of that entry in float32, 4,500 in
float64, 8 in bfloat16."""

DTYPES = {name: jnp.dtype(name) for name in LIMITS}
ULPS = (1, 4, 16)


@dataclass(frozen=True)
class LeafComparison:
    """One gradient array, computed both ways.

    Attributes:
      leaf: path in the params tree such as "1/w", or "input".
      dtype: "float32", "float64" or "bfloat16".
      shape: of the array.
      max_abs: largest |manual - automatic|.
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
    def excused(self) -> bool:
        """Whether it passed beyond the limit, for the reason in `note`."""
        return self.passed and bool(self.note)


def compare_arrays(
    leaf: str, manual: Any, automatic: Any, dtype: str, scale: float = 0.0
) -> LeafComparison:
    """Compare two arrays of one shape, entry by entry.

    Args:
      leaf: what to call them.
      manual: the array under test.
      automatic: what it should be.
      dtype: a name in `LIMITS`; the precision both were computed in.
      scale: size the limit is relative to where that is more than the largest entry.

    Not finite in one alone is an infinite difference; not finite in both is neither
    agreement nor a difference, and counted apart.
    """
    a, b = as_float64(manual), as_float64(automatic)
    if a.size == 0:
        return LeafComparison(leaf, dtype, a.shape, 0.0, 0.0, (), 0.0, 0.0, True)
    gap = _gaps(a, b)
    size = np.maximum(_finite_size(a), _finite_size(b))
    largest = float(size.max())
    index = np.unravel_index(int(gap.argmax()), gap.shape)
    worst = float(gap[index])
    allowed = limit_for(dtype, max(largest, scale))
    beyond = gap > allowed
    ulps = gap / _spacing(size, dtype)
    within = [float((ulps <= count).mean()) for count in ULPS]
    opposite = (np.sign(a) * np.sign(b) < 0) & (np.abs(a) > allowed)
    lost = int((~np.isfinite(a) & (gap == 0)).sum())
    return LeafComparison(
        leaf,
        dtype,
        a.shape,
        worst,
        float("inf") if lost else _ratio(worst, largest),
        tuple(map(int, index)),
        float(a[index]),
        float(b[index]),
        not lost and not beyond.any(),
        float(ulps.max()),
        (within[0], within[1], within[2]),
        _cosine(a, b),
        int((opposite & (np.abs(b) > allowed)).sum()),
        int(beyond.sum()),
        lost,
        _lost_words(a, lost),
    )


def no_numbers(leaf: str, dtype: str, note: str) -> LeafComparison:
    """A comparison that failed before any number was compared; `note` says why."""
    nan, inf = float("nan"), float("inf")
    return LeafComparison(leaf, dtype, (), inf, inf, (), nan, nan, False, note=note)


def limit_for(dtype: str, scale: float) -> float:
    """Largest |difference| that passes between arrays of that size.

    Numbers near the smallest that the type can hold lose digits, or are flushed to
    zero: below `tiny / eps` nothing is compared.
    """
    info = jnp.finfo(DTYPES[dtype])
    return max(LIMITS[dtype] * scale, float(info.tiny) / float(info.eps))


def _lost_words(a, lost) -> str:
    if not lost:
        return ""
    kind = "NaN" if np.isnan(a).any() else "infinite"
    return f"not finite both ways: {kind} in {lost:,} of {a.size:,} entries"


def as_float64(a: Any) -> np.ndarray:
    """`a` as a NumPy array of the widest floats."""
    return np.asarray(a).astype(np.float64)


def _gaps(a, b):
    with np.errstate(invalid="ignore"):
        gap = np.abs(a - b)
    same = (np.isnan(a) & np.isnan(b)) | (a == b)  # infinities of one sign too
    return np.where(same, 0.0, np.where(np.isfinite(gap), gap, np.inf))


def _finite_size(a):
    return np.where(np.isfinite(a), np.abs(a), 0.0)


def _ratio(worst, largest) -> float:
    if worst == 0:
        return 0.0
    return worst / largest if np.isfinite(worst) and largest else float("inf")


def _spacing(size, dtype):
    """Distance between neighbouring numbers of that type at that size."""
    info = jnp.finfo(DTYPES[dtype])
    exponent = np.frexp(np.maximum(size, float(info.tiny)))[1]
    return np.ldexp(float(info.eps), exponent - 1)


def _cosine(a, b) -> float:
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("nan")
    # scaled first: squares of very small or large entries leave the range of floats
    a, b = (c.ravel() / (np.abs(c).max() or 1) for c in (a, b))
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    if norms == 0:
        return 1.0 if a.any() == b.any() else 0.0
    return float(np.clip(a @ b / norms, -1, 1))
