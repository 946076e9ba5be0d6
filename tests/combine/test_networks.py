"""Classical networks against `jax.grad`; draws, costs and names of networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import layers as nn
from jaxnn.check import compare_gradients
from jaxnn.combine import (
    dense_block,
    mlp,
    residual,
    serial,
    stack,
)
from jaxnn.losses import softmax_cross_entropy
from tests.layers.cases import KEY, drawn, traced_init
from tests.rules.common import assert_trees_close, normal


def lenet():
    """LeCun et al. 1998."""
    return serial(
        *(nn.conv(6, 5), nn.tanh, nn.avg_pool(2)),
        *(nn.conv(16, 5, padding="VALID"), nn.tanh, nn.avg_pool(2)),
        *(nn.flatten, nn.dense(120), nn.tanh, nn.dense(84), nn.tanh, nn.dense(10)),
    )


def resnet(width=4, blocks=2):
    """He et al. 2016: two stages, the second at half the resolution."""

    def block(width, stride=1):
        first = (nn.conv(width, 3, stride, bias=False), nn.batch_norm(), nn.relu)
        inner = serial(*first, nn.conv(width, 3, bias=False), nn.batch_norm())
        shortcut = serial(nn.conv(width, 1, stride, bias=False), nn.batch_norm())
        return serial(residual(inner, None if stride == 1 else shortcut), nn.relu)

    stem = (nn.conv(width, 3, bias=False), nn.batch_norm(), nn.relu)
    stages = (stack(block(width), blocks), block(2 * width, stride=2))
    return serial(*stem, *stages, nn.global_avg_pool, nn.dense(10))


NETWORKS = {  # network, shape of an input, loss, targets
    lenet: ((14, 14, 1), softmax_cross_entropy, np.array([3, 0, 9])),
    resnet: ((5, 6, 2), softmax_cross_entropy, np.array([3, 0, 9])),
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


def test_appending_a_layer_leaves_earlier_draws():
    hidden = nn.dense(4, "xavier_uniform")
    first = (hidden, nn.dropout(0.5), hidden, nn.dropout(0.5))
    nets = serial(*first), serial(*first, nn.dropout(0.5), nn.dense(3, "zeros"))

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
    assert mlp([3, 2], output=nn.log_softmax).parts[-1] is nn.log_softmax
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
