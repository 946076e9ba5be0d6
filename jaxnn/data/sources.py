"""Named data sets: where they lie, which mirrors serve them, which bytes are right.

A name is looked for in this order, and the first folder that has it wins:

1. `$JAXNN_DATA/NAME`, then `$JAXNN_DATA` itself;
2. `data/NAME` beside the package (a checkout; MNIST is committed there), or in it
   (mnist-small, 6,000 + 1,000 of MNIST's digits, goes with every installation);
3. `jaxnn/data/NAME` in the user's cache directory;
4. the mirrors, which fill 3.

Sources: Y. LeCun et al., "The MNIST database"; H. Xiao et al., "Fashion-MNIST",
arXiv:1708.07747; G. Cohen et al., "EMNIST", arXiv:1702.05373.
"""

import hashlib
import os
import re
import shutil
import sys
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from jaxnn.data.download import download
from jaxnn.data.idx import content_sha256
from jaxnn.errors import JaxnnError, lookup
from jaxnn.files import atomic_file, bad_file, open_file, real_path, reason

# what a data set consists of, and the usual name of each part
PARTS = {
    "train-images": "train-images-idx3-ubyte",
    "train-labels": "train-labels-idx1-ubyte",
    "test-images": "t10k-images-idx3-ubyte",
    "test-labels": "t10k-labels-idx1-ubyte",
}


class Source(NamedTuple):
    """What is known of a named data set."""

    classes: int
    train: int  # rows; 0: any number
    test: int
    license: str
    mirrors: tuple[str, ...]  # base addresses, tried in this order
    sha256: dict[str, str]  # part -> of its content, or of the .gz as served
    of_content: bool = True
    archive: tuple[str, str] | None = None  # zip with all parts, its SHA-256
    transposed: bool = False  # images are stored column by column
    first_label: int = 0
    names: Sequence[str] = ()  # of the classes, where they are not their numbers


def _sums(*digests: str) -> dict[str, str]:
    return dict(zip(PARTS, digests, strict=True))


UPPER = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# where capital and small letter look alike they are one class
MERGED = f"0123456789{UPPER}abdefghnqrt"


def _emnist(*counts: int, first_label: int = 0, names: str = "") -> Source:
    zip_sum = "fb9bb67e33772a9cc0b895e4ecf36d2cf35be8b709693c3564cea2a019fcda8e"
    return Source(
        *counts, license="NIST, none stated",
        mirrors=("https://biometrics.nist.gov/cs_links/EMNIST/",), sha256={},
        archive=("gzip.zip", zip_sum), transposed=True, first_label=first_label,
        names=names,
    )  # fmt: skip


SOURCES = {
    "mnist": Source(
        10, 60_000, 10_000, license="CC BY-SA 3.0",
        mirrors=(
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
        ),
        sha256=_sums(
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
    "mnist-small": Source(  # inside the package; data/README.md tells which rows
        10, 6_000, 1_000, license="CC BY-SA 3.0", mirrors=(),
        sha256=_sums(
            "9c921389f7b68e3fbe58b7a59ec7b8857d9110fc8a7033fb866f7a13695daeb7",
            "1e24aa298fca0688130ece98907d5eeabe333fcfe5fd5a650f02eb7ed0c2261e",
            "b20ed9128f4ddda08a440e2380f23dbacc08259b8b6969e24986ca61ad54196b",
            "8a25f201ac53797897cd312f4440dc4ca6e23af2f6bbc36b28379fc11fddbfee",
        ),
    ),
    "fashion-mnist": Source(
        10, 60_000, 10_000, license="MIT",
        mirrors=(
            "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/"
            "master/data/fashion/",
        ),
        sha256=_sums(
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
        of_content=False,
        names=("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt",
               "Sneaker", "Bag", "Ankle boot"),
    ),
    "emnist-balanced": _emnist(47, 112_800, 18_800, names=MERGED),
    "emnist-byclass": _emnist(
        62, 697_932, 116_323, names=f"0123456789{UPPER}{UPPER.lower()}"
    ),
    "emnist-bymerge": _emnist(47, 697_932, 116_323, names=MERGED),
    "emnist-digits": _emnist(10, 240_000, 40_000),
    "emnist-letters": _emnist(26, 124_800, 20_800, first_label=1, names=UPPER),
    "emnist-mnist": _emnist(10, 60_000, 10_000),
}  # fmt: skip


class Located(NamedTuple):
    """The four files of a data set, found."""

    name: str
    folder: Path
    files: dict[str, Path]  # part, a key of PARTS -> file
    source: Source | None  # None for a folder of one's own


class FileStatus(NamedTuple):
    """What `verify` says of one file."""

    part: str
    file: Path
    expected: str  # SHA-256, empty if none is published
    found: str  # SHA-256, or what kept it from being read
    status: str  # ok, mismatch, unreadable, unknown (intact, nothing to compare with)


# ---- where the files are


def cache_folder() -> Path:
    """`jaxnn/data` in the user's cache directory; need not exist.

    Raises:
      JaxnnError: this user has no home directory (as in some containers).
    """
    base = os.environ.get("XDG_CACHE_HOME") or (
        sys.platform == "win32" and os.environ.get("LOCALAPPDATA")
    )
    if not base:
        below = {"win32": "AppData/Local", "darwin": "Library/Caches"}
        base = expanded("~") / below.get(sys.platform, ".cache")
    return Path(base) / "jaxnn" / "data"


def expanded(path: str | Path) -> Path:
    """`path` with `~` and `~name` replaced by the home directory of that user.

    Raises:
      JaxnnError: that user, or their home directory, is not known here.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise JaxnnError(
            f"{path}: this machine knows no home directory for it. Set HOME, or "
            "XDG_CACHE_HOME for what jaxnn keeps, or give a path without ~."
        ) from error


def find_parts(folder: str | Path, name: str = "") -> dict[str, Path]:
    """The four IDX files of a folder, by their names.

    The usual names win (`train-images-idx3-ubyte`, `train-images.idx3-ubyte`, with or
    without `.gz`); else any name with train, t10k or test, and images or labels. Of
    `X` and `X.gz` the second is taken. With `name`, the files that begin with another
    data set's name are not looked at, and those that begin with this one's come first.

    Raises:
      JaxnnError: no such folder; a part is missing or not unique.
    """
    folder = Path(folder)
    names = _visible(folder, name)
    chosen = {}
    for part, usual_name in PARTS.items():
        plain = {n: n.lower().removesuffix(".gz") for n in names}
        usual = [n for n in names if plain[n].replace(".idx", "-idx") == usual_name]
        found = sorted(usual or (n for n in names if _part_of(n) == part))
        chosen[part] = list({n.removesuffix(".gz"): n for n in found}.values())
    if all(len(files) == 1 for files in chosen.values()):
        return {part: folder / files[0] for part, files in chosen.items()}
    lines = [
        f"  {part}: {' or '.join(files) or 'nothing'}" for part, files in chosen.items()
    ]
    raise JaxnnError(
        f"{folder}: got\n" + "\n".join(lines) + "\nexpected one IDX file for each, "
        f"named as in {', '.join(PARTS.values())} (.gz or not), or pictures "
        "in a folder for each class, train.csv, or the path of an .npz, .csv, "
        ".parquet, .zip or .tar.gz. "
        f"The folder holds: {', '.join(names[:20]) or 'no files'}. "
        "Rename or move files."
    )


def parts_or_none(folder: Path) -> dict[str, Path] | None:
    """`find_parts`, or None where they are not all there, once each."""
    try:
        return find_parts(folder) if os.path.isdir(folder) else None
    except JaxnnError:
        return None


def known_by_names(files: dict[str, Path]) -> Source | None:
    """EMNIST, whose images lie on their side, is told by names where it has a path."""
    for name, source in SOURCES.items():
        own = all(file.name.lower().startswith(f"{name}-") for file in files.values())
        if source.transposed and own:
            return source._replace(train=0, test=0, sha256={})
    return None


def _visible(folder: Path, name: str) -> list[str]:
    try:
        names = sorted(f.name for f in folder.iterdir() if f.is_file())
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        expected = "a name of `jaxnn data list`, or a path to data"
        raise bad_file(folder, reason(error), expected, "Check the path.") from error
    names = [n for n in names if not n.startswith(".") and not n.endswith(".part")]
    if not name:
        return names
    own = [n for n in names if n.lower().startswith(f"{name}-")]
    others = tuple(f"{other}-" for other in SOURCES if other != name)
    return own or [n for n in names if not n.lower().startswith(others)]


def _part_of(name: str) -> str:
    """The part a file name speaks of, or an empty string."""
    name = name.lower()
    kind = re.search("images|labels", name)
    split = "train" if "train" in name else "test"
    if not kind or not re.search("train|t10k|test", name):
        return ""
    return f"{split}-{kind[0]}"


def locate(data: str | Path) -> Located | None:
    """Find a data set by name, or a folder with four IDX files; never downloads.

    Returns:
      where it is, or None for a known name that is not on this machine.

    Raises:
      JaxnnError: no such name or folder, or a folder that is incomplete.
    """
    if not isinstance(data, (str, os.PathLike)):
        raise JaxnnError(
            f"data: got {data!r}, expected the name of a data set or the path of a "
            "file or folder"
        )
    if isinstance(data, str) and data in SOURCES:
        for folder, chosen in _folders(data):
            if not os.path.isdir(folder) or not any(
                map(_part_of, _visible(folder, data))
            ):
                continue
            try:
                return Located(data, folder, find_parts(folder, data), SOURCES[data])
            except JaxnnError:
                if chosen:  # else an unfinished fetch: `fetch` goes on with it
                    raise
        return None
    folder = expanded(data)
    if not os.path.isdir(folder) and re.fullmatch(r"[\w-]*", str(data)):
        try:
            lookup("data set", str(data), SOURCES)
        except JaxnnError as error:
            raise JaxnnError(f"{error}, or the path of a folder") from None
    files = find_parts(folder)
    return Located(real_path(folder).name, folder, files, known_by_names(files))


def _folders(name: str) -> Iterator[tuple[Path, bool]]:
    """Folders to look into, and whether the user chose them."""
    if base := os.environ.get("JAXNN_DATA"):
        folder = expanded(base)
        if not os.path.isdir(folder):
            raise JaxnnError(
                f"JAXNN_DATA={base}: got no such folder, expected one that holds "
                f"{name}/ or four IDX files. Correct the variable or unset it."
            )
        yield from ((folder / name, True), (folder, True))
    for base in (Path(__file__).resolve().parents[2] / "data", Path(__file__).parent):
        yield base.resolve() / name, False
    with suppress(JaxnnError):  # without a home there is no such folder
        yield cache_folder() / name, False


# ---- are they the right bytes


def file_sha256(path: str | Path) -> str:
    """SHA-256 (hex) of a file as it is."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def mismatch(path: Path, expected: str, found: str, name: str) -> JaxnnError:
    """The error for a file of a known data set that has the wrong bytes."""
    fix = f"Delete it and run: jaxnn data fetch {name}."
    base = os.environ.get("JAXNN_DATA")
    if base and path.is_relative_to(expanded(base)):
        fix = "Replace it, or unset JAXNN_DATA."
    return JaxnnError(
        f"{path}: got SHA-256 {found}, expected {expected}: not the {name} file "
        f"(damaged, or another data set). {fix} "
        "To use data of your own, give its folder instead of the name."
    )


def verify(data: str | Path) -> list[FileStatus]:
    """Compare the files of a data set with the published checksums.

    Args:
      data: a name, or a folder; in a folder, files of known sets are recognized.

    Raises:
      JaxnnError: it is not on this machine, or incomplete.
    """
    place = locate(data)
    if place is None:
        raise JaxnnError(f"{data} is not here. To get it, run: jaxnn data fetch {data}")
    return [_status(part, file, place.source) for part, file in place.files.items()]


def _status(part: str, file: Path, known: Source | None) -> FileStatus:
    try:
        content = content_sha256(file)
    except JaxnnError as error:
        return FileStatus(part, file, "", str(error), "unreadable")
    expected = found = ""
    for source in SOURCES.values() if known is None else [known]:
        expected = source.sha256.get(part, "")
        found = content if source.of_content else file_sha256(file)
        if found == expected:
            return FileStatus(part, file, expected, found, "ok")
    if known is None or not expected:
        return FileStatus(part, file, "", content, "unknown")
    return FileStatus(part, file, expected, found, "mismatch")


# ---- getting them


def fetch(
    name: str, *, folder: str | Path | None = None,
    mirrors: Sequence[str] | None = None, force: bool = False,
) -> Path:  # fmt: skip
    """Download a data set; what is there already and right is kept.

    A broken download stays as `FILE.part` if its server can go on later; the next
    call asks it for the rest. A file gets its name only after its SHA-256 was checked.

    Args:
      name: a key of `SOURCES`.
      folder: where to put the four files; the user's cache directory if None.
      mirrors: base addresses to try instead of the known ones, in order.
      force: download even what is there.

    Returns:
      the folder.

    Raises:
      JaxnnError: unknown name, every mirror failed (it says how), or a full disk.
    """
    source = lookup("data set", name, SOURCES)
    target = expanded(folder) if folder is not None else cache_folder() / name
    bases = source.mirrors if mirrors is None else mirrors
    if source.archive is not None:
        _fetch_archive(name, source, target, bases, force)
        return target
    hash_of = content_sha256 if source.of_content else file_sha256
    for part, expected in source.sha256.items():
        urls = _join(bases, f"{PARTS[part]}.gz")
        download(urls, target / f"{PARTS[part]}.gz", hash_of, expected, force)
    return target


def _fetch_archive(
    name: str, source: Source, target: Path, bases: Sequence[str], force: bool
) -> None:
    """Take the four members of one zip, which several data sets share."""
    assert source.archive is not None
    there = [target / f"{usual}.gz" for usual in PARTS.values()]
    with suppress(JaxnnError):
        if not force and all(content_sha256(file) for file in there):
            return
    file_name, expected = source.archive
    archive = cache_folder() / f"{name.split('-')[0]}-{file_name}"
    download(_join(bases, file_name), archive, file_sha256, expected, force)
    try:
        with zipfile.ZipFile(archive) as packed:
            for part, file in zip(PARTS, there, strict=True):
                member = f"gzip/{name}-{part}-{PARTS[part].split('-', 2)[2]}.gz"
                with packed.open(member) as data, atomic_file(file) as out:
                    shutil.copyfileobj(data, out)
    except (zipfile.BadZipFile, KeyError) as error:
        raise JaxnnError(
            f"{archive}: {error}; expected gzip/{name}-*. Delete it and fetch again."
        ) from error


def _join(bases: Sequence[str], file_name: str) -> list[str]:
    return [f"{base.rstrip('/')}/{file_name}" for base in bases]
