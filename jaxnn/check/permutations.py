"""Right numbers in the wrong place or shape, and where wrong ones are."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np


def permuted(here: Any, got: np.ndarray, want: np.ndarray) -> str | None:
    """The right numbers in the wrong places; `here` is an `Evidence`."""
    same = here.same
    for axes in itertools.permutations(range(want.ndim)):
        if axes != tuple(range(want.ndim)) and same(got, want.transpose(axes)):
            return f"transposed (got = expected with axes in the order {list(axes)})"
    for count in range(1, want.ndim + 1):
        for axes in itertools.combinations(range(want.ndim), count):
            if same(got, np.flip(want, axes)):
                return f"reversed along axes {list(axes)} (a kernel not flipped?)"
    for axis, count in itertools.product(range(want.ndim), (2, 3, 4)):
        if want.shape[axis] % count == 0 and want.shape[axis] > count:
            parts = np.split(want, count, axis)
            for order in list(itertools.permutations(range(count)))[1:]:
                if same(got, np.concatenate([parts[i] for i in order], axis)):
                    return f"parts of axis {axis} exchanged: in the order {list(order)}"
    for axis, step in itertools.product(range(want.ndim), (1, -1)):
        rolled = np.roll(want, step, axis)
        inner = [slice(None)] * want.ndim
        inner[axis] = slice(1, None) if step > 0 else slice(None, -1)
        inner = tuple(inner)
        if want.shape[axis] > 2 and same(got[inner], rolled[inner]):
            return f"shifted by {step} along axis {axis} (off by one, as in padding)"
    return None


def wrong_part(wrong: np.ndarray) -> str | None:
    """The part of an array that is wrong, in words; None if there is no pattern."""
    if not wrong.any() or wrong.all():
        return None
    if wrong.sum() == 1:
        return f"one entry, {np.argwhere(wrong)[0].tolist()}"
    for axis in range(wrong.ndim):
        others = tuple(i for i in range(wrong.ndim) if i != axis)
        hit = np.flatnonzero(wrong.any(others))
        if len(hit) < wrong.shape[axis]:
            edge = [0, wrong.shape[axis] - 1]
            if len(hit) == 1:
                last = " (the last)" if hit[0] == edge[1] else ""
                return f"index {hit[0]}{last} of axis {axis}"
            if hit.tolist() == edge:
                return f"the border of axis {axis}"
            if hit[-1] - hit[0] == len(hit) - 1:
                return f"indices {hit[0]} to {hit[-1]} of axis {axis}"
            return f"{len(hit)} of {wrong.shape[axis]} indices of axis {axis}"
    share = wrong.mean()
    return f"{share:.0%} of the entries" if share < 0.5 else None


def reshaped(here: Any, got: np.ndarray, want: np.ndarray) -> Iterator[str]:
    """Causes of a wrong shape; `here` is an `Evidence`."""
    same = here.same
    if np.squeeze(got).shape == np.squeeze(want).shape != () and same(
        got.reshape(want.shape), want
    ):
        many = "many" if got.ndim > want.ndim else "few"
        yield f"an axis of length 1 too {many}: keepdims? reshape it"
    if got.ndim == want.ndim and same(got, want.T):
        yield "transposed: a transpose is missing"
    for count in range(1, got.ndim + 1):
        for axes in itertools.combinations(range(got.ndim), count):
            total = got.sum(axes)
            if total.shape == want.shape and same(total, want):
                yield f"a missing reduction: sum it over {_axes(axes)}"
    for count in range(1, want.ndim + 1):
        for axes in itertools.combinations(range(want.ndim), count):
            if any(same(got, want.sum(axes, keepdims=k)) for k in (True, False)):
                yield f"one reduction too many: it is summed over {_axes(axes)}"
    if got.size == want.size and same(got.reshape(want.shape), want):
        yield "the right entries in another shape: reshape it"


def shape_words(got: np.ndarray, want: np.ndarray) -> str:
    """What a shape alone tells, "" if nothing."""
    if got.shape == want.shape[::-1]:
        return ": it is that of the transpose"
    if got.ndim > want.ndim and got.shape[-want.ndim or got.ndim :] == want.shape:
        return ": a missing reduction, it has the batch axis still"
    return ""


def _axes(axes) -> str:
    words = [f"axis {a}" + (" (the batch)" if a == 0 else "") for a in axes]
    return " and ".join(words)
