"""The layers that every layer test takes, and gradients by hand beside `jax.vjp`."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn import layers as nn
from tests.rules.common import normal

KEY = jax.random.key(7)


class LayerCase(NamedTuple):
    """One layer and what to feed it."""

    layer: nn.Layer
    in_shape: tuple[int, ...]
    batch: int
    make_x: Callable | None = None
    """() -> x, where N(0, 1) of (batch, *in_shape) will not do: indices, lengths. An
    input that is not float has no gradient: `backward` gives None in its place."""


def padded():
    """(3, 4, 2) with steps of nothing but -1; single features of -1 are data."""
    x = normal(3, 4, 2, seed=5)
    x[0, 2:], x[1], x[2, 1, 0] = -1, -1, -1
    return x


def indices():
    return np.array([[0, 4, 4], [2, 0, 1]], np.int32)


FLAT: list[tuple] = [  # (layer, in_shape, batch), or with `make_x`
    (nn.batch_norm(), (3,), 5), (nn.batch_norm(0.5, 1e-3), (2, 3, 1), 2),
    (nn.dense(3), (4,), 5), (nn.dense(1), (1,), 1),
    (nn.dense(2, "xavier", bias=False), (3,), 2),
    (nn.dense(2, "lecun", bias="normal"), (3, 1, 5), 2),
    (nn.dropout(0.3), (7,), 3), (nn.dropout(0.0), (3,), 2),
    (nn.gaussian_noise(0.3), (7,), 3), (nn.gaussian_noise(0), (3,), 2),
    (nn.spatial_dropout(0.5), (3, 2, 4), 3), (nn.spatial_dropout(0.3), (5,), 2),
    (nn.spatial_dropout(0.0), (3,), 2), (nn.standardize(0.1307, 0.3081), (2, 3, 1), 3),
    (nn.elu(), (5,), 3), (nn.elu(0.3), (3, 1, 2), 1),
    (nn.gelu(), (5,), 3), (nn.gelu(approximate=True), (5,), 3),
    (nn.leaky_relu(), (5,), 3), (nn.leaky_relu(0.2), (5,), 3),
    (nn.log_softmax, (5,), 3), (nn.relu, (5,), 3), (nn.relu, (3, 1, 2), 1),
    (nn.softmax, (5,), 3), (nn.softmax, (2, 1), 1),
    (nn.swish(), (5,), 3), (nn.swish(2.0), (5,), 3),
    (nn.crop(), (4, 3, 2), 2), (nn.crop([(0, 1), (2, 0)]), (2, 3), 1),
    (nn.crop([0]), (1,), 1),
    (nn.flatten, (3, 1, 2), 2), (nn.flatten, (4,), 1), (nn.flatten, (), 3),
    (nn.pad(), (2, 3, 1), 2), (nn.pad([(0, 1), 2], "edge"), (2, 3), 1),
    (nn.pad(2, "reflect"), (4, 3, 2), 2), (nn.pad(3, "reflect"), (2, 1), 1),
    (nn.pad([(1, 2)]), (1,), 1),
    (nn.reshape(2, 3, 1), (6,), 2), (nn.reshape(-1, 2), (3, 4), 1),
    (nn.reshape(), (1, 1), 3),
    (nn.transpose(2, 0, 1), (2, 3, 4), 2), (nn.transpose(), (2, 3), 1),
    (nn.transpose(-1, 0), (2, 3), 3), (nn.transpose(), (), 2),
    (nn.upsample(), (2, 3, 1), 2), (nn.upsample((1, 3)), (2, 1, 2), 1),
    (nn.upsample(2, "linear"), (3, 2, 2), 2), (nn.upsample(3, "linear"), (4, 1), 1),
    (nn.embedding(5, 3), (3,), 2, indices),
    (nn.embedding(5, 2, padding=0), (3,), 2, indices),
    (nn.embedding(5, 2), (3,), 2, lambda: indices().astype(float)),
    (nn.embedding(3, 1), (), 2, lambda: np.array([2, 0])),
    (nn.group_norm(2), (2, 3, 4), 2), (nn.group_norm(), (3,), 1),
    (nn.gru(3), (4, 2), 3), (nn.gru(2, True, mask_value=-1), (4, 2), 3, padded),
    (nn.layer_norm(), (5,), 3), (nn.layer_norm(1e-3), (2, 1, 4), 1),
    (nn.lstm(3), (4, 2), 3), (nn.lstm(1, True), (1, 1), 1),
    (nn.lstm(2, go_backwards=True, mask_value=-1), (4, 2), 3, padded),
    (nn.multi_head_attention(2), (3, 4), 2), (nn.multi_head_attention(1), (1, 1), 1),
    (nn.multi_head_attention(3, 2, causal=True, bias=False), (4, 5), 2),
    (nn.positional_embedding(), (3, 2), 2),
    (nn.positional_embedding("normal"), (3, 2), 2, lambda: jnp.ones((2, 1, 2))),
    (nn.rnn(3), (4, 2), 3), (nn.rnn(2, True, activation="relu"), (2, 3), 2),
    (nn.avg_pool(2), (4, 5, 2), 2), (nn.avg_pool(3, 2, "SAME"), (4, 4, 1), 1),
    (nn.conv(3), (5, 4, 2), 2), (nn.conv(1, 1), (1, 1, 1), 1),
    (nn.conv(4, (3, 2), 2, "VALID", groups=2, bias=False), (5, 6, 2), 3),
    (nn.conv(2, (3,), bias="normal", dilation=2), (6, 3), 2),
    (nn.conv1d(3), (5, 2), 2), (nn.conv1d(2, 4, 2, "VALID"), (7, 1), 1),
    (nn.conv_transpose(2, 3, 2), (3, 2, 2), 2),
    (nn.conv_transpose(3, (2,), 3, "VALID", bias=False), (4, 2), 1),
    (nn.depthwise_conv(3), (4, 5, 3), 2),
    (nn.depthwise_conv((2,), 2, multiplier=2), (5, 2), 1),
    (nn.global_avg_pool, (3, 2, 4), 2), (nn.global_avg_pool, (1, 1), 1),
    (nn.global_max_pool, (3, 2, 4), 2), (nn.global_max_pool, (5, 2), 1),
    (nn.max_pool(2), (4, 5, 2), 2), (nn.max_pool((3, 2), 1, "SAME"), (4, 3, 2), 2),
    (nn.max_pool((2,)), (6, 3), 1),
]  # fmt: skip
LAYER_CASES: dict[str, list[LayerCase]] = {}
"""Name in LAYERS -> its cases, the first of which is of the least settings."""
for case in FLAT:
    LAYER_CASES.setdefault(case[0].name.split("(")[0], []).append(LayerCase(*case))
# a new activation needs no row
for name, make in nn.ACTIVATIONS.items():
    LAYER_CASES.setdefault(name, [LayerCase(make(), (5,), 3)])
ALL = [case for cases in LAYER_CASES.values() for case in cases]


class Setup(NamedTuple):
    """A layer, and what its forward takes, all leaves drawn so that none is special."""

    layer: nn.Layer
    params: object
    state: object
    x: jax.Array

    def forward(self, params, x, train, key=KEY):
        return self.layer.forward(params, self.state, x, key=key, train=train)


def drawn(tree, seed):
    """N(0, 1) for every leaf: gamma = 1 and beta = 0 would hide mistakes."""
    leaves, structure = jax.tree.flatten(tree)
    arrays = [normal(*leaf.shape, seed=seed + i) for i, leaf in enumerate(leaves)]
    # unlike jnp.asarray, which compiles a program for each shape
    return jax.device_put(jax.tree.unflatten(structure, arrays))


def traced_init(layer, in_shape):
    """Shapes of params and state; drawing them would only cost compile time."""
    return jax.eval_shape(lambda: layer.init(KEY, in_shape)[:2])


def setup(layer, in_shape, batch, make_x=None):
    params, state = traced_init(layer, in_shape)
    x = normal(batch, *in_shape, seed=5) if make_x is None else make_x()
    # exp: keeps a running variance positive
    state = jax.device_put(jax.tree.map(np.exp, drawn(state, 20)))
    return Setup(layer, drawn(params, 10), state, jax.device_put(x))


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
    return jax.device_put(normal(*y.shape, seed=6))


def is_one_mode(case):
    """Whether training and evaluation are one computation: the same jaxpr and cache."""

    def traced(train):
        def forward(params, state, x):
            return case._replace(state=state).forward(params, x, train)

        made = jax.make_jaxpr(forward, return_shape=True)
        jaxpr, shapes = made(case.params, case.state, case.x)
        return str(jaxpr), jax.tree.structure(shapes)

    return traced(True) == traced(False)


def both(cases):
    """For train and eval: a list of (y, state, grads) by hand and grads by vjp."""
    modes = [(True,) if is_one_mode(case) else (True, False) for case in cases]

    # One program for all: compiling is what takes the time.
    @jax.jit
    def program(arrays):
        results = []
        for case, trains, (params, state, x, dy) in zip(
            cases, modes, arrays, strict=True
        ):
            case = case._replace(params=params, state=state)
            results.append(
                [(by_hand(case, x, dy, t), by_vjp(case, x, dy, t)) for t in trains]
            )
        return results

    found = program([(c.params, c.state, c.x, cotangent(c)) for c in cases])
    return {True: [each[0] for each in found], False: [each[-1] for each in found]}
