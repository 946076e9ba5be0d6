"""Seeded bugs: every one is caught, in float32 too, and pinned to layer and leaf."""

import jax
import numpy as np
import pytest

from jaxnn import compare_gradients, mlp, serial
from jaxnn.losses import softmax_cross_entropy
from tests.check.bugs import FAMILIES, LOSS_BUGS, PENALTY_BUGS, Bug

KEY = jax.random.key(1)


def compared(net, in_shape, loss=softmax_cross_entropy, **options):
    params, state, _ = net.init(KEY, in_shape)
    draw = np.random.default_rng(0)
    x = draw.standard_normal((8, *in_shape))
    if "embedding" in net.parts[0].name:
        x = draw.integers(0, 5, (8, *in_shape)).astype(np.int32)
    y = draw.integers(0, 3, 8)
    return compare_gradients(net, loss, params, state, x, y, key=KEY, **options)


def family(name, only=None):
    """The network, with all its bugs or one; and what has to be found."""
    in_shape, items = FAMILIES[name]
    layers, expected = [], set()
    for i, item in enumerate(items):
        if isinstance(item, Bug) and only in (None, item.title):
            layers.append(item.spoilt())
            expected |= {(f"{i} {item.layer.name}", a) for a in item.wrong}
        else:
            layers.append(item.layer if isinstance(item, Bug) else item)
    return serial(*layers), in_shape, expected


def assert_found(report, expected):
    assert not report.passed
    assert {(f.layer, f.argument) for f in report.findings} == expected, report.table()
    for finding in report.findings:
        assert {"float32", "float64"} <= set(finding.dtypes), finding.line()


def count_bugs():
    layers = [item for _, items in FAMILIES.values() for item in items]
    return sum(isinstance(item, Bug) for item in layers)


def test_there_are_forty_bugs_or_more():
    assert count_bugs() + len(LOSS_BUGS) + len(PENALTY_BUGS) >= 40


@pytest.mark.parametrize("name", FAMILIES)
def test_all_bugs_of_a_network_are_found_at_once(name):
    net, in_shape, expected = family(name)
    assert_found(compared(net, in_shape), expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "title"),
    [
        pytest.param(name, item.title, id=item.title)
        for name, (_, items) in FAMILIES.items()
        for item in items
        if isinstance(item, Bug)
    ],
)
def test_a_bug_is_found_and_nothing_else(name, title):
    net, in_shape, expected = family(name, title)
    report = compared(net, in_shape)
    assert_found(report, expected)
    (leaf,) = {f.comparison.leaf for f in report.findings[:1]}
    assert report.worst.leaf.split("/")[0] == leaf.split("/")[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_without_bugs_nothing_is_found(name):
    net, in_shape, _ = family(name, "none of them")
    report = compared(net, in_shape)
    assert report.passed, report.table()


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSS_BUGS)
def test_a_wrong_loss_is_blamed_on_the_loss(name):
    report = compared(serial(mlp([4, 5, 3])), (4,), LOSS_BUGS[name])
    assert_found(report, {("loss wrong", "pred")})


@pytest.mark.parametrize("name", PENALTY_BUGS)
def test_a_wrong_penalty_is_blamed_on_the_penalty(name):
    report = compared(mlp([4, 5, 3]), (4,), penalty=PENALTY_BUGS[name])
    assert_found(report, {("penalty", "1/w"), ("penalty", "3/w")})
