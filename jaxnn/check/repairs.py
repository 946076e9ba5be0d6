"""What would make a wrong backward pass right: one of its steps, changed.

The backward is traced into its steps, and run again with a single change: an operand
times another array, an operand a row later, a sum over another axis. Where the result
is the right gradient in every digit, that change is the cause, told from its end.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun

from jaxnn.arrays import is_float
from jaxnn.check.mutants import describe
from jaxnn.check.points import cast, inner_program, source_place
from jaxnn.check.recorder import LayerInputs, arguments
from jaxnn.layers import Layer

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
    """The gradient of one argument by a backward with one of its steps changed.

    Args:
      backward: `given -> (function, arrays)`, as `backward_at`.
      given: what the layer was given, for the shapes.
      argument: whose gradient it is.
    """

    def __init__(self, backward: Callable, given: LayerInputs, argument: str):
        self.backward, self.at = backward, {}
        function, arrays = backward(given)
        traced = jax.make_jaxpr(lambda arrays: function(arrays)[argument])(arrays)
        self.jaxpr, self.consts = _needed(traced.jaxpr), traced.consts
        self.steps = list(_steps(self.jaxpr))

    def all(self, named: Mapping[str, Any]) -> Iterator[tuple]:
        """(words, `(given, named) -> gradient`) of every change that fits.

        Args:
          named: the layer's arguments and dy, by name: floats.
        """
        if len(self.steps) > MOST_STEPS:
            return
        yield from self._axes()
        for group in self._groups():
            eqn = group[0]
            for i, v in enumerate(eqn.invars):
                if isinstance(v, Literal) or not is_float(v.aval):
                    continue
                what, shape = describe(eqn), v.aval.shape
                for name, a in named.items():
                    if np.size(a) > 1 and _fits(np.shape(a), shape):
                        for words, change in _factors(name):
                            yield f"{words} {what}", self._edit(group, i, change)
                for axis in range(min(len(shape), 2)):
                    for step in (1, -1) if shape[axis] > 2 else ():
                        late = "late" if step > 0 else "early"
                        words = (
                            f"an operand of {what} is taken too {late} by one along "
                            f"axis {axis}"
                        )
                        change = _shift(step, axis)
                        yield words, self._edit(group, i, change)

    def _groups(self) -> list[list[Any]]:
        """The steps, those of one place in the code together: turns of a loop."""
        found: dict[Any, list] = {}
        for eqn in self.steps:
            shapes = tuple(getattr(v.aval, "shape", ()) for v in eqn.invars)
            place = source_place(eqn) or id(eqn)
            found.setdefault((eqn.primitive.name, place, shapes), []).append(eqn)
        return list(found.values())

    def _edit(self, group, i, change):
        def run(given, named):
            def operands(step, values):
                if not any(step is eqn for eqn in group):
                    return values
                return [change(a, named) if j == i else a for j, a in enumerate(values)]

            return self._run(given, operands)

        return run

    def _axes(self):
        """Sums over one axis, of all of its sums or of one, taken over another."""
        sums = [s for s in self.steps if s.primitive.name in SUMS]
        groups = [[s] for s in sums]
        for axis in {s.params["axes"] for s in sums}:
            groups.append([s for s in sums if s.params["axes"] == axis])
        for group in groups:
            (x,), axes = (v.aval for v in group[0].invars), group[0].params["axes"]
            if len(axes) > 1 or x.ndim < 2 or x.shape[axes[0]] > MOST_ROWS:
                continue
            for to in set(range(x.ndim)) - set(axes):
                for mean in (False, True):
                    words = (
                        f"{describe(group[0])} goes over axis {axes[0]} of "
                        f"{x.shape}, not {to}"
                    )
                    yield words, self._over(group, axes[0], to, mean)

    def _over(self, group, axis, to, mean):
        """The gradient with these sums over axis `to`.

        What follows is written for the shape that the wrong sum has. So it is run for
        one row at a time, with that row's sum everywhere, and of the result the row
        alone is taken.
        """

        def run(given, named):
            del named
            rows = []
            for row in range(group[0].invars[0].aval.shape[axis]):

                def outputs(step, values, row=row):
                    if not any(step is s for s in group):
                        return None
                    (a,) = values
                    found = SUMS[step.primitive.name](a, to, keepdims=True)
                    found = jnp.take(found, row, axis)
                    if mean and step.primitive.name == "reduce_sum":
                        found = found * (a.shape[axis] / a.shape[to])
                    return jnp.broadcast_to(found, step.outvars[0].aval.shape)

                whole = self._run(given, outputs=outputs)
                if whole.ndim <= axis or row >= whole.shape[axis]:
                    return None
                rows.append(jnp.take(whole, row, axis))
            return jnp.stack(rows, axis)

        return run

    def _run(self, given, operands=None, outputs=None):
        if id(given) not in self.at:  # with `given`, which keeps its id
            self.at[id(given)] = given, self.backward(given)[1]
        (found,) = _evaluated(
            self.jaxpr, self.consts, self.at[id(given)][1],
            operands or (lambda _, values: values), outputs or (lambda *_: None),
        )  # fmt: skip
        return found


def _needed(jaxpr):
    """The program without the steps that its result does not need."""
    needed, eqns = set(jaxpr.outvars), []
    for eqn in reversed(jaxpr.eqns):
        if needed & set(eqn.outvars):
            eqns.append(eqn)
            needed |= {v for v in eqn.invars if not isinstance(v, Literal)}
    return jaxpr.replace(eqns=eqns[::-1])


def _steps(jaxpr) -> Iterator[Any]:
    """The plain steps of a program, those of the functions it calls too."""
    for eqn in jaxpr.eqns:
        inner = _called(eqn)
        if inner is None:
            yield eqn
        else:
            yield from _steps(inner.jaxpr)


def _called(eqn):
    return None if eqn.primitive.name == "scan" else inner_program(eqn)


def _evaluated(jaxpr, consts, args, operands, outputs):
    known = dict(zip(jaxpr.constvars, consts, strict=True))
    known |= dict(zip(jaxpr.invars, args, strict=True))
    for eqn in jaxpr.eqns:
        values = [v.val if isinstance(v, Literal) else known[v] for v in eqn.invars]
        inner = _called(eqn)
        if inner is not None:
            out = _evaluated(inner.jaxpr, inner.consts, values, operands, outputs)
        else:
            values = operands(eqn, values)
            instead = outputs(eqn, values)
            if instead is not None:
                out = [instead]
            elif eqn.primitive.name == "scan":
                out = _again(jaxpr, eqn, values)
            else:
                out = eqn.primitive.bind(*values, **eqn.params)
                out = out if eqn.primitive.multiple_results else [out]
        known |= dict(zip(eqn.outvars, out, strict=True))
    return [v.val if isinstance(v, Literal) else known[v] for v in jaxpr.outvars]


def _again(jaxpr, eqn, values) -> list[Any]:
    """The step by itself: of a scan, each JAX has its own way to make one."""
    pairs = zip(eqn.invars, values, strict=True)
    given = [(v, a) for v, a in pairs if not isinstance(v, Literal)]
    invars, arrays = [v for v, _ in given], [a for _, a in given]
    one = jaxpr.replace(eqns=[eqn], constvars=[], invars=invars, outvars=eqn.outvars)
    return jaxpr_as_fun(ClosedJaxpr(one, ()))(*arrays)


def _fits(shape, wide) -> bool:
    try:
        return np.broadcast_shapes(shape, wide) == wide
    except ValueError:
        return False


def _factors(name):
    def wide(a, named):
        return jnp.broadcast_to(jnp.asarray(named[name], a.dtype), a.shape)

    yield f"the factor {name} is left out in", lambda a, n: a * wide(a, n)
    yield f"the factor {name} is too many in", lambda a, n: a / wide(a, n)


def _shift(step, axis):
    def change(a, named):
        del named
        rolled = jnp.roll(a, step, axis)
        edge = [slice(None)] * a.ndim
        edge[axis] = slice(0, 1) if step > 0 else slice(-1, None)
        return rolled.at[tuple(edge)].set(0)

    return change
