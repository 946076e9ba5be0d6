"""Backward passes that JAX cannot look into, against finite differences.

Every entry is judged alone: where the difference of one step disagrees, other steps are
tried, and the best of them says how well it can tell. At a kink the gradient must lie
between the slopes on its two sides.
"""

from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from typing import Any

import jax
import numpy as np

from jaxnn.check.audit import MORE_POINTS
from jaxnn.check.guess import Clue, guess
from jaxnn.check.measure import LeafComparison, compare_arrays, no_numbers
from jaxnn.check.pair import Pair, in_jax
from jaxnn.check.predict import Tools
from jaxnn.check.probe import between
from jaxnn.check.report import (
    AS_CALLED,
    DRAWN,
    SHUFFLED,
    Audit,
    Check,
    Finding,
)
from jaxnn.check.watch import Given, named_leaves
from jaxnn.errors import JaxnnError

LIMIT = 1e-6  # of the largest entry: what differences can tell in float64
STEP = 1e-5
MORE_STEPS = (1e-2, 1e-3, 1e-4, 1e-6)
COARSE_LIMIT, COARSE_STEPS = 5e-3, (1e-2, 3e-3, 3e-2)  # of what is float32 inside
LARGE = 100_000  # entries from which differences take too long
SHARE = 1e-3  # of a slope: beyond it two slopes are not the same
RUNS = 40_000  # of the forward, after which no further points are tried
TIES = 6  # entries at a kink that are looked at with their neighbours


def audit_differences(pair: Pair, x: dict, dy: Any) -> Audit:
    """Judge a pair that JAX cannot trace, at x and at points of other sizes and signs.

    Raises:
      JaxnnError: too many entries.
    """
    name = pair.rule.name
    x = jax.tree.map(_wide, x)
    entries = sum(a.size for _, a in named_leaves(x) if a.dtype == np.float64)
    if entries > LARGE:
        raise JaxnnError(
            f"{name}: it calls NumPy, so it is compared with differences, two "
            f"runs an entry; expected at most {LARGE:,} entries: give smaller inputs"
        )
    given = Given({}, (), x, None, dy)
    checks, failed, kinks = [], {}, 0
    for at, make in ({AS_CALLED: lambda g: g} | MORE_POINTS).items():
        if at != AS_CALLED and len(checks) and 2 * entries * len(checks) > RUNS:
            break
        point = given if at == AS_CALLED else _within(pair, given, make(given))
        if point is None:
            continue
        found = _Point(pair, point)
        for check in found.checks(at):
            checks.append(check)
            if not (check.comparison.passed or check.comparison.not_finite):
                failed.setdefault(check.argument, []).append((check, found))
        kinks += found.kinks
    tools = _tools(pair, given) if failed else None
    findings = tuple(_finding(tools, *several) for several in failed.values())
    return Audit(tuple(checks), findings, {name: kinks} if kinks else {}, ())


def _within(pair, near, far) -> Given | None:
    """A point within the domain of the forward, None if there is none on the way."""
    for share in (1.0, 0.3, 0.1, 0.03):
        point = far if share == 1.0 else between(near, far, share)
        point = point._replace(x=jax.tree.map(_wide, point.x))
        try:
            with np.errstate(all="ignore"):
                y = pair.forward(pair.copies(point.x))[0]
        except Exception:  # such as LinAlgError; as called it runs
            continue
        if all(np.isfinite(a).all() for a in jax.tree.leaves(y)):
            return point
    return None


class _Point:
    """The gradients at one point, by hand and by differences."""

    def __init__(self, pair: Pair, given: Given):
        self.pair, self.given, self.kinks = pair, given, 0
        self.error, self.got = None, {}
        with np.errstate(all="ignore"):
            try:
                self.got = pair.run(given.x, given.dy)[1]
            except Exception as raised:
                self.error = raised
        y = pair.forward(pair.copies(given.x))[0]
        coarse = any(a.dtype != np.float64 for a in jax.tree.leaves(y))
        # a y of few digits leaves a difference with fewer still
        self.limit, self.steps = (
            (COARSE_LIMIT, COARSE_STEPS) if coarse else (LIMIT, (STEP, *MORE_STEPS))
        )
        self.want: dict[str, np.ndarray] = {}
        self.leaves = dict(named_leaves(given.x))

    def value(self) -> float:
        """Sum of dy y at the present x."""
        try:
            with np.errstate(all="ignore"):
                y = self.pair.forward(self.pair.copies(self.given.x))[0]
        except Exception:  # a step that leaves the domain
            return float("nan")
        pairs = zip(jax.tree.leaves(self.given.dy), jax.tree.leaves(y), strict=True)
        return float(sum((d * a).sum() for d, a in pairs))

    def checks(self, at) -> list[Check]:
        """A check of each real argument."""
        real = [n for n, a in self.leaves.items() if a.dtype == np.float64]
        return [Check(self.pair.rule.name, n, at, self._compare(n)) for n in real]

    def _compare(self, name) -> LeafComparison:
        self.start = self.value()
        a = self.leaves[name]
        want = np.array(
            [self._central(a, i, self.steps[0]) for i in np.ndindex(a.shape)]
        )
        self.want[name] = want = want.reshape(a.shape)
        got = self.got.get(name)
        if self.error is not None:
            said = f"{type(self.error).__name__}: {self.error}"
            return no_numbers(name, "float64", f"its backward raised {said}")
        if got is None:
            return no_numbers(name, "float64", "it returns no gradient for it")
        if got.shape != want.shape:
            note = f"d{name} has shape {got.shape}, not {want.shape}"
            return no_numbers(name, "float64", note)
        wrong = self._wrong(name, np.asarray(got, np.float64), want)
        c = compare_arrays(name, got, want, "float64")
        lost = c.not_finite > 0
        count = int(wrong.sum())
        return replace(c, wrong=count, passed=not count and not lost)

    def _wrong(self, name, got, want):
        """Which entries are wrong; improves `want` where one step was not enough."""
        a, kinked = self.leaves[name], []
        size = np.abs(want[np.isfinite(want)]).max(initial=1e-9)
        wrong = ~(np.abs(got - want) <= self.limit * size)
        wrong &= ~(np.isnan(got) & np.isnan(want))
        for index in map(tuple, np.argwhere(wrong)):
            want[index], slack = self._best(a, index)
            if abs(got[index] - want[index]) <= self.limit * size + slack:
                wrong[index] = False
            elif self._in_kink(a, index, got[index], size):
                kinked.append(index)
        for index in kinked[:: max(1, len(kinked) // TIES)]:
            if not self._is_one_choice(a, index, kinked, got, size):
                break
        else:
            for index in kinked:
                wrong[index], want[index] = False, got[index]
            self.kinks += len(kinked)
        return wrong

    def _moved(self, a, moves: Mapping[tuple, float]) -> float:
        old = {i: a[i] for i in moves}
        for i, move in moves.items():
            a[i] += move
        found = self.value()
        for i, value in old.items():
            a[i] = value
        return found

    def _central(self, a, index, step) -> float:
        h = step * max(1.0, abs(a[index]))
        ahead, behind = self._moved(a, {index: h}), self._moved(a, {index: -h})
        return (ahead - behind) / (2 * h)

    def _best(self, a, index) -> tuple[float, float]:
        """The slope by the step that can tell best, and how well it can."""
        found = []
        for step in self.steps:
            wide, narrow = (self._central(a, index, step * s) for s in (1.0, 0.5))
            found.append((abs(wide - narrow), (4 * narrow - wide) / 3))
        finite = [one for one in found if np.isfinite(one).all()]
        gap, value = min(finite, default=(float("nan"), float("nan")))
        return value, 2 * gap

    def _in_kink(self, a, index, got, size) -> bool:
        """Whether the slopes on both sides differ, however near, and it is between."""
        gaps = []
        for step in (1e-5, 1e-7) if self.limit == LIMIT else COARSE_STEPS[:2]:
            h = step * max(1.0, abs(a[index]))
            ahead = (self._moved(a, {index: h}) - self.start) / h
            behind = (self.start - self._moved(a, {index: -h})) / h
            gaps.append(abs(ahead - behind))
        low, high, slack = min(ahead, behind), max(ahead, behind), SHARE * size
        is_kink = gaps[1] > max(SHARE * size, 0.5 * gaps[0])
        return bool(is_kink and low - slack <= got <= high + slack)

    def _is_one_choice(self, a, index, kinked, got, size) -> bool:
        """Whether with each entry that meets in its kink it is a choice among slopes.

        A maximum may give its gradient to any of its equal entries, but not to each.
        """
        h, slack = 1e-4, SHARE * size
        one = self._moved(a, {index: h}) - self.start
        for other in kinked[:64]:
            if other == index:
                continue
            two = self._moved(a, {other: h}) - self.start
            both = self._moved(a, {index: h, other: h}) - self.start
            if abs(both - one - two) <= slack * h:
                continue  # they do not meet
            slopes = [
                self._along(a, {index: s * h, other: 2 * t * h}, h / 20)
                for s, t in product((1, -1), repeat=2)
            ]
            sum_ = got[index] + got[other]
            if not min(slopes) - slack <= sum_ <= max(slopes) + slack:
                return False
        return True

    def _along(self, a, place, h) -> float:
        """The slope with those entries moving together, at a place beside."""
        ahead, behind = (
            self._moved(a, {i: move + s * h for i, move in place.items()})
            for s in (1, -1)
        )
        return (ahead - behind) / (2 * h)


def _tools(pair, given) -> Tools | None:
    """What its forward can be asked if it computes the same in JAX."""
    forward = in_jax(pair)
    try:
        y = forward(jax.tree.map(np.array, given.x))
        same = np.allclose(y, pair.forward(pair.copies(given.x))[0], rtol=1e-9)
        return Tools(lambda p, s, x, key: forward(x), given) if same else None
    except Exception:  # written for NumPy alone
        return None


def _finding(tools, *several) -> Finding:
    check, point = several[0]
    cause = "return one gradient for each argument"
    if point.error is not None:
        cause = "it runs at the given inputs"
    elif check.argument in point.got:
        twice = jax.tree.map(lambda d: 2 * d, point.given.dy)
        again = point.pair.run(point.given.x, twice)[1][check.argument]
        same = np.array_equal(again, point.got[check.argument])
        if same and again.any() and np.isfinite(again).all():
            cause = "guess: dy is ignored: another dy gives the same gradient"
            return Finding(*_where(check), cause, ("float64",))
        # at random inputs first: nothing is by chance 0, 1, or the same there
        shown = sorted(several, key=lambda one: one[0].at not in (DRAWN, SHUFFLED))
        first, *others = (
            Clue(check.argument, p.got, p.want, p.given, 1e-5, tools=tools)
            for _, p in shown[:3]
        )
        cause = guess(first._replace(others=tuple(others)))
    return Finding(*_where(check), cause, ("float64",))


def _where(check):
    return check.layer, check.argument, check.at, check.comparison


def _wide(a):
    floating = np.issubdtype(np.asarray(a).dtype, np.floating)
    return np.array(a, np.float64) if floating else a
