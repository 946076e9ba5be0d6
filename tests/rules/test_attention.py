"""What the table of cases cannot say of attention, embedding and the norms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import rules
from tests.rules.common import assert_close, normal, run


def drawn(t=3, s=4, d=2, e=2):
    q, k, v = normal(2, t, d), normal(2, s, d, seed=1), normal(2, s, e, seed=2)
    return [jnp.asarray(a) for a in (q, k, v)]


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32, jnp.bfloat16])
def test_query_that_sees_nothing_gives_zero_and_no_gradient(dtype):
    q, k, v = (a.astype(dtype) for a in drawn())
    mask = jnp.ones((2, 3, 4), bool).at[0, 1].set(False).at[1].set(False)
    y, (dq, dk, dv) = run(rules.attention(), (q, k, v, mask), jnp.ones_like(q))
    assert not np.any(y[0, 1])
    assert not np.any(y[1])
    assert not np.any(dq[0, 1])
    assert not any(np.any(d[1]) for d in (dq, dk, dv))
    assert all(np.isfinite(a.astype(float)).all() for a in (y, dq, dk, dv))
    assert np.all(y[0, 0])


def test_what_is_not_seen_has_weight_exactly_zero():
    q, k, v = drawn(4, 4)
    past = rules.attention(causal=True)
    y, cache = past.fwd(q, k, v)
    assert (np.triu(cache.weights[0], 1) == 0).all()
    assert_close(cache.weights.sum(-1), np.ones((2, 4)))
    later = [a.at[:, 2:].mul(1e6) for a in (q, k, v)]
    assert_close(past.fwd(*later)[0][:, :2], y[:, :2], 0)


def test_weights_survive_scores_of_any_size():
    q, k, v = (a.astype(jnp.float32) for a in drawn())
    mask = jnp.ones((2, 3, 4), bool).at[:, 0, 1:].set(False)
    dy = jnp.ones((2, 3, 2), jnp.float32)
    for scale in (1e-30, 1e15):
        y, cotangents = run(rules.attention(), (scale * q, k, v, mask), dy)
        assert all(np.isfinite(a).all() for a in (y, *cotangents))
        assert_close(y[:, 0], v[:, 0], 0)


def test_nan_among_the_keys_is_not_swallowed():
    q, k, v = drawn()
    for args in ((q, k.at[0, 1].set(jnp.nan), v), (q, k, v.at[0, 1].set(jnp.nan))):
        y = jax.jit(lambda *a: rules.attention().fwd(*a)[0])(*args)
        assert np.isnan(y[0]).all()
        assert np.isfinite(y[1]).all()


def test_second_derivatives_are_finite_where_rows_see_nothing():
    q, k, v = drawn()
    mask = jnp.ones((2, 3, 4), bool).at[0, 1].set(False)

    def dq(q):
        return run(rules.attention(), (q, k, v, mask), jnp.ones((2, 3, 2)))[1][0]

    def dq_of_jax(q):
        def total(q):
            scores = jnp.einsum("btd,bsd->bts", q, k) / np.sqrt(2)
            scores = jnp.where(mask, scores, -1e9)
            weights = jax.nn.softmax(scores) * mask.any(-1, keepdims=True)
            return jnp.einsum("bts,bse->", weights, v)

        return jax.grad(total)(q)

    tangent = jnp.asarray(normal(2, 3, 2, seed=7))
    got, want = (jax.jvp(f, (q,), (tangent,))[1] for f in (dq, dq_of_jax))
    assert_close(got, want, 1e-11)


@pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("dtype", [jnp.int64, jnp.int8])
def test_index_outside_the_table_gives_nan_and_learns_nothing(dtype, jitted):
    x = jnp.array([0, 3, -1, 2, 100], dtype)
    w, dy = jnp.asarray(normal(3, 2)), jnp.ones((5, 2))

    def both(x, w):
        return run(rules.embedding(), (x, w), dy)

    y, (dw,) = (jax.jit(both) if jitted else both)(x, w)
    np.testing.assert_array_equal(np.isnan(y[:, 0]), [0, 1, 1, 0, 1])
    assert_close(y[np.array([0, 3])], w[np.array([0, 2])], 0)
    assert dw.tolist() == [[1, 1], [0, 0], [1, 1]]


def test_embedding_sums_bfloat16_in_float32():
    x, w = jnp.zeros(1024, int), jnp.zeros((1, 1), jnp.bfloat16)
    _, (dw,) = run(rules.embedding(), (x, w), jnp.ones((1024, 1), jnp.bfloat16))
    assert dw.tolist() == [[1024]]


@pytest.mark.parametrize("rule", [rules.layer_norm(), rules.group_norm(3)])
def test_one_value_is_its_own_mean(rule):
    x = jnp.array([[1e30, -7.0, 0.0]])
    x = x if rule.name == "group_norm" else x.T
    ones = jnp.ones(x.shape[1])
    y, (dx, dgamma, dbeta) = run(rule, (x, 2 * ones, 3 * ones), jnp.ones(x.shape))
    assert (y == 3).all()
    assert not np.any(dx)
    assert not np.any(dgamma)
    assert (dbeta == x.shape[0]).all()
