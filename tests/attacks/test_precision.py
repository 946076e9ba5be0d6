"""Attacks that follow a network in bfloat16, judged in float32."""

from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest

from jaxnn import attacks
from jaxnn.attacks import ATTACKS
from jaxnn.errors import JaxnnError
from jaxnn.robustness import Threat, evaluate
from tests.attacks.problem import model, settings, trained
from tests.train.test_precision import dots

BUDGETED = sorted(a.name for a in ATTACKS.values() if "epsilon" in a.takes)


@pytest.fixture(scope="module")
def exact():
    params, state, x, y = jax.tree.map(
        lambda a: np.asarray(a, np.float32) if a.dtype == np.float64 else a,
        trained(100),
    )
    return model(params, state), x, y


@pytest.fixture
def mixed(exact):
    return replace(exact[0], precision="bfloat16")


def products(function, *args):
    """The kinds of products in a program."""
    return set(dots(jax.make_jaxpr(function)(*args).jaxpr))


@pytest.mark.parametrize("name", BUDGETED)
def test_what_an_attack_follows_is_rounded(name, exact, mixed):
    _, x, y = exact
    options = {k: v for k, v in settings(name).items() if k != "kind"}

    def program(model):
        return products(lambda x: ATTACKS[name].core(model, x, y, **options), x)

    assert program(mixed) == {("bfloat16", "bfloat16", "float32")}
    assert program(exact[0]) == {("float32",) * 3}


def test_what_it_finds_is_judged_in_float32(exact, mixed):
    model, x, y = exact
    budget = {"epsilon": 0.1, "steps": 10, "key": jax.random.key(0)}
    found, want = (attacks.pgd(m, x, y, **budget) for m in (mixed, model))
    assert found.dtype == want.dtype
    assert (np.asarray(found) != np.asarray(want)).any()
    assert np.abs(np.asarray(found) - x).max() <= 0.1 + 1e-6
    left, stands = model.correct(found, y), model.correct(want, y)
    assert abs(left.mean() - stands.mean()) <= 0.05
    np.testing.assert_array_equal(mixed.correct(found, y), left)
    np.testing.assert_array_equal(mixed.outputs(x), model.outputs(x))
    for got, right in zip(mixed.gradient(x, y), model.gradient(x, y), strict=True):
        np.testing.assert_array_equal(got, right)


def test_what_stops_at_the_edge_of_a_class_looks_for_it_in_float32(exact, mixed):
    model, x, y = exact
    for attack in (
        attacks.deepfool, partial(attacks.pgd, epsilon=0.1, steps=4, early_stop=True)
    ):  # fmt: skip
        np.testing.assert_array_equal(attack(mixed, x, y), attack(model, x, y))


@pytest.mark.slow
def test_an_evaluation_attacks_in_it_and_checks_in_float32(exact, mixed):
    model, x, y = exact
    threat = Threat("l2", 0.5)
    found, want = (evaluate(m, x[:60], y[:60], threat=threat) for m in (mixed, model))
    assert found.clean == want.clean
    assert abs(found.robust.value - want.robust.value) <= 0.1
    assert (found.x_adv != want.x_adv).any()
    assert found.layers == want.layers


def test_a_precision_that_cannot_be_is_refused(exact, mixed):
    model, x, y = exact
    with pytest.raises(JaxnnError, match="unknown precision 'half'"):
        attacks.fgsm(replace(model, precision="half"), x, y, epsilon=0.1)
    with pytest.raises(JaxnnError, match="expected images in float32"):
        attacks.fgsm(mixed, x.astype(np.float64), y, epsilon=0.1)
