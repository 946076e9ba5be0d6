"""Faults in other places, what is said of them, and sound runs that look odd."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnn import mlp, serial
from jaxnn.layers import Layer, dense
from jaxnn.losses import softmax_cross_entropy
from jaxnn.train import Snapshots, TrainingError, fit
from tests.guard.fresh_cases import (
    FRESH,
    SAME,
    SOUND,
    WORDS,
    of_noise,
    sometimes,
)
from tests.guard.test_faults import located
from tests.train.problem import blobs

FEW = {
    "custom_vjp in a stack",
    "where of a root",
    "arccos at 1",
    "augmentation: a constant row",
    "mixup: log of 0",
    "weight noise: inf",
    "product that overflows",
    "residual within remat, back",
}


def few(names, chosen):
    return [
        n if n in chosen else pytest.param(n, marks=pytest.mark.slow) for n in names
    ]


@pytest.mark.parametrize("name", few(FRESH, FEW))
def test_a_fault_in_another_place_is_named(name):
    with jax.numpy_rank_promotion("allow"):  # the faults are a user's own code
        case = FRESH[name]()
        found = located(case)
    assert (found.part, found.layer) == (case.part, case.layer)
    assert found.op in case.ops
    assert found.samples == ([] if case.row is None else [case.row])
    assert found.agree
    if name in WORDS:
        assert re.search(WORDS[name], found.cause)


@pytest.mark.slow
@pytest.mark.parametrize("name", SOUND)
def test_nothing_is_found_in_another_sound_step(name):
    with jax.numpy_rank_promotion("allow"):
        assert located(SOUND[name]()) is None


def test_a_layers_own_noise_accuses_no_row_and_says_what_the_experiment_told():
    found = located(of_noise(sometimes))
    assert (found.samples, found.experiment) == ([], "chance")
    assert "with other random numbers the step is sound" in "\n".join(found.lines())
    found = located(FRESH["a place in the batch"]())
    assert (found.samples, found.experiment) == ([], "bad")
    words = "\n".join(found.lines())
    assert "the step is bad without those that look bad too" in words
    assert "sound without" not in words


def careless(f):
    """The identity in training, `f` in evaluation."""

    def forward(params, state, x, *, key=None, train):
        return (x if train else f(x)), state, ()

    return Layer(
        lambda key, shape: ((), (), tuple(shape)),
        forward,
        lambda cache, dy: (dy, ()),
        "careless",
    )


def one_row(x):
    sound = jnp.arange(len(x)).reshape(-1, 1) != 3
    return x + jnp.log(jnp.where(sound, x * 0 + 1, -1.0))


OPTIONS = {"epochs": 2, "batch": 32, "optimizer": optax.sgd(0.1)}


@pytest.mark.parametrize(
    ("function", "rows"), [(lambda x: jnp.log(x - x - 1), []), (one_row, [3])]
)
def test_nan_in_evaluation_only_is_said(function, rows):
    net = serial(careless(function), dense(3))
    with pytest.raises(TrainingError, match="not finite after any epoch") as caught:
        fit(net, blobs(64), validation=blobs(32, seed=1), **OPTIONS)
    (found,) = caught.value.history.findings
    assert (found.part, found.layer, found.op) == ("evaluation", "0 careless", "log")
    assert found.samples == rows
    assert (found.epoch, found.step) == (1, 0)
    assert "epoch 1, in its evaluation" in "\n".join(found.lines())
    assert "in evaluation mode only" in found.cause


def test_nan_in_evaluation_is_never_the_best_epoch_and_ends_raise_and_stop():
    net = serial(careless(lambda x: jnp.log(x - x - 1)), dense(3))
    data = {"data": blobs(64), "validation": blobs(32, seed=1)}
    with pytest.raises(TrainingError, match="epoch 1, seed 0 is not finite"):
        fit(net, guard="raise", **data, **OPTIONS)
    assert fit(net, guard="stop", **data, **OPTIONS).stopped == "guard"
    assert fit(net, guard="off", **data, **OPTIONS).best_epoch == 0


def test_a_run_of_few_steps_that_are_all_bad_is_an_error():
    net = serial(SAME, dense(3))

    def loss(pred, target):
        value, dpred = softmax_cross_entropy(pred, target)
        return value / 0, dpred

    with pytest.raises(TrainingError, match="each of the 4 steps was bad") as caught:
        fit(net, blobs(64), loss=loss, **OPTIONS)
    assert caught.value.history.findings[0].part == "loss"


@pytest.mark.parametrize("size", [1, 3, None])
def test_rollback_finds_a_sound_state_though_the_loss_tells_one_step_late(size):
    for rate in (30.0, 300.0):
        history = fit(
            mlp([6, 8, 3]), blobs(256), epochs=3, batch=32, guard="rollback",
            optimizer=optax.sgd(rate), steps_per_call=size, seeds=list(range(12)),
        )  # fmt: skip
        assert history.stopped == "finished"
        assert np.max(history.epochs[-1]["loss"]) < 1


def test_a_rollback_resumes_to_the_same_bits(tmp_path):
    def train(epochs, folder, resume=False):
        return fit(
            mlp([6, 8, 3]), blobs(160), epochs=epochs, batch=32, guard="rollback",
            optimizer=optax.sgd(30.0), steps_per_call=1,
            snapshots=Snapshots(folder, resume=resume),
        )  # fmt: skip

    train(1, tmp_path / "a")
    resumed, whole = train(3, tmp_path / "a", True), train(3, tmp_path / "b")
    pairs = zip(*map(jax.tree.leaves, (resumed.last, whole.last)), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)
