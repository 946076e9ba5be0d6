"""Pooling at its kinks and edges; its formulas are in the table of test_rules.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import rules
from tests.rules.common import run

INF, NAN = np.inf, np.nan


def dx_of_ones(rule, x):
    y, _ = jax.eval_shape(rule.fwd, x)
    return np.asarray(run(rule, (x,), jnp.ones(y.shape, y.dtype))[1][0])


POOLS = {
    "beside each other": rules.max_pool((2, 2)),
    "overlapping": rules.max_pool((2, 2), 1),
    "whole": rules.global_max_pool,
}


@pytest.mark.parametrize("x", [0.0, 1.5, -INF, INF, NAN])
@pytest.mark.parametrize("name", ["beside each other", "whole"])
def test_of_equal_maxima_the_first_gets_all(name, x):
    dx = dx_of_ones(POOLS[name], np.full((1, 2, 2, 1), x))
    assert dx[0, :, :, 0].tolist() == [[1, 0], [0, 0]]


def test_first_is_first_in_reading_order():
    x = np.array([[0.0, 1, 0], [1, 0, 1], [1, 1, 1]])[None, :, :, None]
    assert dx_of_ones(rules.max_pool((3, 3)), x)[0, 0, 1, 0] == 1
    assert dx_of_ones(rules.global_max_pool, x)[0, 0, 1, 0] == 1
    # 1 and 3 first in two windows each, as the two rows of windows show
    assert dx_of_ones(rules.max_pool((2, 2), 1), x)[0, :, :, 0].tolist() == [
        [0, 2, 0],
        [1, 0, 1],
        [0, 0, 0],
    ]


@pytest.mark.parametrize("where", [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("name", POOLS)
def test_nan_is_the_maximum_and_gets_the_cotangent(name, where):
    x = np.array([[3.0, INF], [-INF, 5]])
    x[where] = NAN
    x = x[None, :, :, None]
    assert np.isnan(jax.jit(POOLS[name].fwd)(x)[0]).all()
    dx = dx_of_ones(POOLS[name], x)
    assert dx[(0, *where, 0)] == 1
    assert dx.sum() == 1


@pytest.mark.parametrize("name", POOLS)
def test_nan_cotangent_comes_back(name):
    rule = POOLS[name]
    x = np.arange(4.0).reshape(1, 2, 2, 1)
    y, _ = jax.eval_shape(rule.fwd, x)
    assert np.isnan(run(rule, (x,), np.full(y.shape, NAN))[1][0]).sum() == 1


@pytest.mark.parametrize("padding", ["SAME", 1])
def test_padding_is_no_maximum_and_no_part_of_a_mean(padding):
    x = np.full((1, 3, 3, 1), -INF)
    rule = rules.max_pool((3, 3), 2, padding)
    assert (np.asarray(jax.jit(rule.fwd)(x)[0]) == -INF).all()
    assert dx_of_ones(rule, x).sum() == 4  # nothing went to the padding
    assert (rules.avg_pool((3, 3), 2, padding).fwd(np.ones_like(x))[0] == 1).all()
