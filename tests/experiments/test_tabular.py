"""Encoders and splits: nothing learned from test rows, errors that name the cell."""

import numpy as np
import pytest

from experiments.tabular import (
    fit_encoder,
    quantile_bins,
    stratified_folds,
    stratified_split,
)
from jaxnn.data.table import Table
from jaxnn.errors import JaxnnError


def table(**columns):
    arrays = {
        k: np.array(v, float if isinstance(v[0], (int, float)) else str)
        for k, v in columns.items()
    }
    return Table("t", arrays)


NAN = float("nan")


def test_numbers_are_filled_and_standardized_by_the_training_rows():
    train = table(age=[1, NAN, 3, 8])
    encode = fit_encoder(train, numbers=["age"], flag_missing=True)
    filled = np.array([1, 3, 3, 8])  # the median of 1, 3, 8
    x = encode(train)
    np.testing.assert_allclose(x[:, 0], (filled - filled.mean()) / filled.std())
    assert x[:, 1].tolist() == [0, 1, 0, 0]
    other = encode(table(age=[NAN, 100]))
    np.testing.assert_allclose(
        other[:, 0], (np.array([3, 100]) - filled.mean()) / filled.std()
    )


def test_test_rows_teach_nothing():
    train, test = table(a=[1, 2, 3], b=["x", "y", "x"]), table(a=[50, NAN], b=["y"] * 2)
    encode = fit_encoder(train, numbers=["a"], categories=["b"])
    before = encode(train)
    encode(test)
    np.testing.assert_array_equal(encode(train), before)
    assert encode(train)[:, 0].mean() == pytest.approx(0)
    assert encode(test)[0, 0] > 10


@pytest.mark.parametrize("value", [0.1, 0.0, 1e9, -3.3])
def test_a_constant_column_is_zero_not_a_division_by_zero(value):
    constant = table(a=[value] * 7)
    assert abs(fit_encoder(constant, numbers=["a"])(constant)).max() < 1e-6


def test_categories_come_in_order_and_missing_is_one_of_them():
    train = table(sex=["male", "", "female", "male"])
    encode = fit_encoder(train, categories=["sex"])
    assert encode(train).tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_an_unknown_category_is_an_error_unless_it_is_given():
    train, test = table(make=["bmw", "audi"]), table(make=["audi", "saab"])
    with pytest.raises(JaxnnError, match=r"column 'make' of t: got 'saab' in row 1"):
        fit_encoder(train, categories=["make"])(test)
    given = fit_encoder(train, categories={"make": ["audi", "bmw", "saab"]})
    assert given(test).tolist() == [[1, 0, 0], [0, 0, 1]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"numbers": ["make"]}, "column 'make' of t has no numbers in the 2 rows"),
        ({"numbers": ["gaps"]}, "column 'gaps' of t has no numbers"),
        ({"numbers": ["hight"]}, "unknown column of t 'hight'. Did you mean 'height'"),
        ({"categories": ["makes"]}, "Did you mean 'make'"),
    ],
)
def test_bad_settings_are_named(options, message):
    train = table(make=["bmw", "?"], height=[1, 2], gaps=[NAN, NAN])
    with pytest.raises(JaxnnError, match=message):
        fit_encoder(train, **options)


# ---------------------------------------------------------------- splitting


@pytest.mark.parametrize("seed", range(3))
def test_a_split_keeps_the_shares_and_every_row(seed):
    y = np.repeat([0, 1, 2], [100, 40, 10])
    train, test = stratified_split(y, 0.2, seed)
    assert sorted([*train, *test]) == list(range(150))
    assert np.bincount(y[test]).tolist() == [20, 8, 2]
    again = stratified_split(y, 0.2, seed)[1]
    assert (again == test).all()
    assert (stratified_split(y, 0.2, seed + 1)[1] != test).any()


@pytest.mark.parametrize("k", [2, 5, 7])
def test_folds_are_disjoint_whole_and_even(k):
    y = np.random.default_rng(0).integers(0, 3, 101)
    folds = stratified_folds(y, k, seed=1)
    assert sorted(np.concatenate(folds)) == list(range(101))
    for label in range(3):
        counts = [(y[fold] == label).sum() for fold in folds]
        assert max(counts) - min(counts) <= 1


def test_bins_hold_equal_numbers():
    values = np.random.default_rng(0).normal(size=1000)
    bins = quantile_bins(values, 8)
    assert np.bincount(bins).tolist() == [125] * 8
    assert values[bins == 0].max() < values[bins == 1].min()
    assert set(quantile_bins(np.ones(5), 3)) <= {0, 1, 2}
