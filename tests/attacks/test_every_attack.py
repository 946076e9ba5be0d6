"""What every attack owes: budget, box, identity at 0, determinism, the worst seen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import Classifier, attacks, mlp, serial
from jaxnn.attacks.baselines import CORRUPTIONS, NOISES
from jaxnn.attacks.core import project
from jaxnn.errors import JaxnnError
from jaxnn.layers import dense, flatten
from tests.attacks.problem import NET, accuracy, fooled, model
from tests.rules.cases import normal

KEY = jax.random.key(3)
FEW = {"steps": 6}
EARLY = {"early_stop": True, "lanes": 7}

# name -> (attack, norm of its budget, options)
FIXED = {
    "fgsm": (attacks.fgsm, "linf", {}),
    "fgsm l2": (attacks.fgsm, "l2", {"norm": "l2"}),
    "fgsm l1": (attacks.fgsm, "l1", {"norm": "l1"}),
    "bim": (attacks.bim, "linf", FEW),
    "mifgsm": (attacks.mifgsm, "linf", FEW),
    "mifgsm l2": (attacks.mifgsm, "l2", FEW | {"norm": "l2"}),
    "pgd": (attacks.pgd, "linf", FEW | {"key": KEY, "restarts": 2}),
    "pgd l2": (attacks.pgd, "l2", FEW | {"key": KEY, "norm": "l2"}),
    "pgd l1": (attacks.pgd, "l1", FEW | {"key": KEY, "norm": "l1"}),
    "pgd margin": (attacks.pgd, "linf", FEW | {"loss": attacks.margin}),
    "pgd early": (attacks.pgd, "linf", FEW | EARLY | {"key": KEY, "restarts": 2}),
    "pgd early l2": (attacks.pgd, "l2", FEW | EARLY | {"key": KEY, "norm": "l2"}),
    "pgd early l1": (attacks.pgd, "l1", FEW | EARLY | {"norm": "l1"}),
    "apgd": (attacks.apgd, "linf", {"steps": 20, "key": KEY}),
    "apgd l2": (attacks.apgd, "l2", {"steps": 20, "key": KEY, "norm": "l2"}),
    "apgd dlr": (attacks.apgd, "linf", {"steps": 20, "key": KEY, "loss": attacks.dlr}),
    "square": (attacks.square, "linf", {"queries": 30, "key": KEY}),
    "spsa": (attacks.spsa, "linf", {"steps": 4, "directions": 8, "key": KEY}),
    "noise uniform": (attacks.noise, "linf", {"key": KEY, "draws": 5}),
    "noise signs": (attacks.noise, "linf", {"key": KEY, "kind": "signs"}),
}
# name -> (attack, norm it keeps small, options)
MINIMAL = {
    "deepfool": (attacks.deepfool, "l2", {}),
    "deepfool linf": (attacks.deepfool, "linf", {"norm": "linf"}),
    "ddn": (attacks.ddn, "l2", {"steps": 200}),
    "carlini_wagner": (
        attacks.carlini_wagner,
        "l2",
        {"steps": 100, "searches": 8, "lr": 0.02},
    ),
}
WITH_TARGET = ["fgsm l2", "mifgsm", "pgd l1", "pgd early", "apgd dlr", "square", "spsa"]


def run(name, trained, epsilon, **more):
    attack, _, options = FIXED[name]
    params, state, x, y = trained
    return attack(
        model(params, state), jnp.asarray(x), y, epsilon=epsilon, **(options | more)
    )


@pytest.mark.parametrize("name", FIXED)
def test_epsilon_zero_changes_no_bit(name, trained):
    x = jnp.asarray(trained[2])
    assert np.asarray(run(name, trained, 0.0)).tobytes() == np.asarray(x).tobytes()


@pytest.mark.parametrize("name", FIXED)
def test_budget_and_box_are_kept(name, trained):
    x, norm = jnp.asarray(trained[2]), FIXED[name][1]
    for epsilon in (0.03, 0.4, 1.0):
        x_adv = run(name, trained, epsilon)
        assert float(attacks.distance(x_adv, x, norm).max()) <= epsilon + 1e-6
        assert bool(jnp.isfinite(x_adv).all())
        assert 0 <= float(x_adv.min()) <= float(x_adv.max()) <= 1


@pytest.mark.parametrize("name", FIXED)
def test_one_program_one_result_and_a_sweep_is_its_single_calls(name, trained):
    attack, _, options = FIXED[name]
    params, state, x, y = trained
    epsilons = [0.0, 0.1, 0.3]
    curve = attacks.sweep(
        attack, model(params, state), jnp.asarray(x), y, epsilons=epsilons, **options
    )
    for x_adv, epsilon in zip(curve, epsilons, strict=True):
        assert bool((x_adv == run(name, trained, epsilon)).all())


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["fgsm", "pgd l2", "pgd l1", "pgd early l2", "apgd", "square", "spsa"]
)
def test_an_epsilon_an_image_is_each_images_own(name, trained):
    one, two = run(name, trained, 0.1), run(name, trained, 0.4)
    each = np.where(np.arange(60) % 2, 0.1, 0.4)
    mixed = np.asarray(run(name, trained, each))
    np.testing.assert_allclose(mixed[1::2], one[1::2], atol=1e-9)
    np.testing.assert_allclose(mixed[::2], two[::2], atol=1e-9)


@pytest.mark.parametrize("name", [n for n in FIXED if "noise" not in n])
def test_an_attack_lowers_accuracy_and_beats_doing_nothing(name, trained):
    params, state, x, y = trained
    norm = FIXED[name][1]
    epsilon = {"linf": 0.25, "l2": 0.8, "l1": 2.5}[norm]
    hit = fooled(params, state, run(name, trained, epsilon), y)
    assert hit.mean() > fooled(params, state, x, y).mean() + 0.2


ITERATED = ["bim", "mifgsm", "pgd", "pgd early", "apgd"]


@pytest.mark.parametrize("name", ITERATED)
def test_an_iterated_attack_fools_whatever_fgsm_fools(name, trained):
    params, state, _, y = trained
    for epsilon in (0.05, 0.1, 0.2, 0.5):
        single = fooled(params, state, run("fgsm", trained, epsilon), y)
        many = fooled(params, state, run(name, trained, epsilon), y)
        assert bool((many | ~single).all())


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_TARGET)
def test_a_target_is_reached_more_often_than_without_an_attack(name, trained):
    params, state, x, y = trained
    target = ((y + 1) % 3).astype(np.int32)
    attack, norm, options = FIXED[name]
    epsilon = {"linf": 0.4, "l2": 1.5, "l1": 5.0}[norm]
    x_adv = attack(
        model(params, state), jnp.asarray(x), target, targeted=True, epsilon=epsilon,
        **options,
    )  # fmt: skip
    before = 1 - fooled(params, state, x, target).mean()
    assert 1 - fooled(params, state, x_adv, target).mean() > before + 0.3


@pytest.mark.parametrize("name", MINIMAL)
def test_a_minimal_attack_fools_every_image_nearer_than_pgd_needs(name, trained):
    attack, norm, options = MINIMAL[name]
    params, state, x, y = trained
    x = jnp.asarray(x)
    x_adv = attack(model(params, state), x, y, **options)
    assert fooled(params, state, x_adv, y).mean() == 1
    assert 0 <= float(x_adv.min()) <= float(x_adv.max()) <= 1
    size = np.asarray(attacks.distance(x_adv, x, norm))
    # a budget 20% below what it found: PGD must not fool most images within it
    within = attacks.pgd(
        model(params, state), x, y, epsilon=0.8 * size, norm=norm, steps=100
    )
    was_right = ~fooled(params, state, x, y)
    assert fooled(params, state, within, y)[was_right].mean() < 0.35
    assert (size[~was_right] == 0).all()


@pytest.mark.parametrize("name", MINIMAL)
def test_the_distance_to_a_plane_is_found(name):
    """Two classes of a linear network: the nearest boundary is known exactly."""
    attack, norm, options = MINIMAL[name]
    net = dense(2)
    w = jnp.asarray(normal(6, 2))
    b = -w.sum(0) / 2  # the boundary goes through the middle of the box
    x = 0.5 + 0.1 * jnp.asarray(normal(20, 6)).clip(-2, 2)
    z = x @ w + b[None]
    gap = jnp.abs(z[:, 1] - z[:, 0])
    slope = w[:, 1] - w[:, 0]
    dual = jnp.abs(slope).sum() if norm == "linf" else jnp.sqrt((slope**2).sum())
    exact = gap / dual
    x_adv = attack(Classifier(net, {"w": w, "b": b}), x, z.argmax(-1), **options)
    inside = np.asarray(exact) < 0.15  # the box is not met on the way
    assert inside.sum() >= 5
    found = np.asarray(attacks.distance(x_adv, x, norm))
    assert (found >= np.asarray(exact) * (1 - 1e-6)).all()
    # DeepFool's extra step of 1e-4 weighs on the nearest ones
    slack = np.asarray(exact) * 1.08 + 2e-3
    assert (found <= slack)[inside].all()


@pytest.mark.slow
def test_an_image_no_minimal_attack_can_fool_comes_back_as_it_was():
    net = mlp([16, 3], init="zeros")  # always says class 0, and has no gradient
    params, state, _ = net.init(KEY, (16,))
    x, y = jnp.full((2, 16), 0.5), np.zeros(2, np.int32)
    for attack, _, options in MINIMAL.values():
        x_adv = attack(Classifier(net, params, state), x, y, **(options | {"steps": 5}))
        assert bool((x_adv == x).all())


@pytest.mark.parametrize("objective", [attacks.margin, attacks.dlr])
def test_objectives_have_the_gradient_of_their_value(objective):
    z = jnp.asarray(normal(7, 5)) * 3
    y = jnp.arange(7) % 5

    def value(z):
        top = jnp.sort(z, axis=-1)
        own = z[jnp.arange(7), y]
        other = jnp.where(own == top[:, -1], top[:, -2], top[:, -1])
        scale = top[:, -1] - top[:, -3] if objective is attacks.dlr else 1
        return ((other - own) / scale).sum()

    values, dz = objective(z, y)
    np.testing.assert_allclose(values.sum(), value(z), rtol=1e-12)
    np.testing.assert_allclose(dz, jax.grad(value)(z), rtol=1e-12, atol=1e-13)


def test_dlr_of_equal_logits_is_zero_and_of_two_classes_an_error():
    values, dz = attacks.dlr(jnp.ones((2, 4)), jnp.array([0, 3]))
    assert not values.any()
    assert not dz.any()
    with pytest.raises(JaxnnError, match="at least 3; use margin"):
        attacks.dlr(jnp.ones((2, 2)), jnp.array([0, 1]))


@pytest.mark.parametrize("epsilon", [1e-3, 0.5, 4.0, 100.0])
def test_l1_projection_is_the_nearest_point_of_the_ball(epsilon):
    delta = normal(9, 40)
    got = np.asarray(
        project(
            jnp.asarray(delta), jnp.zeros((9, 40)), jnp.asarray(epsilon), "l1", None
        )
    )
    for row, found in zip(delta, got, strict=True):
        if abs(row).sum() <= epsilon:
            want = row
        else:
            u = np.sort(abs(row))[::-1]
            excess = (np.cumsum(u) - epsilon) / np.arange(1, 41)
            threshold = excess[np.nonzero(u > excess)[0][-1]]
            want = np.sign(row) * np.maximum(abs(row) - threshold, 0)
        np.testing.assert_allclose(found, want, atol=1e-12)


def test_square_sees_flat_images_and_squares_alike(trained):
    params, state, x, y = trained
    options = {"epsilon": 0.2, "key": KEY, "queries": 20}
    flat = attacks.square(model(params, state), x.reshape(60, 16), y, **options)
    square = attacks.square(model(params, state), jnp.asarray(x), y, **options)
    assert bool((flat.reshape(square.shape) == square).all())


@pytest.mark.parametrize("shape", [(7,), (3, 5), (3, 5, 2)])
def test_square_takes_any_shape(shape):
    net = serial(flatten, dense(3))
    params, state, _ = net.init(KEY, shape)
    x, y = jnp.full((4, *shape), 0.5), np.zeros(4, np.int32)
    x_adv = attacks.square(
        Classifier(net, params, state), x, y, epsilon=0.3, key=KEY, queries=40
    )
    assert x_adv.shape == x.shape
    assert float(abs(x_adv - x).max()) <= 0.3 + 1e-6


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_the_smallest_corruption_is_none_and_the_worst_is_kept(kind, trained):
    params, state, x, y = trained
    x = jnp.asarray(x)
    net = model(params, state)
    same = attacks.corruptions(net, x, y, kind=kind, amount=0.0, tries=3)
    np.testing.assert_allclose(same, x, atol=1e-6)
    clean = accuracy(params, state, x, y)
    worst = attacks.corruptions(
        model(params, state), x, y, kind=kind, amount=2.0 if kind != "contrast" else 1.0
    )
    assert accuracy(params, state, worst, y) <= clean
    with pytest.raises(JaxnnError, match="expected \\(B, H, W\\)"):
        attacks.corruptions(
            model(params, state), x.reshape(60, 16), y, kind=kind, amount=1.0
        )


def test_rotation_by_a_quarter_turn_is_rot90(trained):
    from jaxnn.attacks.baselines import CORRUPTIONS

    x = jnp.asarray(trained[2])[..., None]
    turned = CORRUPTIONS["rotation"](x, jnp.asarray(90.0))
    want = [np.rot90(np.asarray(x), turns, axes=(1, 2)) for turns in (1, 3)]
    assert min(abs(np.asarray(turned) - w).max() for w in want) < 1e-6


@pytest.mark.parametrize("kind", NOISES)
def test_more_draws_of_noise_never_help_the_defender(kind, trained):
    params, state, _, y = trained
    few = fooled(
        params, state, run("noise uniform", trained, 0.4, kind=kind, draws=1), y
    )
    many = run("noise uniform", trained, 0.4, kind=kind, draws=40)
    assert fooled(params, state, many, y).sum() >= few.sum()


def test_every_target_is_the_worst_of_the_single_ones(trained):
    params, state, x, y = trained
    options = {"epsilon": 0.1, "steps": 4}
    worst = attacks.every_target(
        attacks.pgd, model(params, state), jnp.asarray(x), y, classes=3, **options
    )
    hit = fooled(params, state, worst, y)
    for offset in (1, 2):
        goal = ((y + offset) % 3).astype(np.int32)
        single = attacks.pgd(
            model(params, state), jnp.asarray(x), goal, targeted=True, **options
        )
        assert bool((hit | ~fooled(params, state, single, y)).all())


def test_worst_of_takes_the_worst_image_by_image(trained):
    params, state, _, y = trained
    pieces = [run(name, trained, 0.15) for name in ("fgsm", "square", "noise uniform")]
    worst = attacks.worst_of(model(params, state), y, *pieces)
    union = np.any([fooled(params, state, piece, y) for piece in pieces], axis=0)
    assert (fooled(params, state, worst, y) == union).all()


def test_least_likely_is_the_smallest_output(trained):
    params, state, x, _ = trained
    from jaxnn.train import predict

    found = attacks.least_likely(model(params, state), jnp.asarray(x))
    assert (np.asarray(found) == predict(NET, params, state, x).argmin(-1)).all()


def test_targeted_descent_reaches_its_goal_and_stays_near_what_it_should_be_like():
    net = mlp([16, 12, 3], "sigmoid", init="normal", output="sigmoid")
    params, state, _ = net.init(jax.random.key(5), (16,))
    start = 0.5 + 0.3 * jnp.asarray(normal(6, 16))
    goal = jnp.arange(6) % 3
    like = jnp.asarray(normal(6, 16, seed=1))
    liar = Classifier(net, params, state)
    free = attacks.targeted_descent(liar, start, goal, steps=2000)
    near = attacks.targeted_descent(liar, start, goal, reference=like, proximity=0.5)
    pred = net.forward(params, state, free, train=False)[0]
    assert (pred.argmax(-1) == goal).mean() >= 5 / 6
    apart = attacks.distance(near, like, "l2")
    assert bool((apart < attacks.distance(start, like, "l2")).all())
    with pytest.raises(JaxnnError, match="one goal an image"):
        attacks.targeted_descent(liar, start, goal[:3])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a, x: a.pgd(epsilon=[0.1, 0.2]), "use attacks.sweep"),
        (lambda a, x: a.pgd(epsilon=float("nan")), "expected >= 0"),
        (lambda a, x: a.apgd(epsilon=0.1, key=KEY, norm="l1"), "valid names: linf, l2"),
        (lambda a, x: a.noise(epsilon=0.1, key=KEY, kind="pink"), "pink"),
        (lambda a, x: a.corruptions(kind="zoom", amount=1), "zoom"),
        (lambda a, x: a.square(epsilon=0.1, key=KEY, queries=0), "queries=0"),
        (lambda a, x: a.pgd(x=x * 2, epsilon=0.1), "own its normalisation"),
        (lambda a, x: a.pgd(x=x * np.nan, epsilon=0.1), "own its normalisation"),
        (lambda a, x: a.every_target(attacks.pgd, classes=1), "at least 2"),
    ],
)
def test_bad_arguments_are_named(trained, call, message):
    params, state, images, y = trained

    class Bound:
        def __getattr__(self, name):
            def bound(*first, x=images, **options):
                return getattr(attacks, name)(
                    *first, model(params, state), jnp.asarray(x), y, **options
                )

            return bound

    with pytest.raises(JaxnnError, match=message):
        call(Bound(), images)
