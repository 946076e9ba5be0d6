"""Edges that other code makes NaN of: every rule concerned, forward and back.

One compiled program for each number format holds all cases.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import losses, rules

INF = jnp.inf
ROW = [[1.0, -2.0, 3.0]]
HUGE = {"float64": 1e300, "float32": 1e38, "float16": 6e4, "bfloat16": 1e38}


def cases(big):
    """Name -> (rule, arguments) whose value and every cotangent must be finite."""
    return {
        "softmax of huge logits": (rules.softmax, [[[big, -big, 0.0]]]),
        "log_softmax of huge logits": (rules.log_softmax, [[[big / 4, 0.0, big / 4]]]),
        "softmax with a mask": (rules.softmax, [[[-INF, 1.0, 2.0]]]),
        "sigmoid": (rules.sigmoid, [[[big, -big, 0.0]]]),
        "tanh": (rules.tanh, [[[big, -big, 0.0]]]),
        "softplus": (rules.softplus, [[[big, -big, 0.0]]]),
        "elu": (rules.RULES["elu"], [[[big, -big, 0.0]]]),
        "selu": (rules.RULES["selu"], [[[big / 2, -big, 0.0]]]),
        "gelu": (rules.RULES["gelu"], [[[big, -big, 0.0]]]),
        "swish": (rules.RULES["swish"], [[[big, -big, 0.0]]]),
        "relu": (rules.relu, [[[big, -big, 0.0]]]),
        "zero variance, batch norm": (
            rules.batch_norm(), [[[1.0, 2.0, 3.0]] * 4, [1.0] * 3, [0.0] * 3]
        ),
        "zero variance, layer norm": (
            rules.layer_norm(), [[[2.0, 2.0, 2.0]], [1.0] * 3, [0.0] * 3]
        ),
        "zero variance, group norm": (
            rules.group_norm(1), [[[2.0, 2.0, 2.0]], [1.0] * 3, [0.0] * 3]
        ),
        "where beside NaN": (rules.where, [[[True, False]], [[1.0, jnp.nan]],
                                           [[jnp.nan, 1.0]]]),
        "attention, huge scores": (
            rules.attention(), [[[[big**0.4] * 2] * 2], [[[big**0.4] * 2] * 2],
                                [[[1.0, 2.0]] * 2]]
        ),
        "attention that sees nothing": (
            rules.attention(), [[[[1.0, 2.0]] * 2], [[[1.0, 2.0]] * 2],
                                [[[1.0, 2.0]] * 2], [[[False, False]] * 2]]
        ),
        "logsumexp of huge": (rules.logsumexp(-1), [[[big, -big, 0.0]]]),
        "logsumexp of nothing but -inf": (rules.logsumexp(-1), [[[-INF, -INF]]]),
    }  # fmt: skip


def arrays(args, dtype):
    found = []
    for a in args:
        a = jnp.asarray(a)
        found.append(a if a.dtype == bool else a.astype(dtype))
    return found


def both_ways(table, dtype):
    """Value and cotangents of every case, in one program."""
    given = {name: arrays(args, dtype) for name, (_, args) in table.items()}

    def program(given):
        made = {}
        for name, (rule, _) in table.items():
            y, cache = rule.fwd(*given[name])
            made[name] = y, rule.bwd(cache, jnp.ones_like(y))
        return made

    return jax.jit(program)(given)


def has_no(bad, tree):
    return not any(bool(bad(np.asarray(a, np.float64)).any())
                   for a in jax.tree.leaves(tree))  # fmt: skip


WIDTHS = [
    d if d in ("float32", "float16") else pytest.param(d, marks=pytest.mark.slow)
    for d in HUGE
]


@pytest.mark.parametrize("dtype", WIDTHS)
def test_edges_are_finite_both_ways(dtype):
    made = both_ways(cases(HUGE[dtype]), dtype)
    wrong = [
        name
        for name, (y, cotangents) in made.items()
        if not has_no(np.isnan, (y, cotangents)) or not has_no(np.isinf, cotangents)
    ]
    assert not wrong


@pytest.mark.parametrize("dtype", WIDTHS)
def test_the_norm_at_zero_has_a_gradient(dtype):
    from jaxnn.regularize import clip_gradient, max_norm, spectral_norm

    zeros = {"w": jnp.zeros((3, 4), dtype)}
    assert has_no(lambda a: ~np.isfinite(a), max_norm(1.0)(zeros))
    assert has_no(lambda a: ~np.isfinite(a), spectral_norm(1.0)(zeros))
    clipped = clip_gradient(1.0, None)(zeros, jnp.zeros(()))
    assert has_no(lambda a: ~np.isfinite(a), clipped)


@pytest.mark.parametrize("dtype", WIDTHS)
def test_cross_entropies_are_finite_for_any_finite_logits(dtype):
    big = HUGE[dtype] / 4
    logits = jnp.asarray([[big, -big, 0.0], [0.0, 0.0, 0.0]], dtype)
    for name in ("softmax_cross_entropy", "sigmoid_cross_entropy", "softmax_focal"):
        target = jnp.asarray([0, 1]) if name != "sigmoid_cross_entropy" else (
            jnp.asarray([[1.0, 0, 0], [0, 1.0, 0]], dtype)
        )  # fmt: skip
        value, dpred = losses.LOSSES[name](logits, target)
        assert np.isfinite(np.asarray(value, np.float64)), name
        assert has_no(lambda a: ~np.isfinite(a), dpred), name
