"""The package as others get it: what is in it, how large it is, its types."""

import importlib.util
import io
import os
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest

import jaxnn
from jaxnn.app import demo
from tests.test_readme import BLOCKS

ROOT = Path(jaxnn.__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
BUILD = PROJECT["tool"]["hatch"]["build"]["targets"]


@pytest.fixture(scope="module")
def tracked():
    """The files of the repository, of which a source distribution is made."""
    words = ["git", "-C", str(ROOT), "ls-files"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no git checkout: {done.stderr.strip()}")
    return [name for name in done.stdout.splitlines() if (ROOT / name).is_file()]


def test_a_source_distribution_is_small_and_holds_what_a_wheel_is_made_of(tracked):
    out = tuple(f"{name}/" for name in BUILD["sdist"]["exclude"])
    kept, file = [n for n in tracked if not n.startswith(out)], io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name in kept:
            archive.add(ROOT / name, name)
    assert len(file.getvalue()) <= 2e6
    assert {"pyproject.toml", "README.md", "LICENSE", "jaxnn/py.typed"} <= {*kept}
    assert BUILD["wheel"]["include"][0] == "jaxnn"
    for place, inside in BUILD["wheel"]["sources"].items():
        assert inside == f"jaxnn/{demo.INSTALLED}/{place}"
    assert sum("jaxnn/data/mnist-small/" in name for name in kept) == 4
    assert sum(name.startswith("experiments/") for name in kept) > 40


def test_the_pages_of_the_package_tell_its_version():
    version = PROJECT["project"]["version"]
    assert version == jaxnn.__version__
    assert f"version = {{{version}}}" in (ROOT / "README.md").read_text("utf-8")
    assert f"## {version}" in (ROOT / ".github/CHANGELOG.md").read_text("utf-8")


CHECKERS = {
    "pyrefly": ("check", "--min-severity", "info", "--python-interpreter-path"),
    "mypy": ("--check-untyped-defs", "--config-file", "mypy.ini",
             "--python-executable"),
}  # fmt: skip
KINDS = {  # in README's first block -> its type
    "net": "Layer", "data": "Dataset", "history": "History", "found": "Evaluation",
    "x_adv": "Array", "model.correct(x, y)": "ndarray",
}  # fmt: skip


@pytest.mark.parametrize("name", CHECKERS)
def test_types_are_seen_from_outside(name, tmp_path):
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    shown = [f"reveal_type({what})" for what in KINDS]
    first = "from typing import reveal_type"
    text = "\n".join([first, BLOCKS["README.md, 0"], *shown])
    (tmp_path / "ten.py").write_text(text)
    (tmp_path / "own.py").write_text(BLOCKS["README.md, 1"])
    # kept beside the programs: what it finds in jax takes long
    kept = os.environ.get("JAX_COMPILATION_CACHE_DIR", tmp_path)
    ini = f"[mypy]\ncache_dir = {kept}/mypy\n"
    ini += "[mypy-optax.*]\nignore_missing_imports = True\n"  # it has no types
    (tmp_path / "mypy.ini").write_text(ini)
    words = [*CHECKERS[name], sys.executable, "ten.py", "own.py"]
    done = subprocess.run(
        [sys.executable, "-m", name, *words], cwd=tmp_path, capture_output=True,
        text=True, check=False, env=os.environ | {"NO_COLOR": "1"},
    )  # fmt: skip
    lines = (done.stdout + done.stderr).splitlines()
    assert not [line for line in lines if "error:" in line or line[:5] == "ERROR"]
    revealed = [line for line in lines if "evealed type" in line]
    assert len(revealed) == len(KINDS), lines
    for kind, line in zip(KINDS.values(), revealed, strict=True):
        assert kind in line
