"""A pair (forward, backward) run just as it is written, on NumPy arrays.

JAX traces a function once and never sees what it does beside its result: arrays changed
in place, counters, random numbers, caches outside of the cache. So a pair is first run
as it stands, more than once, and its inputs are looked at before and after.

A pair that JAX cannot trace is compared with finite differences, entry by entry: where
the difference of one step disagrees, other steps are tried, and the best of them says
how well it can tell.
"""

import inspect
import itertools
import types
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.arrays import is_float, is_key
from jaxnn.check.adapters import by_name, rule_layer
from jaxnn.check.audit import Auditor
from jaxnn.check.mutants import Forward
from jaxnn.check.points import AS_CALLED, MORE_POINTS, cast, domain, shuffled
from jaxnn.check.recorder import (
    LayerInputs,
    LayerPath,
    LayerRecord,
    named_leaves,
    one_line,
)
from jaxnn.check.tolerance import DTYPES, Tolerance, compare_arrays
from jaxnn.errors import JaxnnError
from jaxnn.rules import Rule

FINE = Tolerance({"float64": 1e-6}, 1e-6, 1e-5), (1e-5, 1e-2, 1e-3, 1e-4, 1e-6, 5e-8)
"""What differences can tell in float64, and their steps, the smallest for kinks."""
COARSE = Tolerance({"float64": 5e-3}, 2e-2, 1e-5), (1e-2, 3e-3, 3e-2, 1e-3)
"""The same of what is float32 inside."""
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


def _changed(now, before, who, what=None):
    for (name, a), (_, b) in zip(named_leaves(now), named_leaves(before), strict=True):
        if is_key(a):
            continue
        a, b = np.asarray(a), np.asarray(b)
        if not np.array_equal(a, b, equal_nan=np.issubdtype(b.dtype, np.floating)):
            yield f"{who} changes {what or name} in place", "work on a copy"


def _same(a, b) -> bool:
    """Whether a second call gave the same; NaN, too, if the first one did."""
    if jax.tree.structure(a) != jax.tree.structure(b):
        return False
    return all(
        x.shape == y.shape and not compare_arrays("", x, y, "float64").wrong
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


class AsItStands(Auditor):
    """Judges what a pair returns as it is written, in NumPy, by its forward in JAX.

    Args:
      pair: the pair.
      x: its arguments by name.
      dy: of its y.
      most: how many other points it is asked at, None for all.
    """

    def __init__(self, pair: Pair, x: dict, dy: Any, most: int | None = None):
        self.pair, self.found = pair, {}
        layer = rule_layer(pair.rule, pair.names)
        where = LayerPath((), layer.name, layer, True)
        record = LayerRecord(where, LayerInputs({}, (), x, None, dy), {}, {}, None)
        super().__init__([record], dict(itertools.islice(MORE_POINTS.items(), most)))
        self.records = self._records(AS_CALLED, "float64")

    def _run(self, givens, dtype):
        (given,) = givens
        if (id(given), dtype) not in self.found:  # with `given`, which keeps its id
            x, dy = cast((given.x, given.dy), DTYPES[dtype])
            got, error = {}, None
            try:
                with np.errstate(all="ignore"):
                    got = self.pair.gradients(x, dy)
            except Exception as raised:  # whatever a user's code raises
                error = one_line(raised)
            want, where = self._want(given, dtype, got)
            self.found[id(given), dtype] = given, [(got, want, where, error)]
        return self.found[id(given), dtype][1]

    def _want(self, given, dtype, got) -> tuple[dict, tuple]:
        """The gradients as they should be, and the domain."""
        ((_, want, where, _),) = super()._run([given], dtype)
        return want, where


class ByDifferences(AsItStands):
    """The same of a forward that JAX cannot trace: by its differences, in float64.

    Raises:
      JaxnnError: too many entries.
    """

    def __init__(self, pair: Pair, x: dict, dy: Any):
        entries = sum(a.size for _, a in named_leaves(x) if is_float(a))
        if entries > LARGE:
            raise JaxnnError(
                f"{pair.rule.name}: it calls NumPy, so it is compared with "
                f"differences, two runs an entry; expected at most {LARGE:,} entries: "
                "give smaller inputs"
            )
        # a y of few digits leaves a difference with fewer still
        coarse = any(a.dtype != np.float64 for a in jax.tree.leaves(pair.value(x)))
        self.tolerance, self.steps = COARSE if coarse else FINE
        super().__init__(pair, x, dy, RUNS // (2 * entries))

    def _want(self, given, dtype, got) -> tuple[dict, tuple]:
        x, pair, change = self._wide(given), self.pair, 0.0
        y = pair.value_or_none(x)
        finite = y is not None and all(np.isfinite(a).all() for a in jax.tree.leaves(y))
        with suppress(Exception):  # of what is written for NumPy alone
            change = float(domain(pair.in_jax(), jax.tree.map(jnp.asarray, x))[1])

        def value():
            y = pair.value_or_none(x)
            if y is None:
                return float("nan")
            pairs = zip(jax.tree.leaves(given.dy), jax.tree.leaves(y), strict=True)
            return float(sum((d * a).sum() for d, a in pairs))

        want = {
            name: self._slopes(a, value, got.get(name))
            for name, a in named_leaves(x)
            if a.dtype == np.float64
        }
        return want, (finite, change)

    def _wide(self, given) -> dict[str, Any]:
        """Its arguments as arrays of NumPy, of their own, in float64."""
        return jax.tree.map(
            lambda a: a if is_key(a) else np.array(a), cast(given.x, np.float64)
        )

    def _slopes(self, a, value, got):
        """The slopes of a value that changes with an array; closer where `got` is off.

        There the step counts that can tell best, and what it cannot tell is `got`.
        """

        def slope(index, step):
            here, h = a[index], step * max(1.0, abs(a[index]))
            a[index] = here + h
            ahead = value()
            a[index] = here - h
            behind = value()
            a[index] = here
            return (ahead - behind) / (2 * h)

        want = np.array([slope(i, self.steps[0]) for i in np.ndindex(a.shape)])
        want = want.reshape(a.shape)
        if got is None or got.shape != a.shape:
            return want
        size = np.abs(want[np.isfinite(want)]).max(initial=1e-9)
        off = ~(np.abs(got - want) <= self.tolerance.limits["float64"] * size)
        for index in map(tuple, np.argwhere(off & ~(np.isnan(got) & np.isnan(want)))):
            found = []
            for step in self.steps:
                wide, narrow = (slope(index, step * part) for part in (1.0, 0.5))
                found.append((abs(wide - narrow), (4 * narrow - wide) / 3))
            finite = [one for one in found if np.isfinite(one).all()]
            gap, best = min(finite, default=(float("nan"), float("nan")))
            told = not abs(got[index] - best) <= 2 * gap
            want[index] = best if told else got[index]
        return want

    def _cause(self, several, dtypes) -> str:
        s, check = several[0]
        if check.argument in s.got and s.error is None:
            twice = jax.tree.map(lambda d: 2 * d, s.given.dy)
            found = self.pair.gradients(self._wide(s.given), twice)
            again = found[check.argument]
            ignored = np.array_equal(again, s.got[check.argument])
            if ignored and again.any() and np.isfinite(again).all():
                return "guess: dy is ignored: another dy gives the same gradient"
        return super()._cause(several, dtypes)

    def _forward(self, s) -> Forward | None:
        forward, (given,) = self.pair.in_jax(), self.points[AS_CALLED]
        try:  # if it computes the same in JAX
            y = forward(jax.tree.map(np.array, given.x))
            agrees = np.allclose(y, self.pair.value(given.x), rtol=1e-9)
            return Forward(lambda p, s, x, key: forward(x), given) if agrees else None
        except Exception:  # written for NumPy alone
            return None

    def _kinks(self) -> dict[str, int]:
        # a hair is too wide in what has few digits: slopes differ without a kink
        # and else runs are too many
        tells = self.tolerance is FINE[0] and len(self.points) > 1
        return super()._kinks() if tells else {}
