"""Ways to a derivative, each in a few lines, for any function of a pytree.

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
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

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

    Rounding adds eps / h, so smaller is not better; the best h is about eps^(1/3).
    Across a kink it returns a mean of both sides: see `kinks`.
    """
    h = best_step(x, v) if step is None else step
    ahead, behind = f(move(x, h, v)), f(move(x, -h, v))
    return jax.tree.map(lambda a, b: (a - b) / (2 * h), ahead, behind)


def best_step(x: Any, v: Any) -> jax.Array:
    """eps^(1/3), relative to the size of x along v (1 at least)."""
    eps = max(float(jnp.finfo(a.dtype).eps) for a in _floats(x))
    length = _rms(v)
    return eps ** (1 / 3) * jnp.maximum(_rms(x), 1) / jnp.where(length == 0, 1, length)


def complex_step(f: Callable, x: Any, v: Any, step: float = 1e-20) -> Any:
    """Im f(x + i h v) / h: no difference is taken, so h can be tiny and nothing rounds.

    Exact where f is analytic, that is, made of operations that do not look at the
    imaginary part on its own. `not_analytic` says where that fails.

    Raises:
      JaxnnError: an operation of f does not take complex numbers.

    Source: Squire, Trapp 1998, "Using complex variables to estimate derivatives".
    """

    def shifted(a, b):
        return a + 1j * step * b

    try:
        y = f(jax.tree.map(shifted, x, v))
    except (TypeError, ValueError, NotImplementedError) as error:
        message = " ".join(str(error).split())[:160]
        raise JaxnnError(
            f"complex step: an operation takes no complex numbers ({message}); use "
            "another method, or write the function without abs, max and comparisons"
        ) from error
    return jax.tree.map(lambda a: jnp.imag(a) / step, y)


def not_analytic(f: Callable, x: Any, v: Any, tolerance: float = 1e-9) -> str | None:
    """Why the complex step is wrong for f here, None if it is right.

    It is tried, and compared with `forward`; if they differ, the operations of f that
    are not analytic are named.
    """
    try:
        got = complex_step(f, x, v)
    except JaxnnError as error:
        return str(error)
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(forward(f, x, v)), strict=True)
    for a, b in pairs:
        size = jnp.abs(b).max(initial=0)
        if not bool(jnp.abs(a - b).max(initial=0) <= tolerance * size):
            names = ", ".join(sorted(suspects(f, x))) or "none that is known"
            return (
                "complex step: not analytic here, it differs from forward mode; "
                f"operations that may be why: {names}"
            )
    return None


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
    return _names(jax.make_jaxpr(f)(x).jaxpr) & NOT_ANALYTIC


def _names(jaxpr) -> set[str]:
    found = set()
    for equation in jaxpr.eqns:
        found.add(equation.primitive.name)
        for value in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns")
        ):
            inner_jaxpr = getattr(value, "jaxpr", value)
            if hasattr(inner_jaxpr, "eqns"):
                found |= _names(inner_jaxpr)
    return found


METHODS: dict[str, Along] = {
    "reverse": reverse,
    "forward": forward,
    "central": central,
    "complex_step": complex_step,
}
"""Name -> method, for a single direction."""


def jacobian(f: Callable, x: Any, along: Along = forward) -> jax.Array:
    """All partial derivatives (outputs, inputs), a column for each direction.

    For small functions: it takes as many runs as x has entries. `along` is any method
    of this module but `reverse`; for one output and many inputs use `jax.grad`.
    """
    flat, unflatten = jax.flatten_util.ravel_pytree(x)

    def column(v):
        d = along(f, x, unflatten(v))
        return jnp.concatenate([jnp.ravel(a) for a in jax.tree.leaves(d)])

    return jax.lax.map(column, jnp.eye(flat.size, dtype=flat.dtype)).T


def taylor_remainders(
    f: Callable, gradient: Any, x: Any, v: Any, steps: Sequence[float]
) -> np.ndarray:
    """|f(x + h v) - f(x) - h gradient.v| for each step h.

    With the right gradient what is left is of order h^2, with a wrong one of order h.
    """
    start, slope = f(x), inner(gradient, v)
    run = jax.jit(lambda h: jnp.abs(f(move(x, h, v)) - start - h * slope))
    return np.array([float(run(h)) for h in steps])


def taylor_slope(remainders: np.ndarray, steps: Sequence[float], floor: float) -> float:
    """Slope of log remainder over log h: 2 if the gradient is right, 1 if wrong.

    Remainders below `floor` are rounding and left out. With fewer than three above it
    there is nothing to fit: f is straight to the last digit, which is as good, and inf.
    """
    keep = np.asarray(remainders) > floor
    if keep.sum() < 3:
        return float("inf")
    logs = np.log(np.asarray(steps)[keep]), np.log(np.asarray(remainders)[keep])
    return float(np.polyfit(*logs, 1)[0])


def kinks(f: Callable, x: Any, v: Any, step: float, jump: float = 1e-3) -> int:
    """Entries of the gradient of f that jump between x - h v and x + h v.

    Where there are any, differences over that step say nothing of the derivative.
    """
    ahead, behind = (jax.grad(f)(move(x, h, v)) for h in (step, -step))
    return int(jumps(ahead, behind, jump))


def jumps(a: Any, b: Any, share: float = 1e-3) -> Any:
    """Entries of two trees that differ by more than a share of the array's largest."""

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


def _floats(tree):
    found = [jnp.asarray(a) for a in jax.tree.leaves(tree)]
    return [a for a in found if jnp.issubdtype(a.dtype, jnp.floating)]


def _rms(tree):
    leaves = _floats(tree)
    count = sum(a.size for a in leaves) or 1
    return jnp.sqrt(sum(jnp.square(a).sum() for a in leaves) / count)
