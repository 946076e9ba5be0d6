"""FGSM and PGD: the budget, the box, and that the strong one is stronger."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import Classifier, attacks, mlp
from jaxnn.attacks.core import l2_norm
from jaxnn.errors import JaxnnError
from jaxnn.losses import mse, quadratic, softmax_cross_entropy
from jaxnn.train import predict
from tests.attacks.problem import NET, accuracy, model
from tests.compiling import compiling

KEY = jax.random.key(3)


def attack(name, trained, epsilon, **options):
    params, state, x, y = trained
    if name == "fgsm":
        return attacks.fgsm(model(params, state), x, y, epsilon=epsilon, **options)
    return attacks.pgd(
        model(params, state), x, y, **({"epsilon": epsilon, "steps": 10} | options)
    )


EVERY = [
    (name, norm, options)
    for name in ("fgsm", "pgd")
    for norm in ("linf", "l2")
    for options in (
        {},
        {"targeted": True},
        *([{"key": KEY, "restarts": 2}] if name == "pgd" else []),
    )
]


@pytest.mark.parametrize(("name", "norm", "options"), EVERY)
def test_epsilon_zero_changes_no_bit(trained, name, norm, options):
    x = trained[2]
    assert np.asarray(attack(name, trained, 0.0, norm=norm, **options)).tobytes() == (
        x.tobytes()
    )


@pytest.mark.parametrize(("name", "norm", "options"), EVERY)
def test_the_budget_and_the_box_are_kept(trained, name, norm, options):
    x = trained[2]
    for epsilon in (0.03, 0.3, 1.0):
        x_adv = attack(name, trained, epsilon, norm=norm, **options)
        delta = x_adv - x
        size = abs(delta).max() if norm == "linf" else l2_norm(delta).max()
        assert float(size) <= epsilon + 1e-6
        assert bool(jnp.isfinite(x_adv).all())
        assert 0 <= float(x_adv.min()) <= float(x_adv.max()) <= 1


def test_without_a_box_fgsm_moves_every_pixel_by_epsilon(trained):
    x_adv = attack("fgsm", trained, 0.25, box=None)
    moved = abs(np.asarray(x_adv) - trained[2])
    assert np.allclose(moved[moved > 0], 0.25)
    assert x_adv.min() < 0 or x_adv.max() > 1


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_is_at_least_as_strong_as_fgsm_and_grows_with_epsilon(trained, norm):
    params, state, x, y = trained
    clean = accuracy(params, state, x, y)
    scale = 1 if norm == "linf" else 4
    before = clean
    for epsilon in (0.05, 0.1, 0.2):
        one = accuracy(
            params, state, attack("fgsm", trained, epsilon * scale, norm=norm), y
        )
        many = accuracy(
            params, state, attack("pgd", trained, epsilon * scale, norm=norm), y
        )
        assert many <= one <= clean
        assert many <= before
        before = many
    assert before < 0.5 * clean


def test_the_best_iterate_is_kept_for_each_image(trained):
    """A step so large that it overshoots: what fooled on the way must still count."""
    params, state, _, y = trained
    one = attack("pgd", trained, 0.2, steps=1, step_size=0.2)
    many = attack("pgd", trained, 0.2, steps=7, step_size=0.2)
    fooled_once = predict(NET, params, state, one).argmax(-1) != y
    fooled = predict(NET, params, state, many).argmax(-1) != y
    assert bool((fooled | ~fooled_once).all())


def test_an_image_already_wrong_stays_wrong(trained):
    params, state, x, _ = trained
    wrong = (predict(NET, params, state, x).argmax(-1) + 1) % 3
    x_adv = attacks.pgd(model(params, state), x, wrong, epsilon=0.1, steps=3, key=KEY)
    assert bool((predict(NET, params, state, x_adv).argmax(-1) != wrong).all())


def test_more_restarts_never_help_the_defender(trained):
    params, state, _, y = trained
    few = accuracy(params, state, attack("pgd", trained, 0.1, steps=2, key=KEY), y)
    many = attack("pgd", trained, 0.1, steps=2, key=KEY, restarts=5)
    assert accuracy(params, state, many, y) <= few


def test_a_targeted_attack_reaches_its_target(trained):
    params, state, x, y = trained
    target = ((y + 1) % 3).astype(np.int32)
    x_adv = attacks.pgd(
        model(params, state), x, target, epsilon=0.5, steps=20, targeted=True
    )
    reached = predict(NET, params, state, x_adv).argmax(-1) == target
    assert reached.mean() > 0.9


def test_the_same_key_gives_the_same_bits_and_another_key_others(trained):
    a = attack("pgd", trained, 0.1, key=KEY)
    assert bool((a == attack("pgd", trained, 0.1, key=KEY)).all())
    assert not bool((a == attack("pgd", trained, 0.1, key=jax.random.key(4))).all())


@pytest.mark.parametrize("loss", [softmax_cross_entropy, mse, quadratic])
def test_the_input_gradient_is_each_images_own(trained, loss):
    params, state, x, y = trained

    def one(image, label):
        out = NET.forward(params, state, image[None], train=False)[0]
        return loss(out, label[None])[0]

    want = jax.vmap(jax.grad(one))(jnp.asarray(x), jnp.asarray(y))
    _, got, _ = model(params, state).value_and_gradient(
        jnp.asarray(x), jnp.asarray(y), loss
    )
    np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-14)


def test_an_epsilon_sweep_compiles_once(trained):
    attack("fgsm", trained, 0.11)
    with compiling() as found:
        for epsilon in (0.12, 0.13, 0.14):
            attack("fgsm", trained, epsilon)
    assert not found


def test_batches_give_the_same_images_as_one_call(trained):
    params, state, x, y = trained

    def fgsm(a, b):
        return attacks.fgsm(model(params, state), a, b, epsilon=0.1)

    np.testing.assert_allclose(
        attacks.map_batches(fgsm, x, y, batch=25), fgsm(x, y), rtol=1e-12
    )


def test_a_zero_gradient_gives_no_nan():
    net = mlp([16, 3], init="zeros")
    params, state, _ = net.init(KEY, (16,))
    x, y = np.full((2, 16), 0.5), np.array([0, 1], np.int32)
    for norm in ("linf", "l2"):
        x_adv = attacks.pgd(
            Classifier(net, params, state), x, y, epsilon=0.1, norm=norm, steps=3
        )
        assert bool(jnp.isfinite(x_adv).all())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm": "l7"}, "valid names: linf, l2"),
        ({"epsilon": -0.1}, "expected >= 0"),
        ({"steps": 0}, "steps=0"),
        ({"restarts": 3}, "pass key="),
        ({"box": (1, 0)}, "low < high"),
    ],
)
def test_bad_arguments_are_named(trained, change, message):
    epsilon = change.pop("epsilon", 0.1)
    with pytest.raises(JaxnnError, match=message):
        attack("pgd", trained, epsilon, **change)


def test_uint8_images_and_lengths_that_differ_are_refused(trained):
    params, state, x, y = trained
    with pytest.raises(JaxnnError, match="divide uint8 pixels by 255"):
        attacks.fgsm(model(params, state), (x * 255).astype(np.uint8), y, epsilon=0.1)
    with pytest.raises(JaxnnError, match="60 images and 59 labels"):
        attacks.fgsm(model(params, state), x, y[:-1], epsilon=0.1)
