"""Seeded bugs: every one is caught, in float32 too, and pinned to layer and leaf."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import Layer, compare_gradients, mlp, residual, serial
from jaxnn.combine import freeze, parallel, remat, repeat, share, stack
from jaxnn.layers import batch_norm, dense, sigmoid, tanh
from jaxnn.losses import softmax_cross_entropy
from tests.check.bugs import FAMILIES, LOSS_BUGS, PENALTY_BUGS, Bug

KEY = jax.random.key(1)


@pytest.fixture(autouse=True)
def no_causes(monkeypatch):
    """Where it is wrong is asked here, not why: that compiles each layer's mutants."""
    monkeypatch.setattr("jaxnn.check.audit.diagnose", lambda several: "guess: none")


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
            expected |= {(f"{i} {item.layer.name}", a) for a in item.wrong.split()}
        else:
            layers.append(item.layer if isinstance(item, Bug) else item)
    return serial(*layers), in_shape, expected


def assert_found(report, expected, dtypes=("float32", "float64")):
    assert not report.passed
    assert {(f.layer, f.argument) for f in report.findings} == expected, report.table()
    for finding in report.findings:
        assert set(dtypes) <= set(finding.dtypes), finding.line()


def count_bugs():
    layers = [item for _, items in FAMILIES.values() for item in items]
    return sum(isinstance(item, Bug) for item in layers)


def test_there_are_forty_bugs_or_more():
    assert count_bugs() + len(LOSS_BUGS) + len(PENALTY_BUGS) >= 40


@pytest.mark.parametrize("name", FAMILIES)
def test_all_bugs_of_a_network_are_found_at_once(name):
    net, in_shape, expected = family(name)
    dtypes = ("float64",) if name == "wiring" else ("float32", "float64")
    assert_found(compared(net, in_shape, dtypes=dtypes), expected, dtypes)


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


def test_a_bug_deep_inside_combinators_is_found_where_it_is():
    bad = Bug("", dense(4), "b", lambda d, c, dy: -d)
    inner = serial(tanh, bad.spoilt())
    net = serial(
        residual(inner), parallel(dense(4), residual(inner)), stack(remat(inner), 2),
        repeat(inner, 2), share(bad.spoilt(), lambda twice: serial(twice, tanh, twice)),
        freeze(inner), dense(3),
    )  # fmt: skip
    report = compared(net, (4,), dtypes=("float64",))
    layers = {f.layer for f in report.findings}
    assert {f.argument for f in report.findings} == {"b"}
    assert layers == {
        "0 residual(serial(2 layers)) > 0 serial(2 layers) > 1 dense(4)",
        "1 parallel(dense(4), residual(serial(2 layers))) > "
        "1 residual(serial(2 layers)) > 0 serial(2 layers) > 1 dense(4)",
        "2 stack(remat(serial(2 layers)), 2) > 0 remat(serial(2 layers)) > "
        "0 serial(2 layers) > 1 dense(4)",
        "3 repeat(serial(2 layers), 2) > 0 serial(2 layers) > 1 dense(4)",
        "4 share(dense(4)) > 0 serial(3 layers) > 0 dense(4)",
        "4 share(dense(4)) > 0 serial(3 layers) > 2 dense(4)",
        "5 freeze(serial(2 layers)) > 0 serial(2 layers) > 1 dense(4)",
    }
    leaves = {f.comparison.leaf for f in report.findings}
    assert {"0/1/b", "1/1/1/b", "4/shared/b"} <= leaves


def test_a_combinator_that_calls_its_layers_by_itself_is_judged_as_one_and_says_so():
    first, second = dense(4), dense(3)

    def init(key, in_shape):
        a, _, shape = first.init(key, in_shape)
        b, _, shape = second.init(key, shape)
        return (a, b), (), shape

    def forward(params, state, x, *, key=None, train):
        x, _, a = first.forward(params[0], (), x, key=key, train=train)
        y, _, b = second.forward(params[1], (), x, key=key, train=train)
        return y, state, (a, b)

    def backward(cache, dy):
        dy, b = second.backward(cache[1], dy)
        dx, a = first.backward(cache[0], dy)
        return dx, (a, jax.tree.map(jnp.negative, b))

    own = Layer(init, forward, backward, "own", (first, second))
    report = compared(serial(tanh, own), (4,), dtypes=("float64",))
    found = {(f.layer, f.argument) for f in report.findings}
    assert found == {("1 own", "1/b"), ("1 own", "1/w")}
    assert "judged as one layer: 1 own calls its layers past" in report.table()


HIDDEN = [  # right as called: nothing is there to be seen
    # no bias: batch norm takes it out, and its gradient is nothing but rounding
    Bug("a pixel that is always 0", dense(4, bias=False), "w",
        lambda d, c, dy: d.at[1].mul(2)),
    Bug("gamma is 1", batch_norm(), "x", lambda d, c, dy: d / c.gamma[None]),
    Bug("only large inputs", sigmoid, "x", lambda d, y, dy: jnp.where(y > 0.99, 0, d)),
]  # fmt: skip


def test_bugs_that_these_values_hide_are_found_at_others():
    net = serial(*(b.spoilt() for b in HIDDEN), dense(3))
    params, state, _ = net.init(KEY, (4,))
    x = np.random.default_rng(0).standard_normal((8, 4))
    x[:, 1] = 0
    report = compare_gradients(
        net, softmax_cross_entropy, params, state, x, np.arange(8) % 3,
        dtypes=("float64",),
    )  # fmt: skip
    assert all(leaf.passed for leaf in report.leaves)
    found = {(f.layer, f.argument) for f in report.findings}
    assert found == {
        (f"{i} {b.layer.name}", a)
        for i, b in enumerate(HIDDEN)
        for a in b.wrong.split()
    }
    assert all("only" in f.line() for f in report.findings)
