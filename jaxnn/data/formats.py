"""Data in the forms that people have: .npz, CSV of pixels, folders of pictures, zip."""

import os
import tempfile
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxnn.data.digit_image import read_gray
from jaxnn.errors import JaxnnError, first_line
from jaxnn.files import bad_file, open_file, reason

PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm"}
LABELS = ("label", "class", "target", "y")
"""Names of the column of labels in a CSV file; without one it is the first column."""


class Arrays(NamedTuple):
    """What was read: (images, labels) for training, the same for testing or None, and
    the names of the classes where they have some."""

    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray] | None
    names: tuple[str, ...] = ()


def read_other(path: Path, say: Callable[[str], Any]) -> Arrays | None:
    """Read data that are not four IDX files; None if `path` holds none of these.

    A file `.npz` with `x_train, y_train, x_test, y_test` or `x, y`; a CSV file of
    pixels, a line an image, or a folder with `train.csv`; a folder with a folder of
    pictures for each class, perhaps below `train` and `test`; a `.zip` of any of them.
    Words about what was changed or left out go to `say`.

    Raises:
      JaxnnError: a file that cannot be read, or whose arrays do not fit.
    """
    kind = path.suffix.lower()
    if os.path.isfile(path) and kind in (".npz", ".csv"):
        found = _read_npz(path) if kind == ".npz" else _read_csvs(path, None, say)
    elif os.path.isdir(path):
        found = None
        tables = {f.name.lower(): f for f in _listed(path)}
        if "train.csv" in tables:
            found = _read_csvs(tables["train.csv"], tables.get("test.csv"), say)
        elif _classes(path) or _classes(path / "train"):
            found = _read_pictures(path, say)
    else:
        found = None
    return None if found is None else _named(found)


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """The folder that a `.zip` holds, for as long as it is read; else `path` itself.

    Raises:
      JaxnnError: not a zip file, or a damaged one.
    """
    if not (os.path.isfile(path) and path.suffix.lower() == ".zip"):
        yield _entered(path) if os.path.isdir(path) else path
        return
    with tempfile.TemporaryDirectory() as folder:
        try:
            with zipfile.ZipFile(path) as archive:
                archive.extractall(folder)
        except (zipfile.BadZipFile, OSError, RuntimeError, ValueError) as error:
            raise bad_file(
                path, f"a damaged archive ({error})", "a zip file", "Download it again."
            ) from error
        yield _entered(Path(folder))


def _entered(folder: Path) -> Path:
    """`folder`, or the only folder or file in it if there is nothing else."""
    inside = [p for p in _listed(folder) if p.name[0] not in "._"]
    if len(inside) != 1:
        return folder
    only = inside[0]
    if os.path.isdir(only):
        return _entered(only)
    return only if only.suffix.lower() in (".npz", ".csv") else folder


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        fix = "Check whose it is."
        raise bad_file(folder, reason(error), "a folder to read", fix) from error


def _read_npz(path: Path) -> Arrays:
    fix = "Save it by np.savez(path, x_train=..., y_train=..., x_test=..., y_test=...)."
    wanted = "arrays x_train, y_train, x_test, y_test, or x, y"
    with open_file(path, "an .npz file") as file:
        try:
            with np.load(file, allow_pickle=False) as archive:
                arrays = {name.lower(): archive[name] for name in archive.files}
        except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
            got = f"a file that cannot be read ({first_line(error)})"
            raise bad_file(path, got, wanted, fix) from error
        except AttributeError as error:  # a single array has no names
            raise bad_file(path, "one array", wanted, fix) from error
    if {"x_train", "y_train"} <= set(arrays):
        train = arrays["x_train"], arrays["y_train"]
        both = {"x_test", "y_test"} <= set(arrays)
        test = (arrays["x_test"], arrays["y_test"]) if both else None
    elif {"x", "y"} <= set(arrays):
        train, test = (arrays["x"], arrays["y"]), None
    else:
        raise bad_file(path, f"arrays {', '.join(arrays) or '(none)'}", wanted, fix)
    return Arrays(train, test)


def _read_csvs(train: Path, test: Path | None, say) -> Arrays:
    found = _read_pixels(train)
    if found[1] is None:
        raise bad_file(
            train, "no column of labels", f"one called {' or '.join(LABELS)}",
            "Add it, or give a folder with train.csv.",
        )  # fmt: skip
    held = None if test is None else _read_pixels(test)
    if held is not None and held[1] is None:
        say(f"{test}: has no labels, so it is not used")
        held = None
    return Arrays(found, held)


def _read_pixels(path: Path) -> tuple[np.ndarray, Any]:
    """Images (N, H, W), or (N, 1, D) where D is no square, and labels or None."""
    with open_file(path, "a CSV file") as file:
        first = file.readline().decode("utf-8-sig", "replace").strip().split(",")
    header = [name.strip().strip('"').lower() for name in first]
    names = not all(_reads_as_number(name) for name in header)
    column = next((header.index(n) for n in LABELS if n in header), None)
    if column is None and not (names and header[0].startswith("pixel")):
        column = 0
    try:
        with warnings.catch_warnings():  # NumPy warns of a table without rows
            warnings.simplefilter("error", UserWarning)
            table = np.loadtxt(
                path, np.float32, delimiter=",", skiprows=int(names), ndmin=2
            )
    except (ValueError, UserWarning) as error:
        raise bad_file(
            path, f"what is no table of numbers ({first_line(error)})",
            "a label and pixels in each line", "Repair that line.",
        ) from error  # fmt: skip
    pixels = table if column is None else np.delete(table, column, 1)
    side = round(pixels.shape[1] ** 0.5)
    shape = (side, side) if side**2 == pixels.shape[1] else (1, pixels.shape[1])
    labels = None if column is None else table[:, column]
    return pixels.reshape(len(pixels), *shape), labels


def _reads_as_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _classes(folder: Path) -> list[Path]:
    """The folders in it that hold pictures, in the order of their names."""
    if not os.path.isdir(folder):
        return []
    inside = [p for p in _listed(folder) if os.path.isdir(p) and p.name[0] != "."]
    return [p for p in inside if any(f.suffix.lower() in PICTURES for f in _listed(p))]


def _read_pictures(folder: Path, say) -> Arrays:
    parts = [folder / name for name in ("train", "test") if _classes(folder / name)]
    parts = parts or [folder]
    names = [p.name for p in _classes(parts[0])]
    split, bad, colored = [], [], 0
    for part in parts:
        images, labels = [], []
        for place in _classes(part):
            if place.name not in names:
                raise JaxnnError(
                    f"{place}: got a class that {parts[0]} has not, expected some of "
                    f"{', '.join(names[:20])}"
                )
            for path in _listed(place):
                if path.suffix.lower() not in PICTURES:
                    continue
                try:
                    gray, color = read_gray(path)
                except JaxnnError as error:
                    bad.append(str(error))
                    continue
                colored += color
                images.append(gray)
                labels.append(names.index(place.name))
        if not images:
            raise JaxnnError(f"{part}: got no picture that can be read: {bad[0]}")
        split.append((images, np.array(labels)))
    sizes = Counter(image.shape for images, _ in split for image in images)
    size, total = sizes.most_common(1)[0][0], sum(sizes.values())
    words = [
        (
            len(bad),
            f"of {total + len(bad):,} pictures cannot be read and are left out, the "
            f"first: {bad[0] if bad else ''}",
        ),
        (colored, f"of {total:,} pictures have color; all are made gray"),
        (
            total - sizes[size],
            f"of {total:,} pictures are made {size[1]} x {size[0]} pixels, as the rest",
        ),
    ]
    for count, text in words:
        if count:
            say(f"{folder}: {count:,} {text}")
    arrays = [(np.stack([_sized(i, size) for i in im]), y) for im, y in split]
    return Arrays(arrays[0], arrays[1] if len(arrays) > 1 else None, tuple(names))


def _sized(gray: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if gray.shape == size:
        return gray
    from PIL import Image

    image = Image.fromarray(gray).resize(size[::-1], Image.Resampling.BOX)
    return np.asarray(image)


def _named(found: Arrays) -> Arrays:
    """Pixels as uint8 where they are whole numbers of 0..255, labels as whole ones."""
    parts = [part for part in (found.train, found.test) if part is not None]
    names, labels = found.names, [np.asarray(y) for _, y in parts]
    labels = [y.reshape(len(y)) if y.size == len(y) else y for y in labels]
    if labels[0].dtype.kind in "US":
        names = tuple(map(str, np.unique(np.concatenate(labels))))
        labels = [np.searchsorted(names, y.astype(str)) for y in labels]
    ready = [
        (_pixels(x), y.astype(np.int64) if _whole(y) else y)
        for (x, _), y in zip(parts, labels, strict=True)
    ]
    return Arrays(ready[0], ready[1] if len(ready) > 1 else None, names)


def _pixels(x: np.ndarray) -> np.ndarray:
    x = x[..., 0] if x.ndim == 4 and x.shape[-1] == 1 else x
    if x.dtype == np.uint8 or not x.size or not _whole(x):
        return x
    low, high = x.min(), x.max()
    # 0 and 1 alone may be floats already, in [0, 1]
    bytes_ = low >= 0 and (1 < high <= 255 or (high <= 1 and x.dtype.kind in "iu"))
    return x.astype(np.uint8) if bytes_ else x


def _whole(a: np.ndarray) -> bool:
    return a.dtype.kind in "iub" or (a.dtype.kind == "f" and bool((a == a // 1).all()))
