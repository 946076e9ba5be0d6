"""The estimators do what scikit-learn asks of all of them, and what its users do."""

import pickle

import jax
import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs the extra: pip install 'jaxnn[sklearn]'")

from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import (
    check_sample_weight_equivalence_on_dense_data,
    parametrize_with_checks,
)

from jaxnn import serial
from jaxnn.errors import JaxnnError
from jaxnn.layers import conv, dense, flatten, relu, reshape
from jaxnn.sklearn import JaxnnClassifier, JaxnnRegressor
from tests.train.problem import leaves_equal

NAMES = [
    "nought", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine",
]  # fmt: skip


# {name: reason}, as scikit-learn takes them
ROUNDED = {
    "check_sample_weight_equivalence_on_dense_data": "float32 sums round by their order"
}


@pytest.mark.slow
@parametrize_with_checks(
    [JaxnnClassifier(), JaxnnRegressor()], expected_failed_checks=lambda _: ROUNDED
)
def test_scikit_learns_own_checks(estimator, check):
    with jax.enable_x64(False):  # as everybody has it
        check(estimator)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [JaxnnClassifier, JaxnnRegressor])
def test_in_float64_a_weight_is_so_many_rows(kind):
    check_sample_weight_equivalence_on_dense_data(kind.__name__, kind())


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    names = np.array(NAMES)
    return train_test_split(x, names[y], random_state=0)


def test_strings_a_pipeline_a_search_and_a_pickle(digits):
    x, x_test, y, y_test = digits
    pipe = make_pipeline(StandardScaler(), JaxnnClassifier(max_iter=60, random_state=0))
    search = GridSearchCV(
        pipe, {"jaxnnclassifier__hidden_layer_sizes": [(), (32,)]}, cv=2
    ).fit(x, y)
    assert search.score(x_test, y_test) > 0.93
    assert set(search.predict(x_test)) <= set(y)
    again = pickle.loads(pickle.dumps(search.best_estimator_))
    assert (again.predict_proba(x_test) == search.predict_proba(x_test)).all()


def test_a_network_of_ones_own(digits):
    x, x_test, y, y_test = digits
    net = serial(reshape(8, 8, 1), conv(8, 3), relu, flatten, dense(10))
    model = JaxnnClassifier(net=net, max_iter=20, random_state=0).fit(x / 16, y)
    assert model.score(x_test / 16, y_test) > 0.93
    assert clone(model).net == net


def test_bytes_are_pixels_and_floats_like_them_are_refused(digits):
    x, _, y, _ = digits
    gray = (x[:200] * 15.9).astype(np.uint8)
    model = JaxnnClassifier((), max_iter=1, random_state=0).fit(gray, y[:200])
    unit = clone(model).fit(gray / 255, y[:200])
    np.testing.assert_allclose(
        model.predict_proba(gray), unit.predict_proba(gray / 255), rtol=1e-5
    )
    for call in (clone(model).fit, model.score):
        with pytest.raises(JaxnnError, match="divide by 255"):
            call(gray.astype(float), y[:200])


def test_early_stopping_and_partial_fit(digits):
    x, _, y, _ = digits
    model = JaxnnClassifier(
        (32,), early_stopping=True, n_iter_no_change=3, random_state=0
    )
    assert model.fit(x, y).n_iter_ < 200
    assert len(model.loss_curve_) == model.n_iter_
    steps = JaxnnClassifier((32,), random_state=0)
    for _ in range(3):
        steps.partial_fit(x, y, classes=np.unique(y))
    whole = JaxnnClassifier((32,), random_state=0, max_iter=3).fit(x, y)
    leaves_equal(steps.history_.params, whole.history_.params)
    assert steps.loss_curve_ == whole.loss_curve_
    with pytest.raises(JaxnnError, match="keep other rows apart"):
        model.partial_fit(x, y)
    with pytest.raises(JaxnnError, match="got labels"):
        steps.partial_fit(x[:1], ["ten"])
    with pytest.raises(JaxnnError, match="expected those of the first call"):
        steps.partial_fit(x, y, classes=["ten", *NAMES])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"batch_size": "large"}, "got batch='large'"),
        ({"hidden_layer_sizes": "abc"}, "mlp: got widths"),
        ({"hidden_layer_sizes": 3.7}, "mlp: got widths"),
    ],
)
def test_a_setting_that_cannot_be_is_named(settings, words, digits):
    with pytest.raises(JaxnnError, match=words):
        JaxnnClassifier(**settings).fit(digits[0], digits[2])


def test_a_weight_of_two_is_a_row_twice_and_none_is_no_row():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 4)), rng.normal(size=30)
    count = rng.integers(0, 3, 30)
    model = JaxnnRegressor((8,), max_iter=30, random_state=0)
    weighted = clone(model).fit(x, y, sample_weight=count).predict(x)
    repeated = clone(model).fit(np.repeat(x, count, 0), np.repeat(y, count))
    np.testing.assert_allclose(weighted, repeated.predict(x), rtol=1e-4, atol=1e-5)
    with pytest.raises(JaxnnError, match="some above 0 and none below"):
        model.fit(x, y, sample_weight=-count)
