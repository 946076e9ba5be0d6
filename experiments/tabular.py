"""Columns of a table as the matrix that a network wants.

    table = read_csv(find_table("titanic.csv"))      # typed columns, missing known
    train, test = stratified_split(table["survived"], 0.2, seed=0)
    encode = fit_encoder(table.take(train), numbers=["age"], categories=["sex"])
    x = encode(table.take(test))                     # (N, F), nothing learned from test

Everything that is learned (what fills a gap, mean and deviation, which categories there
are) is learned in `fit_encoder` from the rows it is given, and nowhere else: so a test
row cannot leak into training. N rows, F features.
"""

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
    """What `fit_encoder` learned; call it on a table to get its rows as numbers."""

    numbers: dict[str, Number]
    categories: Mapping[str, Sequence[str]]  # of each one-hot column, in feature order

    def __call__(self, table: Table) -> np.ndarray:
        """Features (N, F) float64 of every row of `table`."""
        parts = []
        for column, number in self.numbers.items():
            gaps = np.isnan(table[column])
            filled = np.where(gaps, number.fill, table[column])
            parts.append((filled - number.mean) / number.std)
            parts += [gaps.astype(float)] * number.flag
        for column, known in self.categories.items():
            hot = table[column][:, None] == np.array(known)[None]  # (N, known)
            strange = ~hot.any(1)
            if strange.any():
                raise JaxnnError(
                    f"column {column!r} of {table.name}: got "
                    f"{str(table[column][strange][0])!r} in row {strange.argmax()}, "
                    f"expected one of {', '.join(map(repr, known))}. Give the "
                    "categories as a mapping that has it."
                )
            parts += list(hot.T.astype(float))
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
    """
    learnt = {name: _fit_number(table, name, flag_missing) for name in numbers}
    if not isinstance(categories, Mapping):
        categories = {c: sorted(set(table[c].tolist())) for c in categories}
    return Encoder(learnt, categories)


def _fit_number(table: Table, name: str, flag_missing: bool) -> Number:
    values = table[name]
    if values.dtype.kind != "f" or np.isnan(values).all():
        raise JaxnnError(
            f"column {name!r} of {table.name} has no numbers in the {len(table)} rows "
            "to learn from; use it as a category, or leave it out"
        )
    gaps = np.isnan(values)
    fill = float(np.median(values[~gaps]))
    filled = np.where(gaps, fill, values)
    mean, std = float(filled.mean()), float(filled.std())
    if std <= 1e-12 * abs(mean):  # a constant column, up to the rounding of its mean
        std = 1.0
    return Number(fill, mean, std, flag_missing and bool(gaps.any()))


def stratified_split(
    strata: np.ndarray, share: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows for training and for testing, sorted; each stratum in proportion in both.

    strata: (N,) what must be balanced: labels, or `quantile_bins` of a number.
    """
    test = stratified_sample(strata, round(share * len(strata)), seed)
    return np.setdiff1d(np.arange(len(strata)), test), test


def stratified_folds(strata: np.ndarray, k: int, seed: int) -> list[np.ndarray]:
    """k disjoint sets of rows that together are all, each stratum dealt evenly."""
    shuffled = np.random.default_rng(seed).permutation(len(strata))
    dealt = shuffled[np.argsort(strata[shuffled], kind="stable")]
    return [np.sort(dealt[i::k]) for i in range(k)]


def quantile_bins(values: np.ndarray, bins: int) -> np.ndarray:
    """The bin 0..bins-1 of each value, bins of nearly equal numbers of values."""
    edges = np.quantile(values, np.arange(1, bins) / bins)
    return np.searchsorted(edges, values, side="right")
