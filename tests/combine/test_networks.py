"""Classical networks, against `jax.grad`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn.check import compare_gradients
from jaxnn.combine import parallel, residual, serial, share, siamese, stack
from jaxnn.layers import (
    avg_pool,
    batch_norm,
    conv,
    dense,
    dropout,
    flatten,
    global_avg_pool,
    max_pool,
    relu,
    sigmoid,
    tanh,
)
from jaxnn.losses import mse, softmax_cross_entropy
from jaxnn.rules import sub
from tests.layers.cases import KEY, drawn, traced_init
from tests.rules.common import normal


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
