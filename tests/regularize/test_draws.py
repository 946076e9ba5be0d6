"""Noise, mixup and clipping: their distributions, types and limits."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnn.regularize import (
    NOISES,
    clip_gradient,
    mixup,
    sign_noise,
    uniform_noise,
    weight_noise,
)
from tests.rules.common import assert_close, normal

KEY = jax.random.key(3)
N = 100_000


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_uniform_noise_fills_its_interval(shift):
    noise = uniform_noise(0.2, shift)(KEY, jnp.zeros((N, 1))) - shift
    assert -0.2 <= noise.min() < -0.199
    assert 0.199 < noise.max() <= 0.2
    assert abs(noise.mean()) < 4.5 * 0.2 / math.sqrt(3 * N)
    assert abs(noise.var() - 0.2**2 / 3) < 1e-3


def test_sign_noise_is_one_of_two_values_by_even_chance():
    noise = sign_noise(0.25, 0.5)(KEY, jnp.zeros((N, 1)))
    assert set(np.unique(noise)) == {0.25, 0.75}
    assert abs((noise > 0.5).mean() - 0.5) < 4.5 * 0.5 / math.sqrt(N)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", NOISES)
def test_every_noise_keeps_the_type_and_follows_the_key(name, dtype):
    x = jnp.full((2, 40), 0.5, dtype)
    one, same, other = (NOISES[name](0.1, 0.1)(jax.random.key(i), x) for i in (0, 0, 1))
    assert one.dtype == dtype
    assert (one == same).all()
    assert (one != other).any()
    assert (NOISES[name](0.0)(KEY, x) == x).all()


def test_weight_noise_moves_weights_only_each_by_its_own_draw():
    params = {"w": jnp.zeros((300, 40)), "u": jnp.zeros((300, 40)), "b": jnp.ones(40)}
    noisy = jax.jit(weight_noise(0.3))(KEY, params)
    assert (noisy["b"] == 1).all()
    assert (noisy["w"] != noisy["u"]).all()
    assert abs(noisy["w"].std() - 0.3) < 4.5 * 0.3 / math.sqrt(2 * 12_000)
    again = weight_noise(0.0)(KEY, params)
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), again, params))
    half = weight_noise(0.3)(KEY, {"w": jnp.ones((2, 2), jnp.bfloat16)})
    assert half["w"].dtype == jnp.bfloat16


X, LABELS = normal(7, 3, 2), np.array([0, 3, 1, 1, 2, 0, 3])


def test_mixup_mixes_images_labels_and_weights_by_the_same_share():
    weights = np.arange(7.0)
    x, y, w = jax.jit(mixup(0.4, 4))(KEY, X, LABELS, weights)
    share = float(w[0]) / -6 + 1  # w[0] = m 0 + (1 - m) 6
    assert 0 < share < 1
    rows = np.eye(4)[LABELS]
    assert_close(x, share * X + (1 - share) * X[::-1])
    assert_close(y, share * rows + (1 - share) * rows[::-1])
    assert_close(y.sum(-1), np.ones(7))
    assert_close(w, share * weights + (1 - share) * weights[::-1])
    assert_close(x[3], X[3])  # the middle one meets itself


def test_mixup_takes_rows_and_no_weights():
    rows = np.random.default_rng(0).dirichlet(np.ones(4), 7)
    _, y, weights = mixup(1.0, 4)(KEY, X, rows)
    assert weights is None
    assert_close(y.sum(-1), np.ones(7))


@pytest.mark.parametrize("alpha", [0.2, 1.0, 5.0])
def test_the_share_of_mixup_is_beta_distributed(alpha):
    x = jnp.array([[1.0], [0.0]])

    def share(key):
        return mixup(alpha, 2)(key, x, jnp.array([0, 1]))[0][0, 0]

    shares = jax.jit(jax.vmap(share))(jax.random.split(KEY, 4000))
    assert abs(shares.mean() - 0.5) < 4.5 * shares.std() / math.sqrt(4000)
    variance = 1 / (4 * (2 * alpha + 1))  # of Beta(alpha, alpha)
    assert abs(shares.var() / variance - 1) < 0.1


def test_mixup_keeps_types_and_shows_a_bad_label():
    x, y, _ = mixup(0.2, 3)(KEY, jnp.ones((2, 4), jnp.bfloat16), jnp.array([0, 5]))
    assert (x.dtype, y.dtype) == (jnp.bfloat16, jnp.bfloat16)
    assert np.isnan(y.astype(float)).all(-1).any()


GRADS = {"w": jnp.asarray(normal(3, 4)), "b": [jnp.asarray(normal(5))]}
LENGTH = np.sqrt(sum(np.square(g).sum() for g in jax.tree.leaves(GRADS)))


@pytest.mark.parametrize("bound", [0.1, 1.0, 1e9])
def test_clipping_is_that_of_optax(bound):
    by_norm = optax.clip_by_global_norm(bound).update(GRADS, optax.EmptyState())[0]
    by_value = optax.clip(bound).update(GRADS, optax.EmptyState())[0]
    got = clip_gradient(norm=bound)(GRADS, LENGTH), clip_gradient(value=bound)(GRADS, 0)
    for ours, theirs in zip(got, (by_norm, by_value), strict=True):
        jax.tree.map(assert_close, ours, theirs)


def test_a_gradient_within_the_bound_keeps_every_bit():
    after = clip_gradient(norm=float(LENGTH) * 1.001)(GRADS, LENGTH)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), after, GRADS))


def test_clipping_keeps_bfloat16():
    grads = {"w": jnp.ones((2, 2), jnp.bfloat16)}
    for clip in (clip_gradient(norm=0.1), clip_gradient(value=0.1)):
        assert clip(grads, jnp.float32(2))["w"].dtype == jnp.bfloat16


def test_nothing_to_clip_is_nothing():
    assert clip_gradient() is None
