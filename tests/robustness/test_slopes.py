"""K18: a tie at a kink is told from a wrong backward pass."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import Classifier, rules, serial
from jaxnn.combine import residual
from jaxnn.layers import conv, dense, flatten, max_pool, pointwise, relu, tanh
from jaxnn.robustness.slopes import gradient_truth
from jaxnn.rules import Rule

BOX = (0.0, 1.0)


def images(count=20):
    """A few strokes on a flat background, as digits are: full of ties."""
    x = np.zeros((count, 8, 8, 1), np.float32)
    x[:, 2:6, 3:5] = np.random.default_rng(0).uniform(0.2, 1, (count, 4, 2, 1))
    return x


def network(pool=None, between=None, before=None):
    """A small convolutional network with a pool, and layers that can be wrong."""
    parts = [before, conv(4, 3), relu, max_pool(2), between, flatten, dense(3)]
    if pool is not None:
        parts[3] = pool
    return serial(*[part for part in parts if part is not None])


def truth(net, x=None):
    x = images() if x is None else x
    params, state, _ = net.init(jax.random.key(0), x.shape[1:])
    return gradient_truth(Classifier(net, params, state), x, BOX)


def rule(fwd, bwd, name="layer"):
    return pointwise(Rule(name, fwd, bwd), name)


def route(choose):
    """A 2x2 max pool whose backward sends dy where `choose(windows, y)` says."""
    right = max_pool(2)

    def backward(cache, dy):
        x, y = cache
        b, h, w, c = x.shape
        grid = x.reshape(b, h // 2, 2, w // 2, 2, c)
        share = choose(grid, y[:, :, None, :, None])
        dx = share * dy[:, :, None, :, None]
        return dx.reshape(x.shape), ()

    def forward(params, state, x, *, key=None, train):
        x = x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]
        y, state, _ = right.forward(params, state, x, key=key, train=train)
        return y, state, (x, y)

    return right._replace(forward=forward, backward=backward)


def identity(bwd):
    return rule(lambda x: (x, x), bwd)


HONEST = {
    "max pool on a flat background": network(),
    "max pool of the pixels": serial(max_pool(2), flatten, tanh, dense(3)),
    "relu at 0": serial(relu, flatten, dense(6, bias=False), relu, dense(3)),
    "|x| at 0": serial(
        rule(lambda x: (jnp.abs(x - 0.0), x), lambda x, dy: (jnp.sign(x) * dy,)),
        flatten, dense(3),
    ),
    "a staircase, flat between its steps": network(
        before=rule(lambda x: (jnp.round(7 * x) / 7, ()), lambda _, dy: (0 * dy,))
    ),
    "residual": network(between=residual(serial(conv(4, 3, padding="same"), tanh))),
}  # fmt: skip

WRONG = {  # a wrong sign, no gradient, straight through: test_causes.py
    "one part in a thousand": network(between=identity(lambda x, dy: (1.001 * dy,))),
    "max pool to the smallest": network(
        route(lambda g, y: (g == g.min((2, 4), keepdims=True)) * 1.0)
    ),
    "max pool to all": network(route(lambda g, y: jnp.ones_like(g))),
    "max pool of the pixels, every tie gets all of dy": serial(
        route(lambda g, y: (g == y) * 1.0), flatten, dense(3)
    ),
    "relu that lets all pass": serial(
        conv(4, 3), rule(lambda x: rules.relu.fwd(x), lambda _, dy: (dy,)), flatten,
        dense(3),
    ),
    "NaN": network(between=identity(lambda x, dy: (jnp.nan * dy,))),
}  # fmt: skip


@pytest.mark.parametrize("name", HONEST)
def test_a_right_backward_pass_is_not_blamed_for_ties(name):
    found = truth(HONEST[name])
    assert not found.surely_wrong
    assert found.slopes[0] >= 20  # enough slopes are judged to mean something


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_backward_pass_is_found(name):
    assert truth(WRONG[name]).surely_wrong


def test_wrong_for_one_image_of_many_is_not_beyond_error():
    def bwd(x, dy):
        bad = jnp.arange(len(dy)) == 3
        return (jnp.where(bad.reshape(-1, *[1] * (dy.ndim - 1)), -dy, dy),)

    found = truth(network(between=identity(bwd)), images(100))
    assert found.wrong.sum() == 1
    assert not found.surely_wrong


def test_without_jax_grad_the_slopes_decide():
    def outside(x, sign):
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        y = jax.pure_callback(np.tanh, shape, x)
        return y, y

    def layer(sign):
        return rule(
            partial(outside, sign=sign), lambda y, dy: (sign * (1 - y * y) * dy,)
        )

    right, wrong = (truth(network(between=layer(s))) for s in (1, -1))
    assert right.automatic is None
    assert not right.surely_wrong
    assert wrong.surely_wrong
