"""A pair (forward, backward) run just as it is written, on NumPy arrays.

JAX traces a function once and never sees what it does beside its result: arrays changed
in place, counters, random numbers, caches outside of the cache. So a pair is first run
as it stands, more than once, and its inputs are looked at before and after.

A pair that JAX cannot trace is compared with finite differences, entry by entry: where
the difference of one step disagrees, other steps are tried, and the best of them says
how well it can tell.
"""

import functools
import inspect
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.arrays import halves, is_key, whole
from jaxnn.check.adapters import by_name
from jaxnn.check.diagnose import Evidence, diagnose
from jaxnn.check.mutants import Forward
from jaxnn.check.points import (
    AS_CALLED,
    DRAWN,
    MORE_POINTS,
    SHUFFLED,
    between,
    domain,
    shuffled,
)
from jaxnn.check.recorder import LayerInputs, named_leaves
from jaxnn.check.report import Audit, Check, Finding
from jaxnn.check.tolerance import (
    JUMP,
    LIMITS,
    Kink,
    LeafComparison,
    compare_arrays,
    no_numbers,
)
from jaxnn.errors import JaxnnError
from jaxnn.rules import Rule

FINE = 1e-6, (1e-5, 1e-2, 1e-3, 1e-4, 1e-6), 1e-6
"""What differences can tell in float64, of the largest entry; the steps; and how far
beside a kink slopes are taken."""
COARSE = 5e-3, (1e-2, 3e-3, 3e-2), 2e-2  # of what is float32 inside
LARGE = 100_000  # entries from which differences take too long
RUNS = 40_000  # of the forward, after which no further points are tried


class Pair(NamedTuple):
    """Two functions, the names of the arguments, and the kind of array they take."""

    rule: Rule
    names: tuple[str, ...]
    convert: Callable

    @classmethod
    def of(cls, rule: Rule, names: tuple[str, ...], x: dict) -> tuple["Pair", Any]:
        """The pair, and its result at x: in NumPy, or in JAX where it takes that alone.

        Raises:
          Exception: whatever its forward raises; in JAX, if it tells of JAX arrays.
        """
        in_jax = cls(rule, names, jnp.array)
        if not all(isinstance(a, jax.Array) for a in jax.tree.leaves(x)):
            in_numpy = in_jax._replace(convert=np.array)
            try:
                return in_numpy, in_numpy.value(x)
            except AttributeError:  # x.at[...] and the like
                pass
        return in_jax, in_jax.value(x)

    def forward(self, x: dict) -> tuple[Any, Any]:
        """(y, cache) at the named arguments; y as NumPy arrays."""
        y, cache = self.rule.fwd(*(x[name] for name in self.names))
        return jax.tree.map(np.array, y), cache

    def value(self, x: dict) -> Any:
        """Its y at copies of x."""
        return self.forward(self.copies(x))[0]

    def value_or_none(self, x: dict) -> Any:
        """Its y at copies of x, None where it raises: outside of its domain."""
        try:
            with np.errstate(all="ignore"):
                return self.value(x)
        except Exception:  # such as LinAlgError; whatever a user's code raises
            return None

    def backward(self, cache: Any, dy: Any) -> dict[str, np.ndarray]:
        """Argument -> gradient, as NumPy arrays; those left out are not there."""
        named = by_name("its backward", self.names, self.rule.bwd(cache, dy))
        found = {name: np.array(d) for name, d in named_leaves(named)}
        for name, d in found.items():
            if d.dtype.kind not in "fiub":
                raise JaxnnError(
                    f"its backward returned {d.dtype} as d{name}, expected numbers"
                )
        return found

    def copies(self, x: Any) -> Any:
        """Arrays of its kind that it may do with as it likes."""
        return jax.tree.map(lambda a: a if is_key(a) else self.convert(a), x)

    def gradients(self, x: dict, dy: Any) -> dict[str, np.ndarray]:
        """Argument -> gradient at x."""
        return self.backward(self.forward(self.copies(x))[1], self.copies(dy))

    def settled(self, x: dict, dy: Any) -> "Pair":
        """The same with JAX's arrays if it needs them: x.at[...] and the like."""
        try:
            self.gradients(x, dy)
        except AttributeError:
            return self._replace(convert=jnp.array)
        return self

    def in_jax(self) -> Callable:
        """Its forward, `x -> y`, with JAX's functions in the place of NumPy's.

        So that its steps can be seen; what is written for NumPy alone still raises.
        """

        def exchanged(value: Any, known: dict) -> Any:
            if value is np:
                return jnp
            if isinstance(value, types.FunctionType) and value.__globals__ is own:
                return types.FunctionType(
                    value.__code__, known, value.__name__, value.__defaults__,
                    value.__closure__,
                )  # fmt: skip
            return value

        forward = inspect.unwrap(self.rule.fwd)
        own = getattr(forward, "__globals__", {})
        known: dict[str, Any] = {}
        known |= {name: exchanged(value, known) for name, value in own.items()}
        twin: Callable = exchanged(forward, known)
        return lambda x: twin(*(x[name] for name in self.names))[0]


def misbehavior(pair: Pair, x: dict, dy: Any) -> Iterator[tuple[str, str]]:
    """What a pair does beside computing: (what, what to do) of each."""
    given, sent = pair.copies(x), pair.copies(dy)
    y, cache = pair.forward(given)
    yield from _changed(given, x, "its forward")
    if not _same(y, pair.value(x)):
        yield (
            "its forward is no function: a second call with the same arguments gives "
            "another result",
            "it uses something that changes, such as a counter, random numbers or a "
            "global",
        )
        return
    first = pair.backward(cache, sent)
    yield from _changed(sent, dy, "its backward", "dy")
    yield from _changed(given, x, "its backward")
    _, cache = pair.forward(pair.copies(x))
    if pair.value_or_none(shuffled(LayerInputs({}, (), x, None, dy)).x) is None:
        return
    if not _same(first, pair.backward(cache, pair.copies(dy))):
        yield (
            "its backward is no function of (cache, dy): after a forward with other "
            "inputs it returns another gradient for the same cache",
            "it keeps something outside of the cache (a global, a closure, an array "
            "that the next forward overwrites), and so uses stale values",
        )


def as_it_stands(pair: Pair, got: dict) -> Rule:
    """The rule with its whole pair run as it stands when its backward is called.

    Its forward is traced for the result alone; `got` says what comes back.
    """

    @functools.wraps(pair.rule.fwd)
    def fwd(*args):
        return pair.rule.fwd(*args)[0], args

    def bwd(args, dy):
        dtypes = jax.tree.map(jnp.result_type, (args, dy))

        def run(*halved):
            args, dy = whole(halved, dtypes)
            x = dict(zip(pair.names, args, strict=True))
            found = pair.gradients(x, dy)
            return {n: found[n].astype(d.dtype) for n, d in like.items()}

        dtype = jax.tree.leaves(dy)[0].dtype
        like = {n: jax.ShapeDtypeStruct(a.shape, dtype) for n, a in got.items()}
        found = jax.pure_callback(run, like, *halves((args, dy)))
        x = dict(zip(pair.names, args, strict=True))
        flat = [found.get(name) for name, _ in named_leaves(x)]
        each = jax.tree.structure(x).unflatten(flat)
        return tuple(each[name] for name in pair.names)

    return Rule(pair.rule.name, fwd, bwd)


def _changed(now, before, who, what=None):
    for (name, a), (_, b) in zip(named_leaves(now), named_leaves(before), strict=True):
        if is_key(a):
            continue
        a, b = np.asarray(a), np.asarray(b)
        if not np.array_equal(a, b, equal_nan=np.issubdtype(b.dtype, np.floating)):
            yield f"{who} changes {what or name} in place", "work on a copy"


def _same(a, b) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(
        x.shape == y.shape and not compare_arrays("", x, y, "float64").wrong
        for x, y in pairs
    )


# ---- what JAX cannot trace, against differences


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
    given = LayerInputs({}, (), x, None, dy)
    checks, failed, kinks = [], {}, 0
    for at, make in ({AS_CALLED: lambda g: g} | MORE_POINTS).items():
        if at != AS_CALLED and len(checks) and 2 * entries * len(checks) > RUNS:
            break
        point = given if at == AS_CALLED else _within(pair, given, make(given))
        if point is None:
            continue
        found = _Differences(pair, point)
        for check in found.checks(at):
            checks.append(check)
            if not (check.comparison.passed or check.comparison.not_finite):
                failed.setdefault(check.argument, []).append((check, found))
        kinks += found.kinks
    forward = _forward(pair, given) if failed else None
    findings = tuple(_finding(forward, several) for several in failed.values())
    return Audit(tuple(checks), findings, {name: kinks} if kinks else {})


def _within(pair, near, far) -> LayerInputs | None:
    """A point within the domain of the forward, None if there is none on the way."""
    limit = LIMITS["float64"]
    for share in (1.0, 0.3, 0.1, 0.03):
        point = far if share == 1.0 else between(near, far, share)
        point = point._replace(x=jax.tree.map(_wide, point.x))
        y = pair.value_or_none(point.x)
        if y is None or not all(np.isfinite(a).all() for a in jax.tree.leaves(y)):
            continue
        if not _change(pair, point) > limit >= _change(pair, near):
            return point
    return None


def _change(pair, point) -> float:
    """How far its iterations have come, 0 if JAX has no functions for it either."""
    try:
        return float(domain(pair.in_jax(), jax.tree.map(jnp.asarray, point.x))[1])
    except Exception:  # written for NumPy alone
        return 0.0


class _Differences:
    """The gradients at one point, by hand and by differences."""

    def __init__(self, pair: Pair, given: LayerInputs):
        self.pair, self.given, self.kinks = pair, given, 0
        self.error, self.got = None, {}
        with np.errstate(all="ignore"):
            try:
                self.got = pair.gradients(given.x, given.dy)
            except Exception as raised:  # whatever a user's code raises
                self.error = raised
        y = pair.value(given.x)
        # a y of few digits leaves a difference with fewer still
        coarse = any(a.dtype != np.float64 for a in jax.tree.leaves(y))
        self.limit, self.steps, self.hair = COARSE if coarse else FINE
        self.want: dict[str, np.ndarray] = {}
        self.leaves = dict(named_leaves(given.x))

    def checks(self, at) -> list[Check]:
        """A check of each real argument."""
        real = [n for n, a in self.leaves.items() if a.dtype == np.float64]
        return [Check(self.pair.rule.name, n, at, self._compare(n)) for n in real]

    def _compare(self, name) -> LeafComparison:
        a, got = self.leaves[name], self.got.get(name)
        want = [self._slope(a, i, self.steps[0]) for i in np.ndindex(a.shape)]
        self.want[name] = want = np.array(want).reshape(a.shape)
        note = "it returns no gradient for it" if got is None else ""
        if self.error is not None:
            said = f"{type(self.error).__name__}: {self.error}"
            note = f"its backward raised {said}"
        elif got is not None and got.shape != want.shape:
            note = f"d{name} has shape {got.shape}, not {want.shape}"
        if note:
            return no_numbers(name, "float64", note)
        wrong = self._wrong(a, np.asarray(got, np.float64), want)
        c = compare_arrays(name, got, want, "float64")
        count = int(wrong.sum())
        return replace(c, wrong=count, passed=not count and not c.not_finite)

    def _wrong(self, a, got, want):
        """Which entries are wrong; improves `want` where one step was not enough."""
        size = np.abs(want[np.isfinite(want)]).max(initial=1e-9)
        wrong = ~(np.abs(got - want) <= self.limit * size)
        wrong &= ~(np.isnan(got) & np.isnan(want))
        for index in map(tuple, np.argwhere(wrong)):
            want[index], slack = self._best(a, index)
            gap = abs(got[index] - want[index])
            wrong[index] = not gap <= self.limit * size + slack
        if wrong.any() and np.isfinite(got).all():
            suspects = [*map(tuple, np.argwhere(wrong))]

            def slopes(moves):
                """The gradient where entries are moved, of those in doubt alone."""
                found = np.array(want)
                far = {i: count * self._unit(a, i) for i, count in moves.items()}
                with _moved(a, far):
                    for i in suspects:
                        found[i] = self._slope(a, i, self.hair / 20)
                return found

            draw = np.random.default_rng(0)
            away = draw.standard_normal((2, len(suspects)))
            sides = np.stack(
                [slopes(dict(zip(suspects, s * v, strict=True)))
                 for v in away for s in (1, -1)]
            )  # fmt: skip
            at_kink = wrong & (np.ptp(sides, axis=0) > JUMP * size)
            if at_kink.any() and Kink(slopes, got, sides).has_room_for(at_kink):
                wrong &= ~at_kink
                want[at_kink] = got[at_kink]
                self.kinks += int(at_kink.sum())
        return wrong

    def _unit(self, a, index) -> float:
        return self.hair * max(1.0, abs(a[index]))

    def _slope(self, a, index, step) -> float:
        h = step * max(1.0, abs(a[index]))
        with _moved(a, {index: h}):
            ahead = self._value()
        with _moved(a, {index: -h}):
            behind = self._value()
        return (ahead - behind) / (2 * h)

    def _value(self) -> float:
        """Sum of dy y at the present x."""
        y = self.pair.value_or_none(self.given.x)
        if y is None:
            return float("nan")
        pairs = zip(jax.tree.leaves(self.given.dy), jax.tree.leaves(y), strict=True)
        return float(sum((d * a).sum() for d, a in pairs))

    def _best(self, a, index) -> tuple[float, float]:
        """The slope by the step that can tell best, and how well it can."""
        found = []
        for step in self.steps:
            wide, narrow = (self._slope(a, index, step * s) for s in (1.0, 0.5))
            found.append((abs(wide - narrow), (4 * narrow - wide) / 3))
        finite = [one for one in found if np.isfinite(one).all()]
        gap, value = min(finite, default=(float("nan"), float("nan")))
        return value, 2 * gap


@contextmanager
def _moved(a: np.ndarray, moves: Mapping[tuple, float]):
    """Entries of an array moved for a while."""
    before = {index: a[index] for index in moves}
    for index, move in moves.items():
        a[index] += move
    try:
        yield
    finally:
        for index, value in before.items():
            a[index] = value


def _forward(pair, given) -> Forward | None:
    """Its forward to be asked if it computes the same in JAX."""
    forward = pair.in_jax()
    try:
        y = forward(jax.tree.map(np.array, given.x))
        same = np.allclose(y, pair.value(given.x), rtol=1e-9)
        return Forward(lambda p, s, x, key: forward(x), given) if same else None
    except Exception:  # written for NumPy alone
        return None


def _finding(forward, several) -> Finding:
    check, point = several[0]
    cause = "return one gradient for each argument"
    if point.error is not None:
        cause = "it runs at the given inputs"
    elif check.argument in point.got:
        twice = jax.tree.map(lambda d: 2 * d, point.given.dy)
        again = point.pair.gradients(point.given.x, twice)[check.argument]
        same = np.array_equal(again, point.got[check.argument])
        if same and again.any() and np.isfinite(again).all():
            cause = "guess: dy is ignored: another dy gives the same gradient"
        else:
            # at random inputs first: nothing is by chance 0, 1, or the same there
            shown = sorted(several, key=lambda one: one[0].at not in (DRAWN, SHUFFLED))
            cause = diagnose(
                Evidence(check.argument, p.got, p.want, p.given, 1e-5, forward=forward)
                for _, p in shown[:3]
            )
    return Finding(**vars(check), cause=cause, dtypes=("float64",))


def _wide(a):
    floating = np.issubdtype(np.asarray(a).dtype, np.floating)
    return np.array(a, np.float64) if floating else a
