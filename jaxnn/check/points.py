"""Test points: values at which a wrong formula cannot hide.

At initialization much is 0 or 1: a backward that forgets gamma, or a term with the mean
of dy, returns the right numbers there. A derivative that is right is right anywhere, so
each layer is also asked at inputs, parameters and cotangents that were never special.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import jaxpr_as_fun

from jaxnn.arrays import is_float
from jaxnn.check.recorder import LayerInputs
from jaxnn.traced import evaluate, run_operation, scan_counts, source_place

AS_CALLED, ELSEWHERE = "as called", "with other parameters"
SHUFFLED, DRAWN, WIDE = "at shuffled inputs", "at random inputs", "at large inputs"
AWAY = 1e-7  # how far "beside" is, relative to the array's typical entry


def shuffled(given: LayerInputs, seed: int = 0) -> LayerInputs:
    """The same entries of x in another order, so within the layer's domain.

    Parameters and state are moved by about a third, dy is drawn from N(0, 1).
    Statistics such as variances stay positive.
    """
    draw = np.random.default_rng(seed)

    def mix(a):
        if _rows_sum_to_one(a):
            return draw.permutation(a)
        return draw.permuted(a.ravel()).reshape(a.shape)

    def move(a):
        return a * (1 + draw.uniform(-0.3, 0.3, a.shape)) + 0.3 * (
            _size(a) * draw.standard_normal(a.shape)
        )

    return given._replace(
        params=_floats(move, given.params),
        state=_floats(
            lambda a: a + (abs(a) + 0.3) * draw.uniform(0, 0.5, a.shape), given.state
        ),
        x=_floats(mix, given.x),
        dy=_floats(lambda a: draw.standard_normal(a.shape), given.dy),
    )


def drawn(
    given: LayerInputs, seed: int = 1, change: Callable = lambda a: a
) -> LayerInputs:
    """As `shuffled`, but x from N(0, 1), then changed: not saturated nor all zero."""
    draw = np.random.default_rng((seed, 1))  # independent of what moves the rest

    def one(a):
        return a if _rows_sum_to_one(a) else change(draw.standard_normal(a.shape))

    moved = shuffled(given, seed)
    return moved._replace(x=_floats(one, moved.x))


def of_all_sizes(given: LayerInputs, seed: int = 3) -> LayerInputs:
    """As `drawn`, but x of both signs and of sizes between 0.001 and 100.

    dy is a thousand times as large: a backward that cuts it off shows.
    """
    draw = np.random.default_rng((seed, 2))
    far = drawn(given, seed, lambda a: np.sign(a) * 10 ** draw.uniform(-3, 2, a.shape))
    return far._replace(dy=_floats(lambda a: 1024 * a, far.dy))


POINTS: dict[str, Callable] = {
    SHUFFLED: shuffled,
    DRAWN: drawn,
    WIDE: partial(drawn, seed=2, change=lambda a: 5 * a),  # where units saturate
}
MORE_POINTS = POINTS | {
    "at inputs of all sizes": of_all_sizes,
    "at positive inputs": partial(drawn, seed=4, change=np.abs),
    "at negative inputs": partial(drawn, seed=4, change=lambda a: -np.abs(a)),
}
"""Where a formula is looked at: all of them where a single layer is judged."""


def between(near: LayerInputs, far: LayerInputs, share: float) -> LayerInputs:
    """A point on the way from one to another: within the domain if it is near enough.

    State and dy are those of `far`.
    """

    def go(a, b):
        if not is_float(a):
            return a
        a, b = (np.asarray(c).astype(np.float64) for c in (a, b))
        with np.errstate(all="ignore"):  # what is not finite stays so
            return (a + share * (b - a)).astype(np.float32)

    x, params = (
        jax.tree.map(go, *two) for two in ((near.x, far.x), (near.params, far.params))
    )
    return far._replace(x=x, params=params)


def beside(given: LayerInputs, seed: int, sign: int, hair: float = AWAY) -> LayerInputs:
    """`given` moved by a hair in a random direction, or with sign -1 in the opposite.

    Where a derivative jumps between the two there is a kink, or more than one.
    """
    draw = np.random.default_rng(seed)

    def nudge(a):
        return a + sign * hair * _size(a) * draw.standard_normal(a.shape)

    # float64: a difference of a hair would be lost in float32
    params, x = (_floats(nudge, tree, np.float64) for tree in (given.params, given.x))
    return given._replace(params=params, x=x)


def nudged(
    given: LayerInputs, argument: str, moves: Mapping[tuple, float], hair: float
) -> LayerInputs:
    """`given` with single entries of one argument moved, in units of a hair."""
    moved = np.array(given.arrays()[argument], np.float64)
    step = hair * _size(moved)
    for index, count in moves.items():
        moved[index] += count * step
    return given.changed({argument: moved})


def last_digits(given: LayerInputs, eps: float, seed: int) -> LayerInputs:
    """`given` with every number changed by about `eps` of itself, dy too."""
    draw = np.random.default_rng(seed)

    def nudge(a):
        return a * (1 + eps * draw.standard_normal(a.shape))

    trees = given.params, given.x, given.dy
    params, x, dy = (_floats(nudge, tree, np.float64) for tree in trees)
    return given._replace(params=params, x=x, dy=dy)


def cast(tree: Any, dtype: Any) -> Any:
    """`tree` as JAX arrays, floating-point ones in `dtype`; PRNG keys as they are."""

    def one(a):
        if not is_float(a):
            return jnp.asarray(a)
        return jnp.asarray(np.asarray(a), dtype)

    return jax.tree.map(one, tree)


def domain(function: Callable, *args: Any) -> tuple[Any, Any]:
    """Whether a function is finite at a point, and how far its iterations have come.

    Newton's method and other iterations are the function they stand for only where they
    have converged: elsewhere their derivative is another, and no backward is wrong for
    not being that. Iterations are loops of JAX over nothing but a counter, and lines
    that Python has run three times or more.

    Args:
      function: of arrays, that JAX can trace.
      args: where; may be traced.

    Returns:
      Whether all of its values are finite, and how much the last round of its
      iterations still changes, relative to the values; 0 without any.
    """
    changes, rounds = [], defaultdict(list)

    def step(eqn, given, known):
        del known
        name, found = eqn.primitive.name, run_operation(eqn, given)
        changes.extend(_change(a, b) for a, b in _last_rounds(eqn, given))
        if (place := source_place(eqn)) and is_float(eqn.outvars[0].aval):
            rounds[(place, name, jnp.shape(found[0]))].append(found[0])
        return found

    y = evaluate(jax.make_jaxpr(function)(*args), jax.tree.leaves(args), step)
    changes += [_change(*several[-2:]) for several in rounds.values() if several[2:]]
    finite = [jnp.isfinite(a).all() for a in y if is_float(a)]
    return jnp.all(jnp.array(finite)), jnp.max(jnp.array([0.0, *changes]))


def _last_rounds(eqn, given) -> list[tuple]:
    """What a loop carries before and after its last round, if it is the same again.

    A scan that takes another row of floats in each round is not.
    """
    params, name = eqn.params, eqn.primitive.name
    if name == "scan":
        n, carried = scan_counts(params)
        consts, start, rows = given[:n], given[n : n + carried], given[n + carried :]
        if any(map(is_float, rows)) or not params["length"]:
            return []
        body = jaxpr_as_fun(params["jaxpr"])

        def step(two, row):
            return (two[1], body(*consts, *two[1], *row)[:carried]), None

        two, _ = lax.scan(step, (start, start), rows, params["length"])
    elif name == "while":
        n = params["cond_nconsts"]
        m = n + params["body_nconsts"]
        test, body = map(jaxpr_as_fun, (params["cond_jaxpr"], params["body_jaxpr"]))
        two = lax.while_loop(
            lambda two: test(*given[:n], *two[1])[0],
            lambda two: (two[1], body(*given[n:m], *two[1])),
            (given[m:], given[m:]),
        )
    else:
        return []
    return [(a, b) for a, b in zip(*two, strict=True) if is_float(a)]


def _change(a, b):
    size = jnp.maximum(jnp.abs(b).max(initial=0), 1e-300)
    return (jnp.abs(a - b).max(initial=0) / size).astype(jnp.result_type(float))


def _floats(change, tree, dtype=np.float32):
    """`tree` with its floating-point arrays changed, as NumPy arrays.

    As a rule rounded to float32: the same point then exists in both precisions.
    """

    def one(a):
        if not is_float(a):
            return a
        return np.asarray(change(np.asarray(a).astype(np.float64))).astype(dtype)

    return jax.tree.map(one, tree)


def _rows_sum_to_one(a) -> bool:
    """Whether it holds probabilities, or classes one-hot: those are no free numbers."""
    if a.ndim < 1 or a.shape[-1] < 2 or not (a >= 0).all():
        return False
    return bool(np.abs(a.sum(-1) - 1).max(initial=0) < 1e-5)


def _size(a) -> float:
    """Typical size of an entry, 1 where all are 0."""
    finite = a[np.isfinite(a)]
    if not finite.size or not finite.any():
        return 1.0
    largest = np.abs(finite).max()
    return float(largest * np.sqrt(np.square(finite / largest).mean()))
