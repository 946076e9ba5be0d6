import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import layers, losses
from jaxnn.combine import mlp, residual, serial
from jaxnn.layers import batch_norm, dense, dropout, flatten, relu, standardize, tanh
from tests.layers.cases import KEY, both, drawn, setup, traced_init
from tests.rules.common import assert_trees_close, normal

NETWORKS = {
    "one layer": (mlp([3, 2]), (3,), 4),
    "narrow": (mlp([5, 1, 1, 3], "leaky_relu"), (5,), 4),
    "two hidden layers of 30, images": (mlp([784, 30, 30, 10]), (28, 28), 3),
    "five hidden layers": (mlp([3, 4, 3, 4, 3, 4, 2], "softplus"), (3,), 2),
    "xor": (
        mlp([2, 2, 1], "tanh", init="normal", bias="normal", output="sigmoid"),
        (2,),
        4,
    ),
    "no bias": (mlp([4, 3, 2], layers.leaky_relu(0.2), bias=False), (4,), 1),
    "batch norm and dropout": (
        mlp([6, 5, 3], normalize=True, drop_rate=0.3),
        (3, 2),
        5,
    ),
    "residual": (
        serial(dense(3), residual(serial(batch_norm(), relu, dense(3)))),
        (2,),
        4,
    ),
    "residual of residual": (residual(residual(dense(3))), (3,), 2),
    "nested": (
        serial(
            serial(dense(3), tanh), serial(), serial(serial(dropout(0.3)), dense(2))
        ),
        (4,),
        3,
    ),
    "no layers": (serial(), (3,), 2),
    "images": (
        serial(standardize(0.1, 0.3), batch_norm(), dense(2), flatten, dense(3)),
        (3, 1, 2),
        2,
    ),
}


@functools.cache
def network(name):
    (train,), (evaluation,) = both([setup(*NETWORKS[name])]).values()
    return {True: train, False: evaluation}


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", NETWORKS)
def test_backward_of_network_equals_vjp(name, train):
    (_, _, grads), vjp = network(name)[train]
    assert_trees_close(grads, vjp)
    # a dead relu would leave nothing to compare
    assert all(np.any(d) for d in jax.tree.leaves(vjp))


@pytest.mark.parametrize("factor", [-1, 1.01, 0])
def test_checker_fails_a_mutant_of_each_gradient(factor):
    (_, _, grads), vjp = network("residual")[True]
    leaves, structure = jax.tree.flatten(grads)
    assert len(leaves) == 7  # dx, two dense layers, a batch norm
    for i in range(len(leaves)):
        mutant = [factor * d if j == i else d for j, d in enumerate(leaves)]
        with pytest.raises(AssertionError, match="Not equal to tolerance"):
            assert_trees_close(jax.tree.unflatten(structure, mutant), vjp)


def test_residual_sums_both_paths():
    net = residual(dense(2))
    x, params = jnp.ones((1, 2)), {"w": 3 * jnp.eye(2), "b": jnp.zeros(2)}
    y, _, cache = net.forward(params, (), x, train=True)
    dx, _ = net.backward(cache, jnp.ones((1, 2)))
    assert y.tolist() == [[4, 4]]
    assert dx.tolist() == [[4, 4]]


def test_appending_a_layer_leaves_earlier_draws():
    hidden = dense(4, "xavier_uniform")
    first = (hidden, dropout(0.5), hidden, dropout(0.5))
    nets = serial(*first), serial(*first, dropout(0.5), dense(3, "zeros"))

    @jax.jit
    def draws():
        results = []
        for net in nets:
            params, state, _ = net.init(KEY, (4,))
            x = jnp.ones((9, 4))
            caches = net.forward(params, state, x, key=KEY, train=True)[2]
            results.append((params[:4], caches[1], caches[3]))
        return results

    (params, *masks), (more_params, *more_masks) = draws()
    assert_trees_close(more_params, params, 0)
    assert_trees_close(more_masks, masks, 0)
    # equal layers draw differently all the same
    assert (masks[0] != masks[1]).any()
    assert (params[0]["w"] != params[2]["w"]).all()


def test_jvp_through_backward_is_the_hessian():
    net = serial(
        dense(3), layers.sigmoid, batch_norm(), layers.softplus, dense(2), tanh
    )
    case = setup(net, (2,), 4)
    target = jnp.asarray(normal(4, 2))
    direction = drawn(case.params, 30)

    def manual_grad(params):
        y, _, cache = case.forward(params, case.x, True)
        return net.backward(cache, losses.mse(y, target)[1])[1]

    def loss(params):
        return losses.mse(case.forward(params, case.x, True)[0], target)[0]

    @jax.jit
    def products(params):
        return [
            jax.jvp(grad, (params,), (direction,))[1]
            for grad in (manual_grad, jax.grad(loss))
        ]

    assert_trees_close(*products(case.params), 1e-11)


def test_backward_costs_no_more_than_autodiff():
    net = mlp([784, 30, 30, 10])
    params, state = traced_init(net, (784,))
    x = jax.ShapeDtypeStruct((32, 784), jnp.float32)
    labels = jax.ShapeDtypeStruct((32,), jnp.int32)

    def manual(params, x, labels):
        logits, _, cache = net.forward(params, state, x, train=True)
        value, dlogits = losses.softmax_cross_entropy(logits, labels)
        dx, dparams = net.backward(cache, dlogits)
        return value, (dparams, dx)

    def auto(params, x, labels):
        def loss(params, x):
            logits, _, _ = net.forward(params, state, x, train=True)
            return losses.softmax_cross_entropy(logits, labels)[0]

        return jax.value_and_grad(loss, (0, 1))(params, x)

    def flops(function, which):
        def chosen(*args):
            value, grads = function(*args)
            return value, grads[which]

        compiled = jax.jit(chosen).lower(params, x, labels).compile()
        return compiled.cost_analysis()["flops"]

    for which in (0, 1):  # training reads dparams, attacks read dx
        assert flops(manual, which) <= 1.01 * flops(auto, which)


def test_mlp_can_end_in_the_log_softmax_that_nll_wants():
    assert mlp([3, 2], output=layers.log_softmax).parts[-1] is layers.log_softmax
    assert mlp([3, 2], output="log_softmax").parts[-1].name == "log_softmax"


def test_network_names_its_parts():
    net = mlp([4, 3, 2], normalize=True, drop_rate=0.3, output="sigmoid")
    assert net.name == "mlp([4, 3, 2])"
    assert [part.name for part in net.parts] == [
        "flatten",
        "dense(3)",
        "batch_norm",
        "relu",
        "dropout(0.3)",
        "dense(2)",
        "sigmoid",
    ]


def test_no_bias_ahead_of_batch_norm():
    params, _, _ = mlp([4, 3, 2], normalize=True).init(KEY, (4,))
    assert set(params[1]) == {"w"}
    assert set(params[4]) == {"w", "b"}
