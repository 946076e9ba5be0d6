"""What the table of cases cannot say of attention, embedding and the norms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import rules
from tests.rules.common import assert_close, normal, run


def drawn(t=3, s=4, d=2, e=2):
    return normal(2, t, d), normal(2, s, d, seed=1), normal(2, s, e, seed=2)


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32, jnp.bfloat16])
def test_query_that_sees_nothing_gives_zero_and_no_gradient(dtype):
    q, k, v = (a.astype(dtype) for a in drawn())
    mask = np.ones((2, 3, 4), bool)
    mask[0, 1] = mask[1] = False
    found = run(rules.attention(), (q, k, v, mask), np.ones_like(q))
    y, (dq, dk, dv) = jax.device_get(found)
    assert not np.any(y[0, 1])
    assert not np.any(y[1])
    assert not np.any(dq[0, 1])
    assert not any(np.any(d[1]) for d in (dq, dk, dv))
    assert all(np.isfinite(a.astype(float)).all() for a in (y, dq, dk, dv))
    assert np.all(y[0, 0])


def test_what_is_not_seen_has_weight_exactly_zero():
    q, k, v = drawn(4, 4)
    past = rules.attention(causal=True)
    forward = jax.jit(past.fwd)
    y, cache = jax.device_get(forward(q, k, v))
    assert (np.triu(cache.weights[0], 1) == 0).all()
    assert_close(cache.weights.sum(-1), np.ones((2, 4)))
    for a in (q, k, v):
        a[:, 2:] *= 1e6
    assert_close(np.asarray(forward(q, k, v)[0])[:, :2], y[:, :2], 0)


def test_weights_survive_scores_of_any_size():
    q, k, v = (a.astype("float32") for a in drawn())
    mask, dy = np.ones((2, 3, 4), bool), np.ones((2, 3, 2), "float32")
    mask[:, 0, 1:] = False
    for scale in (1e-30, 1e15):
        given = np.float32(scale) * q, k, v, mask
        y, cotangents = jax.device_get(run(rules.attention(), given, dy))
        assert all(np.isfinite(a).all() for a in (y, *cotangents))
        assert_close(y[:, 0], v[:, 0], 0)


def test_nan_among_the_keys_is_not_swallowed():
    forward = jax.jit(lambda *a: rules.attention().fwd(*a)[0])
    for which in (1, 2):
        args = drawn()
        args[which][0, 1] = np.nan
        y = np.asarray(forward(*args))
        assert np.isnan(y[0]).all()
        assert np.isfinite(y[1]).all()


def test_second_derivatives_are_finite_where_rows_see_nothing():
    q, k, v = drawn()
    mask = np.ones((2, 3, 4), bool)
    mask[0, 1] = False

    def dq(q):
        return run(rules.attention(), (q, k, v, mask), jnp.ones((2, 3, 2)))[1][0]

    def dq_of_jax(q):
        def total(q):
            scores = jnp.einsum("btd,bsd->bts", q, k) / np.sqrt(2)
            scores = jnp.where(mask, scores, -1e9)
            weights = jax.nn.softmax(scores) * mask.any(-1, keepdims=True)
            return jnp.einsum("bts,bse->", weights, v)

        return jax.grad(total)(q)

    tangent = normal(2, 3, 2, seed=7)

    @jax.jit
    def both(q, tangent):
        return [jax.jvp(f, (q,), (tangent,))[1] for f in (dq, dq_of_jax)]

    assert_close(*both(q, tangent), 1e-11)


@pytest.mark.parametrize("dtype", [jnp.int64, jnp.int8])
def test_index_outside_the_table_gives_nan_and_learns_nothing(dtype):
    x, w = np.array([0, 3, -1, 2, 100], dtype), normal(3, 2)
    y, (dw,) = jax.device_get(run(rules.embedding(), (x, w), np.ones((5, 2))))
    np.testing.assert_array_equal(np.isnan(y[:, 0]), [0, 1, 1, 0, 1])
    assert_close(y[np.array([0, 3])], w[np.array([0, 2])], 0)
    assert dw.tolist() == [[1, 1], [0, 0], [1, 1]]


def test_embedding_sums_bfloat16_in_float32():
    x, w = np.zeros(1024, int), np.zeros((1, 1), jnp.bfloat16)
    _, (dw,) = run(rules.embedding(), (x, w), np.ones((1024, 1), jnp.bfloat16))
    assert dw.tolist() == [[1024]]


@pytest.mark.parametrize("rule", [rules.layer_norm(), rules.group_norm(3)])
def test_one_value_is_its_own_mean(rule):
    x = np.array([[1e30, -7.0, 0.0]])
    x = x if rule.name == "group_norm" else x.T
    ones = np.ones(x.shape[1])
    given = x, 2 * ones, 3 * ones
    y, (dx, dgamma, dbeta) = jax.device_get(run(rule, given, np.ones(x.shape)))
    assert (y == 3).all()
    assert not np.any(dx)
    assert not np.any(dgamma)
    assert (dbeta == x.shape[0]).all()
