"""What the table of cases cannot say of attention, embedding and the norms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnn import rules
from tests.rules.common import assert_close, normal


def drawn(t=3, s=4, d=2, e=2):
    q, k, v = normal(2, t, d), normal(2, s, d, seed=1), normal(2, s, e, seed=2)
    return [jnp.asarray(a) for a in (q, k, v)]


def gradients(rule, args, dy):
    y, cache = rule.fwd(*args)
    return y, [d for d in rule.bwd(cache, dy) if d is not None]


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32, jnp.bfloat16])
def test_query_that_sees_nothing_gives_zero_and_no_gradient(dtype):
    q, k, v = (a.astype(dtype) for a in drawn())
    mask = jnp.ones((2, 3, 4), bool).at[0, 1].set(False).at[1].set(False)
    y, (dq, dk, dv) = gradients(rules.attention(), (q, k, v, mask), jnp.ones_like(q))
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
        y, cotangents = gradients(rules.attention(), (scale * q, k, v, mask), dy)
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
        return gradients(rules.attention(), (q, k, v, mask), jnp.ones((2, 3, 2)))[1][0]

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


@settings(max_examples=12)
@given(st.lists(st.booleans(), min_size=5, max_size=5), st.integers(0, 99))
def test_masked_keys_might_as_well_not_be_there(keep, seed):
    q, k, v = drawn(3, 5)
    mask = jnp.broadcast_to(jnp.array(keep), (2, 3, 5))
    dy = jnp.asarray(normal(2, 3, 2, seed=seed))
    y, (dq, dk, dv) = gradients(rules.attention(), (q, k, v, mask), dy)
    left = np.flatnonzero(keep)
    want_y, want = gradients(rules.attention(), (q, k[:, left], v[:, left]), dy)
    for got, expected in zip(
        (y, dq, dk[:, left], dv[:, left]), (want_y, *want), strict=True
    ):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-13)
    gone = np.flatnonzero(~np.array(keep))
    assert not np.any(dk[:, gone])
    assert not np.any(dv[:, gone])


@pytest.mark.parametrize("kind", ["all", "causal", "masked"])
def test_attention_equals_torch(kind):
    torch = pytest.importorskip("torch")
    args = [normal(2, 3, n, 4, seed=n) for n in (5, 5, 6)]
    args[2] = normal(2, 3, 5, 6, seed=9)
    mask = normal(2, 3, 5, 5, seed=8) > -0.5
    mask[..., 0] = True
    masked = (jnp.asarray(mask),) if kind == "masked" else ()
    leaves = [torch.tensor(a, requires_grad=True) for a in args]
    want = torch.nn.functional.scaled_dot_product_attention(
        *leaves,
        attn_mask=torch.tensor(mask) if masked else None,
        is_causal=kind == "causal",
    )
    dy = normal(*want.shape, seed=6)
    want.backward(torch.tensor(dy))
    rule = rules.attention(kind == "causal")
    y, got = gradients(rule, (*map(jnp.asarray, args), *masked), jnp.asarray(dy))
    assert_close(y, want.detach().numpy())
    for d, leaf in zip(got, leaves, strict=True):
        assert_close(d, leaf.grad.numpy())


@pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("dtype", [jnp.int32, jnp.int64, jnp.int8])
def test_index_outside_the_table_gives_nan_and_learns_nothing(dtype, jitted):
    x = jnp.array([0, 3, -1, 2, 100], dtype)
    w, dy = jnp.asarray(normal(3, 2)), jnp.ones((5, 2))

    def both(x, w):
        return gradients(rules.embedding(), (x, w), dy)

    y, (dw,) = (jax.jit(both) if jitted else both)(x, w)
    np.testing.assert_array_equal(np.isnan(y[:, 0]), [0, 1, 1, 0, 1])
    assert_close(y[np.array([0, 3])], w[np.array([0, 2])], 0)
    assert dw.tolist() == [[1, 1], [0, 0], [1, 1]]


def test_embedding_sums_bfloat16_in_float32():
    x, w = jnp.zeros(1024, int), jnp.zeros((1, 1), jnp.bfloat16)
    _, (dw,) = gradients(rules.embedding(), (x, w), jnp.ones((1024, 1), jnp.bfloat16))
    assert dw.tolist() == [[1024]]


@settings(max_examples=12)
@given(
    st.lists(st.integers(0, 3), min_size=6, max_size=6), st.sampled_from([None, 0, 2])
)
def test_embedding_counts_each_read(x, padding):
    dy = jnp.ones((6, 1))
    rule = rules.embedding(padding)
    _, (dw,) = gradients(rule, (jnp.array(x), jnp.zeros((4, 1))), dy)
    assert dw[:, 0].tolist() == [x.count(i) * (i != padding) for i in range(4)]


@pytest.mark.parametrize("rule", [rules.layer_norm(), rules.group_norm(1)])
def test_norms_keep_their_digits_far_from_zero(rule):
    # E[x^2] - E[x]^2 has no correct digit here in float32
    x = jnp.asarray(3000 + np.linspace(-1, 1, 64)[None], jnp.float32)  # (1, 64)
    y, _ = rule.fwd(x, jnp.ones(64, jnp.float32), jnp.zeros(64, jnp.float32))
    wide = np.asarray(x, np.float64)
    want = (wide - wide.mean()) / np.sqrt(wide.var() + 1e-5)
    assert_close(y, want, 1e-3)


@pytest.mark.parametrize("rule", [rules.layer_norm(), rules.group_norm(3)])
def test_one_value_is_its_own_mean(rule):
    x = jnp.array([[1e30, -7.0, 0.0]])
    x = x if rule.name == "group_norm" else x.T
    ones = jnp.ones(x.shape[1])
    y, (dx, dgamma, dbeta) = gradients(rule, (x, 2 * ones, 3 * ones), jnp.ones(x.shape))
    assert (y == 3).all()
    assert not np.any(dx)
    assert not np.any(dgamma)
    assert (dbeta == x.shape[0]).all()


@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 4, 6), (2, 1)], ids=str)
def test_norms_equal_torch(shape):
    torch = pytest.importorskip("torch")
    x, c = normal(*shape), shape[-1]
    gamma, beta, dy = normal(c, seed=1), normal(c, seed=2), normal(*shape, seed=3)

    def layer_norm(x, *params):
        return torch.nn.functional.layer_norm(x, (c,), *params)

    def group_norm(groups):
        def reference(x, *params):  # channels are torch's second axis
            y = torch.nn.functional.group_norm(x.movedim(-1, 1), groups, *params)
            return y.movedim(1, -1)

        return rules.group_norm(groups), reference

    pairs = [(rules.layer_norm(), layer_norm), *map(group_norm, {1, c})]
    for rule, reference in pairs:
        leaves = [torch.tensor(a, requires_grad=True) for a in (x, gamma, beta)]
        want = reference(*leaves)
        want.backward(torch.tensor(dy))
        args = [jnp.asarray(a) for a in (x, gamma, beta)]
        y, got = gradients(rule, args, jnp.asarray(dy))
        wanted = [a.detach().numpy() for a in (want, *(leaf.grad for leaf in leaves))]
        for a, b in zip((y, *got), wanted, strict=True):
            # absolute: one value a group has gradients that are 0 but for rounding
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-11)
