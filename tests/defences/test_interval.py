"""Bounds hold for every point of a box, are exact where they can be, and train."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import mlp, serial
from jaxnn.defences.interval import interval, margins
from jaxnn.layers import (
    avg_pool,
    conv,
    dense,
    flatten,
    leaky_relu,
    max_pool,
    relu,
    reshape,
    sigmoid,
    softplus,
    standardize,
    tanh,
)
from jaxnn.robustness import ibp
from tests.rules.common import assert_close, assert_trees_close, normal

KEY = jax.random.key(0)
NETS = {
    "mlp": (mlp([6, 5, 4, 3], "relu", bias="normal"), (6,)),
    "conv": (
        serial(
            standardize(0.4, 0.2), reshape(6, 6, 1), conv(3, 3, 2), leaky_relu(0.1),
            serial(conv(2, 2, bias=False), sigmoid, max_pool(2, 1), avg_pool(2, 1)),
            flatten, dense(4), softplus, dense(3, bias=False),
        ),
        (6, 6),
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=NETS)
def case(request):
    """Pictures, a network, its interval twin and margins: everything in one program."""
    net, shape = NETS[request.param]
    params, state, _ = net.init(jax.random.key(3), shape)
    params = jax.tree.map(lambda a: a + 0.1, params)  # no zeros: |w| has no kink there
    x = jnp.asarray(np.random.default_rng(0).uniform(0, 1, (8, *shape)))
    y, e = jnp.arange(8) % 3, 0.1
    twin, joined = interval(net), margins(net)
    ends = x - e, x + e
    dy = jnp.asarray(normal(8, 3)), jnp.asarray(normal(8, 3, seed=1))

    @jax.jit
    def run(params):
        out, _, cache = twin.forward(params, state, ends, train=False)
        hand = twin.backward(cache, dy)
        auto = jax.vjp(
            lambda p, ends: twin.forward(p, state, ends, train=False)[0], params, ends
        )[1](dy)
        worst, kept = joined.forward(params, state, x, y, e, train=True)
        back = joined.backward(kept, dy[0])
        automatically = jax.vjp(
            lambda p: joined.forward(p, state, x, y, e, train=True)[0], params
        )[1](dy[0])[0]
        noise = jax.random.uniform(KEY, (200, *x.shape), x.dtype, -1, 1)
        corners = jnp.sign(noise[:100]) * e
        near = x[None] + jnp.concatenate([corners, noise[100:] * e])
        points = jnp.clip(near, 0, 1).reshape(-1, *shape)
        z = net.forward(params, state, points, train=False)[0].reshape(200, 8, 3)
        z_near = net.forward(params, state, near.reshape(-1, *shape), train=False)[0]
        return {
            "out": out, "hand": hand, "auto": auto, "worst": worst, "back": back,
            "automatic": automatically, "z": z, "z_near": z_near.reshape(200, 8, 3),
        }  # fmt: skip

    return net, params, state, x, y, e, jax.device_get(run(params))


def test_no_point_of_the_box_leaves_the_bounds(case):
    *_, y, _, found = case
    lower, upper = found["out"]
    assert (found["z_near"] >= lower - 1e-9).all()
    assert (found["z_near"] <= upper + 1e-9).all()
    own = np.take_along_axis(found["z"], np.asarray(y)[None, :, None], -1)
    assert (found["z"] - own <= found["worst"] + 1e-9).all()
    apart = upper - np.take_along_axis(lower, np.asarray(y)[:, None], 1)
    wrong = np.arange(3)[None] != np.asarray(y)[:, None]
    assert (found["worst"] <= apart + 1e-9)[wrong].all()


def test_backward_by_hand_is_that_of_jax(case):
    found = case[-1]
    (dx, dparams), (want_dparams, want_dx) = found["hand"], found["auto"]
    assert_trees_close(dparams, want_dparams)
    assert_trees_close(dx, want_dx)
    assert_trees_close(found["back"], found["automatic"])


def test_a_budget_of_nothing_gives_the_outputs_themselves():
    net, shape = NETS["mlp"]
    params, state, _ = net.init(KEY, shape)
    x = jnp.asarray(np.random.default_rng(1).uniform(0, 1, (5, *shape)))
    y = jnp.arange(5) % 3
    z = net.forward(params, state, x, train=False)[0]
    worst, _ = margins(net).forward(params, state, x, y, 0.0, train=False)
    assert_close(worst, z - jnp.take_along_axis(z, y[:, None], 1))
    proven = ibp.verify(net, params, state, x, y, epsilon=0)
    assert (proven == (z.argmax(-1) == y)).all()


def test_the_bound_of_a_linear_network_is_exact():
    net = dense(3)
    w, b = jnp.asarray(normal(6, 3)), jnp.asarray(normal(3))
    x = jnp.full((3, 6), 0.5)
    worst, _ = margins(net).forward(
        {"w": w, "b": b}, (), x, jnp.arange(3), 0.2, train=False
    )
    for k in range(3):
        d = w - w[:, [k]]
        want = x[0] @ d + 0.2 * jnp.abs(d).sum(0) + b - b[k]
        assert_close(worst[k], want)


def test_nan_proves_nothing():
    net, shape = NETS["mlp"]
    params, state, _ = net.init(KEY, shape)
    x = jnp.full((2, *shape), 0.5).at[1, 2].set(jnp.nan)
    y = net.forward(params, state, x, train=False)[0].argmax(-1)
    proven = ibp.verify(net, params, state, x, y, epsilon=1e-6)
    assert proven.tolist() == [True, False]


def test_layers_have_the_bounds_their_names_promise():
    for layer in (relu, tanh, sigmoid, softplus):
        ends = jnp.array([[-2.0, 0.0]]), jnp.array([[1.0, 3.0]])
        (low, high), *_ = interval(layer).forward((), (), ends, train=False)
        assert_close(low, layer.forward((), (), ends[0], train=False)[0])
        assert_close(high, layer.forward((), (), ends[1], train=False)[0])
