"""Losses at their kinks, at infinite scores, and with settings that cannot be."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn.errors import JaxnnError
from jaxnn.losses import LOSSES, hinge, huber, mae, margin

INF = np.inf


def of(loss, pred, target, **options):
    """(values, dpred) of the loss as lists; one program, not one an operation."""
    run = jax.jit(partial(loss, reduction="none", **options))
    values, dpred = run(np.asarray(pred, float), np.asarray(target))
    return values.tolist(), dpred.tolist()


KINKS = {
    "mae is flat where pred is target": (
        mae, [[1.0, 2.0]], [[1.0, 0.0]], {}, [1], [[0, 0.5]]
    ),
    "huber joins at delta": (
        huber, [[2.0, -2.0]], [[0.0, 0.0]], {"delta": 2.0}, [2], [[1, -1]]
    ),
    "hinge is flat at the margin": (hinge, [[1.0, -1.0]], [[1, 0]], {}, [0], [[0, 0]]),
    "hinge is flat at a margin of 0": (
        hinge, [[0.0, 0.0]], [[1, 0]], {"margin": 0.0}, [0], [[0, 0]]
    ),
    "margin is flat where it is just kept": (
        margin, [[3.0, 2.0, 0.0]], [0], {}, [0], [[0, 0, 0]]
    ),
    "the first of several nearest rivals moves": (
        margin, [[0.0, 2.0, 2.0]], [0], {}, [3], [[-1, 1, 0]]
    ),
    "all rivals move": (
        margin, [[0.0, 2.0, 2.0]], [0], {"form": "weston_watkins"}, [6], [[-2, 1, 1]]
    ),
    "one class has no rival": (margin, [[5.0]], [0], {}, [0], [[0]]),
}  # fmt: skip


@pytest.mark.parametrize(
    ("loss", "pred", "target", "options", "values", "dpred"), KINKS.values(), ids=KINKS
)
def test_the_value_at_a_kink_is_the_documented_one(
    loss, pred, target, options, values, dpred
):
    if len(pred[0]) == 1:
        target = np.array([[1.0]])  # a label would be the answer, not the class
    assert of(loss, pred, target, **options) == (values, dpred)


RIGHT, WRONG = ([[INF, -INF]], [[1.0, 0.0]]), ([[-INF]], [[1.0]], [[-1]])
INFINITE = {
    # name: pred and target that agree; pred, target that do not, and dpred of them
    "sigmoid_focal": (*RIGHT, *WRONG),
    "sigmoid_cross_entropy": (*RIGHT, *WRONG),
    "hinge": (*RIGHT, *WRONG),
    "margin": ([[INF, 0.0]], [0], [[-INF, 0.0]], [0], [[-1, 1]]),
    "softmax_focal": ([[1e4, -INF]], [0], [[-INF, 0.0]], [0], [[-1, 1]]),
    "kl": ([[1e4, -INF]], [0], [[-INF, 0.0]], [0], [[-1, 1]]),
}


@pytest.mark.parametrize("name", INFINITE)
def test_an_infinite_score_costs_nothing_or_infinity_and_never_a_nan(name):
    pred, target, wrong, of_wrong, dpred = INFINITE[name]
    assert of(LOSSES[name], pred, target) == ([0], [[0, 0]])
    assert of(LOSSES[name], wrong, of_wrong) == ([INF], dpred)


@pytest.mark.parametrize("name", ["softmax_focal", "sigmoid_focal"])
@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 2.0])
def test_focal_losses_are_finite_for_any_logits(name, gamma):
    scale = 10.0 ** np.arange(-3, 6)
    logits = np.tile(np.stack([scale, -scale, 0 * scale], 1), (3, 1))
    labels = np.repeat(np.arange(3), len(scale))
    values, dpred = of(LOSSES[name], logits, labels, gamma=gamma)
    assert np.isfinite(values).all()
    assert np.isfinite(dpred).all()
    assert min(values) >= 0


def test_a_tiny_focal_loss_keeps_its_digits():
    # 1 - s is e^-40 to all digits, and so is -log s: the loss is e^-120
    value, _ = LOSSES["sigmoid_focal"](jnp.array([[40.0]]), jnp.array([1]))
    np.testing.assert_allclose(value, np.exp(-120), rtol=1e-13)


@pytest.mark.parametrize("t", [-0.5, 1.5, 2.0, -2.0])
def test_hinge_of_what_is_no_share_is_nan(t):
    value, _ = hinge(jnp.array([[0.3, 1.0]]), jnp.array([[t, 1.0]]))
    assert np.isnan(value)


@pytest.mark.parametrize("answer", [2, -1, 7])
@pytest.mark.parametrize("name", ["hinge", "sigmoid_cross_entropy", "sigmoid_focal"])
def test_the_answer_to_one_question_is_0_or_1(name, answer):
    value, _ = LOSSES[name](jnp.ones((1, 1)), jnp.array([answer]))
    assert np.isnan(value) == (not (name == "hinge" and answer == -1))


def test_kl_is_0_where_the_network_says_the_target_and_positive_elsewhere():
    t = np.random.default_rng(0).dirichlet(np.ones(5), 20)
    values, dlogits = LOSSES["kl"](jnp.log(t) + 3, jnp.asarray(t), reduction="none")
    assert abs(values).max() < 1e-15
    assert abs(dlogits).max() < 1e-15
    values, _ = LOSSES["kl"](jnp.log(t[::-1]), jnp.asarray(t), reduction="none")
    assert values.min() > 0


BAD = {
    "gamma below 0": ("softmax_focal", {"gamma": -1}, "softmax_focal: got gamma=-1"),
    "sigmoid gamma": ("sigmoid_focal", {"gamma": -1}, "sigmoid_focal: got gamma=-1"),
    "alpha": ("sigmoid_focal", {"alpha": 1.5}, r"got alpha=1\.5, expected 0 to 1"),
    "delta": ("huber", {"delta": 0.0}, "huber: got delta=0, expected delta > 0"),
    "hinge margin": ("hinge", {"margin": -1}, "hinge: got margin=-1"),
    "margin margin": ("margin", {"margin": -1}, "margin: got margin=-1"),
    "margin form": ("margin", {"form": "both"}, "valid: crammer_singer, weston"),
    "smoothing below 0": ("softmax_cross_entropy", {"label_smoothing": -0.1},
        r"got label_smoothing=-0\.1, expected a share"),
    "smoothing above 1": ("softmax_cross_entropy", {"label_smoothing": 1.5},
        r"got label_smoothing=1\.5, expected a share"),
    "nan gamma": ("softmax_focal", {"gamma": np.nan}, "got gamma=nan"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "options", "message"), BAD.values(), ids=BAD)
def test_settings_out_of_range_are_named(name, options, message):
    with pytest.raises(JaxnnError, match=message):
        jax.eval_shape(
            lambda: LOSSES[name](jnp.ones((2, 3)), jnp.zeros(2, int), **options)
        )


EDGES = [
    ("softmax_focal", {"gamma": 0}), ("sigmoid_focal", {"alpha": 0}),
    ("sigmoid_focal", {"alpha": 1}), ("hinge", {"margin": 0}),
    ("margin", {"margin": 0}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options"), EDGES)
def test_settings_at_the_end_of_their_range_are_taken(name, options):
    loss = LOSSES[name].having(**options)
    jax.eval_shape(loss, jnp.ones((2, 3)), jnp.zeros(2, int))
