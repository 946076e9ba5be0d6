"""What went wrong, told from the wrong numbers.

Each cause is a hypothesis with a prediction: "the sign is wrong" predicts got = -want.
The first one whose prediction holds in every digit, at other points too, is said; none
is said that does not.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn import programs
from jaxnn.check.mutants import Mutants
from jaxnn.check.permutations import permuted, reshaped, shape_words, wrong_part
from jaxnn.check.points import cast
from jaxnn.check.recorder import LayerInputs, arguments, named_leaves

MOST_PATHS = 30  # of which two at once may be left out
MOST = 400  # entries of an output of which each one's derivative is taken
Prediction = tuple[str, Callable[["Evidence"], Any]]


class Tools:
    """What the forward of a layer can be asked: its gradient, right and in mutants.

    Args:
      forward: `(params, state, x, key) -> y`.
      given: what it was given, for the shapes.
    """

    def __init__(self, forward: Callable, given: LayerInputs):
        self.forward, self.given = forward, given
        self.mutants = Mutants(self.run, _tree(given))

    def run(self, tree: Any) -> Any:
        """The forward at a tree of all that it is given."""
        return self.forward(tree["params"], tree["state"], tree["x"], tree["key"])

    def gradient(self, given: LayerInputs, *mutants: Any) -> dict[str, np.ndarray]:
        """Argument -> gradient, spoilt by the mutants."""
        found = self.mutants(mutants, _tree(given), cast(given.dy, np.float64))
        return jax.device_get(arguments((found["x"], found["params"])))

    def every(self, given: LayerInputs) -> Iterator[Any]:
        """Every mutant."""
        return self.mutants.all(_tree(given), cast(given.dy, np.float64))

    @cached_property
    def jacobian(self) -> Callable:
        """`(x, tree) -> ` the derivative of each output by each entry of x."""
        derivative = jax.jacrev(lambda x, tree: self.run(tree | {"x": x}))
        tree = _tree(self.given)
        return programs.ahead(None, derivative, tree["x"], tree)


def _tree(given):
    tree = {"params": given.params, "state": given.state, "x": given.x}
    return cast(tree, np.float64) | {"key": given.key}


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
      tools: what the forward can be asked, None if JAX cannot trace it.
    """

    argument: str
    got: Mapping[str, np.ndarray]
    want: Mapping[str, np.ndarray]
    given: LayerInputs
    tolerance: float
    other_mode: Callable[[], Mapping[str, np.ndarray] | None] = lambda: None
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

    def differs(self) -> bool:
        """Whether it is wrong here, in numbers alone."""
        got, want = self.mine()
        return got.shape == want.shape and not self.same(got, want)

    def arrays(self) -> dict[str, Any]:
        """Argument -> its array, whole numbers too."""
        x = self.given.x
        head = "" if isinstance(x, dict) else "x"
        return dict([*named_leaves(x, head), *named_leaves(self.given.params)])

    def asked(self, given: LayerInputs, *mutants: Any) -> Any:
        """The argument's gradient at another point, or of mutants; None if none is."""
        assert self.tools is not None
        try:
            return self.tools.gradient(given, *mutants).get(self.argument)
        except (TypeError, ValueError, NotImplementedError):  # no such values or shapes
            return None

    def changed(self, changes: Mapping[str, Any]) -> LayerInputs:
        """The layer's inputs with arguments replaced: name -> array."""
        tree = self.given.x, self.given.params
        leaves = [changes.get(name, a) for name, a in self.arrays().items()]
        x, params = jax.tree.structure(tree).unflatten(leaves)
        return self.given._replace(x=x, params=params)


def diagnose(several: Iterable[Evidence]) -> str:
    """The likeliest cause, in words.

    Args:
      several: the evidence at one point or more, the most telling first.
    """
    first, *others = several
    others = [o for o in others if o.argument in o.got]
    return "guess: " + _likeliest(first, others)


def _likeliest(here, others) -> str:
    got, want = here.mine()
    if got.shape != want.shape:
        for name, other in here.want.items():
            if name != here.argument and here.same(got, other):
                return f"it is the gradient of d{name}: leaves are swapped"
        found = next(reshaped(here, got, want), None)
        found = found or _predicted(here, [], (_sums,))
        return found or f"its shape is wrong{shape_words(got, want)}"
    if not np.isfinite(got).all():
        bad = ~np.isfinite(got)
        what = "NaN" if np.isnan(got).any() else "infinite"
        return f"{what} in {bad.sum():,} of {got.size:,} entries"
    if got.any() and any(
        o.same(o.mine()[0], got) and not o.same(o.mine()[1], want) for o in others
    ):
        return "a constant: it is the same for other inputs and another dy"
    others = [o for o in others if o.differs()]
    return (
        _related(here, others, FIRST)
        or _predicted(here, others, PREDICTIONS)
        or _related(here, others, LAST)
        or _direction(got, want)
    )


def _related(here, others, relations) -> str | None:
    """The first relation of got to want that holds here and at the other points."""
    for relation in relations:
        found = relation(here, *here.mine())
        if found and all(relation(o, *o.mine()) == found for o in others):
            return found
    return None


def _predicted(here, others, predictions) -> str | None:
    """The first prediction that holds in all digits, here and at the other points."""
    if here.tools is None:
        return None
    right = here.asked(here.given)
    if right is None or not here.same(here.mine()[1], right):
        return None  # the forward's steps were not found

    def holds(one, make):
        predicted = make(one)
        return predicted is not None and one.same(one.mine()[0], predicted)

    for prediction in predictions:
        for words, make in prediction(here):
            if all(holds(one, make) for one in (here, *others)):
                return words
    return None


# ---- relations of got to want


def _simple(here, got, want) -> str | None:
    """One number explains it all: 0, -1, the batch size, 1.01."""
    if not got.any():
        return "zero: a branch is cut off, or a cached value was never filled in"
    if here.tolerance < 1e-7 and np.abs(got - want).max() < 1e-6 * np.abs(want).max():
        rounded = want.astype(np.float32).astype(np.float64)
        near = np.abs(got - want) <= 16 * np.abs(rounded - want).max()
        if near.all():
            return "right to 7 digits only: something is computed in float32"
    size = float(np.square(want).sum())
    factor = float((got * want).sum()) / size if size else 0.0
    if not factor or not here.same(got, factor * want):
        return None
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


def _mode(here, got, want) -> str | None:
    del want
    other = here.other_mode()
    if other is None or not here.same(got, other[here.argument]):
        return None
    return (
        "it is the derivative of the other mode: training and evaluation are mixed up"
    )


def _swapped(here, got, want) -> str | None:
    for name, other in here.want.items():
        if name == here.argument or here.same(want, other):
            continue
        if here.same(got, other):
            back = here.got.get(name)
            both = back is not None and here.same(back, want)
            return f"{'swapped with' if both else 'it is the gradient of'} d{name}"
    return None


def _cotangent(here, got, want) -> str | None:
    """dy in the place of the derivative, or a path for dy left out or counted twice."""

    def explained(a, b):  # relative to the terms of the sum too
        return np.abs(a - b).max() <= here.tolerance * max(
            np.abs(a).max(), np.abs(b).max()
        )

    def near(b):
        return np.abs(want - b) <= here.tolerance * np.abs(want).max(initial=0)

    for _, dy in named_leaves(here.given.dy):
        dy = np.asarray(dy, np.float64)
        if dy.shape == got.shape:
            if here.same(got, dy):
                return "it is dy itself: the local derivative is missing"
            if explained(got + dy, want):
                return "dy is missing from it: one path, a skip connection, is left out"
            if explained(got - dy, want):
                return "dy is in it once too often: a path is counted twice"
            if explained(dy - got, want):
                if (near(0) | near(dy)).all():
                    return "it is dy where it should be 0: a mask the wrong way round?"
                return "1 minus the local derivative stands in its place"
        if dy.ndim == got.ndim and dy.shape != got.shape:
            steps = [-(-n // m) for n, m in zip(dy.shape, got.shape, strict=True)]
            if here.same(got, dy[tuple(slice(None, None, step) for step in steps)]):
                return (
                    f"dy at every {steps}th place alone: a sum over windows is missing"
                )
        if dy.ndim > got.ndim and dy.shape[1:] == got.shape:
            for row in (0, -1):
                if here.same(got, dy[row]):
                    return f"row {row} of dy alone: a missing reduction over the batch"
    return None


def _without_transpose(here, got, want) -> str | None:
    """A product with w in the place of one with w^T; only a square w lets that pass."""
    for name, w in (*named_leaves(here.given.params), *named_leaves(here.given.x)):
        w = np.asarray(w, np.float64)
        if w.ndim != 2 or w.shape[0] != w.shape[1] or np.array_equal(w, w.T):
            continue
        label = name or "x"
        for a, used, right, what in (
            (w, label, f"{label}^T", "is missing"),
            (w.T, f"{label}^T", label, "too many"),
        ):
            if _is_product(here, got, want, a) or _is_product(here, got.T, want.T, a.T):
                return (
                    f"a transpose {what}: it is a product with {used}, not with {right}"
                )
    return None


def _is_product(here, got, want, w) -> bool:
    """Whether there is a z with want = z w^T and got = z w."""
    if want.ndim == 0 or want.shape[-1] != len(w) or not np.isfinite(w).all():
        return False
    lost = here.tolerance * np.linalg.cond(w)
    if not lost < 1e-3:
        return False
    z = np.linalg.solve(w, want.reshape(-1, len(w)).T).T
    return here._replace(tolerance=10 * lost).same(got.reshape(z.shape), z @ w)


def _beyond(here, got, want):
    return np.abs(got - want) > here.tolerance * np.abs(want).max(initial=0)


def _partly_simple(here, got, want) -> str | None:
    """Right but for some places, and simply wrong there."""
    wrong = _beyond(here, got, want)
    if wrong.all() or (part := _simple(here, got[wrong], want[wrong])) is None:
        return None
    part_of = wrong_part(wrong) or f"{wrong.sum():,} of {wrong.size:,} entries"
    return f"right but for {part_of}; there {part}"


def _channelwise(here, got, want) -> str | None:
    """A factor for each channel: which parameter is it?"""
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


def _partly(here, got, want) -> str | None:
    """Right but for some places."""
    part_of = wrong_part(_beyond(here, got, want))
    return None if part_of is None else f"right but for {part_of}"


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


# ---- predictions: words, and the gradient that would be returned if they were true


def _sums(here: Evidence) -> Iterator[Prediction]:
    """Summed over other axes than those it was broadcast along, or over none."""
    dy, (got, _) = here.given.dy, here.mine()
    if not isinstance(dy, np.ndarray | jax.Array):
        return
    for count in range(dy.ndim + 1):
        for axes in itertools.combinations(range(dy.ndim), count):
            for keep in (False, True):
                if np.zeros(dy.shape).sum(axes, keepdims=keep).shape != got.shape:
                    continue
                over = f"axis {' and '.join(map(str, axes))}" if axes else "no axis"
                also = ", and keepdims leaves axes of length 1" if keep else ""
                yield (
                    f"it is summed over {over}, which is not where it was "
                    f"broadcast{also}",
                    partial(_summed, axes=axes, keep=keep),
                )


def _summed(here, axes, keep):
    dy, a = np.asarray(here.given.dy), np.asarray(here.arrays()[here.argument])
    try:
        wide = {here.argument: np.broadcast_to(a, dy.shape)}
        y, pull_back = jax.vjp(here.tools.run, _tree(here.changed(wide)))
        found = pull_back(jnp.asarray(dy, y.dtype).reshape(y.shape))[0]
        every = arguments((found["x"], found["params"]))[here.argument]
    except Exception:  # the forward takes no argument of that shape
        return None
    return np.asarray(every).sum(axes, keepdims=keep)


def _inputs(here: Evidence) -> Iterator[Prediction]:
    """The right formula at other values: labels off by one, arguments exchanged."""

    def other(name, change, one):
        return one.asked(one.changed({name: change(np.asarray(one.arrays()[name]))}))

    def exchanged(m, n, one):
        arrays = one.arrays()
        return one.asked(one.changed({m: arrays[n], n: arrays[m]}))

    named = here.arrays()
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
    rows, dy = np.asarray(here.arrays()[name]), np.asarray(here.given.dy)
    want = here.mine()[1]
    if dy.shape != rows.shape + want.shape[1:] or rows.max() >= len(want):
        return None
    found = np.zeros_like(want)
    found[rows] = dy
    return found


def _cotangents(here: Evidence) -> Iterator[Prediction]:
    """dy ignored, or another one in its place."""
    for words, change in _other_cotangents(np.shape(jax.tree.leaves(here.given.dy)[0])):

        def make(one, change=change):
            dy = jax.tree.map(lambda a: change(np.asarray(a)), one.given.dy)
            return one.asked(one.given._replace(dy=dy))

        yield words, make


def _other_cotangents(shape):
    yield "dy is ignored: it is the gradient for dy = 1", np.ones_like
    yield "dy is squared", np.square
    yield "the size of dy is ignored: its sign alone is used", np.sign
    for axis, size in enumerate(shape):
        if size < 2:
            continue
        at = f"along axis {axis}"
        for step in (1, -1):
            edge = 0 if step > 0 else -1

            def shifted(a, step=step, axis=axis, edge=edge):
                return _without(np.roll(a, step, axis), edge, axis)

            yield f"dy is shifted by {step} {at}: off by one", shifted
            rolled = partial(np.roll, shift=step, axis=axis)
            yield f"dy is rolled by {step} {at}: off by one", rolled
        yield f"dy is reversed {at}", partial(np.flip, axis=axis)
        for index, name in ((0, "first"), (-1, "last")):

            def without(a, index=index, axis=axis):
                return _without(a, index, axis)

            def alone(a, without=without):
                return a - without(a)

            yield f"only the {name} index of axis {axis} of dy is used", alone
            yield f"the {name} index of axis {axis} of dy is left out", without
    for a, b in itertools.combinations(range(len(shape)), 2):
        if shape[a] == shape[b] > 1:
            words = f"dy is transposed: axes {a} and {b} are exchanged"
            yield words, partial(np.swapaxes, axis1=a, axis2=b)


def _without(a, index, axis):
    """The array with 0 at one index of an axis."""
    out = np.array(a)
    np.moveaxis(out, axis, 0)[index] = 0
    return out


def _mutants(here: Evidence) -> Iterator[Prediction]:
    """One step of the forward with another derivative."""
    assert here.tools is not None
    for mutant in here.tools.every(here.given):
        yield mutant.words, lambda one, m=mutant: one.asked(one.given, m)


def _constants(here: Evidence) -> Iterator[Prediction]:
    """A number of the forward left out on the way back: an eps, a scale."""
    assert here.tools is not None
    for mutant in here.tools.mutants.literals():
        yield mutant.words, lambda one, m=mutant: one.asked(one.given, m)


def _pairs(here: Evidence) -> Iterator[Prediction]:
    """Two paths left out at once."""
    assert here.tools is not None
    ways = [m for m in here.tools.every(here.given) if m.change == 1]
    for a, b in itertools.combinations(ways[:MOST_PATHS], 2):
        words = f"{a.words}, and so is that through {b.what}"
        yield words, lambda one, a=a, b=b: one.asked(one.given, a, b)


def _the_diagonal(here: Evidence) -> Iterator[Prediction]:
    """Each output by its own input alone, as if the others did not matter."""
    x, dy = here.given.x, here.given.dy
    if (set(x) if isinstance(x, dict) else {"x"}) != {here.argument}:
        return  # its own input alone
    leaves = jax.tree.leaves(x)
    fits = len(leaves) == 1 and np.shape(leaves[0]) == np.shape(dy)
    if fits and np.size(dy) <= MOST:
        what = "of the Jacobian: what an entry does to the others"
        yield f"only the diagonal {what} is left out (a softmax?)", _diagonal
        yield (
            f"the diagonal {what} alone is in it",
            lambda one: one.mine()[1] - _diagonal(one),
        )


def _diagonal(here):
    tree, dy = _tree(here.given), np.asarray(here.given.dy)
    found = jax.tree.leaves(here.tools.jacobian(tree["x"], tree))[0]
    return np.diagonal(np.reshape(found, (dy.size, dy.size))).reshape(dy.shape) * dy


def _terms(here: Evidence) -> Iterator[Prediction]:
    """Something added to the right gradient, or the output in its place."""

    def output(one):
        y = one.tools.run(_tree(one.given))
        return one.given.dy * y if np.shape(y) == np.shape(one.given.dy) else None

    def plus_a_multiple(name, one):
        got, want = one.mine()
        a = np.asarray((one.arrays() | {"dy": one.given.dy})[name], np.float64)
        factor = ((got - want) * a).sum() / max(np.square(a).sum(), 1e-300)
        return want + factor * a

    def plus_a_constant(one):
        got, want = one.mine()
        return want + (got - want).mean() if got.size > 2 else None

    for name, a in [*here.arrays().items(), ("dy", here.given.dy)]:
        if np.shape(a) == np.shape(here.mine()[1]) and np.size(a) > 2:
            yield f"a multiple of {name} is added to it", partial(plus_a_multiple, name)
    yield "a constant is added to it", plus_a_constant
    yield "the output stands in the place of its derivative: it is dy * y", output


FIRST = (_simple, _mode, _swapped, permuted, _cotangent, _without_transpose)
PREDICTIONS = (
    _sums, _inputs, _cotangents, _mutants, _the_diagonal, _constants, _terms, _pairs,
)  # fmt: skip
LAST = (_partly_simple, _channelwise, _partly)
"""In the order in which they are asked: the simplest first."""
