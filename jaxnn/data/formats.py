"""Data in the forms that people have: .npz, CSV, parquet, folders of pictures, zip."""

import itertools
import os
import re
import shutil
import tarfile
import tempfile
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxnn.data.parquet import LABELS, read_parquet
from jaxnn.data.picture import ENDINGS, read_gray, sized
from jaxnn.errors import JaxnnError, first_line
from jaxnn.files import bad_file, open_file, reason

Part = tuple[Any, Any]
"""Images, as an array or as a list of pictures, and labels, or None."""
DIM = 128  # a brightest level below it is no byte's white
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
DAMAGED = (OSError, EOFError, RuntimeError, ValueError, tarfile.TarError, zlib.error)


class Arrays(NamedTuple):
    """What was read: (images, labels) for training, the same for testing or None, and
    the names of the classes where they have some."""

    train: Part
    test: Part | None
    names: tuple[str, ...] = ()


def read_other(path: Path, say: Callable[[str], Any]) -> Arrays | None:
    """Read data that are not four IDX files; None if `path` holds none of these.

    A file of a kind in `FORMS`, or a folder of such, whose names or folders say which
    are for training and for testing: `.npz` with `x_train, y_train, x_test, y_test` or
    `x, y`; a CSV file of pixels, a line an image; parquet with a column of pictures. Or
    a folder with a folder of pictures for each class, perhaps below `train` and `test`.
    Words about what was changed or left out go to `say`.

    Raises:
      JaxnnError: a file that cannot be read, or whose arrays do not fit.
    """
    if os.path.isfile(path):
        read = FORMS.get(path.suffix.lower())
        return None if read is None else _finished(Arrays(*read(path)), path, say)
    if not os.path.isdir(path):
        return None
    here = _listed(path)
    named = any(
        _split_of(p.stem) == "train" and p.suffix.lower() in FORMS for p in here
    )
    found = _read_tables(here if named else [], path, say)
    if found is None:
        pictures = _split([p for p in _folders(path) if _classes(p)], path, say)
        if pictures is not None or _classes(path):
            found = _read_pictures(*(pictures or ([path], [])))
    if found is None:
        deep = itertools.chain(*(path.glob("*/" * n + "*") for n in range(3)))
        found = _read_tables(sorted(deep), path, say)
    return None if found is None else _finished(found, path, say)


def _read_tables(files: Sequence[Path], root: Path, say) -> Arrays | None:
    """Files of the first form in `FORMS` that there are."""
    for form, read in FORMS.items():
        own = [p for p in files if p.suffix.lower() == form and p.name[0] not in "._"]
        if (parts := _split(own, root, say)) is not None:
            return _joined(read, *parts)
    return None


SPLITS = {
    "train": "train", "test": "test", "t10k": "test", "val": "validation",
    "dev": "validation",
}  # fmt: skip
"""What the words of a name begin with -> which rows are meant."""


def _split(paths: Sequence[Path], root: Path, say) -> tuple[list, list] | None:
    """Those for training and those for testing, by their names; None without any."""
    by: dict[str, list[Path]] = {"train": [], "test": [], "validation": [], "": []}
    for path in paths:
        by[_split_of(str(path.relative_to(root)))].append(path)
    train, test = by["train"] or by[""], by["test"] or by["validation"]
    if by["validation"] and train:
        used = "are not used" if by["test"] else "are the test images"
        say(f"{by['validation'][0]}: images of that name {used}")
    return (train, test) if train else None


def _split_of(name: str) -> str:
    words = re.split(r"[^a-z0-9]+", name.lower())
    told = (SPLITS[start] for w in words for start in SPLITS if w.startswith(start))
    return next(told, "")


def _joined(read, train, test) -> Arrays:
    """The parts in several files; one file may hold both."""
    found, held = ([Arrays(*read(path)) for path in paths] for paths in (train, test))
    first = found[0]
    if len(found) == 1 and not held:
        return first
    test = _together(held, test) if held else None
    return Arrays(_together(found, train), test, first.names)


def _together(parts, paths) -> Part:
    x, y = zip(*(part.train for part in parts), strict=True)
    try:
        labels = None if any(a is None for a in y) else np.concatenate(y)
        if isinstance(x[0], list):
            return list(itertools.chain(*x)), labels
        return np.concatenate(x), labels
    except (ValueError, TypeError) as error:
        raise JaxnnError(
            f"{', '.join(map(str, paths[:5]))}: got parts that do not fit together "
            f"({first_line(error)}), expected images of one size"
        ) from error


def _finished(found: Arrays, path: Path, say) -> Arrays:
    """Pictures alike, pixels as uint8 where they are, labels as whole numbers."""
    if found.train[1] is None:
        raise bad_file(
            path, "no column of labels", f"one called {' or '.join(LABELS)}",
            "Add it, or give a folder with train.csv.",
        )  # fmt: skip
    if found.test is not None and found.test[1] is None:
        say(f"{path}: the test images have no labels, so they are not used")
        found = found._replace(test=None)
    parts = [part for part in (found.train, found.test) if part is not None]
    if isinstance(parts[0][0], list):
        parts = _alike(parts, path, say)
        images = [x for x, _ in parts]
    else:
        images = _pixels([np.asarray(x) for x, _ in parts], path, say)
    names, labels = found.names, [np.asarray(y) for _, y in parts]
    labels = [y.reshape(len(y)) if y.size == len(y) else y for y in labels]
    if labels[0].dtype.kind in "US":
        names = tuple(map(str, np.unique(np.concatenate(labels))))
        labels = [np.searchsorted(names, y.astype(str)) for y in labels]
    labels = [y.astype(np.int64) if _whole(y) else y for y in labels]
    ready = list(zip(images, labels, strict=True))
    return Arrays(ready[0], ready[1] if len(ready) > 1 else None, names)


def _alike(parts, where, say) -> list[Part]:
    """Pictures of one size, the most frequent, and without color; what cannot be read
    is left out. A picture is a path, or (bytes, name)."""
    made, bad, colored = [], [], 0
    for pictures, labels in parts:
        images, rows = [], []
        for row, one in enumerate(pictures):
            try:
                content, path = one if isinstance(one, tuple) else (None, one)
                gray, color = read_gray(path, content)
            except JaxnnError as error:
                bad.append(str(error))
                continue
            colored += color
            images.append(gray)
            rows.append(row)
        if not images:
            first = bad[0] if bad else "there is none"
            raise JaxnnError(f"{where}: got no picture that can be read: {first}")
        made.append((images, np.asarray(labels)[rows]))
    sizes = Counter(image.shape for images, _ in made for image in images)
    size, total = sizes.most_common(1)[0][0], sum(sizes.values())
    told = {
        f"of {total + len(bad):,} pictures cannot be read and are left out, the "
        f"first: {bad[0] if bad else ''}": len(bad),
        f"of {total:,} pictures have color; all are made gray": colored,
        f"of {total:,} pictures are made {size[1]} x {size[0]} pixels, as the rest":
            total - sizes[size],
    }  # fmt: skip
    for text, count in told.items():
        if count:
            say(f"{where}: {count:,} {text}")
    return [(np.stack([sized(i, size) for i in images]), y) for images, y in made]


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """The folder that an archive holds, for as long as it is read; else `path` itself.

    Raises:
      JaxnnError: not an archive, or a damaged one.
    """
    if not (os.path.isfile(path) and path.name.lower().endswith(ARCHIVES)):
        yield _entered(path) if os.path.isdir(path) else path
        return
    zipped = path.suffix.lower() == ".zip"
    if not zipped and not hasattr(tarfile, "data_filter"):  # before Python 3.11.4
        raise bad_file(
            path, "an archive that could write anywhere",
            "a Python that unpacks .tar safely", "Unpack it, or update Python.",
        )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        try:
            safe: Any = {} if zipped else {"filter": "data"}
            shutil.unpack_archive(path, folder, **safe)
        except (shutil.ReadError, zipfile.BadZipFile, *DAMAGED) as error:
            got, fix = f"a damaged archive ({error})", "Download it again."
            expected = f"an archive as its name says ({path.suffix})"
            raise bad_file(path, got, expected, fix) from error
        try:
            yield _entered(Path(folder))
        except JaxnnError as error:  # which names a folder that is gone
            raise JaxnnError(str(error).replace(folder, str(path))) from error


def _entered(folder: Path) -> Path:
    """`folder`, or the only folder or file in it, unless that is a class's."""
    inside = [p for p in _listed(folder) if p.name[0] not in "._"]
    if len(inside) != 1 or _classes(folder):
        return folder
    only = inside[0]
    if os.path.isdir(only):
        return _entered(only)
    return only if only.suffix.lower() in FORMS else folder


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


def _read_csv(path: Path) -> Arrays:
    with open_file(path, "a CSV file") as file:
        first = file.readline().decode("utf-8-sig", "replace").strip().split(",")
    header = [name.strip().strip('"').lower() for name in first]
    try:
        np.asarray(header).astype(float)
        names = False
    except ValueError:
        names = True
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
    return Arrays((pixels, None if column is None else table[:, column]), None)


FORMS: dict[str, Callable[[Path], tuple[Part, Part | None, tuple[str, ...]]]] = {
    ".npz": _read_npz, ".csv": _read_csv, ".parquet": read_parquet,
}  # fmt: skip
"""The ending of a file -> what reads it, as `Arrays`; one of your own: one entry."""


def _folders(folder: Path) -> list[Path]:
    return [p for p in _listed(folder) if os.path.isdir(p) and p.name[0] != "."]


def _classes(folder: Path) -> list[Path]:
    """The folders in it that hold pictures, in the order of their names."""
    return [p for p in _folders(folder) if pictures_in(p)]


def pictures_in(folder: Path) -> list[Path]:
    """The picture files in a folder, in the order of their names."""
    return [f for f in _listed(folder) if f.suffix.lower() in ENDINGS]


def _read_pictures(train: Sequence[Path], test: Sequence[Path]) -> Arrays:
    """Pictures, by paths, of folders that have a folder for each class."""
    names = sorted({p.name for folder in train for p in _classes(folder)})

    def part(folders) -> Part:
        paths, labels = [], []
        for place in (p for folder in folders for p in _classes(folder)):
            if place.name not in names:
                raise JaxnnError(
                    f"{place}: got a class that {train[0]} has not, expected some of "
                    f"{', '.join(names[:20])}"
                )
            paths += pictures_in(place)
            labels += [names.index(place.name)] * len(pictures_in(place))
        return paths, np.array(labels)

    return Arrays(part(train), part(test) if test else None, tuple(names))


def _pixels(images: list[np.ndarray], where, say) -> list[np.ndarray]:
    """As bytes where all are whole numbers up to 255; a brightest level below 128 is
    taken for white, and that is told."""
    images = [_squared(x) for x in images]
    if not all(x.size and _whole(x) for x in images):
        return images
    low = float(min(x.min() for x in images))
    top = float(max(x.max() for x in images))
    # 0 and 1 alone may be floats already, in [0, 1]
    if low < 0 or not 0 < top <= 255 or (top == 1 and images[0].dtype.kind == "f"):
        return images
    if top >= DIM:
        return [x.astype(np.uint8) for x in images]
    say(f"{where}: pixels go from {low:g} to {top:g}, which is taken for white, 255")
    return [np.rint(x * (255 / top)).astype(np.uint8) for x in images]


def _squared(x):
    """Images without a channel; rows of pixels as squares where they can be."""
    x = x[..., 0] if x.ndim == 4 and x.shape[-1] == 1 else x
    if x.ndim != 2:
        return x
    side = round(x.shape[1] ** 0.5)
    return x.reshape(len(x), *((side, side) if side**2 == x.shape[1] else (1, -1)))


def _whole(a: np.ndarray) -> bool:
    return a.dtype.kind in "iub" or (a.dtype.kind == "f" and bool((a == a // 1).all()))
