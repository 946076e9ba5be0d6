"""Columns of a table as the matrix that a network wants.

    table = read_csv(find_table("titanic.csv"))      # typed columns, missing known
    train, test = stratified_split(table["survived"], 0.2, seed=0)
    encode = fit_encoder(table.take(train), numbers=["age"], categories=["sex"])
    x = encode(table.take(test))                     # (N, F), nothing learned from test

Everything that is learned (what fills a gap, mean and deviation, which categories there
are) is learned in `fit_encoder` from the rows it is given, and nowhere else: so a test
row cannot leak into training. N rows, F features.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jaxnn.data.datasets import stratified_sample
from jaxnn.data.table import Table
from jaxnn.errors import JaxnnError


class Number(NamedTuple):
    """A numeric column: a gap becomes `fill`, then (x - mean) / std."""

    fill: float
    mean: float
    std: float
    flag: bool  # whether a 0/1 feature says that the value was missing


@dataclass(frozen=True)
class Encoder:
    """What `fit_encoder` learned; call it on a table to get its rows as numbers.

    Attributes:
      numbers: how each numeric column is filled and scaled.
      categories: the known categories of each one-hot column, in feature order.
    """

    numbers: dict[str, Number]
    categories: dict[str, tuple[str, ...]]

    @property
    def names(self) -> list[str]:
        """One name a feature: `age`, `age missing`, `sex=male` ..."""
        names = []
        for column, number in self.numbers.items():
            names += [column] + [f"{column} missing"] * number.flag
        for column, known in self.categories.items():
            names += [f"{column}={category or 'missing'}" for category in known]
        return names

    def __call__(self, table: Table) -> np.ndarray:
        """Features (N, F) float64 of every row of `table`.

        Raises:
          JaxnnError: a column is not there or not numeric, or a category is unknown.
        """
        parts = []
        for column, number in self.numbers.items():
            values = as_numbers(table, column)
            gaps = np.isnan(values)
            filled = np.where(gaps, number.fill, values)
            parts.append((filled - number.mean) / number.std)
            parts += [gaps.astype(float)] * number.flag
        for column, known in self.categories.items():
            where = f"column {column!r} of {table.name}"
            parts += list(one_hot(as_text(table[column]), known, where).T)
        return np.stack(parts, 1)


def fit_encoder(
    table: Table,
    *,
    numbers: Sequence[str] = (),
    categories: Sequence[str] | Mapping[str, Sequence[str]] = (),
    flag_missing: bool = False,
) -> Encoder:
    """Learn from the rows of `table` how to turn columns into numbers.

    Args:
      table: the training rows, and only those.
      numbers: columns to standardize; a gap becomes the median of the rows.
      categories: columns to make one-hot. Their categories are those of the rows,
        sorted, "" (missing) included if it occurs; a mapping gives them itself.
      flag_missing: add a 0/1 feature for each numeric column with gaps.

    Raises:
      JaxnnError: an unknown column, a numeric one that is text or has no value at all.
    """
    if not (len(numbers) or len(categories)):
        raise JaxnnError("fit_encoder: got no columns, expected at least one")
    if not len(table):
        raise JaxnnError(f"fit_encoder: {table.name} has no rows to learn from")
    learnt = {name: _fit_number(table, name, flag_missing) for name in numbers}
    if isinstance(categories, Mapping):
        known = {name: tuple(map(str, c)) for name, c in categories.items()}
    else:
        known = {c: tuple(sorted(set(as_text(table[c]).tolist()))) for c in categories}
    return Encoder(learnt, known)


def one_hot(
    values: Sequence[str] | np.ndarray, categories: Sequence[str], where: str
) -> np.ndarray:
    """Row i has its 1 in the column of values[i]: float64 (N, len(categories))."""
    rows = np.asarray(values)[:, None] == np.asarray(categories)[None, :]
    strange = ~rows.any(1)
    if strange.any():
        first = int(strange.argmax())
        raise JaxnnError(
            f"{where}: got {str(values[first])!r} in row {first}, expected one of "
            f"{', '.join(map(repr, map(str, categories)))}. Give the categories as a "
            "mapping that has it."
        )
    return rows.astype(float)


def stratified_split(
    strata: np.ndarray, share: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows for training and for testing, each stratum in proportion in both.

    Args:
      strata: (N,) what must be balanced: labels, or `quantile_bins` of a number.
      share: of the rows that are for testing, between 0 and 1.
      seed: decides which.

    Returns:
      sorted row numbers: training, test.
    """
    if not 0 < share < 1:
        raise JaxnnError(f"stratified_split: got share={share:g}, expected in (0, 1)")
    test = stratified_sample(strata, round(share * len(strata)), seed)
    return np.setdiff1d(np.arange(len(strata)), test), test


def stratified_folds(strata: np.ndarray, k: int, seed: int) -> list[np.ndarray]:
    """k disjoint sets of rows that together are all, each stratum dealt evenly.

    Raises:
      JaxnnError: k below 2 or above the number of rows.
    """
    strata = np.asarray(strata)
    if not 2 <= k <= len(strata):
        raise JaxnnError(
            f"stratified_folds: got k={k} for {len(strata)} rows, expected 2 to "
            f"{len(strata)}"
        )
    shuffled = np.random.default_rng(seed).permutation(len(strata))
    dealt = shuffled[np.argsort(strata[shuffled], kind="stable")]
    return [np.sort(dealt[i::k]) for i in range(k)]


def quantile_bins(values: np.ndarray, bins: int) -> np.ndarray:
    """The bin 0..bins-1 of each value, bins of nearly equal numbers of values."""
    values = np.asarray(values, float)
    if not 1 <= bins <= len(values):
        raise JaxnnError(
            f"quantile_bins: got bins={bins} for {len(values)} values, expected 1 to "
            f"{len(values)}"
        )
    if np.isnan(values).any():
        raise JaxnnError(
            f"quantile_bins: {int(np.isnan(values).sum())} values are missing; leave "
            "those rows out first"
        )
    edges = np.quantile(values, np.arange(1, bins) / bins)
    return np.searchsorted(edges, values, side="right")


def _fit_number(table: Table, name: str, flag_missing: bool) -> Number:
    values = as_numbers(table, name)
    gaps = np.isnan(values)
    if gaps.all():
        raise JaxnnError(
            f"column {name!r} of {table.name} has no value in the {len(table)} rows to "
            "learn from; leave it out"
        )
    fill = float(np.median(values[~gaps]))
    filled = np.where(gaps, fill, values)
    mean, std = float(filled.mean()), float(filled.std())
    if std <= 1e-12 * abs(mean):  # a constant column, up to the rounding of its mean
        std = 1.0
    return Number(fill, mean, std, flag_missing and bool(gaps.any()))


def as_text(column: np.ndarray) -> np.ndarray:
    """A column as categories: numbers in their shortest form, "" for missing."""
    if column.dtype.kind != "f":
        return column
    return np.array(
        [
            "" if math.isnan(v) else str(int(v)) if v.is_integer() else repr(v)
            for v in column.tolist()
        ]
    )


def as_numbers(table: Table, name: str) -> np.ndarray:
    """A numeric column of `table`, or a `JaxnnError` that says it is text."""
    column = table[name]
    if column.dtype.kind == "f":
        return column
    words = [word for word in column.tolist() if not _is_number_or_gap(word)]
    example = f"is text (such as {words[0]!r})" if words else "has no value"
    raise JaxnnError(
        f"column {name!r} of {table.name} {example}, expected numbers; use it as a "
        "category, leave it out or correct the file"
    )


def _is_number_or_gap(word: str) -> bool:
    try:
        return not word or math.isfinite(float(word))
    except ValueError:
        return False
