"""Which samples made a step bad: without them it would have been sound."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

DONORS = 4  # sound rows that are tried in the place of others
MOST = 0.5  # share of the batch: beyond it no sample is to blame but the step


def bad_rows(value: Any, batch: int) -> np.ndarray | None:
    """Rows of a value with batch axis that are bad while others are not, (B,) bool."""
    value = np.asarray(value)
    if not jax.numpy.issubdtype(value.dtype, np.inexact):
        return None
    axes = [a for a in (0, 1) if value.ndim > a and value.shape[a] == batch]
    if axes:  # time may come first
        rows = np.moveaxis(value, axes[0], 0).reshape(batch, -1)
    elif value.ndim and value.shape[0] and value.shape[0] % batch == 0:
        rows = value.reshape(batch, -1)  # a batch of rows, flattened with them
    else:
        return None
    bad = ~np.isfinite(rows).all(-1)
    return np.asarray(bad) if bad.any() and not bad.all() else None


def guilty_rows(
    sound: Callable[[Any, Any], bool], x: Any, y: Any, suspects: np.ndarray | None
) -> list[int] | None:
    """The rows without which the step is sound; None if the step is bad without them.

    Rows are replaced by a sound one, the donor: first the suspects, then all but the
    donor, which are then put back by halves to see which of them spoil the step.

    Args:
      sound: whether the step is sound with such inputs and targets.
      x: the batch (B, ...).
      y: its targets, a tree of arrays (B, ...).
      suspects: rows that look bad, (B,) bool, or None.
    """
    batch = len(x)
    x, y = np.asarray(x), jax.tree.map(np.asarray, y)

    def without(rows, donor):
        source = np.arange(batch)
        source[list(rows)] = donor
        taken = jax.tree.map(lambda a: a[source], (x, y))
        return sound(*taken)

    everyone = range(batch)
    donors = [i for i in everyone if suspects is None or not suspects[i]]
    donors = donors[:: max(1, len(donors) // DONORS)][:DONORS]
    if suspects is not None and donors:
        rows = np.flatnonzero(suspects).tolist()
        if without(rows, donors[0]):
            return _each(rows, lambda out: without(out, donors[0]))
    for donor in donors:
        rows = [i for i in everyone if i != donor]
        if without(rows, donor):
            return _each(rows, lambda out, donor=donor: without(out, donor))
    return None


def _each(rows: list[int], sound_without: Callable[[list[int]], bool]) -> list[int]:
    """Of rows without which all is well, those that spoil it when they are put back."""

    def search(part):
        out = set(part)
        if sound_without([i for i in rows if i not in out]):
            return []
        if len(part) == 1:
            return part
        middle = len(part) // 2
        return search(part[:middle]) + search(part[middle:])

    return search(rows)
