"""Dual numbers: forward mode in plain Python."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import dual
from experiments.dual import Dual
from jaxnn.errors import JaxnnError

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
