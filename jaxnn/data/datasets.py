"""From files or arrays to training, validation and test rows, checked on the way."""

import math
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxnn.data.formats import read_other, unpacked
from jaxnn.data.idx import read_idx, read_idx_and_sha256
from jaxnn.data.sources import (
    PARTS,
    SOURCES,
    Located,
    expanded,
    fetch,
    file_sha256,
    find_parts,
    known_by_names,
    locate,
    mismatch,
    parts_or_none,
)
from jaxnn.errors import JaxnnError, known_words
from jaxnn.files import bad_file, real_path

VALIDATION = 5000
"""Rows for validation, where there are at least twice as many."""

# A folder tells its classes by its largest label: so many may lack training images,
# or as many as have some. More, and a label is wrong, or they do not count from 0.
_EMPTY_CLASSES = 10
# 65536 squares of a byte, 65536 * 255**2 < 2**32: a uint32 sum is still exact
_EXACT = 1 << 16


class Split(NamedTuple):
    """Rows: x (N, H, W) uint8 in 0..255 or float in [0, 1]; y (N,) int32."""

    x: np.ndarray
    y: np.ndarray

    def __repr__(self) -> str:
        return f"<Split: x {self.x.dtype}{list(self.x.shape)}, y {list(self.y.shape)}>"


class Dataset(NamedTuple):
    """A data set in its three splits; `folder` is None if it came from arrays."""

    name: str
    train: Split
    validation: Split
    test: Split
    classes: int  # labels are 0 .. classes - 1
    folder: Path | None
    names: tuple[str, ...] = ()  # of the classes, where the data has some

    def __repr__(self) -> str:
        return (
            f"<Dataset {self.name}: {len(self.train.y):,} train, "
            f"{len(self.validation.y):,} validation, {len(self.test.y):,} test; "
            f"{self.classes} classes>"
        )

    def _repr_html_(self) -> str:
        from jaxnn.text import html  # in a notebook only

        rows = [
            (name, f"{len(split.y):,}", str(split.x.shape[1:]), str(split.x.dtype))
            for name, split in zip(self._fields[1:4], self[1:4], strict=True)
        ]
        names = f": {', '.join(self.names)}" if self.names else ""
        caption = f"{self.name}, {self.classes} classes{names}"
        return html(("split", "images", "shape of each", "type"), rows, caption)


@known_words
def load(
    data: str | Path = "mnist", *, validation: int = VALIDATION, split_seed: int = 0,
    say: Callable[[str], Any] = warnings.warn,
) -> Dataset:  # fmt: skip
    """Load a named data set, or data of one's own from a file or folder.

    A name is looked up as `jaxnn.data.sources` says and downloaded if it is nowhere;
    its files must have the published checksums. EMNIST images are turned upright, and
    the labels of emnist-letters start at 0.

    A path is a folder with four IDX files, or what `jaxnn.data.formats.read_other`
    reads: an `.npz`, a CSV file of pixels, parquet, a folder of pictures by class, or a
    `.zip` or `.tar.gz` of any of these. Where there are no test images a sixth of the
    rows is kept apart.

    Args:
      data: a name (mnist, fashion-mnist, emnist-balanced ...) or a path.
      validation: rows taken out of the training rows for validation; the usual 5000
        become a tenth where that is less than twice as many as there are.
      split_seed: decides which rows; independent of every other seed.
      say: told what was changed, left out or kept apart.

    Returns:
      x uint8 (N, H, W), or float if the files hold floats, and y int32 (N,). Rows keep
      the order of the files.

    Raises:
      JaxnnError: unknown name, files missing, damaged or not fitting together, NaN.
    """
    path = expanded(data) if isinstance(data, (str, os.PathLike)) else None
    if path is not None and data not in SOURCES and os.path.exists(path):
        name = real_path(path).name
        with unpacked(path) as inside:

            def told(text):  # of an archive `inside` is a folder that will be gone
                say(text.replace(str(inside), str(path)))

            files = parts_or_none(inside)
            found = read_other(inside, told) if files is None else None
            if found is not None:
                return _from_other(found, path, name, validation, split_seed, told)
            if files or inside != path:
                files = files or find_parts(inside)
                place = Located(name, path, files, known_by_names(files))
                return _from_idx(place, validation, split_seed, told)
    place = locate(data)
    if place is None:
        try:
            fetch(str(data))
        except JaxnnError as error:
            error.add_note("mnist-small is inside jaxnn: no download, 7,000 digits")
            raise
        place = locate(data)
        assert place is not None, "fetch fills the folder in which locate looks"
    return _from_idx(place, validation, split_seed, say)


def _from_idx(place, validation, split_seed, say):
    parts = {part: _read_part(place, part) for part in PARTS}
    classes = None if place.source is None else place.source.classes
    validation = _fitting(validation, len(parts["train-labels"].array), say)
    if place.source is not None and not place.source.train:  # by a path
        say(
            f"{place.folder}: EMNIST by the names of its files: the images are turned "
            f"upright, and label {place.source.first_label} is class 0"
        )
    names = () if place.source is None else tuple(place.source.names)
    return _assemble(
        parts, classes, validation, split_seed, place.name, place.folder, names
    )


def _from_other(found, path, name, validation, split_seed, say):
    (x, y), where, test = found.train, str(path), found.test
    _check_labels(_Part(y, where), _Part(x, where))
    if test is None:
        if len(y) < 6:
            raise JaxnnError(f"{where}: got {len(y)} images, expected at least 6")
        apart = np.zeros(len(y), bool)
        apart[stratified_sample(y, len(y) // 6, split_seed)] = True
        say(
            f"{where}: no test images, so {apart.sum():,} of {len(y):,}, a sixth of "
            "each class, are kept apart as such"
        )
        x, y, test = x[~apart], y[~apart], (x[apart], y[apart])
    arrays = zip(PARTS, (x, y, *test), strict=True)
    parts = {part: _Part(array, where) for part, array in arrays}
    validation = _fitting(validation, len(y), say)
    classes = len(found.names) or None
    return _assemble(parts, classes, validation, split_seed, name, path, found.names)


def _fitting(validation, count, say):
    """The usual number of validation rows, or a tenth where that would be most."""
    if validation != VALIDATION or count >= 2 * VALIDATION:
        return validation
    say(
        f"validation: {VALIDATION:,} of {count:,} training rows would be too many; a "
        f"tenth, {count // 10:,}, are taken"
    )
    return count // 10


@known_words
def from_arrays(
    x_train: np.ndarray, y_train: np.ndarray, x_test: np.ndarray, y_test: np.ndarray,
    *, validation: int, split_seed: int = 0, name: str = "arrays",
) -> Dataset:  # fmt: skip
    """The same checks, errors and split as `load`, for arrays of one's own.

    Args:
      x_train, x_test: (N, H, W), also (N, D) or (N, H, W, C); uint8 in 0..255 or
        float in [0, 1].
      y_train, y_test: (N,) integer labels from 0; the largest training label gives
        the number of classes.
      validation, split_seed: as in `load`.
      name: what reports call it.
    """
    given = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
    parts = {
        part: _Part(np.asarray(array), argument)
        for part, (argument, array) in zip(PARTS, given.items(), strict=True)
    }
    return _assemble(parts, None, validation, split_seed, name, None)


def unit_images(x: np.ndarray) -> np.ndarray:
    """Images as float32 in [0, 1], as every attack and every check of one sees them.

    A quotient, which is rounded once. In a compiled program XLA divides by 255 by a
    product with 1 / 255, as `jaxnn.train.to_unit` does: 126 of the 256 gray levels
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


class _Part(NamedTuple):
    """One of the four arrays of a data set, and what errors call it."""

    array: np.ndarray
    where: str


def _read_part(place: Located, part: str) -> _Part:
    """One file: its checksum compared if one is published, its images upright.

    Color is refused here: what follows training shows images as gray ones.
    """
    file, source = place.files[part], place.source
    if source is None:
        array = read_idx(file)
        if part.endswith("images") and array.ndim == 4:
            raise bad_file(
                file, f"color images {array.shape}", "gray ones (N, H, W)",
                "Convert them, as in x.mean(-1).astype(np.uint8), or train on arrays: "
                "jaxnn.data.from_arrays and jaxnn.fit.",
            )  # fmt: skip
        return _Part(array, str(file))
    expected = source.sha256.get(part, "")
    if expected and source.of_content:
        array, found = read_idx_and_sha256(file)
    else:
        array, found = read_idx(file), file_sha256(file) if expected else ""
    if found != expected:
        raise mismatch(file, expected, found, place.name)
    if part.endswith("labels"):
        shift = source.first_label if array.dtype.kind in "iu" else 0
        return _Part(array.astype(np.int32) - shift if shift else array, str(file))
    _check_images(_Part(array, str(file)))
    rows = source.train if part == "train-images" else source.test
    if rows and len(array) != rows:  # the only guard where no checksum is published
        raise JaxnnError(
            f"{file}: got {len(array)} images, expected {rows} as in {place.name}. "
            "For other data give their folder instead."
        )
    upright = array.swapaxes(1, 2) if source.transposed else array
    return _Part(np.ascontiguousarray(upright), str(file))


def _assemble(
    parts: Mapping[str, _Part], classes: int | None, validation: int, split_seed: int,
    name: str, folder: Path | None, names: tuple[str, ...] = (),
) -> Dataset:  # fmt: skip
    """Check the four arrays and split them."""
    x, y, x_test, y_test = (parts[part] for part in PARTS)
    for images, labels in ((x, y), (x_test, y_test)):
        _check_images(images)
        _check_labels(labels, images)
    shapes = [f"{i.array.shape[1:]} {i.array.dtype}" for i in (x, x_test)]
    if shapes[0] != shapes[1]:
        raise JaxnnError(
            f"{x_test.where}: got images {shapes[1]}, expected {shapes[0]} as in "
            f"{x.where}."
        )
    _check_range(y, classes)
    why = ""
    if classes is None:
        classes, why = int(y.array.max()) + 1, " (the largest training label)"
        _check_covered(y.array, classes, y.where)
    _check_range(y_test, classes, why)
    train, held_out = _split_rows(len(x.array), validation, split_seed, x.where)
    if np.ptp(x.array[train]) == 0:
        raise JaxnnError(
            f"{x.where}: got {len(train)} training images whose pixels are all "
            f"{x.array[train[0]].flat[0]:g}, expected images that differ. Check how "
            "they were made."
        )
    labels = y.array.astype(np.int32)
    return Dataset(
        name, Split(x.array[train], labels[train]),
        Split(x.array[held_out], labels[held_out]),
        Split(x_test.array, y_test.array.astype(np.int32)), classes, folder, names,
    )  # fmt: skip


def _split_rows(
    count: int, validation: int, seed: int, where: str
) -> tuple[np.ndarray, np.ndarray]:
    for name, value in (("validation", validation), ("split_seed", seed)):
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if not whole or (name == "split_seed" and value < 0):
            raise JaxnnError(f"{name}: got {value!r}, expected a whole number from 0.")
    if not 0 <= validation < count:
        raise JaxnnError(
            f"validation: got {validation} rows, expected 0 to {count - 1}, as {where} "
            f"has {count}."
        )
    order = np.random.default_rng(seed).permutation(count)
    return np.sort(order[validation:]), np.sort(order[:validation])


def _check_images(images: _Part) -> None:
    x, where = images
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


def _check_labels(labels: _Part, images: _Part) -> None:
    y, where = labels
    if y.ndim != 1:
        raise JaxnnError(
            f"{where}: got an array of shape {y.shape}, expected labels (N,). Are "
            "images and labels exchanged?"
        )
    if len(images.array) != len(y):
        raise JaxnnError(
            f"{where}: got {len(y)} labels, expected {len(images.array)}, one for each "
            f"image in {images.where}. The files do not belong together."
        )
    if y.dtype.kind not in "iu":
        raise JaxnnError(
            f"{where}: got labels of type {y.dtype}, expected integers from 0. "
            "Convert them, as in y.astype(np.int32)."
        )


def _check_range(labels: _Part, classes: int | None, why: str = "") -> None:
    y, where = labels
    bad = y < 0 if classes is None else (y < 0) | (y >= classes)
    if bad.any():
        first = int(bad.argmax())
        top = " or more" if classes is None else f" to {classes - 1}"
        raise JaxnnError(
            f"{where}: got label {y[first]} at index {first} ({int(bad.sum())} labels "
            f"like it), expected 0{top}{why}. Correct the labels."
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
