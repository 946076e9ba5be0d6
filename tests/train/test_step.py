"""The step: what it computes, and that a bad one changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnn import mlp
from jaxnn.losses import softmax_cross_entropy
from jaxnn.regularize import combined, l1, l2, max_norm
from jaxnn.train import init_state, make_step, to_unit
from tests.train.problem import blobs

NET = mlp([6, 5, 3], normalize=True, drop_rate=0.2)
KEY = jax.random.key(0)


def start(optimizer, net=NET):
    return jax.jit(lambda: init_state(net, optimizer, (6,), KEY))()


def same_bits(a, b):
    return jax.tree.all(
        jax.tree.map(
            lambda p, q: np.asarray(p).tobytes() == np.asarray(q).tobytes(), a, b
        )
    )


@pytest.mark.parametrize("penalty", [None, combined(l1(0.01), l2(0.1))])
def test_a_step_is_the_optax_update_with_the_gradient_of_jax_grad(penalty):
    optimizer = optax.adam(0.1)
    ts, (x, y) = start(optimizer), blobs(32)
    got, metrics = jax.jit(
        make_step(NET, softmax_cross_entropy, optimizer, penalty=penalty)
    )(ts, x, y, KEY)
    key = jax.random.fold_in(jax.random.fold_in(KEY, 0), 1)

    def objective(params):
        logits = NET.forward(params, ts.state, jnp.asarray(x), key=key, train=True)[0]
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1)
        weights = [w for w in jax.tree.leaves(params) if w.ndim == 2]
        extra = sum(0.01 * abs(w).sum() + 0.05 * (w**2).sum() for w in weights)
        return -picked.mean() + (0 if penalty is None else extra)

    value, grads = jax.value_and_grad(objective)(ts.params)
    updates, _ = optimizer.update(grads, ts.opt, ts.params)
    want = optax.apply_updates(ts.params, updates)
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-9)
    np.testing.assert_allclose(metrics["grad_norm"], optax.tree.norm(grads), rtol=1e-9)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9),
        got.params,
        want,
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_a_poisoned_step_leaves_every_bit_but_its_counters(bad):
    optimizer = optax.adam(0.1)
    step = jax.jit(make_step(NET, softmax_cross_entropy, optimizer))
    x, y = blobs(32)
    ts, _ = step(start(optimizer), x, y, KEY)
    poisoned = x.copy()
    poisoned[3, 2] = bad
    after, metrics = step(ts, poisoned, y, KEY)
    # 1e300 squared overflows in the batch variance: the loss stays finite, as the
    # normalised value is then 0, but the running variance would be infinite for ever
    assert not metrics["ok"]
    assert same_bits(after[:3], ts[:3])
    assert int(after.skipped) == int(ts.skipped) + 1
    assert int(after.step) == int(ts.step) + 1


def test_a_healthy_step_changes_parameters_optimizer_and_running_statistics():
    optimizer = optax.adam(0.1)
    ts = start(optimizer)
    after, metrics = jax.jit(make_step(NET, softmax_cross_entropy, optimizer))(
        ts, *blobs(32), KEY
    )
    assert metrics["ok"]
    assert not any(same_bits(a, b) for a, b in zip(after[:3], ts[:3], strict=True))


def test_max_norm_holds_after_every_step():
    optimizer = optax.sgd(5.0)
    step = make_step(NET, softmax_cross_entropy, optimizer, project=max_norm(0.5))
    after, _ = jax.jit(step)(start(optimizer), *blobs(32), KEY)
    for w in jax.tree.leaves(after.params):
        if w.ndim == 2:
            assert float(jnp.linalg.norm(w, axis=0).max()) <= 0.5 + 1e-12


def test_parameter_groups_of_optax_partition_get_their_own_optimizers():
    def labels(params):
        return jax.tree.map(lambda w: "train" if w.ndim == 2 else "freeze", params)

    optimizer = optax.partition(
        {"train": optax.sgd(0.1), "freeze": optax.set_to_zero()}, labels
    )
    ts = start(optimizer)
    after, _ = jax.jit(make_step(NET, softmax_cross_entropy, optimizer))(
        ts, *blobs(32), KEY
    )
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), after.params, ts.params)
    kinds = jax.tree.map(lambda w: w.ndim == 2, ts.params)
    assert moved == kinds


def test_uint8_pixels_become_the_unit_interval_inside_the_step():
    x = np.array([[0, 51, 255]], np.uint8)
    np.testing.assert_allclose(
        to_unit(jnp.asarray(x), jnp.float32), [[0, 0.2, 1]], rtol=1e-6
    )
