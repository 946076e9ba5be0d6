"""float16: small gradients survive, an overflow halves the scale, a NaN does not."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnn import defenses, mlp, serial
from jaxnn.errors import JaxnnError
from jaxnn.layers import dense, pointwise
from jaxnn.losses import softmax_cross_entropy
from jaxnn.rules import Rule
from jaxnn.train import fit, make_step
from jaxnn.train.loss_scale import EVERY, FIRST, LEAST, LossScale, adjusted
from tests.train.problem import blobs

KEY = jax.random.key(0)
SGD = optax.sgd(0.1)


def times(factor):
    """A layer whose gradient is `factor` times what came."""
    return pointwise(Rule("times", lambda x: (x, ()), lambda _, dy: (dy * factor,)))


def stepped(net, ts=None, **changes):
    x, y = (jnp.asarray(a) for a in blobs(16, 6, 3))
    step = make_step(net, softmax_cross_entropy, SGD, half=True)
    ts = step.start((16, 6), KEY) if ts is None else ts
    ts = ts._replace(**changes)
    return ts, *jax.jit(step)(ts, x, y, KEY)


def scale_of(value):
    return LossScale(jnp.float32(value), jnp.zeros((), jnp.int32))


def test_an_overflow_halves_the_scale_and_changes_nothing_else():
    net = serial(dense(4), times(1e3), dense(3))
    before, after, metrics = stepped(net)
    assert metrics["ok"]
    assert metrics["rescaled"]
    assert float(after.scaling.scale) == FIRST / 2
    assert int(after.skipped) == 0
    jax.tree.map(np.testing.assert_array_equal, before.params, after.params)
    _, after, metrics = stepped(net, scaling=scale_of(8))
    assert not metrics["rescaled"]
    assert any((a != b).any() for a, b in zip(
        jax.tree.leaves(after.params), jax.tree.leaves(before.params), strict=True
    ))  # fmt: skip


def test_a_gradient_that_no_scale_mends_is_a_bad_step():
    net = serial(dense(4), times(jnp.nan), dense(3))
    _, after, metrics = stepped(net, scaling=scale_of(LEAST))
    assert not metrics["ok"]
    assert not metrics["rescaled"]
    assert int(after.skipped) == 1


def test_a_small_gradient_survives_as_it_would_in_float32():
    net = serial(dense(4), times(2.0**-20), dense(3))  # float16 ends at 2**-24
    _, after, metrics = stepped(net)
    assert metrics["ok"]
    step = make_step(net, softmax_cross_entropy, SGD)
    x, y = (jnp.asarray(a) for a in blobs(16, 6, 3))
    plain, _ = jax.jit(step)(step.start((16, 6), KEY), x, y, KEY)
    for got, want, first in zip(
        *(
            jax.tree.leaves(ts.params)
            for ts in (after, plain, step.start((16, 6), KEY))
        ),
        strict=True,
    ):
        assert abs(got - want).max() < 0.01 * abs(want - first).max()


def test_the_scale_is_doubled_after_enough_steps_and_stays_within_its_limits():
    scale = LossScale(jnp.float32(4.0), jnp.int32(EVERY - 1))
    assert adjusted(scale, jnp.asarray(False)).scale == 8
    assert adjusted(scale, jnp.asarray(False)).held == 0
    assert adjusted(scale_of(LEAST), jnp.asarray(True)).scale == LEAST


def test_fit_in_float16_keeps_wide_parameters_and_learns():
    found = fit(mlp([6, 8, 3]), blobs(128, 6, 3), dtype="float16", epochs=4, batch=32)
    assert {a.dtype for a in jax.tree.leaves(found.params)} == {jnp.dtype("float64")}
    assert found.epochs[-1]["loss"] < found.epochs[0]["loss"]
    assert "rescaled" in found.epochs[0]
    assert not found.findings


def test_a_defense_cannot_be_scaled():
    with pytest.raises(JaxnnError, match="float32 or bfloat16"):
        make_step(mlp([6, 3]), softmax_cross_entropy, SGD, half=True,
                  defense=defenses.pgd(0.1))  # fmt: skip
