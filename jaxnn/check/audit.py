"""Each layer judged on its own, and every error pinned to a layer and an argument."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import jax
import numpy as np

from jaxnn import programs
from jaxnn.check.diagnose import Evidence, diagnose
from jaxnn.check.mutants import Forward
from jaxnn.check.points import (
    AS_CALLED,
    DRAWN,
    ELSEWHERE,
    POINTS,
    SHUFFLED,
    beside,
    between,
    cast,
    domain,
)
from jaxnn.check.recorder import (
    LayerRecord,
    arguments,
    by_hand,
    exact,
    full_precision,
    leaf_layers,
    named_leaves,
    one_line,
)
from jaxnn.check.repairs import backward_at
from jaxnn.check.report import Audit, Check, Finding
from jaxnn.check.tolerance import (
    DTYPES,
    JUMP,
    KINK,
    LIMITS,
    Tolerance,
    compare_arrays,
    is_rounding_or_kink,
    largest_entry,
    no_numbers,
)

SMALL = 200_000  # entries of a layer's arguments up to which mutants are made
SHAPES_DIFFER = "does a transpose or a sum leave a shape that does not fit?"
ROUNDED = (
    "guess: the formula is right, as float64 shows; in float32 it loses "
    "its digits (a difference of large numbers, an overflow, a tiny eps)"
)


def audit(
    records: Sequence[LayerRecord],
    dtypes: Iterable[str] = ("float64",),
    elsewhere: Sequence[LayerRecord] = (),
    points: Mapping[str, Callable] = POINTS,
) -> Audit:
    """Judge every layer that was recorded at work.

    Single layers are asked again at other points and in other precisions. Combinators
    are judged as they were called only, since all they do is wiring.

    Args:
      records: of a `LayerRecorder` in float64, in the order in which the layers ran.
      dtypes: precisions; float64 is always among them: formulas are judged there.
      elsewhere: records made with other parameters and inputs.
      points: name -> `LayerInputs -> LayerInputs`, where single layers are asked too.
    """
    return Auditor(records, points).run(dtypes, elsewhere)


class Auditor:
    """Judges layers by what `_run` makes of them at any point and in any precision."""

    tolerance = Tolerance()

    def __init__(self, records, points):
        self.records = list(records)
        self.single = leaf_layers(self.records)
        self.number = {s.where.path: i for i, s in enumerate(self.single)}
        self.sites = tuple((s.where.layer, s.where.train) for s in self.single)
        givens = [s.given for s in self.single]
        self.points = {at: list(map(f, givens)) for at, f in points.items()}
        self.points[AS_CALLED] = givens
        self.outside: dict[str, list[int]] = {}
        self.checks: list[Check] = []
        self.failed: dict[tuple, list[tuple[LayerRecord, Check]]] = {}
        self.at_kinks: dict[str, None] = {}
        self.forwards: dict[tuple, Forward] = {}

    def run(
        self,
        dtypes: Iterable[str] = ("float64",),
        elsewhere: Sequence[LayerRecord] = (),
    ) -> Audit:
        """All checks, those as called and in float64 first; see `audit`."""
        with full_precision():
            formulas = {at: self._inside(at) for at in self.points if at != AS_CALLED}
            for dtype in ("float64", *(d for d in dtypes if d != "float64")):
                # in float64 they were recorded in the midst of the others
                wide = dtype == "float64"
                called = self.records if wide else self._records(AS_CALLED, dtype)
                scales = _scales(called, formulas, dtype)
                for s in called:
                    self._judge(s, AS_CALLED, dtype, scales)
                for at in formulas:
                    for s in formulas[at] if wide else self._suspects(at, dtype):
                        self._judge(s, at, dtype, {})
            scales = _scales(elsewhere, formulas, "float64")
            for s in elsewhere:
                self._judge(s, ELSEWHERE, "float64", scales)
            findings = tuple(map(self._finding, self.failed.values()))
            kinks = self._kinks()
        as_one = tuple(s.where.label for s in self.single if s.where.layer.parts)
        return Audit(tuple(self.checks), findings, kinks, tuple(self.at_kinks), as_one)

    def _suspects(self, at, dtype) -> list[LayerRecord]:
        """The layers that are wrong in float64, in another precision.

        No others: elsewhere rounding may decide as it likes, as between two scores of a
        million that attention takes the softmax of. A bfloat16 point has ties besides.
        """
        bad = {path for path, _ in self.failed}
        if not bad or dtype == "bfloat16":
            return []
        return [s for s in self._records(at, dtype) if s.where.path in bad]

    def _run(self, givens, dtype):
        return _both_ways(self.sites, givens, dtype)

    def _inside(self, at) -> list[LayerRecord]:
        """The layers at a point in float64, each within the domain of its forward.

        Where the forward is not finite (log of -1), or an iteration in it has not come
        to its end though it has at the given point, the point is brought nearer to
        that; a layer for which that does not help is not asked there.
        """
        near, points = self.points[AS_CALLED], self.points[at]
        for share in (0.3, 0.1, 0.03, 0.0):
            found = self._run(points, "float64")
            outside = [i for i, f in enumerate(found) if not self._is_inside(i, f)]
            if not outside or not share:
                break
            for i in outside:
                points[i] = between(near[i], points[i], share)
        self.outside[at] = outside
        return self._as_records(at, found)

    def _is_inside(self, i, found) -> bool:
        _, _, (finite, change), _ = found
        if not finite or change <= LIMITS["float64"]:
            return bool(finite)
        at_home = self._run(self.points[AS_CALLED], "float64")[i][2][1]
        return at_home > LIMITS["float64"]

    def _records(self, at, dtype) -> list[LayerRecord]:
        return self._as_records(at, self._run(self.points[at], dtype))

    def _as_records(self, at, found) -> list[LayerRecord]:
        each = enumerate(zip(self.single, self.points[at], found, strict=True))
        return [
            LayerRecord(s.where, given, got, want, raised)
            for i, (s, given, (got, want, _, raised)) in each
            if i not in self.outside.get(at, ())
        ]

    def _judge(self, s: LayerRecord, at, dtype, scales):
        def fail(argument, note):
            nothing = no_numbers(s.where.leaf(argument), dtype, note)
            self._fail(s, Check(s.where.label, argument, at, nothing))

        if s.error is not None:
            first = "x" if "x" in s.want else next(iter(s.want), "x")
            fail(first, f"its backward raised {s.error}")
            return
        for argument, want in s.want.items():
            leaf, got = s.where.leaf(argument), s.got.get(argument)
            if got is None:
                c = no_numbers(leaf, dtype, "it returns no gradient for it")
            elif got.shape != want.shape:
                name = leaf.rsplit("/", 1)[-1]
                note = f"d{name} has shape {got.shape}, not {want.shape}"
                c = no_numbers(leaf, dtype, note)
            else:
                limit, scale = self.tolerance.limits[dtype], scales.get(leaf, 0.0)
                c = compare_arrays(leaf, got, want, dtype, scale, limit)
            if c.not_finite:
                c = replace(c, note="") if c.wrong else replace(
                    c, passed=at not in (AS_CALLED, ELSEWHERE)
                )  # fmt: skip
            known = (s.where.path, argument) in self.failed
            if not (c.passed or c.note or known):
                look = partial(self._look, s, argument)
                why = is_rounding_or_kink(s, argument, dtype, look, self.tolerance)
                if why is not None:
                    c = replace(c, passed=True, note=why)
                if why == KINK:
                    self.at_kinks[s.where.label] = None
            check = Check(s.where.label, argument, at, c)
            self.checks.append(check)
            if not (c.passed or (c.not_finite and not c.wrong)):
                self._fail(s, check)
        params = {name for name, _ in named_leaves(s.given.params)}
        for extra in s.got.keys() - s.want.keys() - params - {"x"}:
            fail(extra, f"it returns d{extra}, but has no argument {extra}")

    def _look(self, s: LayerRecord, argument, given, dtype):
        """The gradient at any point, by the program that is compiled already."""
        i = self.number.get(s.where.path)
        if i is None:  # a combinator
            site = s.where.layer, s.where.train
            ((got, want, *_),) = _both_ways((site,), [given], dtype)
        else:
            givens = list(self.points[AS_CALLED])
            givens[i] = given
            got, want, *_ = self._run(givens, dtype)[i]
        return got.get(argument), want[argument]

    def _fail(self, s, check):
        self.failed.setdefault((s.where.path, check.argument), []).append((s, check))

    def _finding(self, several) -> Finding:
        dtypes = tuple(dict.fromkeys(c.comparison.dtype for _, c in several))
        cause = self._cause(several, dtypes)
        return Finding(**vars(several[0][1]), cause=cause, dtypes=dtypes)

    def _cause(self, several, dtypes) -> str:
        s, check = several[0]
        if s.error is not None:
            as_called = check.at == AS_CALLED
            return SHAPES_DIFFER if as_called else "it runs at the given inputs"
        if check.argument not in s.got:
            return "return one gradient for each argument"
        if check.argument not in s.want:
            return "gradients must have the structure of the parameters"
        if "float64" not in dtypes:
            return ROUNDED
        exactly = [one for one in several if one[1].comparison.dtype == "float64"]
        # at random inputs first: nothing is by chance 0, 1, or the same there
        exactly.sort(key=lambda one: one[1].at not in (DRAWN, SHUFFLED))
        forward = self._forward(s)
        return diagnose(
            Evidence(
                check.argument, s.got, s.want, s.given, self.tolerance.digits,
                partial(_other_mode, s), forward,
                partial(backward_at, s.where.layer, train=s.where.train),
            )
            for s, _ in exactly[:3]
        )  # fmt: skip

    def _forward(self, s) -> Forward | None:
        """The layer's forward to be asked, made once; None where it is large."""
        path, layer, train = s.where.path, s.where.layer, s.where.train
        size = sum(np.size(a) for a in jax.tree.leaves((s.given.x, s.want)))
        if path not in self.forwards and size <= SMALL:

            def run(params, state, x, key):
                return layer.forward(params, state, x, key=key, train=train)[0]

            self.forwards[path] = Forward(run, s.given)
        return self.forwards.get(path)

    def _kinks(self) -> dict[str, int]:
        """Layers at a kink -> entries of its gradients that jump within a hair."""
        here, hair = self.points[AS_CALLED], self.tolerance.hair
        sides = [
            self._run([beside(given, 0, sign, hair) for given in here], "float64")
            for sign in (1, -1)
        ]
        counts: dict[str, int] = {}
        for s, (_, a, *_), (_, b, *_) in zip(self.single, *sides, strict=True):
            with np.errstate(invalid="ignore"):  # of infinities: no jump is seen there
                jumps = (
                    np.abs(a[k] - b[k]) > JUMP * largest_entry((a[k], b[k])) for k in a
                )
                count = sum(int(jump.sum()) for jump in jumps)
            if count:
                counts[s.where.label] = count
        return counts


@jax.tree_util.register_static
class _Raised(str):
    """What a backward raised while it was traced: kept with the program."""


def _both_ways(sites, givens, dtype):
    """What `_program` says, as NumPy arrays."""
    found = _program(sites=sites, givens=cast(givens, DTYPES[dtype]))
    return jax.device_get(found)


@partial(programs.jit, static_argnames="sites")
def _program(sites, givens):
    """By hand and by `jax.vjp`, all layers in one program: compiling takes time."""
    out = []
    for (layer, train), given in zip(sites, givens, strict=True):
        want, got, raised = arguments(exact(layer, given, train)), {}, None
        try:
            got = arguments(by_hand(layer, given, train))
        except Exception as error:  # whatever a user's code raises
            raised = _Raised(one_line(error))

        def run(params, state, x, key, layer=layer, train=train):
            return layer.forward(params, state, x, key=key, train=train)[0]

        out.append((got, want, domain(run, *given[:4]), raised))
    return out


def _scales(records, formulas, dtype) -> dict[str, float]:
    """Leaf -> size its gradient has where nothing cancels or saturates.

    There a correct gradient may be nothing but rounding: the bias before a batch norm,
    a tanh at 20. Rounding is large beside such a result and small beside its terms,
    and how large those are is seen at the other points, with this dy.
    """
    rounding = 64 * float(jax.numpy.finfo(DTYPES[dtype]).eps) / LIMITS[dtype]
    unit: dict[tuple, float] = {}
    for at, share in ((SHUFFLED, 1.0), (DRAWN, min(rounding, 1.0))):
        for s in formulas.get(at, ()):
            for argument, want in s.want.items():
                key = s.where.path, argument
                unit[key] = max(unit.get(key, 0.0), share * largest_entry(want))
    sizes: dict[str, float] = {}
    for s in records:
        size = largest_entry(s.given.dy)
        for argument in s.want:
            leaf = s.where.leaf(argument)
            found = size * unit.get((s.where.path, argument), 0.0)
            names = [leaf]
            if argument == "x":  # of a combinator, the largest of its parts
                outer = (s.where.path[:n] for n in range(len(s.where.path)))
                names += ["/".join([*map(str, path), "x"]) for path in outer]
            for name in names:
                sizes[name] = max(sizes.get(name, 0.0), found)
    return sizes


def _other_mode(s: LayerRecord):
    """The exact gradients with `train` the other way, if it can be run."""
    given = cast(s.given, DTYPES["float64"])
    try:
        other = exact(s.where.layer, given, not s.where.train)
    except Exception:  # a batch of one in training, a key that is not there
        return None
    return jax.device_get(arguments(other))
