"""Each layer judged on its own, and every error pinned to a layer and an argument."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.check.excuse import JUMP, KINK, excuse, own_look
from jaxnn.check.findings import (
    AS_CALLED,
    DRAWN,
    ELSEWHERE,
    SHUFFLED,
    WIDE,
    Audit,
    Check,
    Finding,
)
from jaxnn.check.guess import Clue, guess
from jaxnn.check.measure import (
    DTYPES,
    LIMITS,
    LeafComparison,
    compare_arrays,
    no_numbers,
)
from jaxnn.check.probe import beside, cast, drawn, shuffled, wide
from jaxnn.check.watch import (
    Seen,
    arguments,
    by_hand,
    exact,
    named_leaves,
    one_line,
    singles,
)


def audit(
    seen: Sequence[Seen],
    dtypes: Iterable[str] = ("float64",),
    elsewhere: Sequence[Seen] = (),
) -> Audit:
    """Judge every layer that was watched at work.

    Single layers are asked again at other points and in other precisions. Combinators
    are judged as they were called only, since all they do is wiring.

    Args:
      seen: what a `Watch` in float64 saw, in the order in which it ran.
      dtypes: precisions; float64 is always among them: formulas are judged there.
      elsewhere: what a `Watch` saw with other parameters and inputs.
    """
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        return _Auditor(seen).run(dtypes, elsewhere)


class _Auditor:
    def __init__(self, seen):
        self.seen = list(seen)
        self.single = singles(self.seen)
        self.errors: dict[int, str] = {}
        self.program = jax.jit(self._both)
        givens = [s.given for s in self.single]
        self.points = {
            AS_CALLED: givens,
            SHUFFLED: [shuffled(g) for g in givens],
            DRAWN: [drawn(g) for g in givens],
            WIDE: [wide(g) for g in givens],
        }
        self.checks: list[Check] = []
        self.failed: dict[tuple, list[tuple[Seen, Check]]] = {}
        self.excused: dict[str, None] = {}

    def run(self, dtypes, elsewhere) -> Audit:
        """All checks, those as called and in float64 first."""
        formulas = {at: self._at(at, "float64") for at in (SHUFFLED, DRAWN, WIDE)}
        for dtype in ("float64", *(d for d in dtypes if d != "float64")):
            # in float64 they were watched in the midst of the others
            exactly = dtype == "float64"
            called = self.seen if exactly else self._at(AS_CALLED, dtype)
            scales = _scales(called, formulas, dtype)
            for s in called:
                self._judge(s, AS_CALLED, dtype, scales)
            for at in formulas:
                for s in formulas[at] if exactly else self._suspects(at, dtype):
                    self._judge(s, at, dtype, {})
        scales = _scales(elsewhere, formulas, "float64")
        for s in elsewhere:
            self._judge(s, ELSEWHERE, "float64", scales)
        findings = tuple(_finding(several) for several in self.failed.values())
        return Audit(tuple(self.checks), findings, self._kinks(), tuple(self.excused))

    def _suspects(self, at, dtype) -> list[Seen]:
        """The layers that are wrong in float64, in another precision.

        No others: elsewhere rounding may decide as it likes, as between two scores of a
        million that attention takes the softmax of. A bfloat16 point has ties besides.
        """
        bad = {path for path, _ in self.failed}
        if not bad or dtype == "bfloat16":
            return []
        return [s for s in self._at(at, dtype) if s.place.path in bad]

    def _both(self, givens):
        """By hand and by `jax.vjp`, all layers in one program: compiling takes time."""
        out = []
        for i, (s, given) in enumerate(zip(self.single, givens, strict=True)):
            layer, train = s.place.layer, s.place.train
            want, got = arguments(exact(layer, given, train)), {}
            try:
                got = arguments(by_hand(layer, given, train))
            except Exception as raised:
                self.errors[i] = one_line(raised)
            out.append((got, want))
        return out

    def _run(self, givens, dtype):
        return jax.device_get(self.program(cast(givens, DTYPES[dtype])))

    def _at(self, at, dtype) -> list[Seen]:
        givens = self.points[at]
        both = zip(self.single, givens, self._run(givens, dtype), strict=True)
        return [
            Seen(s.place, given, got, want, self.errors.get(i))
            for i, (s, given, (got, want)) in enumerate(both)
        ]

    def _judge(self, s: Seen, at, dtype, scales):
        if s.error is not None:
            said = f"its backward raised {s.error}"
            nothing = no_numbers(s.place.leaf("x"), dtype, said)
            self._fail(s, Check(s.place.label, "x", at, nothing))
            return
        for argument, want in s.want.items():
            leaf = s.place.leaf(argument)
            c = _compare(leaf, s.got.get(argument), want, dtype, scales.get(leaf, 0.0))
            plain = c.passed or c.note or (s.place.path, argument) in self.failed
            reason = None
            if not plain:
                look = self._look(s, argument)
                reason = excuse(s.given, s.got[argument], want, dtype, look)
            if reason is not None:
                c = replace(c, passed=True, note=reason)
                if reason == KINK:
                    self.excused[s.place.label] = None
            check = Check(s.place.label, argument, at, c)
            self.checks.append(check)
            if not c.passed:
                self._fail(s, check)
        params = {name for name, _ in named_leaves(s.given.params)}
        for extra in s.got.keys() - s.want.keys() - params - {"x"}:
            note = f"it returns d{extra}, but has no argument {extra}"
            nothing = no_numbers(s.place.leaf(extra), dtype, note)
            self._fail(s, Check(s.place.label, extra, at, nothing))

    def _look(self, s: Seen, argument):
        """The exact gradient at any point, by the program that is compiled already."""
        numbers = {one.place.path: i for i, one in enumerate(self.single)}
        i = numbers.get(s.place.path)
        if i is None:
            return own_look(s.place, argument)

        def look(given, dtype):
            givens = list(self.points[AS_CALLED])
            givens[i] = given
            got, want = self._run(givens, dtype)[i]
            return got.get(argument), want[argument]

        return look

    def _fail(self, s, check):
        self.failed.setdefault((s.place.path, check.argument), []).append((s, check))

    def _kinks(self) -> dict[str, int]:
        """Layers at a kink -> entries of its gradients that jump within a hair."""
        sides = [
            self._run([beside(g, 0, sign) for g in self.points[AS_CALLED]], "float64")
            for sign in (1, -1)
        ]
        counts: dict[str, int] = {}
        for s, (_, a), (_, b) in zip(self.single, *sides, strict=True):
            jumps = [
                np.abs(a[k] - b[k]) > JUMP * max(_largest(a[k]), _largest(b[k]))
                for k in a
            ]
            if count := sum(int(j.sum()) for j in jumps):
                counts[s.place.label] = count
        return counts


def _compare(leaf, got, want, dtype, scale) -> LeafComparison:
    if got is None:
        return no_numbers(leaf, dtype, "it returns no gradient for it")
    if got.shape != want.shape:
        note = f"d{leaf.rsplit('/', 1)[-1]} has shape {got.shape}, not {want.shape}"
        return no_numbers(leaf, dtype, note)
    return compare_arrays(leaf, got, want, dtype, scale)


def _scales(seen, formulas, dtype) -> dict[str, float]:
    """Leaf -> size its gradient has where nothing cancels or saturates.

    There a correct gradient may be nothing but rounding: the bias before a batch norm,
    a tanh at 20. Rounding is large beside such a result and small beside its terms,
    and how large those are is seen at the other points, with this dy.
    """
    rounding = 64 * float(jnp.finfo(DTYPES[dtype]).eps) / LIMITS[dtype]
    unit: dict[tuple, float] = {}
    for at, share in ((SHUFFLED, 1.0), (DRAWN, min(rounding, 1.0))):
        for s in formulas[at]:
            for argument, want in s.want.items():
                key = s.place.path, argument
                unit[key] = max(unit.get(key, 0.0), share * _largest(want))
    sizes: dict[str, float] = {}
    for s in seen:
        size = max((_largest(a) for a in jax.tree.leaves(s.given.dy)), default=0.0)
        for argument in s.want:
            leaf = s.place.leaf(argument)
            found = size * unit.get((s.place.path, argument), 0.0)
            names = [leaf]
            if argument == "x":  # of a combinator, the largest of its parts
                outer = (s.place.path[:n] for n in range(len(s.place.path)))
                names += ["/".join([*map(str, path), "x"]) for path in outer]
            for name in names:
                sizes[name] = max(sizes.get(name, 0.0), found)
    return sizes


def _largest(a) -> float:
    a = np.abs(np.asarray(a).astype(np.float64))
    return float(np.max(a, initial=0.0, where=np.isfinite(a)))


def _finding(several: Sequence[tuple[Seen, Check]]) -> Finding:
    s, check = several[0]
    dtypes = tuple(dict.fromkeys(c.comparison.dtype for _, c in several))
    return Finding(
        check.layer,
        check.argument,
        check.at,
        check.comparison,
        _cause(s, check),
        dtypes,
    )


def _cause(s: Seen, check: Check) -> str:
    if s.error is not None:
        return "does a transpose or a sum leave a shape that does not fit?"
    if check.argument not in s.got:
        return "return one gradient for each argument"
    if check.argument not in s.want:
        return "gradients must have the structure of the parameters"
    tolerance = 1e-9 if check.comparison.dtype == "float64" else 1e-4
    return guess(
        Clue(check.argument, s.got, s.want, s.given, tolerance, partial(_other_mode, s))
    )


def _other_mode(s: Seen):
    """The exact gradients with `train` the other way, if there is a difference."""
    place, given = s.place, cast(s.given, DTYPES["float64"])
    try:
        other = jax.device_get(arguments(exact(place.layer, given, not place.train)))
    except Exception:  # a batch of one in training, a key that is not there
        return None
    return other
