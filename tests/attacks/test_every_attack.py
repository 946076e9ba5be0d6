"""What every attack owes: budget, box, identity at 0, determinism, the worst seen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import Classifier, attacks, mlp, serial
from jaxnn.attacks.baselines import CORRUPTIONS, NOISES
from jaxnn.attacks.core import Ball
from jaxnn.errors import JaxnnError
from jaxnn.layers import dense, flatten
from jaxnn.losses import mse, quadratic, softmax_cross_entropy
from jaxnn.tree import map_batches
from tests.attacks.problem import model
from tests.rules.common import normal

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
ITERATED = ["bim", "mifgsm", "pgd", "pgd early", "apgd"]


@pytest.fixture
def problem(trained):
    """The network, images and labels."""
    params, state, x, y = trained
    return model(params, state), jnp.asarray(x), y


def run(name, problem, epsilon, **more):
    attack, _, options = FIXED[name]
    return attack(*problem, epsilon=epsilon, **(options | more))


def hit(problem, x_adv):
    """Which of the problem's images are fooled."""
    net, _, y = problem
    return ~net.correct(x_adv, y)


@pytest.mark.parametrize("name", FIXED)
def test_budget_box_and_identity_are_kept_and_a_sweep_is_its_single_calls(
    name, problem
):
    x, (attack, norm, options) = problem[1], FIXED[name]
    epsilons = [0.0, 0.03, 0.4, 1.0]
    curve = attacks.sweep(attack, *problem, epsilons=epsilons, **options)
    assert np.asarray(curve[0]).tobytes() == np.asarray(x).tobytes()
    for x_adv, epsilon in zip(curve, epsilons, strict=True):
        assert bool((x_adv == run(name, problem, epsilon)).all())
        assert float(attacks.distance(x_adv, x, norm).max()) <= epsilon + 1e-6
        assert bool(jnp.isfinite(x_adv).all())
        assert 0 <= float(x_adv.min()) <= float(x_adv.max()) <= 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["fgsm", "pgd l2", "pgd l1", "pgd early l2", "apgd", "square", "spsa"]
)
def test_an_epsilon_an_image_is_each_images_own(name, problem):
    one, two = run(name, problem, 0.1), run(name, problem, 0.4)
    each = np.where(np.arange(60) % 2, 0.1, 0.4)
    mixed = np.asarray(run(name, problem, each))
    np.testing.assert_allclose(mixed[1::2], one[1::2], atol=1e-9)
    np.testing.assert_allclose(mixed[::2], two[::2], atol=1e-9)


@pytest.mark.parametrize("name", [n for n in FIXED if "noise" not in n])
def test_an_attack_fools_many_more_than_nothing_and_all_that_fgsm_fools(name, problem):
    epsilon = {"linf": 0.25, "l2": 0.8, "l1": 2.5}[FIXED[name][1]]
    before = hit(problem, problem[1]).mean()
    assert hit(problem, run(name, problem, epsilon)).mean() > before + 0.2
    if name in ITERATED:
        counts = [problem[1].shape[0] * before]
        for epsilon in (0.05, 0.1, 0.2, 0.5):
            single = hit(problem, run("fgsm", problem, epsilon))
            found = hit(problem, run(name, problem, epsilon))
            assert (found | ~single).all()
            counts.append(found.sum())
        assert (np.diff(counts) >= 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_TARGET)
def test_a_target_is_reached_more_often_than_without_an_attack(name, problem):
    net, x, y = problem
    target, (attack, norm, options) = ((y + 1) % 3).astype(np.int32), FIXED[name]
    epsilon = {"linf": 0.4, "l2": 1.5, "l1": 5.0}[norm]
    x_adv = attack(net, x, target, targeted=True, epsilon=epsilon, **options)
    before = net.correct(x, target).mean()
    assert net.correct(x_adv, target).mean() > before + 0.3
    assert float(attacks.distance(x_adv, x, norm).max()) <= epsilon + 1e-6
    assert 0 <= float(x_adv.min()) <= float(x_adv.max()) <= 1


def test_without_a_box_fgsm_moves_every_pixel_by_epsilon(problem):
    x_adv = run("fgsm", problem, 0.25, box=None)
    moved = abs(np.asarray(x_adv - problem[1]))
    assert np.allclose(moved[moved > 0], 0.25)
    assert x_adv.min() < 0 or x_adv.max() > 1


def test_the_best_point_of_the_path_and_of_all_restarts_is_kept(problem):
    """A step so large that it overshoots: what fooled on the way must still count."""
    once, often = (
        hit(problem, attacks.pgd(*problem, epsilon=0.2, steps=n, step_size=0.2))
        for n in (1, 7)
    )
    assert (often | ~once).all()
    one, five = (
        hit(problem, attacks.pgd(*problem, epsilon=0.1, steps=2, key=KEY, restarts=n))
        for n in (1, 5)
    )
    assert five.sum() >= one.sum()


def test_an_image_already_wrong_stays_wrong(problem):
    net, x, _ = problem
    wrong = (net.outputs(x).argmax(-1) + 1) % 3
    x_adv = attacks.pgd(net, x, wrong, epsilon=0.1, steps=3, key=KEY)
    assert not net.correct(x_adv, wrong).any()


def test_another_key_gives_other_bits(problem):
    a, b = (run("pgd", problem, 0.1, key=jax.random.key(seed)) for seed in (3, 4))
    assert bool((a == run("pgd", problem, 0.1)).all())
    assert not bool((a == b).all())


@pytest.mark.parametrize("loss", [softmax_cross_entropy, mse, quadratic])
def test_the_input_gradient_is_each_images_own(problem, loss):
    net, x, y = problem

    def one(image, label):
        return loss(net.logits(image[None]), label[None])[0]

    want = jax.jit(jax.vmap(jax.grad(one)))(x, jnp.asarray(y))
    _, got, _ = net.value_and_gradient(x, jnp.asarray(y), loss)
    np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-14)


def test_batches_give_the_same_images_as_one_call(problem):
    net, x, y = problem

    def fgsm(a, b):
        return attacks.fgsm(net, a, b, epsilon=0.1)

    np.testing.assert_allclose(
        map_batches(fgsm, x, y, batch=25), fgsm(x, y), rtol=1e-12
    )


@pytest.mark.parametrize("name", MINIMAL)
def test_a_minimal_attack_fools_every_image_nearer_than_pgd_needs(name, problem):
    attack, norm, options = MINIMAL[name]
    x_adv = attack(*problem, **options)
    assert hit(problem, x_adv).all()
    assert 0 <= float(x_adv.min()) <= float(x_adv.max()) <= 1
    size = np.asarray(attacks.distance(x_adv, problem[1], norm))
    # a budget 20% below what it found: PGD must not fool most images within it
    within = attacks.pgd(*problem, epsilon=0.8 * size, norm=norm, steps=100)
    was_right = ~hit(problem, problem[1])
    assert hit(problem, within)[was_right].mean() < 0.35
    assert (size[~was_right] == 0).all()


@pytest.mark.parametrize("name", MINIMAL)
def test_the_distance_to_a_plane_is_found(name):
    """Two classes of a linear network: the nearest boundary is known exactly."""
    attack, norm, options = MINIMAL[name]
    w = jnp.asarray(normal(6, 2))
    b = -w.sum(0) / 2  # the boundary goes through the middle of the box
    x = 0.5 + 0.1 * jnp.asarray(normal(20, 6)).clip(-2, 2)
    z = x @ w + b[None]
    slope = w[:, 1] - w[:, 0]
    dual = jnp.abs(slope).sum() if norm == "linf" else jnp.sqrt((slope**2).sum())
    exact = np.asarray(jnp.abs(z[:, 1] - z[:, 0]) / dual)
    x_adv = attack(Classifier(dense(2), {"w": w, "b": b}), x, z.argmax(-1), **options)
    inside = exact < 0.15  # the box is not met on the way
    assert inside.sum() >= 5
    found = np.asarray(attacks.distance(x_adv, x, norm))
    assert (found >= exact * (1 - 1e-6)).all()
    # DeepFool's extra step of 1e-4 weighs on the nearest ones
    assert (found <= exact * 1.08 + 2e-3)[inside].all()


@pytest.mark.slow
def test_where_there_is_no_gradient_images_stay_finite_or_as_they_were():
    net = mlp([16, 3], init="zeros")  # always says class 0
    constant = Classifier(net, *net.init(KEY, (16,))[:2])
    x, y = jnp.full((2, 16), 0.5), np.zeros(2, np.int32)
    for attack, _, options in MINIMAL.values():
        assert bool((attack(constant, x, y, **(options | {"steps": 5})) == x).all())
    for norm in ("linf", "l2"):
        x_adv = attacks.pgd(constant, x, y, epsilon=0.1, norm=norm, steps=3)
        assert bool(jnp.isfinite(x_adv).all())


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
    mean, dmean = objective(z, y, reduction="mean")
    np.testing.assert_allclose(mean, values.mean(), rtol=1e-12)
    np.testing.assert_allclose(dmean, dz / 7, rtol=1e-12)
    with pytest.raises(JaxnnError, match="reduction 'sum' is unknown; valid: mean, no"):
        objective(z, y, reduction="sum")


def test_dlr_of_equal_logits_is_zero_and_of_two_classes_an_error():
    values, dz = attacks.dlr(jnp.ones((2, 4)), jnp.array([0, 3]))
    assert not values.any()
    assert not dz.any()
    with pytest.raises(JaxnnError, match="at least 3; use margin"):
        attacks.dlr(jnp.ones((2, 2)), jnp.array([0, 1]))


def test_l1_projection_is_the_nearest_point_of_the_ball():
    delta = normal(9, 40)

    @jax.jit
    def project(delta, epsilon):
        return Ball(jnp.zeros_like(delta), epsilon, "l1", None).project(delta)

    for epsilon in (1e-3, 0.5, 4.0, 100.0):
        got = np.asarray(project(delta, epsilon))
        for row, found in zip(delta, got, strict=True):
            want = row
            if abs(row).sum() > epsilon:
                u = np.sort(abs(row))[::-1]
                excess = (np.cumsum(u) - epsilon) / np.arange(1, 41)
                threshold = excess[np.nonzero(u > excess)[0][-1]]
                want = np.sign(row) * np.maximum(abs(row) - threshold, 0)
            np.testing.assert_allclose(found, want, atol=1e-12)


def test_square_sees_flat_images_and_squares_alike(problem):
    net, x, y = problem
    options = {"epsilon": 0.2, "key": KEY, "queries": 20}
    flat = attacks.square(net, x.reshape(60, 16), y, **options)
    assert bool((flat.reshape(x.shape) == attacks.square(*problem, **options)).all())


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
def test_the_smallest_corruption_is_none_and_the_worst_is_kept(kind, problem):
    x = problem[1]
    same = attacks.corruptions(*problem, kind=kind, amount=0.0, tries=3)
    np.testing.assert_allclose(same, x, atol=1e-6)
    amount = 2.0 if kind != "contrast" else 1.0
    worst = attacks.corruptions(*problem, kind=kind, amount=amount)
    assert hit(problem, worst).sum() >= hit(problem, x).sum()


def test_rotation_by_a_quarter_turn_is_rot90(problem):
    x = problem[1][..., None]
    turned = CORRUPTIONS["rotation"](x, jnp.asarray(90.0))
    want = [np.rot90(np.asarray(x), turns, axes=(1, 2)) for turns in (1, 3)]
    assert min(abs(np.asarray(turned) - w).max() for w in want) < 1e-6


@pytest.mark.parametrize("kind", NOISES)
def test_more_draws_of_noise_never_help_the_defender(kind, problem):
    few, many = (
        hit(problem, run("noise uniform", problem, 0.4, kind=kind, draws=n)).sum()
        for n in (1, 40)
    )
    assert many >= few


def test_every_target_and_the_worst_of_several_are_taken_image_by_image(problem):
    net, x, y = problem
    options = {"epsilon": 0.1, "steps": 4}
    worst = attacks.every_target(attacks.pgd, *problem, classes=3, **options)
    for offset in (1, 2):
        goal = ((y + offset) % 3).astype(np.int32)
        single = attacks.pgd(net, x, goal, targeted=True, **options)
        assert (hit(problem, worst) | ~hit(problem, single)).all()
    pieces = [run(name, problem, 0.15) for name in ("fgsm", "square", "noise uniform")]
    union = np.any([hit(problem, piece) for piece in pieces], axis=0)
    assert (hit(problem, attacks.worst_of(net, y, *pieces)) == union).all()
    with pytest.raises(JaxnnError, match="at least 2"):
        attacks.every_target(attacks.pgd, *problem, classes=1)
    least = np.asarray(attacks.least_likely(net, x))
    assert (least == net.outputs(x).argmin(-1)).all()


def test_targeted_descent_reaches_its_goal_and_stays_near_its_reference():
    net = mlp([16, 12, 3], "sigmoid", init="normal", output="sigmoid")
    liar = Classifier(net, *net.init(jax.random.key(5), (16,))[:2])
    start = 0.5 + 0.3 * jnp.asarray(normal(6, 16))
    goal = jnp.arange(6) % 3
    like = jnp.asarray(normal(6, 16, seed=1))
    free = attacks.targeted_descent(liar, start, goal, steps=2000)
    near = attacks.targeted_descent(liar, start, goal, reference=like, proximity=0.5)
    assert (liar.outputs(free).argmax(-1) == goal).mean() >= 5 / 6
    apart = attacks.distance(near, like, "l2")
    assert bool((apart < attacks.distance(start, like, "l2")).all())
    with pytest.raises(JaxnnError, match="one goal an image"):
        attacks.targeted_descent(liar, start, goal[:3])
