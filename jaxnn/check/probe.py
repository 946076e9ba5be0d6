"""Other places to look at a layer from: values at which a wrong formula cannot hide.

At initialisation much is 0 or 1: a backward that forgets gamma, or a term with the mean
of dy, returns the right numbers there. A derivative that is right is right anywhere, so
each layer is also asked at inputs, parameters and cotangents that were never special.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.check.watch import Given

AWAY = 1e-7  # how far "beside" is, relative to the array's typical entry


def shuffled(given: Given, seed: int = 0) -> Given:
    """The same entries of x in another order, so within the layer's domain.

    Parameters and state are moved by about a third, dy is drawn from N(0, 1).
    Statistics such as variances stay positive.
    """
    draw = np.random.default_rng(seed)

    def mix(a):
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
        return draw.standard_normal(a.shape)

    return given._replace(x=_floats(normal, given.x))


def wide(given: Given, seed: int = 2) -> Given:
    """As `drawn`, but x five times as large: where units saturate."""
    given = drawn(given, seed)
    return given._replace(x=_floats(lambda a: 5 * a, given.x))


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
        if not _is_float(a):
            return jnp.asarray(a)
        return jnp.asarray(np.asarray(a), dtype)

    return jax.tree.map(one, tree)


def _floats(change, tree, dtype=np.float32):
    """`tree` with its floating-point arrays changed, as NumPy arrays.

    As a rule rounded to float32: the same point then exists in both precisions.
    """

    def one(a):
        if not _is_float(a):
            return a
        return np.asarray(change(np.asarray(a).astype(np.float64))).astype(dtype)

    return jax.tree.map(one, tree)


def _size(a) -> float:
    """Typical size of an entry, 1 where all are 0."""
    finite = a[np.isfinite(a)]
    if not finite.size or not finite.any():
        return 1.0
    largest = np.abs(finite).max()
    return float(largest * np.sqrt(np.square(finite / largest).mean()))


def _is_float(a) -> bool:
    return jnp.issubdtype(a.dtype, jnp.floating)
