"""Second order: forward mode through the backward passes written by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import mlp, residual, serial
from jaxnn.check.compare import Comparison
from jaxnn.check.methods import (
    hessian_vector,
    largest_eigenvalue,
    random_direction,
)
from jaxnn.layers import batch_norm, dense, layer_norm, lstm, tanh
from jaxnn.losses import softmax_cross_entropy
from jaxnn.regularize import l2
from tests.train.problem import blobs

X, Y = blobs(16)
NETS = {
    "mlp": (mlp([6, 5, 3], "tanh", normalize=True), X),
    "residual": (serial(dense(4), residual(serial(layer_norm(), tanh)), dense(3)), X),
    "lstm": (serial(lstm(3), batch_norm(), dense(3)), X.reshape(16, 3, 2)),
}


def gradients(name, penalty=None):
    net, x = NETS[name]
    params, state, _ = net.init(jax.random.key(0), x.shape[1:])
    case = Comparison(net, softmax_cross_entropy, params, state, x, Y, penalty=penalty)
    return case.gradients("float64"), params


@pytest.mark.parametrize("name", NETS)
def test_products_with_the_hessian_equal_those_of_jax(name):
    (by_hand, by_jax), params = gradients(name, l2(0.1))
    v = random_direction(params)

    @jax.jit
    def both(p, v):
        return hessian_vector(by_hand, p, v), hessian_vector(by_jax, p, v)

    got, want = both(params, v)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        scale = max(float(jnp.abs(b).max()), 1e-12)
        np.testing.assert_allclose(a / scale, b / scale, atol=1e-12)


def test_power_iteration_finds_the_largest_eigenvalue():
    (by_hand, by_jax), params = gradients("mlp")
    flat, unflatten = jax.flatten_util.ravel_pytree(params)

    def gradient(flat):
        return jax.flatten_util.ravel_pytree(by_jax(unflatten(flat)))[0]

    eigenvalues = np.linalg.eigvalsh(jax.jit(jax.jacfwd(gradient))(flat))
    want = eigenvalues[np.abs(eigenvalues).argmax()]
    found = jax.jit(
        lambda p, k: largest_eigenvalue(by_hand, p, k, steps=500, tolerance=1e-5)
    )(params, jax.random.key(0))
    assert float(found.value) == pytest.approx(want, rel=1e-6)
    assert float(found.residual) <= 1e-5
    assert 1 < int(found.steps) < 500


def test_a_straight_function_has_no_curvature():
    found = largest_eigenvalue(
        lambda p: jax.tree.map(jnp.ones_like, p), {"a": jnp.ones(3)}, jax.random.key(0)
    )
    assert float(found.value) == 0
    assert int(found.steps) == 1


def test_a_saddle_has_a_negative_eigenvalue():
    def gradient(p):  # of x^2 - 3 y^2
        return jnp.array([2.0, -6.0]) * p

    found = largest_eigenvalue(gradient, jnp.zeros(2), jax.random.key(0))
    assert float(found.value) == pytest.approx(-6, rel=1e-5)
