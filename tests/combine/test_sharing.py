import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.combine import freeze, serial, share, siamese, stack
from jaxnn.layers import batch_norm, dense, relu, tanh
from jaxnn.train import fit
from jaxnn.train.checkpoint import load_params, save_params
from tests.layers.cases import KEY, setup, traced_init
from tests.rules.common import assert_trees_close, normal


def thrice(d):
    return serial(d, tanh, stack(serial(d, tanh), 2))


def test_shared_parameters_are_there_once():
    params, state = traced_init(share(dense(3), thrice), (3,))
    assert [a.shape for a in jax.tree.leaves(params)] == [(3,), (3, 3)]
    assert params["shared"].keys() == {"w", "b"}
    assert jax.tree.leaves(state) == []


def test_shared_gradient_is_the_sum_over_the_places():
    net, untied = share(dense(3), thrice), serial(*[dense(3), tanh] * 3)
    x, dy = jnp.asarray(normal(4, 3)), jnp.asarray(normal(4, 3, seed=1))

    @jax.jit
    def both():
        params, state, _ = net.init(KEY, (3,))
        y, _, cache = net.forward(params, state, x, train=True)
        dx, grads = net.backward(cache, dy)
        p = params["shared"]
        want, _, cache = untied.forward((p, ()) * 3, ((),) * 6, x, train=True)
        want_dx, (a, _, b, _, c, _) = untied.backward(cache, dy)
        total = jax.tree.map(lambda a, b, c: a + b + c, a, b, c)
        return (y, dx, grads["shared"]), (want, want_dx, total)

    assert_trees_close(*both())


def test_shared_parameters_are_drawn_as_those_of_the_first_place():
    params, _, _ = share(dense(3), thrice).init(KEY, (3,))
    untied, _, _ = thrice(dense(3)).init(KEY, (3,))
    assert_trees_close(params["shared"], untied[0], 0)


def test_each_place_keeps_its_own_statistics():
    net = share(batch_norm(0.0), lambda b: serial(b, relu, b))
    case = setup(net, (2,), 5)
    assert len(jax.tree.leaves(case.params)) == 2
    _, state, _ = case.forward(case.params, case.x, True)
    first, _, second = state
    np.testing.assert_allclose(first["mean"], case.x.mean(0))
    assert (first["mean"] != second["mean"]).all()


def test_a_frozen_layer_may_be_shared():
    params, state, _ = share(freeze(dense(3)), thrice).init(KEY, (3,))
    assert jax.tree.leaves(params) == []
    first, _, (stacked, _) = state
    assert_trees_close(
        stacked["params"], jax.tree.map(lambda a: jnp.stack([a, a]), first["params"]), 0
    )


def test_shared_network_trains_saves_and_loads(tmp_path):
    net = serial(share(dense(4), lambda d: serial(d, tanh, d)), dense(2))
    x = normal(64, 4).astype(np.float32)
    history = fit(net, (x, (x[:, 0] > 0).astype(np.int32)), epochs=5, batch=16)
    assert history.epochs[-1]["loss"] < history.epochs[0]["loss"]
    save_params(tmp_path / "p.npz", history.params)
    params, _ = traced_init(net, (4,))
    assert_trees_close(load_params(tmp_path / "p.npz", params), history.params, 0)


def test_siamese_joins_what_one_layer_makes_of_each():
    inner = serial(dense(3), tanh)
    case = setup(siamese(inner), (2, 4), 5)
    y, _, _ = case.forward(case.params, case.x, True)
    each = [
        inner.forward(case.params, ((), ()), case.x[:, i], train=True)[0]
        for i in range(2)
    ]
    assert_trees_close(y, jnp.concatenate(each, -1))
