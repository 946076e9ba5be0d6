"""Weights of samples and classes, from `fit` to the loss."""

import jax
import numpy as np
import optax
import pytest

from jaxnn import Classifier, mlp
from jaxnn.errors import JaxnnError
from jaxnn.losses import hinge, mse, sigmoid_cross_entropy, softmax_cross_entropy
from jaxnn.regularize import mixup
from jaxnn.train import balanced_class_weights, evaluate, fit
from jaxnn.train.inputs import sample_weights
from tests.train.problem import blobs, leaves_equal

NET = mlp([6, 8, 3])
X, Y = blobs(256)
HELD = blobs(64, seed=1)


def test_rows_of_weight_0_might_as_well_carry_other_labels():
    weights = (np.arange(256) % 2).astype(float)
    other = np.where(weights == 0, (Y + 1) % 3, Y)
    options = {"epochs": 2, "batch": 32, "weights": weights}
    a, b = fit(NET, (X, Y), **options), fit(NET, (X, other), **options)
    leaves_equal(a.params, b.params, rtol=0)
    c = fit(NET, (X, other), epochs=2, batch=32)
    with pytest.raises(AssertionError):
        leaves_equal(a.params, c.params, rtol=1e-6)


def test_class_weights_are_the_weights_of_their_samples():
    of_class = np.array([3.0, 0.5, 1.0])
    options = {"epochs": 2, "batch": 32, "seeds": [0, 1]}
    a = fit(NET, (X, Y), class_weights=of_class, **options)
    b = fit(NET, (X, Y), weights=of_class[Y], **options)
    loss = softmax_cross_entropy.having(class_weights=of_class)
    c = fit(NET, (X, Y), loss=loss, **options)
    leaves_equal(a.params, b.params, rtol=0)
    leaves_equal(a.params, c.params, rtol=1e-7, atol=1e-9)


def test_validation_is_measured_without_weights():
    history = fit(
        NET, (X, Y), validation=HELD, epochs=1, batch=32, class_weights="balanced"
    )
    found = evaluate(NET, history.params, history.state, *HELD)
    assert history.epochs[0]["validation_loss"] == pytest.approx(float(found.loss))


def test_balanced_weights_lift_a_rare_class():
    rare = np.flatnonzero((Y != 2) | (np.arange(256) % 16 == 0))
    x, y = X[rare] * 0.3, Y[rare]  # so near that the classes overlap
    held = HELD[0][HELD[1] == 2] * 0.3
    right = []
    for weights in (None, "balanced"):
        history = fit(
            mlp([6, 3]), (x, y), epochs=30, batch=16, class_weights=weights,
            optimizer=optax.adam(0.05),
        )  # fmt: skip
        found = evaluate(
            mlp([6, 3]), history.params, history.state, held, np.full(len(held), 2)
        )
        right.append(float(found.accuracy))
    assert right[1] > right[0] + 0.1


@pytest.mark.parametrize("y", [[0, 0, 1], [0, 1, 2, 2, 2, 2], [1, 1]])
def test_balanced_weights_are_those_of_scikit_learn(y):
    y = np.array(y)
    sklearn = pytest.importorskip("sklearn.utils.class_weight")
    want = sklearn.compute_class_weight("balanced", classes=np.unique(y), y=y)
    got = balanced_class_weights(y)
    np.testing.assert_allclose(got[np.unique(y)], want)
    assert got[y].mean() == pytest.approx(1)
    assert (got[np.setdiff1d(np.arange(len(got)), y)] == 0).all()


def test_weights_and_mixup_and_several_orders_go_together():
    history = fit(
        NET, (X, Y), epochs=2, batch=30, seeds=[0, 1], shuffle="per-seed",
        mixup=mixup(0.3, 3), weights=np.ones(256), clip_norm=1.0, ema=0.9,
    )  # fmt: skip
    assert np.isfinite(history.epochs[-1]["loss"]).all()


def test_the_average_is_what_fit_returns_and_validates():
    options = {"validation": HELD, "epochs": 3, "batch": 32, "keep": "last"}
    averaged = fit(NET, (X, Y), ema=0.9, **options)
    plain = fit(NET, (X, Y), **options)
    leaves_equal(averaged.last.params, plain.last.params, rtol=1e-9, atol=1e-12)
    leaves_equal(averaged.params, averaged.last.ema[0], rtol=0)
    found = evaluate(NET, averaged.params, averaged.state, *HELD)
    assert averaged.epochs[-1]["validation_loss"] == pytest.approx(float(found.loss))
    best = fit(NET, (X, Y), **(options | {"keep": "best"}), ema=0.9)
    found = evaluate(NET, best.params, best.state, *HELD)
    scores = [row["validation_accuracy"] for row in best.epochs]
    assert found.accuracy == pytest.approx(max(scores))


@pytest.mark.parametrize(
    ("loss", "no"), [(sigmoid_cross_entropy, 0), (hinge, 0), (hinge, -1)]
)
def test_one_output_learns_yes_and_no(loss, no):
    y = np.where(Y == 1, 1, no).astype(np.int32)
    net = mlp([6, 8, 1])
    history = fit(
        net, (X, y), validation=(X, y), loss=loss, epochs=10, batch=32,
        optimizer=optax.adam(0.02),
    )  # fmt: skip
    assert history.epochs[-1]["validation_accuracy"] > 0.9


@pytest.mark.parametrize("output", [None, "sigmoid"])
def test_one_output_says_yes_where_it_is_more_likely_than_no(output):
    net = mlp([6, 8, 1], output=output)
    params, state, _ = net.init(jax.random.key(0), (6,))
    logits = mlp([6, 8, 1]).forward(params[:4], state[:4], X, train=False)[0]
    yes = (np.asarray(logits)[:, 0] > 0).astype(int)
    assert 0 < yes.mean() < 1
    for y, right in ((yes, 1.0), (1 - yes, 0.0)):
        found = evaluate(net, params, state, X, y, loss=sigmoid_cross_entropy)
        assert found.accuracy == right
        assert Classifier(net, params, state).correct(X, y).mean() == right


ERRORS = {
    "length": ({"weights": np.ones(5)}, "got 5 weights for 256 training rows"),
    "negative": ({"weights": -np.ones(256)}, r"weights has -1\.0 at index 0"),
    "nan": ({"weights": np.full(256, np.nan)}, "weights has nan at index 0"),
    "shape": ({"weights": np.ones((256, 1))}, r"got weights \(256, 1\)"),
    "words": ({"weights": ["a"] * 256}, "got weights"),
    "name": ({"class_weights": "even"}, "class_weights='even'; valid: 'balanced'"),
    "classes": ({"class_weights": [1, 2]}, "got 2 class_weights, but labels from 0 to"),
    "infinite": ({"class_weights": [1, np.inf, 1]}, "class_weights has inf at index 1"),
}


@pytest.mark.parametrize(("options", "message"), ERRORS.values(), ids=ERRORS)
def test_weights_that_cannot_be_are_named(options, message):
    with pytest.raises(JaxnnError, match=f"fit: .*{message}"):
        fit(NET, (X, Y), epochs=1, batch=32, **options)


@pytest.mark.parametrize("y", [[-1, 1], []])
def test_balanced_weights_need_labels_from_0(y):
    with pytest.raises(JaxnnError, match="need labels >= 0, but"):
        balanced_class_weights(np.array(y, int))


def test_class_weights_need_labels():
    with pytest.raises(JaxnnError, match=r"need integer labels \(N,\), got targets"):
        sample_weights(np.ones((4, 3)), class_weights="balanced")


def test_a_loss_without_weights_is_named():
    def own(pred, target):
        return mse(pred, target)

    with pytest.raises(
        JaxnnError, match=r"loss raised TypeError.*keyword argument 'weights'"
    ):
        fit(NET, (X, Y), loss=own, epochs=1, batch=32, weights=np.ones(256))
