import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import rules
from jaxnn.layers import dropout
from jaxnn.layers.noise import _threshold, keep_mask
from tests.layers.cases import KEY


@pytest.mark.parametrize("drop_rate", [0.1, 0.3, 0.5, 0.9])
def test_keep_mask_drops_the_rate(drop_rate):
    n = 200_001  # odd: the last word gives one bit only
    keep = np.asarray(keep_mask(KEY, (n,), drop_rate))
    sigma = math.sqrt(drop_rate * (1 - drop_rate) / n)
    assert keep.dtype == bool
    assert abs(keep.mean() - (1 - drop_rate)) < 4.5 * sigma


def test_keep_mask_neighbors_are_independent():
    # two elements come from one random word
    keep = np.asarray(keep_mask(KEY, (200_000,), 0.5)).astype(float)
    for lag in (1, 2):
        correlation = np.corrcoef(keep[:-lag:2], keep[lag::2])[0, 1]
        assert abs(correlation) < 4.5 / math.sqrt(100_000)


def test_keep_mask_of_another_key_is_another():
    one, same, other = (keep_mask(jax.random.key(i), (64,), 0.5) for i in (0, 0, 1))
    assert (one == same).all()
    assert (one != other).any()


@pytest.mark.parametrize("shape", [(0,), (1,), (3, 5), (2, 0, 3)])
def test_keep_mask_of_rate_0_keeps_all(shape):
    keep = keep_mask(KEY, shape, 0.0)
    assert keep.shape == shape
    assert bool(keep.all())


@pytest.mark.parametrize("drop_rate", [0.999, 0.9999, 0.999995, 1 - 2**-30])
def test_keep_mask_near_1_drops_nearly_all(drop_rate):
    assert keep_mask(KEY, (1000,), drop_rate).mean() < 0.01


def test_dropout_keeps_the_expectation():
    n, rate = 200_000, 0.3
    y, _, cache = dropout(rate).forward((), (), jnp.ones((n, 1)), key=KEY, train=True)
    sigma = math.sqrt(rate / (1 - rate) / n)
    assert abs(y.mean() - 1) < 4.5 * sigma
    zero, kept = np.unique(y)
    assert zero == 0
    assert abs(kept * (1 - rate) - 1) < 2**-16  # the rate is drawn to 2^-17
    dx, _ = dropout(rate).backward(cache, jnp.ones((n, 1)))
    assert (dx == y).all()


def test_dropout_of_rate_0_does_nothing():
    x = jnp.ones((3, 2))
    y, _, cache = dropout(0.0).forward((), (), x, train=True)
    assert (y == x).all()
    assert dropout(0.0).backward(cache, x) == (x, ())


@pytest.mark.parametrize("rate", [0.1, 1e-4, 1 / 3, 0.9999, 1 - 1e-9])
def test_the_expectation_is_exact_at_the_rate_that_is_drawn(rate):
    # the mask is drawn at the rate rounded to 2^-16, and scaled by that rate: each of
    # the 2^16 equally likely halves once gives back the mean to the last digit
    least = _threshold(rate)
    halves = np.arange(2**16)
    keep = halves >= least
    assert abs(keep.mean() - (1 - rate)) <= max(2**-17, 1 / 2**16 - (1 - rate))
    rule = rules.dropout(least / 2**16)
    y, _ = rule.fwd(jnp.ones(2**16), jnp.asarray(keep))
    assert float(y.mean()) == pytest.approx(1, rel=1e-15)
