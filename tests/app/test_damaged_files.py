"""Every kind of file that is read x every kind of damage: an answer or one clear error.

A damage is drawn by a generator whose seed is its name. Either the file is refused, in
one sentence that names it, or what is read is what was written; nothing is waited for,
nothing is left behind. Where a format has no checksum (raw IDX, JSON, CSV, Python) a
flipped byte may pass as another value, but never end in a traceback.
"""

import json
import os
import random
import shutil
import signal
import zlib
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from jaxnn.app.build import DataFacts
from jaxnn.app.config import SweepConfig, TrainConfig
from jaxnn.app.folder import finished, load_run, read_config
from jaxnn.app.sweep import sweep_run
from jaxnn.cli import main
from jaxnn.data import load, read_digit
from jaxnn.data.table import read_csv
from jaxnn.errors import JaxnnError
from jaxnn.files import read_json
from jaxnn.train.checkpoint import load_meta
from tests.app.common import TINY

SECONDS = 20  # a case takes far less, compiling included; a hang takes for ever


OWN = """
import numpy as np
def own_forward(x, w):
    return x @ w, (x, w)
def own_backward(cache, dy):
    x, w = cache
    return dy @ w.T, x.T @ dy
own_inputs = np.ones((2, 3)), np.ones((3, 2))
"""


class Refused(NamedTuple):
    """The one sentence with which a file was refused."""

    words: str


class Kind(NamedTuple):
    """A kind of file: where it lies and how it is read."""

    path: str
    read: Callable[..., Any]


def _command(*words):
    def read(capsys):
        status = main(list(words))
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        if status == 2:
            assert err.startswith("jaxnn: error: "), err
            return Refused(err)
        return out

    return read


def _load(_):
    return [a.tobytes() for split in load("digits", validation=40)[1:4] for a in split]


IMAGES, TEST = "digits/train-images-idx3-ubyte.gz", "digits/t10k-images-idx3-ubyte"
SNAPSHOT, CONFIG = "run/snapshots/snapshot-000001-0000000.npz", "run/config.json"
KINDS = {
    "idx gz": Kind(IMAGES, _load),
    "idx gz labels": Kind("digits/train-labels-idx1-ubyte.gz", _load),
    "idx": Kind(TEST, _load),
    "params": Kind("run/params.npz", lambda _: [
        np.asarray(a).tobytes() for a in jax.tree.leaves(load_run("run")[2:])
    ]),
    "snapshot": Kind(SNAPSHOT, lambda _: load_meta(Path(SNAPSHOT))),
    "repro": Kind("bad/repro.npz", _command("replay", "bad")),
    "config": Kind(CONFIG, _command("predict", "run", "digit.png")),
    "result": Kind("run/result.json", lambda _: finished(
        Path("run"), read_config(Path(CONFIG)).config
    )),
    "sweep": Kind("sweep/sweep.json", _command("sweep", "--resume", "sweep")),
    "picture": Kind("digit.png", lambda _: read_digit("digit.png").tobytes()),
    "own": Kind("own.py", _command("compare", "own.py:own")),
    "table": Kind("table.csv", lambda _: {
        k: v.tolist() for k, v in read_csv("table.csv").columns.items()
    }),
}  # fmt: skip


# ---- damages: what becomes of the bytes, and what lies there instead of a file


def _flipped(content, rng):
    changed = bytearray(content)
    changed[rng.integers(len(changed))] ^= 1 << rng.integers(8)
    return bytes(changed)


BYTES = {
    **{f"cut {i}": lambda c, rng: c[: rng.integers(len(c))] for i in range(2)},
    **{f"flipped {i}": _flipped for i in range(2)},
    "empty": lambda c, rng: b"",
    "wrong magic": lambda c, rng: b"\x89XYZ" + c[4:],
    "a web page": lambda c, rng: b"<!DOCTYPE html><html><body>404</body></html>",
    "random": lambda c, rng: rng.bytes(300),
    "huge header": lambda c, rng: c[:4] + b"\xff" * 12 + c[16:],
    "not UTF-8": lambda c, rng: c[: len(c) // 2] + b"\xff\xfe\xe9" + c[len(c) // 2 :],
    "nested": lambda c, rng: b"[" * 100_000,
    "null bytes": lambda c, rng: bytes(len(c)),
}


def _fifo(path):
    os.mkfifo(path)


PLACES = {
    "a pipe": _fifo,
    "a folder": lambda path: path.mkdir(),
    "a link to itself": lambda path: path.symlink_to(path),
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "gone": lambda path: None,
    "no permission": lambda path: path.touch(mode=0),
}
TOLERANT = {"result"}  # damaged as by a kill: the run goes on and writes it again
PASSES = {
    ("idx", "flipped"), ("config", "flipped"), ("sweep", "flipped"),
    ("own", "flipped"), ("own", "cut"), ("table", "flipped"),
    ("table", "cut"), ("table", "wrong"),
}  # fmt: skip
"""Formats without a checksum: another value of the right kind is not told apart."""


@pytest.fixture(scope="module")
def sweep_folder(digits):
    folder = digits.parent / "sweep"
    words = ["--data", str(digits), "--quiet", *TINY, "--epochs", "1"]
    assert main(["sweep", "lr=0.01,0.02", *words, "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def place(run_folder, bad_run, sweep_folder, picture, tmp_path, capsys):
    """A copy of what a kind of file needs, as the working folder."""

    def copy(kind):
        (tmp_path / "own.py").write_text(OWN)
        (tmp_path / "table.csv").write_text("age,sex\n1,a\n2,b\n,a\n")
        folder, _, file = kind.path.partition("/")
        if file:
            shutil.copytree(run_folder.parent / folder, tmp_path / folder)
        capsys.readouterr()
        return tmp_path / kind.path

    return copy


@contextmanager
def no_hang():
    """End the case where something is waited for."""

    def stop(*_):
        raise TimeoutError("it hangs")  # an OSError: nothing may swallow it, either

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _outcome(kind, capsys):
    with no_hang():
        try:
            return kind.read(capsys)
        except JaxnnError as error:
            return Refused(str(error))


def _there(folder):
    return {
        str(p.relative_to(folder)): p.stat().st_size if p.is_file() else None
        for p in folder.rglob("*")
        if "__pycache__" not in p.parts
    }


def _rng(*words):
    return np.random.default_rng(zlib.crc32(" ".join(words).encode()))


@pytest.fixture(scope="module")
def answers():
    """What is read of the undamaged files, once a kind."""
    return {}


@pytest.mark.parametrize("damage", [*BYTES, *PLACES])
@pytest.mark.parametrize("name", KINDS)
def test_a_damaged_file_is_refused_or_read_as_it_was(
    name, damage, place, answers, capsys
):
    kind = KINDS[name]
    path = place(kind)
    if name not in answers:
        answers[name] = _outcome(kind, capsys)
        assert not isinstance(answers[name], Refused), answers[name].words
    content = path.read_bytes()
    if damage in BYTES:
        path.write_bytes(BYTES[damage](content, _rng(name, damage)))
    else:
        if damage == "no permission" and os.geteuid() == 0:
            pytest.skip("the superuser may read everything")
        path.unlink()
        PLACES[damage](path)
    before = _there(Path.cwd())
    found = _outcome(kind, capsys)
    if isinstance(found, Refused):
        assert path.stem in found.words or path.parent.name in found.words
        assert _there(Path.cwd()) == before
    elif name in TOLERANT:
        assert found in (None, answers[name]) or damage.startswith("flipped")
    elif (name, damage.split()[0]) not in PASSES:
        assert found == answers[name]


SETTINGS = {*DataFacts._field_defaults, *(f.name for f in fields(TrainConfig))}
"""One that is not there, as in a file from before it, has its default."""


def _edits(value, at=()):
    """`value` with one thing changed, and where: of another type, gone, or one more."""
    if isinstance(value, dict):
        yield at, {**value, "one more": 1}
        for name, part in value.items():
            if name not in SETTINGS:
                yield (*at, name), {k: v for k, v in value.items() if k != name}
            for where, changed in _edits(part, (*at, name)):
                yield where, {**value, name: changed}
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        yield at, value[:-1]
        for where, changed in _edits(value[0], (*at, 0)):
            yield where, [changed, *value[1:]]
    yield from ((at, wrong) for wrong in ({"a": []}, [[1]]))


READ = {
    "config": lambda: read_config(Path("run/config.json")),
    "sweep": lambda: sweep_run(SweepConfig(resume=Path("sweep"))),
}
SET_ANEW = {"points", "groups", "compiles", "settings_tried", "best", "seconds",
            "versions", "device", "git"}  # fmt: skip
"""Of sweep.json: what a resume finds out again."""


@pytest.mark.parametrize("name", READ)
def test_an_edited_setting_of_a_wrong_type_is_refused(name, place, capsys):
    path = place(KINDS[name])
    whole = read_json(path)
    kept = {k: v for k, v in whole.items() if k not in SET_ANEW}
    edits = [(at, e) for at, e in _edits(kept) if at[-1:] != ("out",)]
    assert len(edits) > 110
    if name == "sweep":  # a whole command each: a few of them
        edits = random.Random(0).sample(edits, 12)
    for at, edited in edits:
        if name == "sweep" and at == ():
            continue  # a part that is set anew
        path.write_text(json.dumps(edited), encoding="utf-8")
        with pytest.raises(JaxnnError) as caught:
            pytest.fail(f"{at} was taken as {READ[name]()}")
        assert path.name in str(caught.value), (at, edited)
