"""What went wrong, told from the wrong numbers.

Each cause is a hypothesis with a prediction: "the sign is wrong" predicts got = -want.
The first one whose prediction holds in every digit, at other points too, is said; none
is said that does not.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.arrays import is_float
from jaxnn.check.mutants import Forward, as_tree
from jaxnn.check.recorder import LayerInputs, arguments, named_leaves
from jaxnn.check.repairs import Repairs

MOST_PATHS = 30  # of which two at once may be left out
MOST = 400  # entries of an output of which each one's derivative is taken

Predict = Callable[["Evidence"], Any]
Hypotheses = Callable[["Evidence"], Iterator[tuple[str, Predict]]]
"""Of the evidence at one point: causes in words, and for each the gradient that would
be returned at a point if it were true; None where it says nothing."""


class Evidence(NamedTuple):
    """All that is known of a wrong gradient at one point.

    Attributes:
      argument: whose gradient it is.
      got: argument -> gradient as returned, of all arguments of the layer.
      want: argument -> what it should be.
      given: what the layer was given.
      tolerance: relative difference up to which a prediction holds.
      other_mode: gradients, as `want`, with `train` the other way; None if it makes no
        difference or cannot be run.
      forward: what can be asked for gradients, None if JAX cannot trace it.
      backward: as `Repairs` takes it, None if JAX cannot trace it.
    """

    argument: str
    got: Mapping[str, np.ndarray]
    want: Mapping[str, np.ndarray]
    given: LayerInputs
    tolerance: float
    other_mode: Callable[[], Mapping[str, np.ndarray] | None] = lambda: None
    forward: Forward | None = None
    backward: Callable | None = None

    def same(self, a: Any, b: Any) -> bool:
        """Whether two arrays agree in all the digits there are."""
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        if a.shape != b.shape or not np.isfinite(a).all():
            return False
        return np.abs(a - b).max(initial=0) <= self.tolerance * np.abs(b).max(initial=0)

    @property
    def returned(self) -> np.ndarray:
        """The gradient under test."""
        return np.asarray(self.got[self.argument], np.float64)

    @property
    def right(self) -> np.ndarray:
        """What it should be."""
        return np.asarray(self.want[self.argument], np.float64)

    @property
    def wrong(self) -> np.ndarray:
        """Which entries differ."""
        want = self.right
        limit = self.tolerance * np.abs(want).max(initial=0)
        return np.abs(self.returned - want) > limit

    def bears_out(self, predict: Predict) -> bool:
        """Whether a prediction holds here."""
        predicted = predict(self)
        return predicted is not None and self.same(self.returned, predicted)

    def asked(self, given: LayerInputs, *mutants: Any) -> Any:
        """The argument's gradient at another point, or of mutants; None if none is."""
        assert self.forward is not None
        try:
            return self.forward.gradient(given, *mutants).get(self.argument)
        except (TypeError, ValueError, NotImplementedError):  # no such values or shapes
            return None


def diagnose(several: Iterable[Evidence]) -> str:
    """The likeliest cause, in words.

    Args:
      several: the evidence at one point or more, the most telling first.
    """
    here, *others = several
    others = [o for o in others if o.argument in o.got]
    got, want = here.returned, here.right
    if got.shape != want.shape:
        found = _first(OF_SHAPE, here)
        return f"guess: {found or 'its shape is wrong' + _shape_words(got, want)}"
    if not np.isfinite(got).all():
        bad = ~np.isfinite(got)
        what = "NaN" if np.isnan(got).any() else "infinite"
        return f"guess: {what} in {bad.sum():,} of {got.size:,} entries"
    if got.any() and any(
        o.same(o.returned, got) and not o.same(o.right, want) for o in others
    ):
        return "guess: a constant: it is the same for other inputs and another dy"
    others = [o for o in others if not o.same(o.returned, o.right)]
    return f"guess: {_first(OF_NUMBERS, here, others) or _direction(got, want)}"


def _first(table: Sequence[Hypotheses], here, others=()) -> str | None:
    """The first cause whose prediction holds in all digits, here and elsewhere."""
    for hypotheses in table:
        for words, predict in hypotheses(here):
            if all(one.bears_out(predict) for one in (here, *others)):
                return words
    return None


def _if(holds: Callable[[Evidence], Any]) -> Predict:
    """A prediction of whatever was returned, where a condition holds."""
    return lambda one: one.returned if holds(one) else None


def _said_alike(relation: Callable[[Evidence], str | None]) -> Hypotheses:
    """A relation that is told in words, and has to be the same elsewhere."""

    def hypotheses(here):
        words = relation(here)
        if words is not None:
            yield words, _if(lambda one: relation(one) == words)

    return hypotheses


def _asking_the_forward(*table: Hypotheses) -> Hypotheses:
    """Hypotheses that need the forward's steps; none where they were not found."""

    def hypotheses(here):
        right = None if here.forward is None else here.asked(here.given)
        if right is not None and here.same(here.right, right):
            for some in table:
                yield from some(here)

    return hypotheses


# ---- of the numbers alone


def _simple(here):
    """One number explains it all: 0, -1, the batch size, 1.01."""
    got, want = here.returned, here.right
    zero = "zero: a branch is cut off, or a cached value was never filled in"
    yield zero, lambda one: np.zeros_like(one.right)
    words = "right to 7 digits only: something is computed in float32"
    yield words, _if(_right_to_7_digits)
    size = float(np.square(want).sum())
    factor = float((got * want).sum()) / size if size else 0.0
    if factor:
        yield _factor_words(here, factor), lambda one: factor * one.right


def _right_to_7_digits(one) -> bool:
    got, want = one.returned, one.right
    gap = np.abs(got - want)
    if one.tolerance >= 1e-7 or gap.max() >= 1e-6 * np.abs(want).max():
        return False
    rounded = want.astype(np.float32).astype(np.float64)
    return bool((gap <= 16 * np.abs(rounded - want).max()).all())


def _factor_words(here, factor) -> str:
    if abs(factor + 1) < 1e-6:
        return "the sign is wrong (got = -expected)"
    sign = "the sign is wrong and it is " if factor < 0 else "it is "
    size = abs(factor)
    for count, name in _counts(here):
        if math.isclose(size, count, rel_tol=1e-6):
            return (
                f"{sign}{size:.6g} times too large: that is {name}, so perhaps a "
                "sum where there should be a mean"
            )
        if math.isclose(size, 1 / count, rel_tol=1e-6):
            return (
                f"{sign}too small by {count:.6g}, {name}: perhaps a mean where "
                "there should be a sum (a missing reduction factor)"
            )
    return f"{sign}a constant factor {size:.6g} times the expected one"


def _counts(here) -> Iterator[tuple[int, str]]:
    """Sizes that a forgotten or doubled mean would leave as a factor."""
    for what, tree in (("x", here.given.x), ("dy", here.given.dy)):
        for shape in map(np.shape, jax.tree.leaves(tree)):
            found = [(shape[0], "the batch size")] if shape else []
            found += [
                (n, f"the length of axis {i} of {what}") for i, n in enumerate(shape)
            ]
            found += [
                (math.prod(shape[:i]), f"the number of rows of {what}")
                for i in range(1, len(shape))
            ]
            found.append((math.prod(shape), f"the number of entries of {what}"))
            yield from ((n, name) for n, name in found if n > 2)  # 2: likelier causes


def _mode(here):
    def other(one):
        found = one.other_mode()
        return None if found is None else found[one.argument]

    words = "it is the derivative of the other mode: training and evaluation are mixed"
    yield f"{words} up", other


def _swapped(here):
    for name, other in here.want.items():
        if name != here.argument and not here.same(here.right, other):
            back = here.got.get(name)
            both = back is not None and here.same(back, here.right)
            words = f"{'swapped with' if both else 'it is the gradient of'} d{name}"
            yield words, lambda one, name=name: one.want[name]


def _permuted(here):
    """The right numbers in the wrong places."""
    shape = here.right.shape
    for words, change in _rearranged(shape):
        yield words, lambda one, change=change: change(one.right)
    for axis, step in itertools.product(range(len(shape)), (1, -1)):
        if shape[axis] > 2:
            words = f"shifted by {step} along axis {axis} (off by one, as in padding)"
            yield words, partial(_shifted, axis=axis, step=step)


def _rearranged(shape):
    """In words, and as a function of an array of that shape."""
    for order in list(itertools.permutations(range(len(shape))))[1:]:
        words = f"transposed (with axes in the order {list(order)})"
        yield words, partial(np.transpose, axes=order)
    for axes in _some_axes(len(shape)):
        words = f"reversed along axes {list(axes)} (a kernel not flipped?)"
        yield words, partial(np.flip, axis=axes)
    for axis, count in itertools.product(range(len(shape)), (2, 3, 4)):
        if shape[axis] % count == 0 and shape[axis] > count:
            for order in list(itertools.permutations(range(count)))[1:]:
                words = f"parts of axis {axis} exchanged: in the order {list(order)}"
                yield words, partial(_parts_in_order, axis=axis, order=order)


def _parts_in_order(a, axis, order):
    parts = np.split(a, len(order), axis)
    return np.concatenate([parts[i] for i in order], axis)


def _shifted(one, axis, step):
    """Whatever stands at the edge."""
    shifted, edge = np.roll(one.right, step, axis), 0 if step > 0 else -1
    np.moveaxis(shifted, axis, 0)[edge] = np.moveaxis(one.returned, axis, 0)[edge]
    return shifted


def _cotangent(here):
    """dy in the place of the derivative, or a path for dy left out or counted twice."""
    got, want = here.returned, here.right
    for i in range(len(jax.tree.leaves(here.given.dy))):

        def sent(one, i=i):
            return np.asarray(jax.tree.leaves(one.given.dy)[i], np.float64)

        dy = sent(here)
        if dy.shape == got.shape:
            limit = here.tolerance * np.abs(want).max(initial=0)
            mask = ((np.abs(want) <= limit) | (np.abs(want - dy) <= limit)).all()
            words = "1 minus the local derivative stands in its place"
            if mask:
                words = "it is dy where it should be 0: a mask the wrong way round?"
            for said, of in (
                ("it is dy itself: the local derivative is missing", lambda w, d: d),
                ("dy is missing from it: one path, a skip connection, is left out",
                 lambda w, d: w - d),
                ("dy is in it once too often: a path is counted twice",
                 lambda w, d: w + d),
                (words, lambda w, d: d - w),
            ):  # fmt: skip
                yield said, lambda one, of=of, dy=sent: of(one.right, dy(one))
        elif dy.ndim == got.ndim:
            steps = [-(-n // m) for n, m in zip(dy.shape, got.shape, strict=True)]
            every = tuple(slice(None, None, step) for step in steps)
            words = f"dy at every {steps}th place alone: a sum over windows is missing"
            yield words, lambda one, at=every, dy=sent: dy(one)[at]
        elif dy.shape[1:] == got.shape:
            for row in (0, -1):
                words = f"row {row} of dy alone: a missing reduction over the batch"
                yield words, lambda one, row=row, dy=sent: dy(one)[row]


def _without_transpose(here):
    """A product with w in the place of one with w^T; only a square w lets that pass."""
    for name, w in here.given.arrays().items():
        w = np.asarray(w)
        if w.ndim != 2 or w.shape[0] != w.shape[1] or np.array_equal(w, w.T):
            continue
        for turned, words in (
            (False, f"is missing: it is a product with {name}, not with {name}^T"),
            (True, f"too many: it is a product with {name}^T, not with {name}"),
        ):
            holds = partial(_is_product, name=name, turned=turned)
            yield f"a transpose {words}", _if(holds)


def _is_product(one, name, turned) -> bool:
    """Whether there is a z with want = z w^T and got = z w, or the same from the left.

    w^T, where it is `turned`.
    """
    w = np.asarray(one.given.arrays()[name], np.float64)
    arrays = one.returned, one.right, w.T if turned else w
    for got, want, w in (arrays, [a.T for a in arrays]):
        if not want.ndim or want.shape[-1] != len(w) or not np.isfinite(w).all():
            continue
        lost = one.tolerance * np.linalg.cond(w)
        if lost < 1e-3:
            z = np.linalg.solve(w, want.reshape(-1, len(w)).T).T
            if one._replace(tolerance=10 * lost).same(got.reshape(z.shape), z @ w):
                return True
    return False


def _partly_simple(here) -> str | None:
    """Right but for some places, and simply wrong there."""
    wrong = here.wrong
    if wrong.all() or not wrong.any():
        return None
    got, want = ({here.argument: a[wrong]} for a in (here.returned, here.right))
    simple = _first([_simple], here._replace(got=got, want=want))
    part = _wrong_part(wrong) or f"{wrong.sum():,} of {wrong.size:,} entries"
    return simple and f"right but for {part}; there {simple}"


def _channelwise(here) -> str | None:
    """A factor for each channel: which parameter is it?"""
    got, want = here.returned, here.right
    if not want.ndim or want.shape[-1] < 2:
        return None
    got, want = (a.reshape(-1, a.shape[-1]) for a in (got, want))
    size = np.square(want).sum(0)
    if not size.all():
        return None
    factors = (got * want).sum(0) / size
    if not here.same(got, want * factors[None]):
        return None
    for name, p in named_leaves(here.given.params):
        p = np.asarray(p, np.float64)
        if p.shape == factors.shape and p.all():
            if here.same(factors, p):
                return f"too large by the factor {name}, channel by channel"
            if here.same(factors, 1 / p):
                return f"the factor {name} is left out, channel by channel"
    if len(got) < 2:
        return None  # one row can always be explained so
    return "a factor that differs from channel to channel: is a scale left out?"


def _partly(here) -> str | None:
    """Right but for some places."""
    part = _wrong_part(here.wrong)
    return None if part is None else f"right but for {part}"


def _wrong_part(wrong: np.ndarray) -> str | None:
    """The part of an array that is wrong, in words; None if there is no pattern."""
    if not wrong.any() or wrong.all():
        return None
    if wrong.sum() == 1:
        return f"one entry, {np.argwhere(wrong)[0].tolist()}"
    for axis in range(wrong.ndim):
        others = tuple(i for i in range(wrong.ndim) if i != axis)
        hit = np.flatnonzero(wrong.any(others))
        if len(hit) < wrong.shape[axis]:
            edge = [0, wrong.shape[axis] - 1]
            if len(hit) == 1:
                last = " (the last)" if hit[0] == edge[1] else ""
                return f"index {hit[0]}{last} of axis {axis}"
            if hit.tolist() == edge:
                return f"the border of axis {axis}"
            if hit[-1] - hit[0] == len(hit) - 1:
                return f"indices {hit[0]} to {hit[-1]} of axis {axis}"
            return f"{len(hit)} of {wrong.shape[axis]} indices of axis {axis}"
    share = wrong.mean()
    return f"{share:.0%} of the entries" if share < 0.5 else None


def _direction(got, want) -> str:
    with np.errstate(all="ignore"):
        norms = np.linalg.norm(got), np.linalg.norm(want)
        cosine = float((got * want).sum() / (norms[0] * norms[1]))
    if not math.isfinite(cosine):
        return "no simple relation: expected is zero" if not want.any() else "no guess"
    angle = math.degrees(math.acos(max(-1.0, min(1.0, cosine))))
    return (
        f"no simple relation (angle {angle:.3g} degrees, length "
        f"{norms[0] / norms[1]:.6g} of the expected): a term is missing or "
        "wrong, or a cached value is stale"
    )


# ---- of a wrong shape


def _reshaped(here):
    got, want = here.returned, here.right

    def total(axes):
        return _if(lambda one: one.same(one.returned.sum(axes), one.right))

    if np.squeeze(got).shape == np.squeeze(want).shape != ():
        many = "many" if got.ndim > want.ndim else "few"
        words = f"an axis of length 1 too {many}: keepdims? reshape it"
        yield words, lambda one: one.right.reshape(got.shape)
    yield "transposed: a transpose is missing", lambda one: one.right.T
    for axes in _some_axes(got.ndim):
        yield f"a missing reduction: sum it over {_axes(axes)}", total(axes)
    for axes, keep in itertools.product(_some_axes(want.ndim), (True, False)):
        words = f"one reduction too many: it is summed over {_axes(axes)}"
        yield words, lambda one, a=axes, k=keep: one.right.sum(a, keepdims=k)
    if got.size == want.size:
        words = "the right entries in another shape: reshape it"
        yield words, lambda one: one.right.reshape(got.shape)


def _shape_words(got: np.ndarray, want: np.ndarray) -> str:
    """What a shape alone tells, "" if nothing."""
    if got.shape == want.shape[::-1]:
        return ": it is that of the transpose"
    if got.ndim > want.ndim and got.shape[-want.ndim or got.ndim :] == want.shape:
        return ": a missing reduction, it has the batch axis still"
    return ""


def _axes(axes) -> str:
    words = [f"axis {a}" + (" (the batch)" if a == 0 else "") for a in axes]
    return " and ".join(words)


def _some_axes(count: int) -> Iterator[tuple[int, ...]]:
    """One axis or more, of so many."""
    for few in range(1, count + 1):
        yield from itertools.combinations(range(count), few)


# ---- of the forward: the gradient that it has in another place, or in a mutant


def _sums(here):
    """Summed over other axes than those it was broadcast along, or over none."""
    dy, got = here.given.dy, here.returned
    if not isinstance(dy, np.ndarray | jax.Array):
        return
    for axes, keep in itertools.product([(), *_some_axes(dy.ndim)], (False, True)):
        if np.zeros(dy.shape).sum(axes, keepdims=keep).shape == got.shape:
            over = f"axis {' and '.join(map(str, axes))}" if axes else "no axis"
            words = f"it is summed over {over}, which is not where it was broadcast"
            words += ", and keepdims leaves axes of length 1" if keep else ""
            yield words, partial(_summed, axes=axes, keep=keep)


def _summed(here, axes, keep):
    dy, a = np.asarray(here.given.dy), np.asarray(here.given.arrays()[here.argument])
    try:
        wide = here.given.changed({here.argument: np.broadcast_to(a, dy.shape)})
        y, pull_back = jax.vjp(here.forward.run, as_tree(wide))
        (found,) = pull_back(jnp.asarray(dy, y.dtype).reshape(y.shape))
    except Exception:  # the forward takes no argument of that shape
        return None
    every = arguments((found["x"], found["params"]))
    return np.asarray(every[here.argument]).sum(axes, keepdims=keep)


def _inputs(here):
    """The right formula at other values: labels off by one, arguments exchanged."""

    def other(name, change, one):
        return one.asked(
            one.given.changed({name: change(np.asarray(one.given.arrays()[name]))})
        )

    def exchanged(m, n, one):
        arrays = one.given.arrays()
        return one.asked(one.given.changed({m: arrays[n], n: arrays[m]}))

    named = here.given.arrays()
    for name, a in named.items():
        # of indices and labels: 0 and 1 alone are a mask
        if np.issubdtype(np.asarray(a).dtype, np.integer) and np.max(a) > 1:
            yield (
                f"rows of {name} that come again are assigned, not added",
                partial(_assigned, name=name),
            )
            for step in (1, -1):
                words = f"{name} is off by one ({step:+d})"
                yield words, partial(other, name, lambda a, s=step: a + s)
        for axis in range(min(np.ndim(a), 2)):
            for step in (1, -1) if np.shape(a)[axis] > 1 else ():
                yield (
                    f"it is the gradient with {name} shifted by {step} along axis "
                    f"{axis}: a stale cache, or off by one",
                    partial(other, name, lambda a, s=step, k=axis: np.roll(a, s, k)),
                )
    for (m, a), (n, b) in itertools.combinations(named.items(), 2):
        if np.shape(a) == np.shape(b) and np.asarray(a).dtype == np.asarray(b).dtype:
            yield f"{m} and {n} are exchanged in the formula", partial(exchanged, m, n)


def _assigned(here, name):
    rows, dy = np.asarray(here.given.arrays()[name]), np.asarray(here.given.dy)
    want = here.right
    if dy.shape != rows.shape + want.shape[1:] or rows.max() >= len(want):
        return None
    found = np.zeros_like(want)
    found[rows] = dy
    return found


def _cotangents(here):
    """dy ignored, or another one in its place."""

    def sent(change, one):
        try:
            dy = jax.tree.map(lambda a: change(np.asarray(a)), one.given.dy)
        except ValueError:  # of several outputs, one has fewer axes
            return None
        return one.asked(one.given._replace(dy=dy))

    for words, change in _other_cotangents(np.shape(jax.tree.leaves(here.given.dy)[0])):
        yield words, partial(sent, change)


def _other_cotangents(shape):
    yield "dy is ignored: it is the gradient for dy = 1", np.ones_like
    yield "dy is squared", np.square
    yield "the size of dy is ignored: its sign alone is used", np.sign
    for axis in (axis for axis, size in enumerate(shape) if size > 1):
        at = f"along axis {axis}"
        for step, edge in ((1, 0), (-1, -1)):
            rolled = partial(np.roll, shift=step, axis=axis)
            yield f"dy is rolled by {step} {at}: off by one", rolled
            yield (
                f"dy is shifted by {step} {at}: off by one",
                lambda a, f=rolled, i=edge, k=axis: _without(f(a), i, k),
            )
        for index, name in ((0, "first"), (-1, "last")):
            without = partial(_without, index=index, axis=axis)
            yield f"the {name} index of axis {axis} of dy is left out", without
            yield (
                f"only the {name} index of axis {axis} of dy is used",
                lambda a, without=without: a - without(a),
            )
    for words, change in _rearranged(shape):
        yield f"dy is {words}", change


def _without(a, index, axis):
    """The array with 0 at one index of an axis."""
    out = np.array(a)
    np.moveaxis(out, axis, 0)[index] = 0
    return out


def _mutants(here):
    """One step of the forward with another derivative, or one of its numbers left out.

    Such a number is an eps or a scale.
    """
    paths = here.forward.paths(here.given)
    for mutant in itertools.chain(paths, here.forward.literals()):
        yield mutant.words, lambda one, m=mutant: one.asked(one.given, m)


def _left_out(here) -> Iterator[Any]:
    return (m for m in here.forward.paths(here.given) if m.value == 1)


def _scaled(here):
    """One step of the forward whose path has a constant factor."""
    got, want = here.returned, here.right
    for mutant in _left_out(here) if got.size > 2 else ():  # one number explains two
        without = here.asked(here.given, mutant)
        if without is None or not (part := want - without).any():
            continue
        factor = float(((got - without) * part).sum() / np.square(part).sum())

        def predict(one, mutant=mutant, factor=factor):
            without = one.asked(one.given, mutant)
            return without + factor * (one.right - without)

        yield (
            f"the path through {mutant.what} has a constant factor {factor:.6g}",
            predict,
        )


def _pairs(here):
    """Two paths left out at once."""
    for a, b in itertools.combinations(
        itertools.islice(_left_out(here), MOST_PATHS), 2
    ):
        words = f"{a.words}, and so is that through {b.what}"
        yield words, lambda one, a=a, b=b: one.asked(one.given, a, b)


def _repaired(here):
    """One change of the backward that makes it right."""
    if here.forward is None or here.backward is None:
        return
    try:
        repairs = Repairs(here.backward, here.given, here.argument)
    except Exception:  # whatever a user's code raises while it is traced
        return

    def floats(one):
        named = one.given.arrays() | {"dy": one.given.dy}
        return {name: a for name, a in named.items() if is_float(a)}

    def makes_right(one, make):
        try:
            found = make(one.given, floats(one))
        except (TypeError, ValueError):  # no such values or shapes
            return False
        return found is not None and one.same(found, one.right)

    for words, make in repairs.all(floats(here)):
        yield f"in its backward {words}", _if(partial(makes_right, make=make))


def _the_diagonal(here):
    """Each output by its own input alone, as if the others did not matter."""
    x, dy = here.given.x, here.given.dy
    if (set(x) if isinstance(x, dict) else {"x"}) != {here.argument}:
        return  # its own input alone
    one_array = isinstance(dy, np.ndarray | jax.Array)
    if not one_array or dy.shape != here.right.shape or dy.size > MOST:
        return

    def diagonal(one):
        found, dy = np.zeros(one.right.shape), np.asarray(one.given.dy)
        for i in np.ndindex(found.shape):
            unit = np.zeros_like(dy)
            unit[i] = dy[i]
            found[i] = one.asked(one.given._replace(dy=unit))[i]
        return found

    what = "of the Jacobian: what an entry does to the others"
    yield f"only the diagonal {what} is left out (a softmax?)", diagonal
    words = f"the diagonal {what} alone is in it"
    yield words, lambda one: one.right - diagonal(one)


def _terms(here):
    """Something added to the right gradient, or the output in its place."""

    def output(one):
        y = one.forward.run(as_tree(one.given))
        return one.given.dy * y if np.shape(y) == np.shape(one.given.dy) else None

    def plus_a_multiple(name, one):
        got, want = one.returned, one.right
        a = np.asarray((one.given.arrays() | {"dy": one.given.dy})[name], np.float64)
        factor = ((got - want) * a).sum() / max(np.square(a).sum(), 1e-300)
        return want + factor * a

    def plus_a_constant(one):
        got, want = one.returned, one.right
        return want + (got - want).mean() if got.size > 2 else None

    for name, a in [*here.given.arrays().items(), ("dy", here.given.dy)]:
        if np.shape(a) == np.shape(here.right) and np.size(a) > 2:
            yield f"a multiple of {name} is added to it", partial(plus_a_multiple, name)
    yield "a constant is added to it", plus_a_constant
    yield "the output stands in the place of its derivative: it is dy * y", output


OF_SHAPE = _swapped, _reshaped, _asking_the_forward(_sums)
OF_NUMBERS = (
    _simple, _mode, _swapped, _permuted, _cotangent, _without_transpose,
    _asking_the_forward(
        _sums, _inputs, _cotangents, _mutants, _the_diagonal, _scaled, _terms, _pairs
    ),
    _repaired,
    *map(_said_alike, (_partly_simple, _channelwise, _partly)),
)  # fmt: skip
"""In the order in which they are asked: the simplest first."""
