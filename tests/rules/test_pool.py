"""Pooling at its kinks and edges; its formulas are in the table of test_rules.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnn import rules
from tests.rules import cases_conv
from tests.rules.common import assert_close, normal, run

INF, NAN = np.inf, np.nan


def dx_of_ones(rule, x):
    y, _ = rule.fwd(x)
    return np.asarray(run(rule, (x,), jnp.ones_like(y))[1][0])


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


@pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("where", [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("name", POOLS)
def test_nan_is_the_maximum_and_gets_the_cotangent(name, where, jitted):
    rule = POOLS[name]
    x = np.array([[3.0, INF], [-INF, 5]])
    x[where] = NAN
    x = jnp.asarray(x[None, :, :, None])

    def both(x):
        return run(rule, (x,), jnp.ones_like(rule.fwd(x)[0]))

    y, (dx,) = (jax.jit(both) if jitted else both)(x)
    assert np.isnan(y).all()
    assert dx[(0, *where, 0)] == 1
    assert dx.sum() == 1


@pytest.mark.parametrize("name", POOLS)
def test_nan_cotangent_comes_back(name):
    rule = POOLS[name]
    x = jnp.arange(4.0).reshape(1, 2, 2, 1)
    y, cache = rule.fwd(x)
    assert np.isnan(rule.bwd(cache, jnp.full_like(y, NAN))[0]).sum() == 1


@pytest.mark.parametrize("padding", ["SAME", 1])
def test_padding_is_no_maximum_and_no_part_of_a_mean(padding):
    x = np.full((1, 3, 3, 1), -INF)
    rule = rules.max_pool((3, 3), 2, padding)
    assert (rule.fwd(x)[0] == -INF).all()
    assert dx_of_ones(rule, x).sum() == 4  # nothing went to the padding
    assert (rules.avg_pool((3, 3), 2, padding).fwd(np.ones_like(x))[0] == 1).all()


@settings(max_examples=6)
@given(
    sizes=st.tuples(*[st.integers(3, 7)] * 2),
    size=st.tuples(*[st.integers(1, 3)] * 2),
    stride=st.sampled_from([None, 1, 2, (3, 1)]),
    padding=st.sampled_from(["SAME", "VALID"]),
    batch=st.integers(1, 3),
)
def test_pools_are_references_whatever_the_settings(
    sizes, size, stride, padding, batch
):
    how = (size, stride, padding)
    pairs = [
        (rules.max_pool(*how), cases_conv.max_pool(*how)),
        (rules.avg_pool(*how), cases_conv.avg_pool(*how)),
    ]
    x = jnp.asarray(np.round(normal(batch, *sizes, 2)))
    y = jax.eval_shape(pairs[0][1], x)
    dy = jnp.asarray(normal(*y.shape, seed=1))

    @jax.jit
    def program(x, dy):
        got = [run(rule, (x,), dy) for rule, _ in pairs]
        vjps = [jax.vjp(reference, x) for _, reference in pairs]
        return got, [(y, pull_back(dy)) for y, pull_back in vjps]

    jax.tree.map(assert_close, *program(x, dy))


KEPT = {
    "max_pool": [("uint8", (2, 2, 2, 3)), ("float64", (0, 4, 4, 3))],
    "avg_pool": [("float64", (0, 4, 4, 3))],
    "global_max_pool": [("int32", (2, 3)), ("float64", (0, 4, 4, 3))],
    "global_avg_pool": [("float64", (0, 4, 4, 3))],
}


@pytest.mark.parametrize("name", KEPT)
def test_cache_holds_no_more_than_documented(name):
    _, cache = rules.RULES[name].fwd(jnp.asarray(normal(2, 4, 4, 3)))
    assert [(str(a.dtype), a.shape) for a in jax.tree.leaves(cache)] == KEPT[name]


@pytest.mark.parametrize(
    ("size", "stride", "padding"), [((2, 2), None, 0), ((3, 3), 2, 1), ((3, 2), 1, 0)]
)
def test_pools_are_torchs(size, stride, padding):
    torch = pytest.importorskip("torch")
    f = torch.nn.functional
    x = normal(2, 7, 6, 3)
    functions = {
        rules.max_pool: lambda x: f.max_pool2d(x, size, stride, padding),
        rules.avg_pool: lambda x: f.avg_pool2d(
            x, size, stride, padding, count_include_pad=False
        ),
    }
    for rule, function in functions.items():
        tx = torch.tensor(x, requires_grad=True)
        want = function(tx.movedim(-1, 1)).movedim(1, -1)
        dy = normal(*want.shape, seed=1)
        want.backward(torch.tensor(dy))
        y, (dx,) = run(rule(size, stride, padding), (x,), dy)
        assert_close(y, want.detach())
        assert_close(dx, tx.grad)
