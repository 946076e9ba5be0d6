"""Every way to a derivative, on functions whose derivative is known."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import mlp, residual, serial
from jaxnn.check.compare import Comparison
from jaxnn.check.methods import (
    METHODS,
    central,
    complex_step,
    hessian_vector,
    inner,
    jumps,
    largest_eigenvalue,
    move,
    random_direction,
    suspects,
    taylor_slope,
)
from jaxnn.errors import JaxnnError
from jaxnn.layers import batch_norm, dense, layer_norm, lstm, tanh
from jaxnn.losses import softmax_cross_entropy
from jaxnn.regularize import l2
from tests.train.problem import blobs

X = {"a": jnp.array([0.3, -1.2]), "b": (jnp.array(0.7),)}


def smooth(x):
    a, b = x["a"], x["b"][0]
    return (jnp.tanh(a) * jnp.exp(b)).sum() + (a**3).sum() / (1 + b**2)


def test_all_methods_agree_on_a_smooth_function_of_a_tree():
    v = random_direction(X)
    want = float(inner(jax.grad(smooth)(X), v))
    limits = {
        "reverse": 1e-14,
        "forward": 1e-14,
        "complex_step": 1e-14,
        "central": 1e-9,
    }
    assert set(METHODS) == set(limits)
    for name, along in METHODS.items():
        assert float(along(smooth, X, v)) == pytest.approx(want, rel=limits[name]), name
    assert suspects(smooth, X) == set()


def test_central_difference_is_exact_for_a_parabola():
    x, v = jnp.array([2.0, 3.0]), jnp.array([1.0, -1.0])
    got = central(lambda x: (x * x).sum(), x, v, 0.5)
    assert float(got) == pytest.approx(4 - 6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_the_best_step_is_good_in_each_precision(dtype):
    x = jnp.linspace(-1, 1, 9).astype(dtype)
    got = central(lambda x: jnp.sin(x).sum(), x, jnp.ones_like(x))
    limit = 3e-4 if dtype == jnp.float32 else 1e-9
    assert float(got) == pytest.approx(float(jnp.cos(x).sum()), rel=limit)


def test_operations_that_the_complex_step_does_not_pass_are_named():
    x, v = jnp.array([0.5, -2.0]), jnp.array([1.0, 2.0])
    # inside of another function too
    assert suspects(lambda x: jax.jit(jnp.abs)(x).sum(), x) == {"abs"}
    with pytest.raises(JaxnnError, match="takes no complex numbers"):
        complex_step(lambda x: jnp.clip(x, 0, 1).sum(), x, v)
    # a relu compares real parts, which is what its derivative needs
    assert float(complex_step(lambda x: jnp.where(x <= 0, 0, x).sum(), x, v)) == 1


def test_layers_and_losses_take_the_complex_step():
    net = serial(dense(3), tanh)
    params, state, _ = net.init(jax.random.key(0), (2,))
    x, y = np.ones((4, 2)), np.arange(4) % 3

    def f(x):
        pred = net.forward(params, state, x, train=True)[0]
        return softmax_cross_entropy(pred, y)[0]

    got, want = (along(f, x, x) for along in (complex_step, METHODS["reverse"]))
    assert float(got) == pytest.approx(float(want), rel=1e-13)


def test_taylor_slope_tells_a_right_gradient_from_one_a_percent_off():
    steps = np.logspace(-1, -5, 9)
    gradient, v = jax.grad(smooth)(X), random_direction(X, seed=3)
    rises = np.array([float(smooth(move(X, h, v)) - smooth(X)) for h in steps])
    slope = float(inner(gradient, v))
    assert taylor_slope(abs(rises - steps * slope), steps, 1e-14) >= 1.9
    assert taylor_slope(abs(rises - 1.01 * steps * slope), steps, 1e-14) < 1.4
    assert taylor_slope(np.zeros(9), steps, 1e-14) == math.inf  # a straight line


@pytest.mark.parametrize(
    ("function", "step", "count"),
    [(jnp.abs, 1e-3, 2), (jnp.abs, 1e-5, 0), (lambda x: x**3, 1e-5, 0)],
)
def test_kinks_within_a_step_are_counted(function, step, count):
    x, v = jnp.array([1e-4, 1.0, -1e-4]), jnp.ones(3)
    slope = jax.grad(lambda x: function(x).sum())
    assert jumps(*(slope(move(x, h, v)) for h in (step, -step))) == count


POINTS, Y = blobs(16)
NETS = {
    "mlp": (mlp([6, 5, 3], "tanh", normalize=True), POINTS),
    "residual": (
        serial(dense(4), residual(serial(layer_norm(), tanh)), dense(3)),
        POINTS,
    ),
    "lstm": (serial(lstm(3), batch_norm(), dense(3)), POINTS.reshape(16, 3, 2)),
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
