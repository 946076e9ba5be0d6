"""What went wrong, guessed from the wrong numbers.

Each guess is a hypothesis with a prediction: "the sign is wrong" predicts got = -want.
The first one whose prediction holds in every digit is said; none is said that does not.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnn.check.places import moved, reshaped, shape_words, where
from jaxnn.check.predict import (
    Tools,
    is_right,
    of_constants,
    of_dy,
    of_inputs,
    of_mutants,
    of_pairs,
    of_sums,
    of_terms,
    of_the_diagonal,
)
from jaxnn.check.watch import Given, named_leaves


class Clue(NamedTuple):
    """All that is known of a wrong gradient.

    Attributes:
      argument: whose gradient it is.
      got: argument -> gradient as returned, of all arguments of the layer.
      want: argument -> what it should be.
      given: what the layer was given.
      tolerance: relative difference up to which a prediction holds.
      other_mode: gradients, as `want`, with `train` the other way; None if it makes no
        difference or cannot be run.
      others: the same at other points, where a prediction has to hold too.
      tools: what the forward can be asked, None if JAX cannot trace it.
    """

    argument: str
    got: Mapping[str, np.ndarray]
    want: Mapping[str, np.ndarray]
    given: Given
    tolerance: float
    other_mode: Callable[[], Mapping[str, np.ndarray] | None] = lambda: None
    others: tuple["Clue", ...] = ()
    tools: Tools | None = None

    def same(self, a: Any, b: Any) -> bool:
        """Whether two arrays agree in all the digits there are."""
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        if a.shape != b.shape or not np.isfinite(a).all():
            return False
        return np.abs(a - b).max(initial=0) <= self.tolerance * np.abs(b).max(initial=0)

    def mine(self) -> tuple[np.ndarray, np.ndarray]:
        """(got, want) of the argument."""
        got, want = self.got[self.argument], self.want[self.argument]
        return np.asarray(got, np.float64), np.asarray(want, np.float64)


def guess(clue: Clue) -> str:
    """The likeliest cause, in words."""
    return "guess: " + _likeliest(clue)


def _likeliest(clue) -> str:
    got, want = clue.mine()
    others = [o for o in clue.others if o.argument in o.got]
    found = ""
    if got.shape != want.shape:
        for name, other in clue.want.items():
            if name != clue.argument and clue.same(got, other):
                return f"it is the gradient of d{name}: leaves are swapped"
        found = next(reshaped(clue.same, got, want), None)
        found = found or _predicted(clue, others, (of_sums,))
        return found or f"its shape is wrong{shape_words(got, want)}"
    if not np.isfinite(got).all():
        return _not_finite(got)
    if got.any() and any(
        o.same(o.mine()[0], got) and not o.same(o.mine()[1], want) for o in others
    ):
        return "a constant: it is the same for other inputs and another dy"
    for cause in FIRST:
        if (found := cause(clue, got, want)) and _holds(cause, found, others):
            return found
    if found := _predicted(clue, others, PREDICTIONS):
        return found
    for cause in LAST:
        if (found := cause(clue, got, want)) and _holds(cause, found, others):
            return found
    return _direction(got, want)


def _holds(cause, found, others) -> bool:
    """Whether a cause is found at the other points too."""
    return all(cause(o, *o.mine()) == found for o in others if _differs(o))


def _differs(clue) -> bool:
    got, want = clue.mine()
    return got.shape == want.shape and not clue.same(got, want)


def _predicted(clue, others, predictions) -> str | None:
    """The first prediction that holds in all digits, here and at the other points."""
    if not is_right(clue):
        return None

    def holds(clue, make):
        predicted = make(clue)
        return predicted is not None and clue.same(clue.mine()[0], predicted)

    for source in predictions:
        for words, make in source(clue):
            if holds(clue, make) and all(holds(o, make) for o in others if _differs(o)):
                return words
    return None


def _simple(clue, got, want) -> str | None:
    """One number explains it all: 0, -1, the batch size, 1.01."""
    if not got.any():
        return "zero: a branch is cut off, or a cached value was never filled in"
    if clue.tolerance < 1e-7 and np.abs(got - want).max() < 1e-6 * np.abs(want).max():
        rounded = want.astype(np.float32).astype(np.float64)
        near = np.abs(got - want) <= 16 * np.abs(rounded - want).max()
        if near.all():
            return "right to 7 digits only: something is computed in float32"
    size = float(np.square(want).sum())
    factor = float((got * want).sum()) / size if size else 0.0
    if not factor or not clue.same(got, factor * want):
        return None
    return _factor(clue, factor)


def _factor(clue, factor) -> str:
    if abs(factor + 1) < 1e-6:
        return "the sign is wrong (got = -expected)"
    sign = "the sign is wrong and it is " if factor < 0 else "it is "
    size = abs(factor)
    for count, name in _counts(clue):
        if math.isclose(size, count, rel_tol=1e-6):
            return (
                f"{sign}{_number(size)} times too large: that is {name}, so perhaps a "
                "sum where there should be a mean"
            )
        if math.isclose(size, 1 / count, rel_tol=1e-6):
            return (
                f"{sign}too small by {_number(count)}, {name}: perhaps a mean where "
                "there should be a sum (a missing reduction factor)"
            )
    return f"{sign}a constant factor {_number(size)} times the expected one"


def _counts(clue) -> Iterator[tuple[int, str]]:
    """Sizes that a forgotten or doubled mean would leave as a factor."""
    for what, tree in (("x", clue.given.x), ("dy", clue.given.dy)):
        for a in jax.tree.leaves(tree):
            shape = np.shape(a)
            found = [(shape[0], "the batch size")] if shape else []
            found += [
                (n, f"the length of axis {i} of {what}") for i, n in enumerate(shape)
            ]
            found += [
                (math.prod(shape[:i]), f"the number of rows of {what}")
                for i in range(1, len(shape))
            ]
            found.append((math.prod(shape), f"the number of entries of {what}"))
            yield from (
                (n, name) for n, name in found if n > 2
            )  # 2 has likelier causes


def _mode(clue, got, want) -> str | None:
    del want
    other = clue.other_mode()
    if other is None or not clue.same(got, other[clue.argument]):
        return None
    return (
        "it is the derivative of the other mode: training and evaluation are mixed up"
    )


def _swapped(clue, got, want) -> str | None:
    for name, other in clue.want.items():
        if name == clue.argument or clue.same(want, other):
            continue
        if clue.same(got, other):
            back = clue.got.get(name)
            both = back is not None and clue.same(back, want)
            return f"{'swapped with' if both else 'it is the gradient of'} d{name}"
    return None


def _moved(clue, got, want) -> str | None:
    return moved(clue.same, got, want)


def _cotangent(clue, got, want) -> str | None:
    """dy in the place of the derivative, or a path for dy left out or counted twice."""
    for _, dy in named_leaves(clue.given.dy):
        dy = np.asarray(dy, np.float64)
        if dy.shape == got.shape:
            if clue.same(got, dy):
                return "it is dy itself: the local derivative is missing"
            if _explained(clue, got + dy, want):
                return "dy is missing from it: one path, a skip connection, is left out"
            if _explained(clue, got - dy, want):
                return "dy is in it once too often: a path is counted twice"
            if _explained(clue, dy - got, want):
                if (_near(clue, want, 0) | _near(clue, want, dy)).all():
                    return "it is dy where it should be 0: a mask the wrong way round?"
                return "1 minus the local derivative stands in its place"
        if dy.ndim > got.ndim and dy.shape[1:] == got.shape:
            for row in (0, -1):
                if clue.same(got, dy[row]):
                    return f"row {row} of dy alone: a missing reduction over the batch"
    return None


def _near(clue, a, b):
    return np.abs(a - b) <= clue.tolerance * np.abs(a).max(initial=0)


def _explained(clue, got, want):
    """As `same`, relative to the terms of the sum too."""
    return np.abs(got - want).max() <= clue.tolerance * max(
        np.abs(got).max(), np.abs(want).max()
    )


def _channelwise(clue, got, want) -> str | None:
    """A factor for each channel: which parameter is it?"""
    if not want.ndim or want.shape[-1] < 2:
        return None
    rows = got.reshape(-1, got.shape[-1]), want.reshape(-1, want.shape[-1])
    size = np.square(rows[1]).sum(0)
    if not size.all():
        return None
    factors = (rows[0] * rows[1]).sum(0) / size
    if not clue.same(rows[0], rows[1] * factors[None]):
        return None
    for name, p in named_leaves(clue.given.params):
        p = np.asarray(p, np.float64)
        if p.shape == factors.shape and p.all():
            if clue.same(factors, p):
                return f"too large by the factor {name}, channel by channel"
            if clue.same(factors, 1 / p):
                return f"the factor {name} is left out, channel by channel"
    if len(rows[0]) < 2:
        return None  # one row can always be explained so
    return "a factor that differs from channel to channel: is a scale left out?"


def _partly_simple(clue, got, want) -> str | None:
    """Right but for some places, and simply wrong there."""
    wrong = _beyond(clue, got, want)
    if wrong.all() or (part := _simple(clue, got[wrong], want[wrong])) is None:
        return None
    part_of = where(wrong) or f"{wrong.sum():,} of {wrong.size:,} entries"
    return f"right but for {part_of}; there {part}"


def _partly(clue, got, want) -> str | None:
    """Right but for some places."""
    part_of = where(_beyond(clue, got, want))
    return None if part_of is None else f"right but for {part_of}"


def _beyond(clue, got, want):
    return np.abs(got - want) > clue.tolerance * np.abs(want).max(initial=0)


def _without_transpose(clue, got, want) -> str | None:
    """A product with w in the place of one with w^T; only a square w lets that pass."""
    for name, w in (*named_leaves(clue.given.params), *named_leaves(clue.given.x)):
        w = np.asarray(w, np.float64)
        if w.ndim != 2 or w.shape[0] != w.shape[1] or np.array_equal(w, w.T):
            continue
        label = name or "x"
        for a, used, right, what in (
            (w, label, f"{label}^T", "is missing"),
            (w.T, f"{label}^T", label, "too many"),
        ):
            if _exchanged(clue, got, want, a) or _exchanged(clue, got.T, want.T, a.T):
                return (
                    f"a transpose {what}: it is a product with {used}, not with {right}"
                )
    return None


def _exchanged(clue, got, want, w) -> bool:
    """Whether there is a z with want = z w^T and got = z w."""
    if want.ndim == 0 or want.shape[-1] != len(w) or not np.isfinite(w).all():
        return False
    lost = clue.tolerance * np.linalg.cond(w)
    if not lost < 1e-3:
        return False
    z = np.linalg.solve(w, want.reshape(-1, len(w)).T).T
    return clue._replace(tolerance=10 * lost).same(got.reshape(z.shape), z @ w)


FIRST = (_simple, _mode, _swapped, _moved, _cotangent, _without_transpose)
PREDICTIONS = (
    of_sums,
    of_inputs,
    of_dy,
    of_mutants,
    of_the_diagonal,
    of_constants,
    of_terms,
    of_pairs,
)
LAST = (_partly_simple, _channelwise, _partly)
"""In the order in which they are asked: the simplest first."""


def _not_finite(got) -> str:
    bad = ~np.isfinite(got)
    what = "NaN" if np.isnan(got).any() else "infinite"
    return f"{what} in {bad.sum():,} of {got.size:,} entries"


def _direction(got, want) -> str:
    with np.errstate(all="ignore"):
        norms = np.linalg.norm(got), np.linalg.norm(want)
        cosine = float((got * want).sum() / (norms[0] * norms[1]))
    if not math.isfinite(cosine):
        return "no simple relation: expected is zero" if not want.any() else "no guess"
    angle = math.degrees(math.acos(max(-1.0, min(1.0, cosine))))
    return (
        f"no simple relation (angle {angle:.3g} degrees, length "
        f"{_number(float(norms[0] / norms[1]))} of the expected): a term is missing or "
        "wrong, or a cached value is stale"
    )


def _number(value: float) -> str:
    return f"{value:.6g}"
