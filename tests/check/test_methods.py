"""Every way to a derivative, on functions whose derivative is known."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import dual
from experiments.dual import Dual
from jaxnn.check.methods import (
    METHODS,
    central,
    complex_step,
    inner,
    jacobian,
    kinks,
    not_analytic,
    random_direction,
    suspects,
    taylor_remainders,
    taylor_slope,
)
from jaxnn.errors import JaxnnError

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
    assert not_analytic(smooth, X, v) is None


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


def test_the_complex_step_says_where_it_is_wrong_and_why():
    x, v = jnp.array([0.5, -2.0]), jnp.array([1.0, 2.0])
    said = not_analytic(lambda x: jnp.abs(x).sum(), x, v)
    assert "not analytic" in said
    assert "abs" in said
    # an operation inside of another function is found too
    assert "abs" in suspects(lambda x: jax.jit(jnp.abs)(x).sum(), x)
    with pytest.raises(JaxnnError, match="takes no complex numbers"):
        complex_step(lambda x: jnp.clip(x, 0, 1).sum(), x, v)
    assert "no complex numbers" in not_analytic(lambda x: jnp.clip(x, 0, 1).sum(), x, v)
    # a relu compares real parts, which is what its derivative needs
    assert not_analytic(lambda x: jnp.where(x <= 0, 0, x).sum(), x, v) is None


@pytest.mark.parametrize("along", [METHODS["forward"], central, complex_step])
def test_a_jacobian_by_columns(along):
    w = jnp.arange(6.0).reshape(2, 3)

    def f(x):
        return jnp.tanh(w @ x["a"]) * x["b"]

    x = {"a": jnp.array([0.1, -0.2, 0.3]), "b": jnp.array(2.0)}
    want = jax.jacfwd(f)(x)
    got = jacobian(f, x, along)
    np.testing.assert_allclose(
        got, jnp.concatenate([want["a"], want["b"][:, None]], 1), rtol=1e-8
    )


def test_taylor_slope_tells_a_right_gradient_from_one_a_percent_off():
    steps = np.logspace(-1, -5, 9)
    gradient, v = jax.grad(smooth)(X), random_direction(X, seed=3)
    right = taylor_remainders(smooth, gradient, X, v, steps)
    assert taylor_slope(right, steps, 1e-14) >= 1.9
    off = jax.tree.map(lambda g: 1.01 * g, gradient)
    assert taylor_slope(taylor_remainders(smooth, off, X, v, steps), steps, 1e-14) < 1.4
    assert taylor_slope(np.zeros(9), steps, 1e-14) == math.inf  # a straight line


def test_kinks_within_a_step_are_counted():
    x, v = jnp.array([1e-4, 1.0, -1e-4]), jnp.ones(3)
    assert kinks(lambda x: jnp.abs(x).sum(), x, v, 1e-3) == 2
    assert kinks(lambda x: jnp.abs(x).sum(), x, v, 1e-5) == 0
    assert kinks(lambda x: (x**3).sum(), x, v, 1e-5) == 0


SCALAR = {
    "polynomial": (lambda x: x**3 - 2 * x + 1 / x, lambda x: x**3 - 2 * x + 1 / x),
    "powers": (lambda x: 2.0**x + x**x + x**0, lambda x: 2.0**x + x**x + 1.0),
    "exp log": (lambda x: dual.exp(x) * dual.log(x), lambda x: jnp.exp(x) * jnp.log(x)),
    "sqrt": (lambda x: 3 - dual.sqrt(1 + x), lambda x: 3 - jnp.sqrt(1 + x)),
    "sin cos": (lambda x: dual.sin(x) / dual.cos(x), jnp.tan),
    "tanh": (lambda x: dual.tanh(x * x), lambda x: jnp.tanh(x * x)),
    "sigmoid": (lambda x: dual.sigmoid(-x), lambda x: jax.nn.sigmoid(-x)),
    "abs max": (
        lambda x: abs(x - 1) + dual.maximum(x, 0.5),
        lambda x: jnp.abs(x - 1) + jnp.maximum(x, 0.5),
    ),
    "branch": (lambda x: x * x if x > 1 else -x, lambda x: jnp.where(x > 1, x * x, -x)),
    "constant": (lambda x: 4.0, lambda x: 4.0 + 0 * x),
}


@pytest.mark.parametrize("name", SCALAR)
@pytest.mark.parametrize("x", [0.3, 1.7])
def test_dual_numbers_agree_with_jax_on_floats(name, x):
    ours, theirs = SCALAR[name]
    want = float(jax.grad(lambda x: 1.0 * theirs(x))(x))
    assert float(dual.derivative(ours, x)) == pytest.approx(want, rel=1e-13, abs=1e-15)


def test_dual_numbers_work_on_arrays_and_matrix_products():
    draw = np.random.default_rng(0)
    w, x = draw.normal(size=(3, 2)), draw.normal(size=(4, 3))

    def ours(w):
        return (dual.tanh(x @ w)[1:] * 2.0).sum()

    want = jax.grad(lambda w: (jnp.tanh(x @ w)[1:] * 2.0).sum())(w)
    np.testing.assert_allclose(dual.gradient(ours, w), want, rtol=1e-13)
    elementwise = dual.derivative(dual.exp, np.array([0.0, 1.0]))
    np.testing.assert_allclose(elementwise, [1, math.e])
    left = dual.gradient(lambda a: (Dual(x) @ a + a[0]).sum(), np.ones(3))
    np.testing.assert_allclose(left, x.sum(0) + np.array([4, 0, 0]))


def test_a_dual_gradient_needs_one_number():
    with pytest.raises(JaxnnError, match=r"shape \(2,\), expected one number"):
        dual.gradient(lambda x: x * x, [1.0, 2.0])


def test_dual_maximum_is_flat_at_the_kink_of_a_relu():
    assert dual.derivative(lambda x: dual.maximum(x, 0.0), 0.0) == 0
    assert dual.maximum(Dual(2.0, 1.0), 1.0).derivative == 1
