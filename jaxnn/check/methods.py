"""Ways to a derivative, each in a few lines, and every layer's derivative by each.

Along one direction v, df = f'(x) v costs two runs of f at most. Which way is chosen
decides what all the partial derivatives of n parameters cost: reverse mode one run
back, every other method n runs.

| method             | error in float64 | fails                                      |
| reverse, forward   | 1e-15            | never; at kinks it picks a side            |
| central difference | 1e-10            | near kinks; small steps round, large bend  |
| complex step       | 1e-15            | where f is not analytic: abs, max, compare |
| Taylor remainder   | no tolerance     | it checks a gradient and does not make one |
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxnn import programs
from jaxnn.arrays import analytic, is_float
from jaxnn.check.points import cast
from jaxnn.check.recorder import LayerInputs, LayerRecord, full_precision, leaf_layers
from jaxnn.errors import JaxnnError

Along = Callable[[Callable, Any, Any], Any]  # (f, x, v) -> f'(x) v


def reverse(f: Callable, x: Any, v: Any) -> Any:
    """f'(x) v by one run forward and one back, for f with one number as its value."""
    return inner(jax.grad(f)(x), v)


def forward(f: Callable, x: Any, v: Any) -> Any:
    """f'(x) v by carrying the derivative along: `jax.jvp`. See `experiments.dual`."""
    return jax.jvp(f, (x,), (v,))[1]


def central(f: Callable, x: Any, v: Any, step: float | None = None) -> Any:
    """(f(x + h v) - f(x - h v)) / 2h, with an error of h^2 from the curve's bend.

    Rounding adds eps / h, so smaller is not better; without a step it is eps^(1/3),
    relative to the size of x along v (1 at least), which is about the best. Across a
    kink it returns a mean of both sides.
    """
    h = step
    if h is None:
        floats = [a for a in map(jnp.asarray, jax.tree.leaves(x)) if is_float(a)]
        eps = max(float(jnp.finfo(a.dtype).eps) for a in floats)
        length = _rms(v)
        unit = jnp.maximum(_rms(x), 1) / jnp.where(length == 0, 1, length)
        h = eps ** (1 / 3) * unit
    ahead, behind = f(move(x, h, v)), f(move(x, -h, v))
    return jax.tree.map(lambda a, b: (a - b) / (2 * h), ahead, behind)


def complex_step(f: Callable, x: Any, v: Any, step: float = 1e-20) -> Any:
    """Im f(x + i h v) / h: no difference is taken, so h can be tiny and nothing rounds.

    Exact where f is analytic, that is, made of operations that do not look at the
    imaginary part on its own; `suspects` names those that do.

    Raises:
      JaxnnError: an operation of f does not take complex numbers.

    Source: Squire, Trapp 1998, "Using complex variables to estimate derivatives".
    """
    try:
        with analytic(True):
            y = f(jax.tree.map(lambda a, b: a + 1j * step * b, x, v))
    except (TypeError, ValueError, NotImplementedError) as error:
        message = " ".join(str(error).split())[:160]
        raise JaxnnError(
            f"complex step: an operation takes no complex numbers ({message}); use "
            "another method, or write the function without abs, max and comparisons"
        ) from error
    return jax.tree.map(lambda a: jnp.imag(a) / step, y)


NOT_ANALYTIC = frozenset(
    {
        *("abs", "sign", "real", "imag", "conj", "round", "floor", "ceil", "clamp"),
        *("max", "min", "reduce_max", "reduce_min", "cummax", "cummin"),
        *("reduce_window_max", "argmax", "argmin", "sort", "top_k"),
        *("eq", "ne", "lt", "le", "gt", "ge"),
    }
)
"""Names of JAX's operations that look at more than a complex number as a whole."""


def suspects(f: Callable, x: Any) -> set[str]:
    """Operations in f that need not be analytic, at whatever depth."""
    found, inside = set(), [jax.make_jaxpr(f)(x).jaxpr]
    for jaxpr in inside:  # grows while it is gone through
        for eqn in jaxpr.eqns:
            found.add(eqn.primitive.name)
            values = jax.tree.leaves([*eqn.params.values()])
            inside += [getattr(v, "jaxpr", v) for v in values if hasattr(v, "eqns")]
    return found & NOT_ANALYTIC


METHODS: dict[str, Along] = {
    "reverse": reverse,
    "forward": forward,
    "central": central,
    "complex_step": complex_step,
}
"""Name -> method, for a single direction."""


def taylor_slope(remainders: np.ndarray, steps: Sequence[float], floor: float) -> float:
    """Slope of log |f(x + h v) - f(x) - h gradient.v| over log h: 2 if it is right.

    A wrong gradient leaves a remainder of order h, and so a slope of 1. Remainders
    below `floor` are rounding and left out. With fewer than three above it there is
    nothing to fit: f is straight to the last digit, which is as good, and inf.
    """
    keep = np.asarray(remainders) > floor
    if keep.sum() < 3:
        return float("inf")
    logs = np.log(np.asarray(steps)[keep]), np.log(np.asarray(remainders)[keep])
    return float(np.polyfit(*logs, 1)[0])


def jumps(a: Any, b: Any, share: float = 1e-3) -> Any:
    """Entries of two trees that differ by more than a share of the array's largest.

    Where gradients at x - h v and x + h v do, a difference over that step is worth
    little: there is a kink between.
    """

    def count(a, b):
        size = jnp.maximum(jnp.abs(a).max(initial=0), jnp.abs(b).max(initial=0))
        return (jnp.abs(a - b) > share * size).sum()

    return sum(jax.tree.leaves(jax.tree.map(count, a, b)))


def random_direction(like: Any, seed: int = 0) -> Any:
    """A direction in the space of `like`, entries of size 1: a step moves each by it.

    The derivative along it is about as large as the gradient is long.
    """
    draw = np.random.default_rng(seed)
    return jax.tree.map(
        lambda a: jnp.asarray(draw.standard_normal(np.shape(a)), a.dtype), like
    )


def inner(a: Any, b: Any) -> Any:
    """Sum of the products of all entries of two trees."""
    products = jax.tree.map(lambda a, b: (a * b).sum(), a, b)
    return sum(jax.tree.leaves(products))


def move(x: Any, step: Any, v: Any) -> Any:
    """x + step v."""
    return jax.tree.map(lambda a, b: a + step * b, x, v)


def _rms(tree):
    leaves = [a for a in map(jnp.asarray, jax.tree.leaves(tree)) if is_float(a)]
    count = sum(a.size for a in leaves) or 1
    return jnp.sqrt(sum(jnp.square(a).sum() for a in leaves) / count)


# ---- every layer's derivative by every method

POLICY = {"manual": 1e-12, "forward": 1e-12, "complex_step": 1e-12, "central": 1e-7}
"""Largest error that passes in float64."""

STEPS = (1e-5, 1e-6, 1e-4)  # of the differences; the best counts
UNLIKE = 1e-9  # a complex step further off than this is of no analytic function


@dataclass(frozen=True)
class MethodRow:
    """One layer's derivative along a random direction, by each method.

    Attributes:
      layer: such as "2 dense(5)".
      errors: method -> difference from reverse mode, as a share of the gradient's
        length, None where it does not apply.
      kinks: entries of the gradient that jump within the step of the difference, which
        is worth little then.
      note: why the complex step does not apply.
    """

    layer: str
    errors: dict[str, float | None]
    kinks: int
    note: str = ""


def compare_methods(records: list[LayerRecord], seed: int = 0) -> tuple[MethodRow, ...]:
    """Each layer that was recorded at work, by every method, in float64.

    Derivatives are along a random direction with entries of size 1, so that they are
    about as large as the gradient is long.
    """
    with full_precision():
        layers = [_Slope(s, seed) for s in leaf_layers(records)]

        def all_layers(inputs):
            return [f.ways(*one) for f, one in zip(layers, inputs, strict=True)]

        inputs = [(f.given, f.v) for f in layers]
        found = programs.ahead(None, all_layers, inputs)(inputs)
        pairs = zip(layers, jax.device_get(found), strict=True)
        return tuple(f.row(ways) for f, ways in pairs)


class _Slope:
    """A layer's output times dy, one number, as a function of what is real in it."""

    def __init__(self, record: LayerRecord, seed: int):
        self.record, self.where, self.note = record, record.where, ""
        self.given = cast(record.given, np.float64)
        self.v = random_direction(_real(self.given), seed)

    def value(self, given, at):
        """The number, with real or complex `at` in the place of what is real."""
        params, state, x, key, dy = given.changed(at)
        if any(jnp.iscomplexobj(a) for a in at.values()):
            state = jax.tree.map(lambda a: a + 0j if is_float(a) else a, state)
        layer, train = self.where.layer, self.where.train
        y = layer.forward(params, state, x, key=key, train=train)[0]
        return inner(dy, y)

    def ways(self, given, v):
        """The derivative along v by each method, in one trace."""
        f, at = partial(self.value, given), _real(given)
        gradient = jax.grad(f)
        ahead, behind = (gradient(move(at, sign * STEPS[0], v)) for sign in (1, -1))
        found = {
            "gradient": gradient(at),
            "forward": forward(f, at, v),
            "central": jnp.stack([central(f, at, v, h) for h in STEPS]),
            "kinks": jumps(ahead, behind),
        }
        try:
            found["complex_step"] = complex_step(f, at, v)
        except JaxnnError as error:
            self.note = str(error)
        return found

    def row(self, found) -> MethodRow:
        """The errors in numbers."""
        gradient, v = found["gradient"], jax.device_get(self.v)
        length = float(np.sqrt(sum(np.square(g).sum() for g in gradient.values())))
        slope = float(inner(gradient, v)) if gradient else 0.0

        def error(gap):
            gap = float(np.abs(gap).min())
            return 0.0 if gap == 0 else gap / length if length else float("inf")

        got, want = self.record.got, self.record.want  # by hand, as it was at work
        errors: dict[str, float | None] = {"manual": float("inf")}
        if all(n in got and got[n].shape == want[n].shape for n in gradient):
            off = sum(float(((got[n] - want[n]) * v[n]).sum()) for n in gradient)
            errors["manual"] = error(off)
        for way in ("forward", "complex_step", "central"):
            errors[way] = error(found[way] - slope) if way in found else None
        off = errors["complex_step"]
        if off is not None and not off <= UNLIKE:
            errors["complex_step"] = None
            names = suspects(partial(self.value, self.given), _real(self.given))
            self.note = f"not analytic: {', '.join(sorted(names)) or 'no idea why'}"
        return MethodRow(self.where.label, errors, int(found["kinks"]), self.note)


def _real(given: LayerInputs) -> dict[str, Any]:
    return {name: a for name, a in given.arrays().items() if is_float(a)}


# ---- second derivatives

Gradient = Callable[[Any], Any]  # params -> dparams


def hessian_vector(gradient: Gradient, params: Any, v: Any) -> Any:
    """H v, H the Hessian at `params` of whatever `gradient` is the gradient of.

    A backward written by hand is an ordinary function of the parameters, so `jax.jvp`
    goes through it: forward mode over reverse mode costs about two gradients, and the
    Hessian itself is never built.

    With a network of relus, H is that of the piece the parameters lie in: kinks count
    for nothing. Source: Pearlmutter 1994, "Fast exact multiplication by the Hessian".
    """
    return jax.jvp(gradient, (params,), (v,))[1]


class Curvature(NamedTuple):
    """The sharpest direction.

    Attributes:
      value: the eigenvalue of the Hessian of largest size, negative at a saddle.
      vector: its direction, of length 1, a tree as params.
      residual: |H v - value v| / |value|: how far from an eigenvector it is still.
      steps: products with H that were made.
    """

    value: Array
    vector: Any
    residual: Array
    steps: Array


def largest_eigenvalue(
    gradient: Gradient,
    params: Any,
    key: Array,
    *,
    steps: int = 100,
    tolerance: float = 1e-3,
) -> Curvature:
    """Largest eigenvalue of the Hessian by power iteration on H v.

    Gradient descent with a step above 2 / value climbs along `vector`.

    Args:
      gradient: `params -> dparams`.
      params: where.
      key: for the direction to start from.
      steps: products with H at most.
      tolerance: residual to stop at; the error of the value is about its square.
    """
    leaves, structure = jax.tree.flatten(params)
    keys = structure.unflatten(jax.random.split(key, len(leaves)))
    drawn = jax.tree.map(
        lambda k, a: jax.random.normal(k, a.shape, a.dtype), keys, params
    )

    def more(c):
        return (c.steps < steps) & (c.residual > tolerance)

    def step(c):
        hv = hessian_vector(gradient, params, c.vector)
        value = inner(c.vector, hv)
        off = _length(jax.tree.map(lambda h, v: h - value * v, hv, c.vector))
        # a Hessian of zeros has no direction: the residual is 0 and this the last step
        residual = jnp.where(value == 0, 0, off / jnp.abs(value))
        return Curvature(value, _unit(hv), residual, c.steps + 1)

    start = _unit(drawn)
    zero = jnp.zeros_like(inner(start, start))
    first = Curvature(zero, start, zero + jnp.inf, jnp.zeros((), jnp.int32))
    return lax.while_loop(more, step, first)


def _length(tree):
    return jnp.sqrt(inner(tree, tree))


def _unit(tree):
    length = _length(tree)
    return jax.tree.map(lambda a: a / jnp.where(length == 0, 1, length), tree)
