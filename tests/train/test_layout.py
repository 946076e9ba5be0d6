"""Matrices that the loop keeps transposed: nobody who looks from outside can tell."""

from contextlib import nullcontext
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnn import mlp, regularize, serial
from jaxnn.layers import conv, dense, flatten, gru, relu, reshape
from jaxnn.losses import softmax_cross_entropy
from jaxnn.rules import affine, matmul
from jaxnn.rules.products import FEW, policy
from jaxnn.train import (
    TrainingError,
    TrainState,
    batch_order,
    fit,
    init_state,
    make_step,
    scan_seeds,
    scan_steps,
)
from jaxnn.train.state import Transposed, from_layout, to_layout
from tests.rules.common import normal
from tests.train.problem import pixels

KEY = jax.random.key(7)
X, Y = pixels(60)
X = X.reshape(60, -1) / 255.0  # (60, 16)
ORDER = batch_order(60, 10, 0)

OPTIMIZERS = {
    "sgd": optax.sgd(0.1, momentum=0.9),
    "adam": optax.adam(0.01),
    "adamw": optax.adamw(0.01, mask=lambda p: jax.tree.map(lambda a: a.ndim > 1, p)),
    "adafactor": optax.adafactor(0.01, min_dim_size_to_factor=2),
    "lamb": optax.lamb(0.01),
    "muon": optax.contrib.muon(0.01),
}
SETTINGS = {
    "plain": {},
    "penalty": {"penalty": regularize.sum_penalties(
        regularize.l2(0.01), regularize.spectral_norm(0.1))},
    "max_norm": {"project": regularize.max_norm(0.5)},
    "noise": {"weight_noise": regularize.weight_noise(0.1)},
    "clip": {"clip_norm": 0.1},
    "average": {"ema": 0.9},
    "halting": {"guard": "halt"},
    "no guard": {"guard": "off"},
    "unwatched": {"watch_update": False},
}  # fmt: skip


NETS = {
    "grows": mlp([16, 40, 16, 3]),
    "square": mlp([16, 16, 16, 3]),
    "wide": mlp([16, FEW + 6, FEW + 3, 3]),
    "conv": serial(reshape(4, 4, 1), conv(4, 3), relu, flatten, dense(3)),
    "recurrent": serial(reshape(4, 4), gru(1), dense(3)),
}


def is_turned(a):
    return isinstance(a, Transposed)


def has_turned(tree):
    return any(map(is_turned, jax.tree.leaves(tree, is_leaf=is_turned)))


def made(net, optimizer, in_shape=(16,), **settings):
    step = make_step(net, softmax_cross_entropy, optimizer, **settings)
    ema = "ema" in settings
    return step, init_state(net, optimizer, in_shape, KEY, jnp.float64, ema=ema)


def by_hand(step, ts, x, y, order=ORDER, key=KEY):
    """The same steps in a Python loop: no matrix is kept transposed."""
    run, metrics = jax.jit(step), []
    for rows in order:
        ts, found = run(ts, jnp.asarray(x[rows]), jnp.asarray(y[rows]), key)
        metrics.append(found)
    return ts, jax.tree.map(lambda *a: np.stack(a), *metrics)


def scanned(step, ts, x):
    """What the loop makes of them, as one program."""
    run = jax.jit(lambda ts, x: scan_steps(step, ts, x, jnp.asarray(Y), ORDER, KEY))
    return run(ts, jnp.asarray(x))


def seeds_scanned(step, x, order, keys, together):
    """The start of many networks, and what the loop makes of them."""

    @jax.jit
    def run(x, y, keys):
        ts = jax.vmap(lambda key: step.start((10, 16), key))(keys)
        return ts, scan_seeds(step, ts, x, y, order, keys, all_or_nothing=together)

    return jax.device_get(run(x, jnp.asarray(Y), keys))


def assert_same(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_sees_matrices_as_they_are(name):
    step, ts = made(mlp([16, 8, 3]), OPTIMIZERS[name])
    assert has_turned(to_layout(ts).params)
    assert_same(scanned(step, ts, X), by_hand(step, ts, X, Y))


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_sees_matrices_as_they_are(name):
    """Among them a bad step, the fourth: it changes nothing, or all with no guard."""
    step, ts = made(mlp([16, 8, 3]), optax.adam(0.01), **SETTINGS[name])
    bad = np.where(np.arange(60)[:, None] == ORDER[3][2], np.nan, X)
    got = scanned(step, ts, bad)
    assert_same(got, by_hand(step, ts, bad, Y))
    assert not got[1]["ok"][3]


@pytest.mark.parametrize("name", NETS)
def test_every_network(name):
    step, ts = made(NETS[name], optax.adam(0.01))
    assert_same(scanned(step, ts, X), by_hand(step, ts, X, Y))


@pytest.mark.parametrize(
    ("name", "own", "together"),
    [("narrow", True, False), ("narrow", True, True), ("narrow", False, False),
     *((n, False, i % 2 == 0) for i, n in enumerate(NETS))],
)  # fmt: skip
def test_seeds_side_by_side(name, own, together):
    net = mlp([16, 8, 3]) if name == "narrow" else NETS[name]
    step, _ = made(net, optax.adam(0.01), watch_update=False)
    keys = jax.random.split(KEY, 3)
    orders = np.stack([batch_order(60, 10, 0, own * s) for s in range(3)], 1)
    order = orders if own else ORDER
    ts, (got, metrics) = seeds_scanned(step, X, order, keys, together)
    for s in range(3):
        alone = jax.tree.map(lambda a, s=s: a[s], ts)
        want = by_hand(step, alone, X, Y, orders[:, s], keys[s])
        of_s = jax.tree.map(lambda a, s=s: a[s], got)
        assert_same((of_s, jax.tree.map(lambda m, s=s: m[:, s], metrics)), want)


def test_together_a_bad_step_of_one_is_taken_by_none():
    step, _ = made(mlp([16, 8, 3]), optax.adam(0.01), watch_update=False)
    keys = jax.random.split(KEY, 3)
    orders = np.stack([batch_order(60, 10, 0, s) for s in range(3)], 1)
    bad = np.where(np.arange(60)[:, None] == orders[3, 1, 2], np.nan, X)
    hit = (orders == orders[3, 1, 2]).any(2)  # (steps, seeds)
    assert hit.any(1).sum() > 1
    got, metrics = seeds_scanned(step, bad, orders, keys, together=True)[1]
    np.testing.assert_array_equal(metrics["ok"], ~hit)
    counts = np.asarray(got.opt[0].count)
    assert (counts == (~hit.any(1)).sum()).all()


def test_fit_gives_each_seed_what_it_gets_alone_bad_steps_too(monkeypatch):
    asked = []

    def watched(*args, all_or_nothing):
        asked.append(all_or_nothing)
        return scan_seeds(*args, all_or_nothing=all_or_nothing)

    monkeypatch.setattr("jaxnn.train.run.scan_seeds", watched)
    bad = X.copy()
    bad[5, 0] = 7.0  # the augmentation makes this one NaN

    def spoil(key, x):
        return jnp.where(x.max(1, keepdims=True) > 5, jnp.nan, x)

    options = {
        "optimizer": optax.adam(0.01),
        "epochs": 3,
        "batch": 10,
        "shuffle": "per-seed",
    }
    options |= {"augment": spoil, "dtype": "float64"}
    net = mlp([16, 8, 3])
    many = fit(net, (bad, Y), seeds=range(3), **options)
    assert asked == [True, False]  # together until the first bad step, not after it
    assert [row["skipped"] for row in many.epochs] == [[1, 1, 1]] * 3
    for s in range(3):
        alone = fit(net, (bad, Y), seeds=s, **options)
        mine = jax.tree.map(lambda a, s=s: a[s], many.params)
        for a, b in zip(*map(jax.tree.leaves, (mine, alone.params)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    with pytest.raises(TrainingError, match="epoch 1"):
        fit(net, (bad, Y), seeds=range(3), guard="raise", **options)


def test_a_function_in_the_place_of_a_step_gets_matrices_as_they_are():
    step, ts = made(mlp([16, 8, 3]), optax.sgd(0.1))
    seen = []

    def plain(ts, x, y, key):
        seen.append(has_turned(ts.params))
        return step(ts, x, y, key)

    scanned(plain, ts, X)
    assert not any(seen)


def test_what_is_turned_and_back():
    tree = {
        "a": {"w": jnp.ones((6, 2)), "b": jnp.ones(2)},
        "grows": {"w": jnp.ones((2, 6))}, "square": {"w": jnp.ones((3, 3))},
        "table": {"e": jnp.ones((6, 2))}, "kernel": {"w": jnp.ones((3, 3, 1, 2))},
        "many": {"w": jnp.ones((FEW + 9, FEW + 1))},
    }  # fmt: skip
    kept = to_layout(TrainState(tree, tree, (), 0, 0)).params
    assert isinstance(kept["a"]["w"], Transposed)
    assert kept["a"]["w"].transpose.shape == (2, 6)
    nothing_else = [kept[k] for k in tree if k != "a"]
    assert not has_turned(nothing_else)
    assert_same(from_layout(kept), tree)


@pytest.mark.parametrize("outputs", [1, 5, 16, FEW + 1])
def test_a_hint_about_memory_changes_no_product(outputs):
    @jax.jit
    def products(inputs, w, b):
        return [(affine.fwd(x, w, b)[0], matmul.fwd(x, w)[0]) for x in inputs]

    inputs = [normal(*shape) for shape in ((16,), (5, 16), (2, 3, 16), (0, 16))]
    given = inputs, normal(16, outputs), normal(outputs)
    plain = products(*given)
    with policy(transposed=True):
        assert_same(products(*given), plain)


@pytest.mark.parametrize("together", [False, True])
def test_the_weights_of_many_networks_are_copied_for_no_product(together, monkeypatch):
    def as_the_product_would_want_them():
        step, _ = made(mlp([16, 5, 3]), optax.sgd(0.1), watch_update=False)
        keys = jax.random.split(KEY, 7)
        ts = jax.vmap(step.start, in_axes=(None, 0))((10, 16), keys)
        run = jax.jit(partial(scan_seeds, step, all_or_nothing=together))
        program = run.lower(ts, X, Y, ORDER, keys).compile().as_text()
        return "f64[16,35]" in program  # (inputs, networks * outputs)

    assert not as_the_product_would_want_them()
    monkeypatch.setattr("jaxnn.rules.products.policy", lambda **_: nullcontext())
    assert as_the_product_would_want_them()
