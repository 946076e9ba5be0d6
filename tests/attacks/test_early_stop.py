"""PGD with early stop: the first point that fools, whoever shares the lanes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import attacks
from jaxnn.losses import softmax_cross_entropy
from tests.attacks.problem import fooled, model
from tests.compiling import compiling

EPSILON, STEPS, SIZE = 0.12, 9, 0.02


def early(trained, **options):
    params, state, x, y = trained
    given = {"epsilon": EPSILON, "steps": STEPS, "step_size": SIZE} | options
    return attacks.pgd(
        model(params, state), jnp.asarray(x), y, **given, early_stop=True
    )  # fmt: skip


def points(trained):
    """Every point of the walk in turn, all images together: x, FGSM's, x, steps."""
    params, state, x, y = trained
    x = jnp.asarray(x)

    def after(x_adv, size):
        _, dx, _ = model(params, state).value_and_gradient(
            x_adv, jnp.asarray(y), softmax_cross_entropy
        )
        near = jnp.clip(x_adv + size * jnp.sign(dx), x - EPSILON, x + EPSILON)
        return jnp.clip(near, 0, 1)

    walk = [x, after(x, EPSILON), x]
    for _ in range(STEPS):
        walk.append(after(walk[-1], SIZE))
    return np.stack(walk)


@pytest.mark.parametrize("lanes", [1, 7, 60, 200])
def test_each_image_stops_at_its_first_fooling_point(trained, lanes):
    params, state, _, y = trained
    walk = points(trained)
    hit = np.stack([fooled(params, state, x_adv, y) for x_adv in walk])
    first = np.where(hit.any(0), hit.argmax(0), len(walk) - 1)
    assert len(set(first)) > 4  # a case worth testing
    assert not hit.any(0).all()
    found = early(trained, lanes=lanes)
    np.testing.assert_allclose(found, walk[first, np.arange(len(y))], atol=1e-6)


def test_it_fools_the_images_that_pgd_fools(trained):
    params, state, x, y = trained
    plain = attacks.pgd(
        model(params, state), jnp.asarray(x), y, epsilon=EPSILON, steps=STEPS,
        step_size=SIZE,
    )  # fmt: skip
    hit = fooled(params, state, early(trained), y)
    np.testing.assert_array_equal(hit, fooled(params, state, plain, y))
    assert 0 < hit.sum() < len(y)


def test_restarts_fool_more_and_do_not_depend_on_the_lanes(trained):
    params, state, _, y = trained
    key = jax.random.key(5)
    one = early(trained, key=key, lanes=5)
    three = [early(trained, key=key, restarts=3, lanes=s) for s in (4, 33)]
    np.testing.assert_allclose(*three, atol=1e-6)
    assert fooled(params, state, three[0], y).sum() >= (
        fooled(params, state, one, y).sum()
    )


def test_a_targeted_walk_stops_at_its_target(trained):
    params, state, x, y = trained
    goal = np.where(np.arange(len(y)) % 2, y, (y + 1) % 3)  # half are there already
    x_adv = attacks.pgd(
        model(params, state), jnp.asarray(x), goal, epsilon=0.4, targeted=True,
        early_stop=True,
    )  # fmt: skip
    reached = ~fooled(params, state, x_adv, goal)
    at_once = ~fooled(params, state, x, goal)
    assert reached.mean() > 0.9
    assert 0.4 < at_once.mean() < 0.6
    np.testing.assert_array_equal(x_adv[at_once], x[at_once].astype(x_adv.dtype))


def test_one_image(trained):
    params, state, x, y = trained
    assert early((params, state, x[:1], y[:1])).shape == (1, 4, 4)


def test_another_budget_does_not_compile_again(trained):
    early(trained, epsilon=0.05)
    with compiling() as found:
        early(trained, epsilon=0.07)
    assert not found
