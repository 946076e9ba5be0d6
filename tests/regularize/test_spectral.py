"""The largest singular value: of any matrix, converged as promised, never a NaN."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn.regularize import largest_singular, max_spectral_norm, spectral_norm
from tests.rules.common import assert_close, normal


def with_singular_values(rows, columns, values):
    """A matrix with those singular values, the others 0."""
    u, _ = np.linalg.qr(normal(rows, len(values)))
    v, _ = np.linalg.qr(normal(columns, len(values), seed=1))
    return (u * np.asarray(values)) @ v.T


MATRICES = {
    "larger than the basis": with_singular_values(50, 40, [3, 2.9, *np.ones(20)]),
    "tall": normal(7, 3), "wide": normal(3, 7), "one entry": normal(1, 1),
    "a row": normal(1, 5), "a column": normal(5, 1),
    "rank one": with_singular_values(6, 4, [2.0]), "huge": 1e150 * normal(4, 3),
    "tiny": 1e-150 * normal(4, 3), "negative": -np.ones((3, 3)),
    "diagonal": np.diag([1.0, 3.0, 2.0]),
}  # fmt: skip


@pytest.mark.parametrize("w", MATRICES.values(), ids=MATRICES)
def test_value_and_vectors_are_those_of_the_svd(w):
    s, u, v = jax.jit(largest_singular, static_argnums=1)(jnp.asarray(w), 30)
    us, ss, vs = np.linalg.svd(w)
    assert_close(s, ss[0])
    assert_close(np.outer(u, v), np.outer(us[:, 0], vs[0]), 1e-11)


def test_more_steps_come_nearer_from_below():
    w = jnp.asarray(normal(60, 50))
    true = np.linalg.norm(w, 2)
    short = [1 - float(largest_singular(w, k)[0]) / true for k in (2, 5, 10, 20, 50)]
    assert all(a > b for a, b in itertools.pairwise(short))
    assert short[-2] < 1e-3
    assert abs(short[-1]) < 1e-14


def test_a_shared_largest_value_has_a_subgradient():
    w = jnp.asarray(with_singular_values(5, 4, [2.0, 2.0, 1.0]))
    value, dw = spectral_norm(1.0)({"w": w})
    assert_close(value, 2.0)
    # of norm 1 and inside the span of both pairs: s changes by 1 along it
    assert_close(jnp.vdot(dw["w"], w), 2.0)
    assert_close(jnp.linalg.norm(dw["w"], 2), 1.0)


@pytest.mark.parametrize("shape", [(4, 3), (0, 3), (3, 0)])
def test_weights_of_zero_or_none_have_value_and_gradient_0(shape):
    value, dw = spectral_norm(0.5)({"w": jnp.zeros(shape)})
    assert value == 0
    assert dw["w"].shape == shape
    assert not dw["w"].any()
    assert max_spectral_norm(1.0)({"w": jnp.zeros(shape)})["w"].shape == shape


def test_a_nan_stays_in_sight():
    w = {"w": jnp.ones((3, 2)).at[1, 1].set(jnp.nan)}
    value, dw = jax.jit(spectral_norm(1.0))(w)
    assert np.isnan(value)
    assert np.isnan(dw["w"]).any()
    assert np.isnan(jax.jit(max_spectral_norm(1.0))(w)["w"]).any()


@pytest.mark.parametrize("limit", [0.5, 100.0])
def test_the_projection_scales_only_what_is_above_the_limit(limit):
    params = {"w": jnp.asarray(normal(3, 3, 2, 5)), "b": jnp.ones(5)}
    after = jax.jit(max_spectral_norm(limit))(params)
    before = np.linalg.norm(params["w"].reshape(18, 5), 2)
    assert_close(after["w"], params["w"] * min(1, limit / before))
    assert (after["b"] == 1).all()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_projection_keeps_the_type_and_takes_huge_weights(dtype):
    w = jax.jit(max_spectral_norm(2.0))({"w": jnp.full((4, 4), 1e30, dtype)})["w"]
    assert w.dtype == dtype
    np.testing.assert_allclose(w.astype(float), 0.5, rtol=1e-2)


def test_jax_grad_of_the_value_is_the_gradient_even_before_it_converged():
    params = {"w": jnp.asarray(normal(60, 50))}
    penalty = spectral_norm(0.4, steps=3)
    by_jax = jax.grad(lambda p: penalty(p)[0])(params)
    assert_close(penalty(params)[1]["w"], by_jax["w"])
