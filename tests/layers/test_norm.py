import jax
import numpy as np
import pytest

from jaxnn.layers import batch_norm
from jaxnn.rules import BatchStats, FixedStats
from tests.layers.cases import KEY, setup
from tests.rules.common import assert_close, assert_trees_close


@pytest.mark.parametrize(
    ("momentum", "shape", "groups"),
    [(0.9, (5, 3), 1), (0.25, (2, 3, 1, 3), 1), (0.9, (8, 2, 3), 4)],
)
def test_batch_norm_averages_with_unbiased_variance(momentum, shape, groups):
    case = setup(batch_norm(momentum, groups=groups), shape[1:], shape[0])
    _, new, _ = case.forward(case.params, case.x, True)
    rows = np.asarray(case.x).reshape(groups, -1, 3)
    old = case.state
    mean = momentum * old["mean"] + (1 - momentum) * rows.mean((0, 1))
    var = momentum * old["var"] + (1 - momentum) * rows.var(1, ddof=1).mean(0)
    assert_trees_close(new, {"mean": mean, "var": var})


def test_batch_norm_starts_from_mean_0_and_var_1():
    params, state, _ = batch_norm().init(KEY, (2,))
    assert jax.tree.map(lambda a: a.tolist(), (params, state)) == (
        {"gamma": [1, 1], "beta": [0, 0]},
        {"mean": [0, 0], "var": [1, 1]},
    )


def test_batch_norm_evaluates_by_the_averages():
    case = setup(batch_norm(epsilon=1e-3), (3,), 1)  # one row: no statistics needed
    y, state, cache = case.forward(case.params, case.x, False)
    p, s = case.params, case.state
    x_hat = (np.asarray(case.x[0]) - s["mean"]) / np.sqrt(s["var"] + 1e-3)
    assert_close(y[0], p["gamma"] * x_hat + p["beta"])
    assert_trees_close(state, case.state, 0)
    assert isinstance(cache, FixedStats)


def test_cache_type_records_the_mode():
    case = setup(batch_norm(), (3,), 2)
    assert isinstance(case.forward(case.params, case.x, True)[2], BatchStats)
