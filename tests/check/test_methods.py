"""Every way to a derivative, on functions whose derivative is known."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn.check.methods import (
    METHODS,
    central,
    complex_step,
    inner,
    jumps,
    move,
    random_direction,
    suspects,
    taylor_slope,
)
from jaxnn.combine import serial
from jaxnn.errors import JaxnnError
from jaxnn.layers import dense, tanh
from jaxnn.losses import softmax_cross_entropy

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


@pytest.mark.parametrize(("step", "count"), [(1e-3, 2), (1e-5, 0)])
def test_kinks_within_a_step_are_counted(step, count):
    x, v = jnp.array([1e-4, 1.0, -1e-4]), jnp.ones(3)
    sides = (jax.grad(lambda x: jnp.abs(x).sum())(move(x, h, v)) for h in (step, -step))
    assert jumps(*sides) == count
