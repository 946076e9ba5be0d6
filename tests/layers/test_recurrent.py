"""Recurrent layers: starts, masks through a network, torch, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn.combine import serial
from jaxnn.layers import dense, embedding, gru, lstm, rnn
from tests.layers.cases import KEY, drawn, traced_init
from tests.rules.common import assert_close, assert_trees_close, normal

KINDS = {"rnn": rnn, "lstm": lstm, "gru": gru}


@pytest.mark.parametrize("name", KINDS)
def test_recurrent_weights_start_orthogonal_in_each_gate(name):
    params, state, out_shape = KINDS[name](6).init(KEY, (5, 4))
    gates = {"rnn": 1, "lstm": 4, "gru": 3}[name]
    assert (state, out_shape) == ((), (6,))
    assert params["w"].shape == (4, 6 * gates)
    for u in jnp.split(params["u"], gates, 1):
        assert_close(u.T @ u, np.eye(6), 1e-13)
    limit = np.sqrt(6 / (4 + 6))  # Glorot's, of one gate
    assert 0.8 * limit < abs(params["w"]).max() <= limit


def test_forget_gate_starts_open():
    for bias in (1.0, 2.5):
        params, _, _ = lstm(2, forget_bias=bias).init(KEY, (3, 1))
        assert params["b"].tolist() == [0, 0, bias, bias, 0, 0, 0, 0]


def test_gates_draw_differently():
    params, _, _ = gru(3).init(KEY, (2, 3))
    gates = jnp.split(params["w"], 3, 1) + jnp.split(params["u"], 3, 1)
    assert len({g.tobytes() for g in map(np.asarray, gates)}) == 6


def test_sequence_may_be_longer_or_shorter_than_in_shape():
    layer = lstm(2, True)
    params, state, out_shape = layer.init(KEY, (3, 4))
    assert out_shape == (3, 2)
    for steps in (0, 1, 7):
        y, _, _ = layer.forward(params, state, jnp.ones((1, steps, 4)), train=False)
        assert y.shape == (1, steps, 2)


def words(*rows):
    """Indices, 0 where a row is shorter than the longest."""
    longest = max(map(len, rows))
    return jnp.array([[*row, *[0] * (longest - len(row))] for row in rows])


TEXTS = [[3, 1, 4], [1], [], [5, 2]]


def test_padding_reaches_through_a_network():
    net = serial(
        embedding(6, 3, padding=0),
        gru(2, True, mask_value=0),
        lstm(2, mask_value=0),
        dense(2),
    )
    params = drawn(traced_init(net, (3,))[0], 10)
    dy = jnp.asarray(normal(4, 2))

    @jax.jit
    def run(x, dy):
        y, _, cache = net.forward(params, ((),) * 4, x, train=True)
        return y, net.backward(cache, dy)[1]

    y, together = run(words(*TEXTS), dy)
    more, padded = run(jnp.pad(words(*TEXTS), ((0, 0), (0, 2))), dy)
    assert_close(more, y)
    assert_trees_close(padded, together)
    total = jax.tree.map(jnp.zeros_like, params)
    for i, text in enumerate(TEXTS):
        text = [0] * (3 - len(text)) + text  # padded in front: the same shape again
        alone, grads = run(jnp.array([text], int), dy[i : i + 1])
        assert_close(alone, y[i : i + 1])
        total = jax.tree.map(jnp.add, total, grads)
    assert_trees_close(total, together)
    assert not np.any(together[0]["w"][0])


def test_step_counts_unless_all_its_features_are_the_mask_value():
    layer = lstm(2, True, mask_value=-1)
    params, _, _ = layer.init(KEY, (3, 2))
    x = jnp.array([[[-1, 0.5], [-1, -1], [jnp.nan, -1]]])
    y, _, _ = layer.forward(params, (), x, train=False)
    assert np.all(y[0, 0])
    assert not np.any(y[0, 1])
    assert np.isnan(y[0, 2]).all()
