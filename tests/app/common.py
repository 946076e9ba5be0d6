"""A small data set on disk, and a harness for inputs.

`refused` runs one command in this process, or calls one function, and holds it to
three promises: no traceback, no silent acceptance, nothing left behind.
"""

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from jaxnn.cli import main
from jaxnn.data import write_idx
from jaxnn.errors import JaxnnError
from tests.train.problem import pixels

TINY = ("--layers", "8", "--epochs", "2", "--batch", "20", "--validation", "40")


def write_folder(folder, side=28, count=240, **change):
    """Four IDX files of a small problem."""
    folder.mkdir(exist_ok=True)
    (x, y), (xt, yt) = pixels(count, side), pixels(80, side, seed=1)
    arrays = {
        "train-images-idx3-ubyte.gz": x,
        "train-labels-idx1-ubyte.gz": y.astype(np.uint8),
        "t10k-images-idx3-ubyte": xt, "t10k-labels-idx1-ubyte": yt.astype(np.uint8),
    } | change  # fmt: skip
    for name, array in arrays.items():
        write_idx(folder / name, array)
    return folder


class Outcome(NamedTuple):
    """What a command did: its exit status and what it printed."""

    status: int
    out: str
    err: str


class Reached(Exception):  # noqa: N818
    """Raised in place of the work: all checks let the input through."""


def run(*words: Any) -> Outcome:
    """`jaxnn WORDS` in this process; an exception other than an exit is a traceback."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(list(map(str, words)))
        except Reached:
            status = 0
        except SystemExit as end:  # of --help
            status = end.code
    return Outcome(status, out.getvalue(), err.getvalue())


def done(*words: Any) -> Outcome:
    """What `jaxnn WORDS` did, which must do well."""
    found = run(*words)
    assert found.status == 0, found.err
    return found


def refused(*words: Any, within: Path | None = None) -> str:
    """What is said of `jaxnn WORDS`, which must fail and leave all as it was.

    "All" is the working folder, and `within`.
    """
    folders = [Path.cwd(), *([] if within is None else [within])]
    before = [everything(folder) for folder in folders]
    found = run(*words)
    assert found.status in (1, 2), f"accepted in silence: {words}\n{found.out}"
    assert "Traceback" not in found.err
    assert "JAX has removed" not in found.err
    assert found.err.strip(), f"refused without a word: {words}"
    after = [everything(folder) for folder in folders]
    assert after == before, f"left something behind: {words}"
    return found.err


def refused_in_python(call: Callable[..., Any], *args: Any, **options: Any) -> str:
    """The message of the `JaxnnError` that the call must raise."""
    with pytest.raises(JaxnnError) as caught:
        call(*args, **options)
    notes = getattr(caught.value, "__notes__", ())
    assert not any("JAX has removed" in note for note in notes)
    assert str(caught.value)
    return str(caught.value)


def everything(folder: Path) -> dict[str, tuple[int, int]]:
    """Each path below `folder`, with its size and time: equal if nothing was written.

    Caches of compiled programs do not count.
    """
    found = {}
    for path in folder.rglob("*"):
        name, seen = path.relative_to(folder), path.lstat()
        if "cache" not in name.parts:
            whole = (seen.st_size, seen.st_mtime_ns)
            found[str(name)] = (0, 0) if path.is_dir() else whole
    return found
