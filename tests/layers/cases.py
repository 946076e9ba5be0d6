"""The layers that every layer test takes, and gradients by hand beside `jax.vjp`."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxnn.layers import Layer
from tests.layers import (
    cases_activations,
    cases_basic,
    cases_conv,
    cases_sequence,
    cases_shape,
)
from tests.rules.common import normal

KEY = jax.random.key(7)


class LayerCase(NamedTuple):
    """One layer and what to feed it; a plain tuple of the first three will do."""

    layer: Layer
    in_shape: tuple[int, ...]
    batch: int
    make_x: Callable | None = None
    """() -> x, where N(0, 1) of (batch, *in_shape) will not do: indices, lengths. An
    input that is not float has no gradient: `backward` gives None in its place."""


# name in LAYERS -> [(layer, in_shape, batch), or a LayerCase]. A new family of layers
# gets a file cases_<family>.py beside this one and a line here.
LAYER_CASES: dict[str, list] = {
    **cases_basic.CASES,
    **cases_activations.CASES,
    **cases_shape.CASES,
    **cases_sequence.CASES,
    **cases_conv.CASES,
}
ALL = [LayerCase(*case) for cases in LAYER_CASES.values() for case in cases]


class Setup(NamedTuple):
    """A layer, and what its forward takes, all leaves drawn so that none is special."""

    layer: Layer
    params: object
    state: object
    x: jax.Array

    def forward(self, params, x, train, key=KEY):
        return self.layer.forward(params, self.state, x, key=key, train=train)


def drawn(tree, seed):
    """N(0, 1) for every leaf: gamma = 1 and beta = 0 would hide mistakes."""
    leaves, structure = jax.tree.flatten(tree)
    arrays = [
        jnp.asarray(normal(*leaf.shape, seed=seed + i)) for i, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(structure, arrays)


def traced_init(layer, in_shape):
    """Shapes of params and state; drawing them would only cost compile time."""
    return jax.eval_shape(lambda: layer.init(KEY, in_shape)[:2])


def setup(layer, in_shape, batch, make_x=None):
    params, state = traced_init(layer, in_shape)
    x = normal(batch, *in_shape, seed=5) if make_x is None else make_x()
    # exp: keeps a running variance positive
    state = jax.tree.map(jnp.exp, drawn(state, 20))
    return Setup(layer, drawn(params, 10), state, jax.tree.map(jnp.asarray, x))


def by_hand(case, x, dy, train):
    """y, the new state and (dx, dparams), by the layer's own backward."""
    y, state, cache = case.forward(case.params, x, train)
    return y, state, case.layer.backward(cache, dy)


def by_vjp(case, x, dy, train):
    """(dx, dparams) by `jax.vjp`; None for an x, or a leaf of x, that is not float."""
    leaves, structure = jax.tree.flatten(x)
    floats = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, float)]

    def forward(values, params):
        x = list(leaves)
        for i, value in zip(floats, values, strict=True):
            x[i] = value
        return case.forward(params, jax.tree.unflatten(structure, x), train)[0]

    dvalues, dparams = jax.vjp(forward, [leaves[i] for i in floats], case.params)[1](dy)
    dx = [None] * len(leaves)
    for i, d in zip(floats, dvalues, strict=True):
        dx[i] = d
    return jax.tree.unflatten(structure, dx), dparams


def cotangent(case):
    """A dy for that Setup."""
    y = jax.eval_shape(lambda: case.forward(case.params, case.x, True)[0])
    return jnp.asarray(normal(*y.shape, seed=6))


def both(cases):
    """For train and eval: a list of (y, state, grads) by hand and grads by vjp."""

    # One program for all: compiling is what takes the time.
    @jax.jit
    def program(arrays):
        results = {True: [], False: []}
        for case, (params, state, x, *dys) in zip(cases, arrays, strict=True):
            case = case._replace(params=params, state=state)
            for train, dy in zip(results, dys, strict=True):
                each = by_hand(case, x, dy, train), by_vjp(case, x, dy, train)
                results[train].append(each)
        return results

    dys = [cotangent(case) for case in cases]
    return program(
        [(c.params, c.state, c.x, dy, dy) for c, dy in zip(cases, dys, strict=True)]
    )
