"""Dual numbers: forward mode in plain Python."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import dual
from experiments.dual import Dual

SCALAR = {
    "quotient": (lambda x: x * x * x - 2 * x + 1 / x, lambda x: x**3 - 2 * x + 1 / x),
    "exp log": (lambda x: dual.exp(x) * dual.log(x), lambda x: jnp.exp(x) * jnp.log(x)),
    "tanh": (
        lambda x: dual.tanh(-x * x) / (3 - x),
        lambda x: jnp.tanh(-x * x) / (3 - x),
    ),
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
    w, x, along = draw.normal(size=(3, 2)), draw.normal(size=(4, 3)), np.ones((3, 2))

    def ours(w):
        return (dual.tanh(x @ w)[1:] * 2.0).sum()

    want = jax.grad(lambda w: (jnp.tanh(x @ w)[1:] * 2.0).sum())(w)
    got = ours(Dual(w, along)).derivative
    np.testing.assert_allclose(got, (want * along).sum(), rtol=1e-13)
    elementwise = dual.derivative(dual.exp, np.array([0.0, 1.0]))
    np.testing.assert_allclose(elementwise, [1, math.e])
    left = (Dual(x) @ Dual(np.ones(3), np.eye(3)[1])).sum().derivative
    np.testing.assert_allclose(left, x.sum(0)[1])
