"""What would make a wrong backward pass right: one of its steps, changed.

The backward is traced into its steps, and run again with a single change: an operand
times another array, an operand a row later, a sum over another axis. Where the result
is the right gradient in every digit, that change is the cause, told from its end.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

from jaxnn.arrays import is_float
from jaxnn.check.mutants import describe
from jaxnn.check.points import cast
from jaxnn.check.recorder import LayerInputs, arguments
from jaxnn.layers import Layer
from jaxnn.traced import evaluate, operations, run_operation, source_place

SUMS = {"reduce_sum": jnp.sum, "reduce_max": jnp.max, "reduce_min": jnp.min}
MOST_STEPS = 300  # of a backward that is run again and again
MOST_ROWS = 16  # along the axis that a sum was taken over in error
Kept = tuple[Callable, list]  # a function of arrays, and the arrays


def backward_at(layer: Layer, given: LayerInputs, train: bool) -> Kept:
    """A layer's backward: arrays to argument -> gradient, and what it is given there.

    The arrays are those that the forward keeps, and dy.
    """
    p, s, x, _, dy = cast(given._replace(key=()), np.float64)
    y, _, cache = layer.forward(p, s, x, key=given.key, train=train)
    dy = jax.tree.map(lambda d, like: d.astype(like.dtype), dy, y)
    kept, structure = jax.tree.flatten((cache, dy))
    places = [i for i, a in enumerate(kept) if isinstance(a, jax.Array | np.ndarray)]

    def backward(arrays):
        leaves = list(kept)
        for i, a in zip(places, arrays, strict=True):
            leaves[i] = a
        return arguments(layer.backward(*structure.unflatten(leaves)))

    return backward, [kept[i] for i in places]


class Repairs:
    """The gradient of one argument by a backward with some of its steps changed.

    Args:
      backward: `given -> (function, arrays)`, as `backward_at`.
      given: what the layer was given, for the shapes.
      argument: whose gradient it is.
    """

    def __init__(self, backward: Callable, given: LayerInputs, argument: str):
        self.backward, self.at = backward, {}
        function, arrays = backward(given)
        traced = jax.make_jaxpr(lambda arrays: function(arrays)[argument])(arrays)
        self.program = ClosedJaxpr(_needed(traced.jaxpr), traced.consts)
        self.steps = list(operations(self.program.jaxpr, scans=False))

    def all(self, named: Mapping[str, Any]) -> Iterator[tuple]:
        """(words, `(given, named) -> gradient`) of every change that fits.

        Args:
          named: the layer's arguments and dy, by name: floats.
        """
        if len(self.steps) > MOST_STEPS:
            return
        yield from self._axes()
        turns: dict[Any, list] = {}  # steps of one place in the code: of a loop
        for eqn in self.steps:
            shapes = tuple(getattr(v.aval, "shape", ()) for v in eqn.invars)
            place = source_place(eqn) or id(eqn)
            turns.setdefault((eqn.primitive.name, place, shapes), []).append(eqn)
        for group in turns.values():
            for i, v in enumerate(group[0].invars):
                if isinstance(v, Literal) or not is_float(v.aval):
                    continue
                for words, change in _of_operand(v.aval.shape, named):
                    yield (
                        words.format(describe(group[0])),
                        partial(self._with_operand, group, i, change),
                    )

    def _axes(self):
        """Sums over one axis, of all of its sums or of one, taken over another."""
        sums = [s for s in self.steps if s.primitive.name in SUMS]
        groups = [[s] for s in sums]
        for axes in {s.params["axes"] for s in sums}:
            groups.append([s for s in sums if s.params["axes"] == axes])
        for group in groups:
            (x,), axes = (v.aval for v in group[0].invars), group[0].params["axes"]
            if len(axes) > 1 or x.ndim < 2 or x.shape[axes[0]] > MOST_ROWS:
                continue
            what = f"{describe(group[0])} goes over axis {axes[0]} of {x.shape}, not "
            for to in set(range(x.ndim)) - set(axes):
                for mean in (False, True):
                    yield (
                        f"{what}{to}", partial(self._over, group, axes[0], to, mean)
                    )  # fmt: skip

    def _with_operand(self, group, i, change, given, named):
        def changed(eqn, values):
            values = [change(a, named) if j == i else a for j, a in enumerate(values)]
            return run_operation(eqn, values)

        return self._run(given, group, changed)

    def _over(self, group, axis, to, mean, given, named):
        """The gradient with these sums over axis `to`.

        What follows is written for the shape that the wrong sum has. So it is run for
        one row at a time, with that row's sum everywhere, and of the result the row
        alone is taken.
        """
        del named
        rows = []
        for row in range(group[0].invars[0].aval.shape[axis]):

            def changed(eqn, values, row=row):
                (a,) = values
                found = SUMS[eqn.primitive.name](a, to, keepdims=True)
                found = jnp.take(found, row, axis)
                if mean and eqn.primitive.name == "reduce_sum":
                    found = found * (a.shape[axis] / a.shape[to])
                return [jnp.broadcast_to(found, eqn.outvars[0].aval.shape)]

            whole = self._run(given, group, changed)
            if whole.ndim <= axis or row >= whole.shape[axis]:
                return None
            rows.append(jnp.take(whole, row, axis))
        return jnp.stack(rows, axis)

    def _run(self, given, group, changed):
        if id(given) not in self.at:  # with `given`, which keeps its id
            self.at[id(given)] = given, self.backward(given)[1]

        def step(eqn, values, known):
            del known
            here = any(eqn is one for one in group)
            return (changed if here else run_operation)(eqn, values)

        return evaluate(self.program, self.at[id(given)][1], step)[0]


def _needed(jaxpr):
    """The program without the steps that its result does not need."""
    needed, eqns = set(jaxpr.outvars), []
    for eqn in reversed(jaxpr.eqns):
        if needed & set(eqn.outvars):
            eqns.append(eqn)
            needed |= {v for v in eqn.invars if not isinstance(v, Literal)}
    return jaxpr.replace(eqns=eqns[::-1])


def _of_operand(shape, named) -> Iterator[tuple[str, Callable]]:
    """(words, `(operand, named) -> changed`) of an operand of a step, "{}"."""

    def wide(a, named, name):
        return jnp.broadcast_to(jnp.asarray(named[name], a.dtype), a.shape)

    def shifted(a, named, axis, step):
        del named
        rolled = jnp.roll(a, step, axis)
        edge = (slice(None),) * axis + (0 if step > 0 else -1,)
        return rolled.at[edge].set(0)

    for name, a in named.items():
        if np.size(a) > 1 and _fits(np.shape(a), shape):
            other = partial(wide, name=name)
            yield (
                f"the factor {name} is left out in {{}}",
                lambda a, n, other=other: a * other(a, n),
            )
            yield (
                f"the factor {name} is too many in {{}}",
                lambda a, n, other=other: a / other(a, n),
            )
    for axis in range(min(len(shape), 2)):
        for step, late in ((1, "late"), (-1, "early")) if shape[axis] > 2 else ():
            yield (
                f"an operand of {{}} is taken too {late} by one along axis {axis}",
                partial(shifted, axis=axis, step=step),
            )


def _fits(shape, wide) -> bool:
    try:
        return np.broadcast_shapes(shape, wide) == wide
    except ValueError:
        return False
