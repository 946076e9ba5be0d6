"""From files or arrays to training, validation and test rows, checked on the way."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxnn.arrays import is_whole
from jaxnn.data.idx import read_idx, read_idx_and_sha256
from jaxnn.data.sources import (
    PARTS,
    Located,
    Source,
    fetch,
    file_sha256,
    locate,
    mismatch,
)
from jaxnn.errors import JaxnnError
from jaxnn.files import bad_file

# A folder tells its classes by its largest label: so many may lack training images,
# or as many as have some. More, and a label is wrong, or they do not count from 0.
_EMPTY_CLASSES = 10
# 65536 squares of a byte, 65536 * 255**2 < 2**32: a uint32 sum is still exact
_EXACT = 1 << 16


class Split(NamedTuple):
    """Rows: x (N, H, W) uint8 in 0..255 or float in [0, 1]; y (N,) int32."""

    x: np.ndarray
    y: np.ndarray


class Dataset(NamedTuple):
    """A data set in its three splits; `folder` is None if it came from arrays."""

    name: str
    train: Split
    validation: Split
    test: Split
    classes: int  # labels are 0 .. classes - 1
    folder: Path | None


def load(
    data: str | Path = "mnist", *, validation: int = 5000, split_seed: int = 0
) -> Dataset:
    """Load a named data set, or a folder with four IDX files.

    A name is looked up as `jaxnn.data.sources` says and downloaded if it is nowhere;
    its files must have the published checksums. A folder is taken as it is. EMNIST
    images are turned upright, and the labels of emnist-letters start at 0.

    Args:
      data: a name (mnist, fashion-mnist, emnist-balanced ...) or a folder.
      validation: rows taken out of the training files for validation.
      split_seed: decides which rows; independent of every other seed.

    Returns:
      x uint8 (N, H, W), or float if the files hold floats, and y int32 (N,). Rows keep
      the order of the files.

    Raises:
      JaxnnError: unknown name, files missing, damaged or not fitting together, NaN.
    """
    place = locate(data)
    if place is None:
        fetch(str(data))
        place = locate(data)
        assert place is not None, "fetch fills the folder in which locate looks"
    arrays = {part: _read(place, part) for part in PARTS}
    source = place.source
    if source is None:
        _check_grey(arrays, place)
    else:
        _check_rows(arrays, place, source)
        arrays = {part: _upright(part, a, source) for part, a in arrays.items()}
    names = {part: str(file) for part, file in place.files.items()}
    classes = source.classes if source is not None else None
    return _assemble(
        arrays, names, classes, validation, split_seed, place.name, place.folder
    )


def from_arrays(
    x_train: np.ndarray,
    y_train: np.ndarray,
    x_test: np.ndarray,
    y_test: np.ndarray,
    *,
    validation: int,
    split_seed: int = 0,
    name: str = "arrays",
) -> Dataset:
    """The same checks and the same split as `load`, for arrays of one's own.

    Args:
      x_train, x_test: (N, H, W), also (N, D) or (N, H, W, C); uint8 in 0..255 or
        float in [0, 1].
      y_train, y_test: (N,) integer labels from 0; the largest training label gives
        the number of classes.
      validation, split_seed: as in `load`.
      name: what reports call it.

    Raises:
      JaxnnError: as `load`; it names the argument.
    """
    arrays = {
        "train-images": np.asarray(x_train),
        "train-labels": np.asarray(y_train),
        "test-images": np.asarray(x_test),
        "test-labels": np.asarray(y_test),
    }
    names = dict(zip(PARTS, ("x_train", "y_train", "x_test", "y_test"), strict=True))
    return _assemble(arrays, names, None, validation, split_seed, name, None)


def unit_images(x: np.ndarray) -> np.ndarray:
    """Images as float32 in [0, 1], as every attack and every check of one sees them.

    A quotient, which is rounded once. In a compiled program XLA divides by 255 by a
    product with 1 / 255, as `jaxnn.train.to_unit` does: 126 of the 256 grey levels
    differ from these in the last bit.

    >>> unit_images(np.array([0, 51, 255], np.uint8)).tolist()
    [0.0, 0.20000000298023224, 1.0]
    """
    return x.astype(np.float32) / np.float32(255 if x.dtype == np.uint8 else 1)


def pixel_statistics(x: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation over all pixels, in units of the [0, 1] scale.

    Give it the training rows only. For uint8 the sums are exact integers. The
    deviation is the population's (divided by n) and 0.0 if all pixels are equal.

    >>> pixel_statistics(np.array([[[0, 255]]], np.uint8))
    (0.5, 0.5)

    Raises:
      JaxnnError: no pixels.
    """
    if x.size == 0:
        raise JaxnnError(f"pixel_statistics: got no pixels, shape {x.shape}.")
    if x.dtype != np.uint8:
        return float(x.mean(dtype=np.float64)), float(x.std(dtype=np.float64))
    flat, total, squares = x.reshape(-1), 0, 0
    for first in range(0, flat.size, _EXACT):
        piece = flat[first : first + _EXACT]
        total += int(piece.sum(dtype=np.uint32))
        squares += int(np.square(piece, dtype=np.uint16).sum(dtype=np.uint32))
    # Python integers: n * squares - total**2 loses no digit however large the mean
    n = flat.size
    return total / (255 * n), math.sqrt(n * squares - total**2) / (255 * n)


def stratified_sample(labels: np.ndarray, n: int, seed: int) -> np.ndarray:
    """A seeded sample of rows that has the classes in the proportions of `labels`.

    Each class gets n * share rounded down; the rows left over go to the largest
    remainders (the smaller label first if equal).

    Args:
      labels: (N,) integers.
      n: rows wanted, 0 .. N.
      seed: decides which rows of a class.

    Returns:
      (n,) sorted, distinct indices into `labels`.

    Raises:
      JaxnnError: n is negative or larger than N.
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or not 0 <= n <= len(labels):
        raise JaxnnError(
            f"stratified_sample: got n={n} and labels of shape {labels.shape}, "
            "expected labels (N,) and n from 0 to N."
        )
    if n == 0:
        return np.zeros(0, np.int64)
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    quota, remainder = np.divmod(counts * n, len(labels))
    order = np.argsort(-remainder, kind="stable")
    quota[order[: n - quota.sum()]] += 1
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    by_class = shuffled[np.argsort(inverse[shuffled], kind="stable")]
    starts = np.cumsum(counts) - counts
    chosen = [by_class[s : s + q] for s, q in zip(starts, quota, strict=True)]
    return np.sort(np.concatenate(chosen))


def _read(place: Located, part: str) -> np.ndarray:
    """One file, its checksum compared if one is published."""
    file = place.files[part]
    expected = "" if place.source is None else place.source.sha256.get(part, "")
    if place.source is None or not expected:
        return read_idx(file)
    if place.source.of_content:
        array, found = read_idx_and_sha256(file)
    else:
        array, found = read_idx(file), file_sha256(file)
    if found != expected:
        raise mismatch(file, expected, found, place.name)
    return array


def _check_rows(
    arrays: Mapping[str, np.ndarray], place: Located, source: Source
) -> None:
    """The only guard against another data set where no checksum is published."""
    for part, rows in {
        "train-images": source.train,
        "test-images": source.test,
    }.items():
        _check_images(arrays[part], str(place.files[part]))
        if len(arrays[part]) != rows:
            raise JaxnnError(
                f"{place.files[part]}: got {len(arrays[part])} images, expected {rows} "
                f"as in {place.name}. For other data give their folder instead."
            )


def _check_grey(arrays: Mapping[str, np.ndarray], place: Located) -> None:
    """Colour is refused here: what follows training shows images as grey ones."""
    for split in ("train", "test"):
        shape = arrays[f"{split}-images"].shape
        if len(shape) == 4:
            raise bad_file(
                place.files[f"{split}-images"],
                f"colour images {shape}",
                "grey ones (N, H, W)",
                "Convert them, as in x.mean(-1).astype(np.uint8), or train on arrays: "
                "jaxnn.data.from_arrays and jaxnn.fit.",
            )


def _upright(part: str, array: np.ndarray, source: Source) -> np.ndarray:
    if part.endswith("images") and source.transposed:
        return np.ascontiguousarray(array.swapaxes(1, 2))
    if part.endswith("labels") and source.first_label and array.dtype.kind in "iu":
        return array.astype(np.int32) - source.first_label
    return array


def _assemble(
    arrays: dict[str, np.ndarray],
    names: Mapping[str, str],
    classes: int | None,
    validation: int,
    split_seed: int,
    name: str,
    folder: Path | None,
) -> Dataset:
    """Check the four arrays and split them; `names` is what errors call each."""
    for split in ("train", "test"):
        _check_images(arrays[f"{split}-images"], names[f"{split}-images"])
        _check_counts(arrays, names, split)
    shapes = [arrays[f"{split}-images"].shape[1:] for split in ("train", "test")]
    types = [arrays[f"{split}-images"].dtype for split in ("train", "test")]
    if shapes[0] != shapes[1] or types[0] != types[1]:
        raise JaxnnError(
            f"{names['test-images']}: got images {shapes[1]} {types[1]}, expected "
            f"{shapes[0]} {types[0]} as in {names['train-images']}."
        )
    known = classes
    for split in ("train", "test"):
        part = f"{split}-labels"
        _check_labels(arrays[part], names[part], classes, known is None)
        classes = classes or int(arrays[part].max()) + 1
    assert classes is not None
    if known is None:
        _check_covered(arrays["train-labels"], classes, names["train-labels"])
    x, y = arrays["train-images"], arrays["train-labels"].astype(np.int32)
    train, held_out = _split_rows(len(x), validation, split_seed, names["train-images"])
    if np.ptp(x[train]) == 0:
        raise JaxnnError(
            f"{names['train-images']}: got {len(train)} training images whose pixels "
            f"are all {x[train[0]].flat[0]:g}, expected images that differ. Check how "
            "they were made."
        )
    return Dataset(
        name,
        Split(x[train], y[train]),
        Split(x[held_out], y[held_out]),
        Split(arrays["test-images"], arrays["test-labels"].astype(np.int32)),
        classes,
        folder,
    )


def _split_rows(
    count: int, validation: int, seed: int, where: str
) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(validation, bool) or not isinstance(validation, (int, np.integer)):
        raise JaxnnError(
            f"validation: got {validation!r}, expected a whole number of rows."
        )
    if not 0 <= validation < count:
        raise JaxnnError(
            f"validation: got {validation} rows, expected 0 to {count - 1}, as {where} "
            f"has {count}."
        )
    if not is_whole(seed, 0):
        raise JaxnnError(f"split_seed: got {seed!r}, expected a whole number from 0.")
    order = np.random.default_rng(seed).permutation(count)
    return np.sort(order[validation:]), np.sort(order[:validation])


def _check_images(x: np.ndarray, where: str) -> None:
    if not 2 <= x.ndim <= 4:
        raise JaxnnError(
            f"{where}: got an array of shape {x.shape}, expected images (N, H, W). "
            "Are images and labels exchanged?"
        )
    if x.size == 0:
        raise JaxnnError(f"{where}: got shape {x.shape}, expected at least one image.")
    if x.dtype == np.uint8:
        return
    if x.dtype.kind != "f":
        raise JaxnnError(
            f"{where}: got pixels of type {x.dtype}, expected uint8 in 0..255 or "
            "floats in [0, 1]. Convert them first, as in x.astype(np.uint8)."
        )
    finite = np.isfinite(x)
    if not finite.all():
        first = tuple(int(i) for i in np.unravel_index(int(finite.argmin()), x.shape))
        raise JaxnnError(
            f"{where}: got {x.size - int(finite.sum())} NaN or infinite pixels, the "
            f"first ({x[first]}) at index {first}, expected finite floats in [0, 1]. "
            "Repair or drop these images."
        )
    low, high = float(x.min()), float(x.max())
    if low < 0 or high > 1:
        raise JaxnnError(
            f"{where}: got float pixels from {low:g} to {high:g}, expected [0, 1]. "
            "Rescale them, as in x / 255."
        )


def _check_counts(
    arrays: Mapping[str, np.ndarray], names: Mapping[str, str], split: str
) -> None:
    images, labels = f"{split}-images", f"{split}-labels"
    if arrays[labels].ndim != 1:
        raise JaxnnError(
            f"{names[labels]}: got an array of shape {arrays[labels].shape}, expected "
            "labels (N,). Are images and labels exchanged?"
        )
    if len(arrays[images]) != len(arrays[labels]):
        raise JaxnnError(
            f"{names[labels]}: got {len(arrays[labels])} labels, expected "
            f"{len(arrays[images])}, one for each image in {names[images]}. The files "
            "do not belong together."
        )


def _check_labels(
    y: np.ndarray, where: str, classes: int | None, from_training: bool
) -> None:
    if y.dtype.kind not in "iu":
        raise JaxnnError(
            f"{where}: got labels of type {y.dtype}, expected integers from 0. "
            "Convert them, as in y.astype(np.int32)."
        )
    bad = y < 0 if classes is None else (y < 0) | (y >= classes)
    if bad.any():
        first = int(bad.argmax())
        top = "" if classes is None else f" to {classes - 1}"
        why = " (the largest training label)" if top and from_training else ""
        raise JaxnnError(
            f"{where}: got label {y[first]} at index {first} ({int(bad.sum())} labels "
            f"like it), expected 0{top or ' or more'}{why}. Correct the labels."
        )


def _check_covered(y: np.ndarray, classes: int, where: str) -> None:
    seen = len(np.unique(y))
    if seen < 2:
        raise JaxnnError(
            f"{where}: got the label {y[0]} only, expected at least two classes."
        )
    if classes - seen > max(_EMPTY_CLASSES, seen):
        raise JaxnnError(
            f"{where}: got label {classes - 1} at index {int(y.argmax())}, which makes "
            f"{classes} classes, but only {seen} labels occur. Correct the label, or "
            "number the classes from 0: np.unique(y, return_inverse=True)[1]."
        )
