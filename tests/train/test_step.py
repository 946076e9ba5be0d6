"""The step: what it computes with each of its settings; a bad one changes nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnn import mlp
from jaxnn.errors import JaxnnError
from jaxnn.losses import mse, softmax_cross_entropy
from jaxnn.regularize import (
    elastic_net,
    input_noise,
    max_norm,
    max_spectral_norm,
    mixup,
    spectral_norm,
    sum_penalties,
    weight_noise,
)
from jaxnn.train import (
    Weighted,
    evaluated,
    init_state,
    make_step,
    to_unit,
)
from tests.rules.common import assert_trees_close
from tests.train.problem import blobs, same_bits

NET = mlp([6, 5, 3], "tanh", normalize=True, drop_rate=0.2)
KEY = jax.random.key(0)
X, Y = blobs(32)
WEIGHTS = np.random.default_rng(3).uniform(0, 2, 32)
OPTIONS = {
    "penalty": sum_penalties(elastic_net(0.02), spectral_norm(0.1)),
    "augment": input_noise(0.3, 0.1),
    "mixup": mixup(0.5, 3),
    "weight_noise": weight_noise(0.2),
}
EVERYTHING = OPTIONS | {
    "project": max_spectral_norm(2.0),
    "clip_norm": 0.5,
    "ema": 0.9,
}


def start(ema=False, optimizer=None, dtype=None):
    optimizer = optimizer or optax.adam(0.1)
    return jax.jit(lambda: init_state(NET, optimizer, (6,), KEY, dtype, ema=ema))()


def step_of(loss=softmax_cross_entropy, optimizer=None, **options):
    return jax.jit(make_step(NET, loss, optimizer or optax.adam(0.1), **options))


def objective(ts, options, weights):
    """The whole of what one step minimizes, for `jax.grad`; keys as the step's."""
    key = jax.random.fold_in(KEY, 0)
    keys = [jax.random.fold_in(key, i) for i in range(4)]

    def value(params):
        x, t, each = jnp.asarray(X), jax.nn.one_hot(Y, 3), weights
        if "augment" in options:
            x = options["augment"](keys[0], x)
        if "mixup" in options:
            x, t, each = options["mixup"](keys[2], x, t, each)
        near = params
        if "weight_noise" in options:
            near = options["weight_noise"](keys[3], params)
        logits = NET.forward(near, ts.state, x, key=keys[1], train=True)[0]
        losses = -(t * jax.nn.log_softmax(logits)).sum(-1)
        total = losses.mean() if each is None else (losses * each).mean()
        if "penalty" in options:
            for w in (w for w in jax.tree.leaves(params) if w.ndim == 2):
                largest = jnp.sqrt(jnp.linalg.eigvalsh(w.T @ w)[-1])
                total += 0.01 * abs(w).sum() + 0.005 * (w**2).sum() + 0.1 * largest
        return total

    return jax.jit(jax.value_and_grad(value))(ts.params)


@pytest.mark.parametrize("names", [(), *((n,) for n in OPTIONS), tuple(OPTIONS)])
def test_the_gradient_is_that_of_the_whole_objective(names):
    options = {name: OPTIONS[name] for name in names}
    weights = WEIGHTS if len(names) > 1 else None
    ts = start(optimizer=optax.sgd(1.0))
    y = Y if weights is None else Weighted(Y, weights)
    after, metrics = step_of(optimizer=optax.sgd(1.0), **options)(ts, X, y, KEY)
    value, grads = objective(ts, options, weights)
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-12)
    moved = jax.tree.map(lambda a, b: b - a, after.params, ts.params)
    assert_trees_close(moved, grads, 1e-11)  # a difference of parameters of size 1


@pytest.mark.parametrize("name", ["", *EVERYTHING, "clip_value", "everything"])
def test_a_poisoned_step_leaves_every_bit_whatever_is_on(name):
    every = EVERYTHING | {"clip_value": 0.1}
    options = {name: every[name]} if name in every else EVERYTHING if name else {}
    step = step_of(**options)
    ts, _ = step(start("ema" in options), X, Y, KEY)
    # 1e300 squared overflows in the batch variance: the loss stays finite, as the
    # normalized value is then 0, but the running variance would be infinite for ever
    for bad in (np.nan, np.inf, 1e300):
        poisoned = X.copy()
        poisoned[3, 2] = bad
        after, metrics = step(ts, poisoned, Y, KEY)
        assert not metrics["ok"]
        assert same_bits((*after[:3], after.ema), (*ts[:3], ts.ema))
        assert int(after.skipped) == int(ts.skipped) + 1
        assert int(after.step) == int(ts.step) + 1


def test_parameter_groups_of_optax_partition_get_their_own_optimizers():
    def labels(params):
        return jax.tree.map(lambda w: "train" if w.ndim == 2 else "freeze", params)

    optimizer = optax.partition(
        {"train": optax.sgd(0.1), "freeze": optax.set_to_zero()}, labels
    )
    ts = start(optimizer=optimizer)
    after, metrics = step_of(optimizer=optimizer)(ts, X, Y, KEY)
    assert metrics["ok"]
    assert not same_bits(after.state, ts.state)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), after.params, ts.params)
    kinds = jax.tree.map(lambda w: w.ndim == 2, ts.params)
    assert moved == kinds


def test_uint8_pixels_become_the_unit_interval():
    unit = to_unit(jnp.array([[0, 51, 255]], jnp.uint8), jnp.float32)
    np.testing.assert_allclose(unit, [[0, 0.2, 1]], rtol=1e-6)


def test_max_norm_holds_after_every_step():
    after, _ = step_of(optimizer=optax.sgd(5.0), project=max_norm(0.5))(
        start(optimizer=optax.sgd(5.0)), X, Y, KEY
    )
    for w in jax.tree.leaves(after.params):
        if w.ndim == 2:
            assert float(jnp.linalg.norm(w, axis=0).max()) <= 0.5 + 1e-12


@pytest.mark.parametrize("weight", [np.nan, np.inf])
def test_a_bad_weight_is_a_bad_step(weight):
    weights = WEIGHTS.copy()
    weights[5] = weight
    ts = start()
    after, metrics = step_of()(ts, X, Weighted(Y, weights), KEY)
    assert not metrics["ok"]
    assert same_bits(after[:3], ts[:3])


@functools.cache
def plain_step():
    ts = start(optimizer=optax.sgd(1.0))
    return ts, *step_of(optimizer=optax.sgd(1.0))(ts, X, Y, KEY)


@pytest.mark.parametrize("bound", [1e-3, 1e9])
@pytest.mark.parametrize("kind", ["norm", "value"])
def test_clipped_steps_are_those_of_optax(kind, bound):
    ts, plain, unclipped = plain_step()
    after, metrics = step_of(optimizer=optax.sgd(1.0), **{f"clip_{kind}": bound})(
        ts, X, Y, KEY
    )
    grads = jax.tree.map(lambda a, b: a - b, ts.params, plain.params)
    clip = optax.clip_by_global_norm if kind == "norm" else optax.clip
    want = clip(bound).update(grads, optax.EmptyState())[0]
    got = jax.tree.map(lambda a, b: a - b, ts.params, after.params)
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-9, atol=1e-15)
    # the metric tells what came in, not what was left
    assert metrics["grad_norm"] == unclipped["grad_norm"]


def test_the_average_is_the_documented_one_over_parameters_and_statistics():
    step, ts = step_of(ema=0.7), start(ema=True)
    want = (ts.params, ts.state)
    for t in range(5):
        ts, _ = step(ts, X, Y, KEY)
        d = min(0.7, (1 + t) / (10 + t))
        want = jax.tree.map(
            lambda a, b, d=d: d * a + (1 - d) * b, want, (ts.params, ts.state)
        )
    assert_trees_close(ts.ema, want)
    assert_trees_close(evaluated(ts), want)
    raw = start()
    assert evaluated(raw)[0] is raw.params


def test_the_average_of_bfloat16_is_kept_in_float32_and_given_back_narrow():
    # in bfloat16, 0.999 a + 0.001 b is a: the average would stand still
    ts = start(ema=True, dtype=jnp.bfloat16)
    first = jax.tree.map(np.asarray, ts.ema)
    step = step_of(ema=0.999)
    for _ in range(20):
        ts, _ = step(ts, X, Y, KEY)
    kinds = [
        {str(a.dtype) for a in jax.tree.leaves(t)} for t in (ts.ema, evaluated(ts))
    ]
    assert kinds == [{"float32"}, {"bfloat16"}]
    assert not any(same_bits(a, b) for a, b in zip(ts.ema, first, strict=True))


def test_a_state_without_an_average_says_how_to_make_one():
    with pytest.raises(JaxnnError, match=r"ema=0\.9: .*init_state\(\.\.\., ema=True\)"):
        step_of(ema=0.9)(start(), X, Y, KEY)


@pytest.mark.parametrize("decay", [-0.1, 1.0, 999, float("nan")])
def test_the_decay_is_a_share_below_one(decay):
    with pytest.raises(JaxnnError, match="ema: got decay"):
        make_step(NET, mse, optax.sgd(0.1), ema=decay)


def test_a_state_made_eagerly_can_be_donated():
    ts = init_state(NET, optax.sgd(0.1), (6,), KEY, ema=True)
    step = make_step(NET, softmax_cross_entropy, optax.sgd(0.1), ema=0.9)
    after, _ = jax.jit(step, donate_argnums=0)(ts, X, Y, KEY)
    assert all(np.isfinite(a).all() for a in jax.tree.leaves(after.ema))


def test_what_is_not_asked_for_leaves_no_trace_in_the_program():
    net = mlp([6, 5, 3])
    step = make_step(net, softmax_cross_entropy, optax.sgd(0.1))
    ts = jax.eval_shape(lambda: init_state(net, optax.sgd(0.1), (6,), KEY))
    assert ts.ema == ()
    text = str(jax.make_jaxpr(step)(ts, X, Y, KEY))
    noisy = make_step(
        net, softmax_cross_entropy, optax.sgd(0.1),
        mixup=mixup(0.2, 3), project=max_norm(2.0), clip_value=0.1,
    )  # fmt: skip
    other = str(jax.make_jaxpr(noisy)(ts, X, Y, KEY))
    for word in ("random_bits", "clip", "rev["):  # draws, clipping, mixup
        assert (word in text, word in other) == (False, True)
