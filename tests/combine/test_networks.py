"""Classical networks against `jax.grad`; draws, costs and names of networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn.check import compare_gradients
from jaxnn.combine import (
    dense_block,
    mlp,
    parallel,
    residual,
    serial,
    share,
    siamese,
    stack,
)
from jaxnn.layers import (
    avg_pool,
    batch_norm,
    conv,
    dense,
    dropout,
    flatten,
    global_avg_pool,
    log_softmax,
    max_pool,
    relu,
    sigmoid,
    tanh,
)
from jaxnn.losses import mse, softmax_cross_entropy
from jaxnn.rules import sub
from tests.layers.cases import KEY, drawn, traced_init
from tests.rules.common import assert_trees_close, normal


def lenet():
    """LeCun et al. 1998."""
    return serial(
        *(conv(6, 5), tanh, avg_pool(2)),
        *(conv(16, 5, padding="VALID"), tanh, avg_pool(2)),
        *(flatten, dense(120), tanh, dense(84), tanh, dense(10)),
    )


def resnet(width=4, blocks=2):
    """He et al. 2016: two stages, the second at half the resolution."""

    def block(width, stride=1):
        first = (conv(width, 3, stride, bias=False), batch_norm(), relu)
        inner = serial(*first, conv(width, 3, bias=False), batch_norm())
        shortcut = serial(conv(width, 1, stride, bias=False), batch_norm())
        return serial(residual(inner, None if stride == 1 else shortcut), relu)

    stem = (conv(width, 3, bias=False), batch_norm(), relu)
    stages = (stack(block(width), blocks), block(2 * width, stride=2))
    return serial(*stem, *stages, global_avg_pool, dense(10))


def inception(width=2):
    """Szegedy et al. 2015: branches of different reach, joined along the channels."""

    def module():
        pointwise = serial(conv(width, 1), relu)
        three = serial(conv(width, 1), relu, conv(width, 3), relu)
        five = serial(conv(width, 1), relu, conv(width, 5), relu)
        pooled = serial(max_pool(3, 1, "SAME"), conv(width, 1), relu)
        return parallel(pointwise, three, five, pooled, merge="concatenate")

    return serial(module(), max_pool(2), conv(width), global_avg_pool, dense(10))


def twins():
    """Koch et al. 2015: are the two images of a pair of one class?"""
    trunk = serial(conv(3, 3), relu, max_pool(2), flatten, dense(8), sigmoid)
    return serial(siamese(trunk, merge=sub), dense(2))


def refiner():
    """An autoencoder whose code is refined by one layer in three places."""

    def network(shared):
        encoder = serial(flatten, dense(8), tanh, shared, tanh)
        decoder = serial(dropout(0.2), residual(serial(shared, tanh)), dense(12))
        return serial(encoder, shared, decoder)

    return share(dense(8), network)


NETWORKS = {  # network, shape of an input, loss, targets
    lenet: ((14, 14, 1), softmax_cross_entropy, np.array([3, 0, 9])),
    resnet: ((5, 6, 2), softmax_cross_entropy, np.array([3, 0, 9])),
    inception: ((6, 4, 1), softmax_cross_entropy, np.array([3, 0, 9])),
    twins: ((2, 5, 4, 1), softmax_cross_entropy, np.array([1, 0, 1])),
    refiner: ((3, 4), mse, normal(3, 12)),
}


@pytest.mark.parametrize(
    "build",
    [pytest.param(b, marks=pytest.mark.slow) if b is resnet else b for b in NETWORKS],
    ids=lambda build: build.__name__,
)
def test_gradients_of_a_classical_network(build):
    in_shape, loss, y = NETWORKS[build]
    net, x = build(), normal(3, *in_shape)
    params, state = traced_init(net, in_shape)
    params, state = drawn(params, 10), jax.tree.map(jnp.exp, drawn(state, 20))
    report = compare_gradients(
        net, loss, params, state, x, y, key=KEY, dtypes=("float64",)
    )
    assert report.passed, report.table()


def test_shared_parameters_of_the_refiner_are_one_set():
    params, _ = traced_init(refiner(), (3, 4))
    shapes = sorted(a.shape for a in jax.tree.leaves(params))
    assert shapes == [(8,), (8,), (8, 8), (8, 12), (12,), (12, 8)]


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


def test_backward_costs_no_more_than_autodiff():
    net = mlp([784, 30, 30, 10])
    params, state = traced_init(net, (784,))
    x = jax.ShapeDtypeStruct((32, 784), jnp.float32)
    labels = jax.ShapeDtypeStruct((32,), jnp.int32)

    def manual(params, x, labels):
        logits, _, cache = net.forward(params, state, x, train=True)
        value, dlogits = softmax_cross_entropy(logits, labels)
        dx, dparams = net.backward(cache, dlogits)
        return value, (dparams, dx)

    def auto(params, x, labels):
        def loss(params, x):
            logits, _, _ = net.forward(params, state, x, train=True)
            return softmax_cross_entropy(logits, labels)[0]

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
    assert mlp([3, 2], output=log_softmax).parts[-1] is log_softmax
    assert mlp([3, 2], output="log_softmax").parts[-1].name == "log_softmax"


def test_network_names_its_parts():
    net = mlp([4, 3, 2], normalize=True, drop_rate=0.3, output="sigmoid")
    assert net.name == "mlp([4, 3, 2])"
    names = "flatten dense(3) batch_norm relu dropout(0.3) dense(2) sigmoid"
    assert [part.name for part in net.parts] == names.split()


def test_a_block_has_no_more_layers_than_it_is_asked_for():
    assert [layer.name for layer in dense_block(3, "relu")] == ["dense(3)", "relu"]


def test_no_bias_ahead_of_batch_norm():
    params, _, _ = mlp([4, 3, 2], normalize=True).init(KEY, (4,))
    assert set(params[1]) == {"w"}
    assert set(params[4]) == {"w", "b"}
