"""The regularizers and augmentations of the command line, as they reach the step."""

from dataclasses import fields, replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import regularize
from jaxnn.app.build import DataFacts, build, step_options
from jaxnn.app.checks import check
from jaxnn.app.config import TrainConfig
from jaxnn.app.trained import attack_keys, collapses
from jaxnn.augment import augment_by_name
from jaxnn.errors import JaxnnError
from jaxnn.losses import LOSSES
from jaxnn.train.step import Step
from tests.rules.common import assert_trees_close, normal

KEY = jax.random.key(0)
PARAMS = {"w": jnp.asarray(3 * normal(6, 4)), "b": jnp.asarray(normal(4))}
X = jnp.asarray(np.random.default_rng(0).uniform(0, 1, (3, 8, 8)))


def options(**settings):
    return step_options(replace(TrainConfig(), **settings), 10)


def test_the_default_asks_for_nothing():
    usual = {f.name: f.default for f in fields(Step)}
    assert options() == {name: usual[name] for name in options()}


def test_penalties_and_projections_are_the_sum_and_the_sequence():
    found = options(
        l1=0.1, l2=0.2, spectral_norm=0.3, max_norm=2.0, max_spectral_norm=3.0
    )
    want = regularize.sum_penalties(
        regularize.l1(0.1), regularize.l2(0.2), regularize.spectral_norm(0.3)
    )
    assert_trees_close(found["penalty"](PARAMS), want(PARAMS))
    after = found["project"](PARAMS)["w"]
    assert np.linalg.norm(after, axis=0).max() <= 2 + 1e-12
    assert np.linalg.norm(after, 2) <= 3 + 1e-12


@pytest.mark.parametrize("kind", regularize.NOISES)
def test_images_are_moved_and_then_noisy(kind):
    found = options(augment="digits", rotate=3.0, noise=0.1, noise_kind=kind)
    moved = augment_by_name("digits", rotate=3.0)(jax.random.fold_in(KEY, 0), X)
    want = regularize.NOISES[kind](0.1)(jax.random.fold_in(KEY, 1), moved)
    assert_trees_close(found["augment"](KEY, X), want)


@pytest.mark.parametrize(
    ("name", "made"),
    [("pgd", "pgd-7"), ("fgsm_rs", "fgsm-rs"), ("fgsm_mix", "fgsm-mix"),
     ("trades", "trades"), ("free", "free-4"), ("ibp", "ibp")],
)  # fmt: skip
def test_every_adversarial_training_has_its_defense(name, made):
    found = step_options(replace(TrainConfig(), adversarial=name), 10, steps=8)
    assert found["defense"].name == made
    with pytest.raises(JaxnnError, match="epsilon-ramp"):
        check(replace(TrainConfig(), adversarial=name, epsilon_ramp=2.0))


def test_the_rest_is_passed_on():
    found = options(mixup=0.2, weight_noise=0.1, clip_norm=1.0, ema=0.99)
    assert found["mixup"](KEY, X, jnp.array([0, 9, 1]))[1].shape == (3, 10)
    assert (found["weight_noise"](KEY, PARAMS)["w"] != PARAMS["w"]).all()
    assert (found["clip_norm"], found["ema"], found["clip_value"]) == (1.0, 0.99, None)


@pytest.mark.parametrize("name", LOSSES)
def test_probabilities_keep_the_order_of_the_outputs(name):
    outputs = normal(5, 4) + (1 if name in ("mse", "mae", "huber", "quadratic") else -3)
    chance = LOSSES[name].as_probabilities(outputs)
    np.testing.assert_allclose(chance.sum(-1), 1)
    assert (chance.argmax(-1) == outputs.argmax(-1)).all()


def test_amounts_out_of_range_raise_before_any_step():
    with pytest.raises(JaxnnError, match="random_warp: got elastic=-1"):
        options(elastic=-1.0)


def collapse_of(**settings):
    """What a run says of ten images all right, 90% under one step, 1% under many."""
    y = np.arange(100) % 10
    data = SimpleNamespace(test=SimpleNamespace(y=y))
    e = build(TrainConfig(**settings), DataFacts((4,), 10, 0, 1))._replace(data=data)
    one, many, _ = attack_keys(e.config.epsilon or 0.1)
    return collapses(e, np.eye(10)[y][None], {one: 0.9, many: 0.01})


def test_a_run_says_collapsed_only_of_what_it_was_trained_for():
    assert collapse_of(label_smoothing=0.3) == []
    assert collapse_of(adversarial="pgd") == []
    (words,) = collapse_of(adversarial="fgsm_rs")
    assert words.startswith("catastrophic overfitting")
    # the attacks have the budget that the run was trained for
    (words,) = collapse_of(adversarial="fgsm_rs", epsilon=0.03)
    assert words.startswith("catastrophic overfitting")
