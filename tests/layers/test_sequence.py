"""Attention, embeddings, the norms of a sample, and spatial and Gaussian noise."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import layers as nn
from jaxnn.combine import serial
from jaxnn.errors import JaxnnError
from tests.layers.cases import KEY, drawn, traced_init
from tests.rules.common import assert_close, normal


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shape", [(2, 5, 6), (1, 1, 3)], ids=str)
def test_multi_head_attention_equals_torch(shape, causal):
    torch = pytest.importorskip("torch")
    _, t, d = shape
    layer = nn.multi_head_attention(3, causal=causal)
    x, dy = normal(*shape), normal(*shape, seed=1)
    params = drawn(traced_init(layer, (t, d))[0], 10)
    theirs = torch.nn.MultiheadAttention(d, 3, batch_first=True, dtype=torch.float64)
    names = ("w_in", "b_in", "w_out", "b_out")
    with torch.no_grad():
        for p, name in zip(theirs.parameters(), names, strict=True):
            p.copy_(torch.tensor(np.array(params[name].T)))
    leaf = torch.tensor(x, requires_grad=True)
    future = torch.triu(torch.ones(t, t, dtype=torch.bool), 1) if causal else None
    want, _ = theirs(leaf, leaf, leaf, attn_mask=future, need_weights=False)
    want.backward(torch.tensor(dy))
    y, _, cache = layer.forward(params, (), jnp.asarray(x), train=True)
    dx, dparams = layer.backward(cache, jnp.asarray(dy))
    assert_close(y, want.detach().numpy())
    assert_close(dx, leaf.grad.numpy(), 1e-11)
    for p, name in zip(theirs.parameters(), names, strict=True):
        # absolute: b_in has entries that are 0 but for rounding (softmax ignores them)
        wanted = p.grad.numpy().T
        np.testing.assert_allclose(dparams[name], wanted, rtol=0, atol=1e-11)


def test_head_width_is_free_of_the_features():
    params, _ = traced_init(nn.multi_head_attention(2, 5), (3, 4))
    assert params["w_in"].shape == (4, 30)
    assert params["w_out"].shape == (10, 4)


def test_embedding_takes_whole_floats_and_refuses_others_by_nan():
    layer = nn.embedding(3, 2)
    params, _, out_shape = layer.init(KEY, (4,))
    assert out_shape == (4, 2)
    x = jnp.array([[0, 2, 0.5, -1, 3, jnp.nan, jnp.inf, -jnp.inf, 1e30]])
    y, _, cache = layer.forward(params, (), x, train=True)
    np.testing.assert_array_equal(np.isnan(y[0, :, 0]), [0, 0] + [1] * 7)
    assert_close(y[0, :2], params["w"][np.array([0, 2])], 0)
    dx, grads = layer.backward(cache, jnp.ones(y.shape))
    assert_close(dx, np.zeros(x.shape), 0)
    assert grads["w"].tolist() == [[1, 1], [0, 0], [1, 1]]


def test_embedding_of_integers_gives_no_dx():
    net = serial(nn.embedding(3, 2), nn.flatten)
    params, state, _ = net.init(KEY, (4,))
    y, _, cache = net.forward(params, state, jnp.zeros((1, 4), int), train=True)
    assert net.backward(cache, y)[0] is None


def test_vectors_start_with_about_unit_length():
    w = nn.embedding(200, 50).init(KEY, (1,))[0]["w"]
    assert abs(jnp.linalg.norm(w, axis=1).mean() - 1) < 0.05


def test_positions_start_small():
    w = nn.positional_embedding().init(KEY, (50, 40))[0]["w"]
    assert abs(w.std() - 0.02) < 0.001


def test_group_norm_of_one_group_is_layer_norm_without_positions():
    x = jnp.asarray(normal(3, 6))
    params = drawn(traced_init(nn.layer_norm(), (6,))[0], 10)
    ys = [
        n.forward(params, (), x, train=True)[0]
        for n in (nn.layer_norm(), nn.group_norm())
    ]
    assert_close(*ys)


def test_spatial_dropout_drops_whole_channels():
    rate, shape = 0.3, (400, 3, 2, 50)
    layer = nn.spatial_dropout(rate)
    y, _, cache = layer.forward((), (), jnp.ones(shape), key=KEY, train=True)
    assert (y == y[:, :1, :1]).all()
    kept = np.asarray(y[:, 0, 0] > 0)
    assert abs(kept.mean() - 0.7) < 4.5 * math.sqrt(0.21 / kept.size)
    assert abs(y.max() * 0.7 - 1) < 2**-16
    assert (layer.backward(cache, jnp.ones(shape))[0] == y).all()
    assert np.ptp(kept.sum(0)) > 0  # each sample and channel on its own


def test_spatial_dropout_of_rows_is_dropout():
    x = jnp.ones((5, 40))
    one, other = (
        d(0.4).forward((), (), x, key=KEY, train=True)[0]
        for d in (nn.dropout, nn.spatial_dropout)
    )
    assert_close(one, other, 0)


def test_gaussian_noise_has_its_deviation_and_lets_gradients_through():
    layer, n = nn.gaussian_noise(0.3), 100_000
    x, dy = jnp.full((n, 1), 5.0), jnp.asarray(normal(n, 1))
    y, _, cache = layer.forward((), (), x, key=KEY, train=True)
    assert abs((y - x).mean()) < 4.5 * 0.3 / math.sqrt(n)
    assert abs((y - x).std() - 0.3) < 4.5 * 0.3 / math.sqrt(2 * n)
    assert_close(layer.backward(cache, dy)[0], dy, 0)
    half = layer.forward((), (), x.astype(jnp.bfloat16), key=KEY, train=True)[0]
    assert half.dtype == jnp.bfloat16


NOISES = [nn.dropout(0.3), nn.spatial_dropout(0.3), nn.gaussian_noise(0.3)]


@pytest.mark.parametrize("layer", NOISES)
def test_noise_ends_with_training(layer):
    x = jnp.ones((3, 2))
    y, _, cache = layer.forward((), (), x, train=False)
    assert (y == x).all()
    assert layer.backward(cache, x) == (x, ())
    with pytest.raises(JaxnnError, match=r"got key=None, expected a PRNG key"):
        layer.forward((), (), x, train=True)
