"""Wrong gradients made on purpose, to be recognized.

Each prediction is a pair of words and a function from a clue to the gradient that would
be returned if the words were true.
"""

import itertools
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.check.mutants import Mutants
from jaxnn.check.probe import cast
from jaxnn.check.watch import Given, arguments, named_leaves

MOST_PATHS = 30  # of which two at once may be left out
MOST = 400  # entries of an output of which each one's derivative is taken
Prediction = tuple[str, Callable[[Any], Any]]


class Tools:
    """What the forward of a layer can be asked: its gradient, right and in mutants.

    Args:
      forward: `(params, state, x, key) -> y`.
      given: what it was given, for the shapes.
    """

    def __init__(self, forward: Callable, given: Given):
        self.forward = forward
        self.mutants = Mutants(self.run, _tree(given))

    def run(self, tree: Any) -> Any:
        """The forward at a tree of all that it is given."""
        return self.forward(tree["params"], tree["state"], tree["x"], tree["key"])

    def gradient(self, given: Given, *mutants: Any) -> dict[str, np.ndarray]:
        """Argument -> gradient, spoilt by the mutants."""
        found = self.mutants(mutants, _tree(given), cast(given.dy, np.float64))
        return jax.device_get(arguments((found["x"], found["params"])))

    def every(self, given: Given) -> Iterator[Any]:
        """Every mutant."""
        return self.mutants.all(_tree(given), cast(given.dy, np.float64))

    @cached_property
    def jacobian(self) -> Callable:
        """The derivative of each output by each entry of the arguments."""
        return jax.jit(jax.jacrev(lambda x, rest: self.run(rest | {"x": x})))


def _tree(given):
    tree = {"params": given.params, "state": given.state, "x": given.x}
    return cast(tree, np.float64) | {"key": given.key}


def of_dy(clue: Any) -> Iterator[Prediction]:
    """dy ignored, or another one in its place."""
    yield "dy is ignored: it is the gradient for dy = 1", _with_dy(np.ones_like)
    yield "dy is squared", _with_dy(np.square)
    yield "the size of dy is ignored: its sign alone is used", _with_dy(np.sign)
    shape = np.shape(jax.tree.leaves(clue.given.dy)[0])
    for axis, size in enumerate(shape):
        if size < 2:
            continue
        for step in (1, -1):
            yield (
                f"dy is shifted by {step} along axis {axis}: off by one",
                _with_dy(lambda a, s=step, k=axis: _shifted(a, s, k)),
            )
            yield (
                f"dy is rolled by {step} along axis {axis}: off by one",
                _with_dy(lambda a, s=step, k=axis: np.roll(a, s, k)),
            )
        yield (
            f"dy is reversed along axis {axis}",
            _with_dy(lambda a, k=axis: np.flip(a, k)),
        )
        for index, name in ((0, "first"), (-1, "last")):
            words = f"only the {name} index of axis {axis} of dy is used"
            yield words, _with_dy(lambda a, i=index, k=axis: _alone(a, i, k))
            words = f"the {name} index of axis {axis} of dy is left out"
            yield words, _with_dy(lambda a, i=index, k=axis: a - _alone(a, i, k))
    for a, b in itertools.combinations(range(len(shape)), 2):
        if shape[a] == shape[b] > 1:
            yield (
                f"dy is transposed: axes {a} and {b} are exchanged",
                _with_dy(lambda d, a=a, b=b: np.swapaxes(d, a, b)),
            )


def of_inputs(clue: Any) -> Iterator[Prediction]:
    """The right formula at other values: labels off by one, arguments exchanged."""
    named = arguments_of(clue.given)
    for name, a in named.items():
        # of indices and labels: 0 and 1 alone are a mask
        if np.issubdtype(np.asarray(a).dtype, np.integer) and np.max(a) > 1:
            yield (
                f"rows of {name} that come again are assigned, not added",
                (lambda c, n=name: _assigned(c, n)),
            )
            for step in (1, -1):
                words = f"{name} is off by one ({step:+d})"
                yield words, _with(name, lambda a, s=step: a + s)
        for axis in range(min(np.ndim(a), 2)):
            for step in (1, -1) if np.shape(a)[axis] > 1 else ():
                yield (
                    f"it is the gradient with {name} shifted by {step} along axis "
                    f"{axis}: a stale cache, or off by one",
                    _with(name, lambda a, s=step, k=axis: np.roll(a, s, k)),
                )
    for (m, a), (n, b) in itertools.combinations(named.items(), 2):
        if np.shape(a) == np.shape(b) and np.asarray(a).dtype == np.asarray(b).dtype:
            yield f"{m} and {n} are exchanged in the formula", _exchanged(m, n)


def of_mutants(clue: Any) -> Iterator[Prediction]:
    """One step of the forward with another derivative."""
    for mutant in clue.tools.every(clue.given):
        yield mutant.words, lambda c, m=mutant: _asked(c, c.given, m)


def of_pairs(clue: Any) -> Iterator[Prediction]:
    """Two paths left out at once."""
    ways = [m for m in clue.tools.every(clue.given) if m.change == 1]
    for one, other in itertools.combinations(ways[:MOST_PATHS], 2):
        words = f"{one.words}, and so is that through {other.what}"
        yield words, lambda c, m=one, n=other: _asked(c, c.given, m, n)


def of_the_diagonal(clue: Any) -> Iterator[Prediction]:
    """Each output by its own input alone, as if the others did not matter."""
    x, dy = clue.given.x, clue.given.dy
    if (set(x) if isinstance(x, dict) else {"x"}) != {clue.argument}:
        return  # its own input alone
    leaves = jax.tree.leaves(x)
    fits = len(leaves) == 1 and np.shape(leaves[0]) == np.shape(dy)
    if fits and np.size(dy) <= MOST:
        what = "of the Jacobian: what an entry does to the others"
        yield f"only the diagonal {what} is left out (a softmax?)", _diagonal
        yield (
            f"the diagonal {what} alone is in it",
            lambda c: c.mine()[1] - _diagonal(c),
        )


def of_constants(clue: Any) -> Iterator[Prediction]:
    """A number of the forward left out on the way back: an eps, a scale."""
    for mutant in clue.tools.mutants.literals():
        yield mutant.words, lambda c, m=mutant: _asked(c, c.given, m)


def of_terms(clue: Any) -> Iterator[Prediction]:
    """Something added to the right gradient."""
    named = [*arguments_of(clue.given).items(), ("dy", clue.given.dy)]
    for name, a in named:
        if np.shape(a) == np.shape(clue.mine()[1]) and np.size(a) > 2:
            words = f"a multiple of {name} is added to it"
            yield words, lambda c, n=name: _plus_a_multiple(c, n)
    yield "a constant is added to it", _plus_a_constant


def of_sums(clue: Any) -> Iterator[Prediction]:
    """Summed over other axes than those it was broadcast along, or over none."""
    dy = clue.given.dy
    if not isinstance(dy, np.ndarray | jax.Array):
        return
    got = clue.mine()[0]
    for count in range(dy.ndim + 1):
        for axes in itertools.combinations(range(dy.ndim), count):
            for keep in (False, True):
                if np.zeros(dy.shape).sum(axes, keepdims=keep).shape != got.shape:
                    continue
                over = " and ".join(map(str, axes)) or "no axis"
                also = ", and keepdims leaves axes of length 1" if keep else ""
                yield (
                    f"it is summed over axis {over}, which is not where it was "
                    f"broadcast{also}".replace("axis no axis", "no axis"),
                    lambda c, a=axes, k=keep: _summed(c, a, k),
                )


def arguments_of(given: Given) -> dict[str, Any]:
    """Argument -> its array, whole numbers too."""
    x = given.x
    head = "" if isinstance(x, dict) else "x"
    return dict([*named_leaves(x, head), *named_leaves(given.params)])


def is_right(clue: Any) -> bool:
    """Whether the forward's steps were found: without a mutant, what is expected."""
    if clue.tools is None:
        return False
    found = _asked(clue, clue.given)
    return found is not None and clue.same(clue.mine()[1], found)


def _asked(clue, given, *mutants):
    try:
        return clue.tools.gradient(given, *mutants).get(clue.argument)
    except Exception:  # other values or shapes may be none that the forward takes
        return None


def _with_dy(change):
    def make(clue):
        dy = jax.tree.map(lambda a: change(np.asarray(a)), clue.given.dy)
        return _asked(clue, clue.given._replace(dy=dy))

    return make


def _changed(given, changes):
    """`given` with arguments replaced: name -> array."""
    named = arguments_of(given)
    tree = given.x, given.params
    leaves = [changes.get(name, a) for name, a in named.items()]
    x, params = jax.tree.structure(tree).unflatten(leaves)
    return given._replace(x=x, params=params)


def _with(name, change):
    def make(clue):
        a = change(np.asarray(arguments_of(clue.given)[name]))
        return _asked(clue, _changed(clue.given, {name: a}))

    return make


def _assigned(clue, name):
    rows, dy = np.asarray(arguments_of(clue.given)[name]), np.asarray(clue.given.dy)
    want = clue.mine()[1]
    if dy.shape != rows.shape + want.shape[1:] or rows.max() >= len(want):
        return None
    found = np.zeros_like(want)
    found[rows] = dy
    return found


def _exchanged(m, n):
    def make(clue):
        named = arguments_of(clue.given)
        return _asked(clue, _changed(clue.given, {m: named[n], n: named[m]}))

    return make


def _diagonal(clue):
    tree = _tree(clue.given)
    jacobian = jax.tree.leaves(clue.tools.jacobian(tree["x"], tree))[0]
    dy = np.asarray(clue.given.dy)
    return np.diagonal(np.reshape(jacobian, (dy.size, dy.size))).reshape(dy.shape) * dy


def _plus_a_multiple(clue, name):
    got, want = clue.mine()
    known = arguments_of(clue.given) | {"dy": clue.given.dy}
    a = np.asarray(known[name], np.float64)
    factor = ((got - want) * a).sum() / max(np.square(a).sum(), 1e-300)
    return want + factor * a


def _plus_a_constant(clue):
    got, want = clue.mine()
    return want + (got - want).mean() if got.size > 2 else None


def _summed(clue, axes, keep):
    name = clue.argument
    dy = np.asarray(clue.given.dy)
    a = np.asarray(arguments_of(clue.given)[name])
    try:
        wide = np.broadcast_to(a, dy.shape)
        tree = _tree(_changed(clue.given, {name: wide}))
        y, pull_back = jax.vjp(clue.tools.run, tree)
        found = pull_back(jnp.asarray(dy, y.dtype).reshape(y.shape))[0]
        every = arguments((found["x"], found["params"]))[name]
    except Exception:  # the forward takes no argument of that shape
        return None
    return np.asarray(every).sum(axes, keepdims=keep)


def _shifted(a, step, axis):
    out = np.roll(a, step, axis)
    edge = [slice(None)] * a.ndim
    edge[axis] = 0 if step > 0 else -1
    out[tuple(edge)] = 0
    return out


def _alone(a, index, axis):
    out, row = np.zeros_like(a), [slice(None)] * a.ndim
    row[axis] = index
    out[tuple(row)] = a[tuple(row)]
    return out
