"""Other places to look at a layer from: values at which a wrong formula cannot hide.

At initialisation much is 0 or 1: a backward that forgets gamma, or a term with the mean
of dy, returns the right numbers there. A derivative that is right is right anywhere, so
each layer is also asked at inputs, parameters and cotangents that were never special.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.arrays import is_float
from jaxnn.check.watch import Given, arguments

AWAY = 1e-7  # how far "beside" is, relative to the array's typical entry


def shuffled(given: Given, seed: int = 0) -> Given:
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

    def raise_(a):
        return a + (abs(a) + 0.3) * draw.uniform(0, 0.5, a.shape)

    def normal(a):
        return draw.standard_normal(a.shape)

    return given._replace(
        params=_floats(move, given.params),
        state=_floats(raise_, given.state),
        x=_floats(mix, given.x),
        dy=_floats(normal, given.dy),
    )


def drawn(given: Given, seed: int = 1) -> Given:
    """As `shuffled`, but x from N(0, 1): neither saturated nor all zero."""
    given = shuffled(given, seed)
    draw = np.random.default_rng((seed, 1))  # independent of what moved the rest

    def normal(a):
        return a if _rows_sum_to_one(a) else _like(a, draw.standard_normal(a.shape))

    return given._replace(x=_floats(normal, given.x))


def wide(given: Given, seed: int = 2) -> Given:
    """As `drawn`, but x five times as large: where units saturate."""
    return _scaled(drawn(given, seed), lambda a: 5 * a)


def of_all_sizes(given: Given, seed: int = 3) -> Given:
    """As `drawn`, but x of both signs and of sizes between 0.001 and 100.

    dy is a thousand times as large: a backward that cuts it off shows.
    """
    draw = np.random.default_rng((seed, 2))
    far = _scaled(
        drawn(given, seed), lambda a: np.sign(a) * 10 ** draw.uniform(-3, 2, a.shape)
    )
    return far._replace(dy=_floats(lambda a: 1024 * a, far.dy))


def of_one_sign(given: Given, sign: int, seed: int = 4) -> Given:
    """As `drawn`, but x all positive, or with sign -1 all negative."""
    return _scaled(drawn(given, seed), lambda a: sign * np.abs(a))


def between(near: Given, far: Given, share: float) -> Given:
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


def beside(given: Given, seed: int, sign: int) -> Given:
    """`given` moved by a hair in a random direction, or with sign -1 in the opposite.

    Where a derivative jumps between the two there is a kink, or more than one.
    """
    draw = np.random.default_rng(seed)

    def nudge(a):
        return a + sign * AWAY * _size(a) * draw.standard_normal(a.shape)

    # float64: a difference of a hair would be lost in float32
    return given._replace(
        params=_floats(nudge, given.params, np.float64),
        x=_floats(nudge, given.x, np.float64),
    )


def nudged(given: Given, argument: str, moves: Mapping[tuple, float]) -> Given:
    """`given` with single entries of one argument moved, in units of a hair."""

    def nudge(a):
        a = np.array(a, np.float64)
        step = AWAY * _size(a)
        for index, count in moves.items():
            a[index] += count * step
        return a

    trees = given.x, given.params
    named = arguments(trees)
    new = [nudge(a) if name == argument else a for name, a in named.items()]
    x, params = jax.tree.structure(trees).unflatten(new)
    return given._replace(x=x, params=params)


def last_digits(given: Given, eps: float, seed: int) -> Given:
    """`given` with every number changed by about `eps` of itself, dy too."""
    draw = np.random.default_rng(seed)

    def nudge(a):
        return a * (1 + eps * draw.standard_normal(a.shape))

    return given._replace(
        params=_floats(nudge, given.params, np.float64),
        x=_floats(nudge, given.x, np.float64),
        dy=_floats(nudge, given.dy, np.float64),
    )


def cast(tree: Any, dtype: Any) -> Any:
    """`tree` as JAX arrays, floating-point ones in `dtype`; PRNG keys as they are."""

    def one(a):
        if not is_float(a):
            return jnp.asarray(a)
        return jnp.asarray(np.asarray(a), dtype)

    return jax.tree.map(one, tree)


def _floats(change, tree, dtype=np.float32):
    """`tree` with its floating-point arrays changed, as NumPy arrays.

    As a rule rounded to float32: the same point then exists in both precisions.
    """

    def one(a):
        if not is_float(a):
            return a
        return np.asarray(change(np.asarray(a).astype(np.float64))).astype(dtype)

    return jax.tree.map(one, tree)


def _scaled(given, change):
    def one(a):
        return a if _rows_sum_to_one(a) else _like(a, change(a))

    return given._replace(x=_floats(one, given.x))


def _rows_sum_to_one(a) -> bool:
    """Whether it holds probabilities, or classes one-hot: those are no free numbers."""
    if a.ndim < 1 or a.shape[-1] < 2 or not (a >= 0).all():
        return False
    return bool(np.abs(a.sum(-1) - 1).max(initial=0) < 1e-5)


def _like(a, new):
    """`new`, symmetric if a is, rising if a is."""
    if a.ndim == 2 and a.shape[0] == a.shape[1] > 1 and np.array_equal(a, a.T):
        return (new + new.T) / 2
    if a.ndim == 1 and a.size > 2 and (np.diff(a) > 0).all():
        return np.sort(new)
    return new


def _size(a) -> float:
    """Typical size of an entry, 1 where all are 0."""
    finite = a[np.isfinite(a)]
    if not finite.size or not finite.any():
        return 1.0
    largest = np.abs(finite).max()
    return float(largest * np.sqrt(np.square(finite / largest).mean()))
