"""Each layer judged on its own, and every error pinned to a layer and an argument."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.check.excuse import JUMP, KINK, excuse, own_look
from jaxnn.check.guess import Clue, guess
from jaxnn.check.measure import (
    DTYPES,
    LIMITS,
    LeafComparison,
    compare_arrays,
    no_numbers,
)
from jaxnn.check.predict import Tools
from jaxnn.check.probe import (
    beside,
    between,
    cast,
    drawn,
    of_all_sizes,
    of_one_sign,
    shuffled,
    wide,
)
from jaxnn.check.report import (
    AS_CALLED,
    DRAWN,
    ELSEWHERE,
    NEGATIVE,
    POSITIVE,
    SHUFFLED,
    SIZES,
    WIDE,
    Audit,
    Check,
    Finding,
)
from jaxnn.check.watch import (
    Seen,
    arguments,
    by_hand,
    exact,
    named_leaves,
    one_line,
    singles,
)

POINTS = {SHUFFLED: shuffled, DRAWN: drawn, WIDE: wide}
MORE_POINTS = POINTS | {
    SIZES: of_all_sizes,
    POSITIVE: partial(of_one_sign, sign=1),
    NEGATIVE: partial(of_one_sign, sign=-1),
}
"""Where a formula is looked at: all of them where a single layer is judged."""

SMALL = 200_000  # entries of a layer's arguments up to which mutants are made


def audit(
    seen: Sequence[Seen],
    dtypes: Iterable[str] = ("float64",),
    elsewhere: Sequence[Seen] = (),
    points: Mapping[str, Callable] = POINTS,
) -> Audit:
    """Judge every layer that was watched at work.

    Single layers are asked again at other points and in other precisions. Combinators
    are judged as they were called only, since all they do is wiring.

    Args:
      seen: what a `Watch` in float64 saw, in the order in which it ran.
      dtypes: precisions; float64 is always among them: formulas are judged there.
      elsewhere: what a `Watch` saw with other parameters and inputs.
      points: name -> `Given -> Given`, where single layers are asked besides.
    """
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        return _Auditor(seen, points).run(dtypes, elsewhere)


class _Auditor:
    def __init__(self, seen, points):
        self.seen = list(seen)
        self.single = singles(self.seen)
        self.errors: dict[int, str] = {}
        self.program = jax.jit(self._both)
        givens = [s.given for s in self.single]
        self.points = {AS_CALLED: givens}
        self.points |= {at: list(map(f, givens)) for at, f in points.items()}
        self.outside: dict[str, list[int]] = {}
        self.checks: list[Check] = []
        self.failed: dict[tuple, list[tuple[Seen, Check]]] = {}
        self.excused: dict[str, None] = {}
        self.tools: dict[tuple, Tools | None] = {}

    def run(self, dtypes, elsewhere) -> Audit:
        """All checks, those as called and in float64 first."""
        others = [at for at in self.points if at != AS_CALLED]
        formulas = {at: self._inside(at) for at in others}
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
        findings = tuple(map(self._finding, self.failed.values()))
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
            p, state, x, key, _ = given
            y = layer.forward(p, state, x, key=key, train=train)[0]
            out.append((got, want, _all_finite(y)))
        return out

    def _inside(self, at) -> list[Seen]:
        """The layers at a point in float64, each within the domain of its forward.

        Where the forward is not finite (log of -1) the point is brought nearer to the
        given one; a layer for which that does not help is not asked there.
        """
        near, points = self.points[AS_CALLED], self.points[at]
        for share in (0.3, 0.1, 0.03):
            found = self._run(points, "float64")
            outside = [i for i, (_, _, finite) in enumerate(found) if not finite]
            if not outside:
                return self._seen(points, found)
            for i in outside:
                points[i] = between(near[i], points[i], share)
        found = self._run(points, "float64")
        self.outside[at] = [i for i, (_, _, finite) in enumerate(found) if not finite]
        return self._asked(at, self._seen(points, found))

    def _asked(self, at, seen):
        outside = self.outside.get(at, ())
        return [s for i, s in enumerate(seen) if i not in outside]

    def _run(self, givens, dtype):
        return jax.device_get(self.program(cast(givens, DTYPES[dtype])))

    def _at(self, at, dtype) -> list[Seen]:
        givens = self.points[at]
        return self._asked(at, self._seen(givens, self._run(givens, dtype)))

    def _seen(self, givens, found) -> list[Seen]:
        each = zip(self.single, givens, found, strict=True)
        return [
            Seen(s.place, given, got, want, self.errors.get(i))
            for i, (s, given, (got, want, _)) in enumerate(each)
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
            if c.not_finite and not c.wrong:
                c = replace(c, passed=at not in (AS_CALLED, ELSEWHERE))
                self.checks.append(Check(s.place.label, argument, at, c))
                continue
            if c.not_finite:
                c = replace(c, note="")
            plain = c.passed or c.note or (s.place.path, argument) in self.failed
            reason = None
            if not plain:
                look = self._look(s, argument)
                reason = excuse(s.given, argument, s.got[argument], want, dtype, look)
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
            got, want, _ = self._run(givens, dtype)[i]
            return got.get(argument), want[argument]

        return look

    def _fail(self, s, check):
        self.failed.setdefault((s.place.path, check.argument), []).append((s, check))

    def _finding(self, several) -> Finding:
        check = several[0][1]
        dtypes = tuple(dict.fromkeys(c.comparison.dtype for _, c in several))
        return Finding(
            check.layer,
            check.argument,
            check.at,
            check.comparison,
            self._cause(several, dtypes),
            dtypes,
        )

    def _cause(self, several, dtypes) -> str:
        s, check = several[0]
        if s.error is not None:
            return "does a transpose or a sum leave a shape that does not fit?"
        if check.argument not in s.got:
            return "return one gradient for each argument"
        if check.argument not in s.want:
            return "gradients must have the structure of the parameters"
        if "float64" not in dtypes:
            return (
                "guess: the formula is right, as float64 shows; in float32 it loses "
                "its digits (a difference of large numbers, an overflow, a tiny eps)"
            )
        exact = [one for one in several if one[1].comparison.dtype == "float64"]
        # at random inputs first: nothing is by chance 0, 1, or the same there
        exact.sort(key=lambda one: one[1].at not in (DRAWN, SHUFFLED))
        first, *others = (self._clue(s, check.argument) for s, _ in exact[:3])
        return guess(first._replace(others=tuple(others)))

    def _clue(self, s, argument) -> Clue:
        return Clue(
            argument, s.got, s.want, s.given, 1e-9, partial(_other_mode, s),
            tools=self._tools(s),
        )  # fmt: skip

    def _tools(self, s) -> Tools | None:
        """What the layer's forward can be asked, made once; None where it is large."""
        path = s.place.path
        if path not in self.tools:
            layer, train = s.place.layer, s.place.train

            def forward(params, state, x, key):
                return layer.forward(params, state, x, key=key, train=train)[0]

            size = sum(np.size(a) for a in jax.tree.leaves((s.given.x, s.want)))
            small = size <= SMALL
            self.tools[path] = Tools(forward, s.given) if small else None
        return self.tools[path]

    def _kinks(self) -> dict[str, int]:
        """Layers at a kink -> entries of its gradients that jump within a hair."""
        sides = [
            self._run([beside(g, 0, sign) for g in self.points[AS_CALLED]], "float64")
            for sign in (1, -1)
        ]
        counts: dict[str, int] = {}
        for s, (_, a, _), (_, b, _) in zip(self.single, *sides, strict=True):
            jumps = [
                np.abs(a[k] - b[k]) > JUMP * max(_largest(a[k]), _largest(b[k]))
                for k in a
            ]
            if count := sum(int(j.sum()) for j in jumps):
                counts[s.place.label] = count
        return counts


def _all_finite(y):
    floats = [a for a in jax.tree.leaves(y) if jnp.issubdtype(a.dtype, jnp.floating)]
    return jnp.all(jnp.array([jnp.isfinite(a).all() for a in floats]))


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


def _other_mode(s: Seen):
    """The exact gradients with `train` the other way, if there is a difference."""
    place, given = s.place, cast(s.given, DTYPES["float64"])
    try:
        other = jax.device_get(arguments(exact(place.layer, given, not place.train)))
    except Exception:  # a batch of one in training, a key that is not there
        return None
    return other
