"""The tutorials in `experiments/`: listed in reading order, run one by one.

What is said about each is read from its docstring: the first line says what it is
about, the line with its command says how long it takes.
"""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jaxnn.errors import JaxnnError, lookup
from jaxnn.files import read_text
from jaxnn.text import aligned

TUTORIALS = (
    "linear_recovery",
    "autodiff",
    "xor",
    "separate",
    "one_digit",
    "design_choices",
    "automobile",
    "titanic",
    "mnist_numpy",
)
"""In the order in which to read them: each needs only what those before it explain."""


class Tutorial(NamedTuple):
    """One file: its name, its first line and how long it takes."""

    name: str
    summary: str
    time: str


def source_folder() -> Path:
    """The folder that holds `experiments/`: the one beside the package, and no other.

    What lies in the working folder may be anybody's, and would be run.

    Raises:
      JaxnnError: jaxnn was installed without its source folder.
    """
    folder = Path(__file__).resolve().parents[2]
    if all((folder / "experiments" / f"{t}.py").is_file() for t in TUTORIALS):
        return folder
    raise JaxnnError(
        f"demo: no tutorials here: {folder} has no folder experiments/. They are part "
        "of jaxnn's source folder and not of the installed package; go to the source "
        "folder (where README.md and pyproject.toml are), run: pip install -e .   and "
        "then: jaxnn demo"
    )


def tutorials() -> list[Tutorial]:
    """All tutorials in reading order."""
    found = []
    for name in TUTORIALS:
        text = read_text(source_folder() / "experiments" / f"{name}.py")
        words = ast.get_docstring(ast.parse(text)) or ""
        time = re.search(rf"python -m experiments\.{name} +about (.+)", words)
        found.append(Tutorial(name, words.partition("\n")[0], time[1] if time else ""))
    return found


def list_tutorials() -> str:
    """The table that `jaxnn demo` prints."""
    found = tutorials()
    rows = [(str(i), t.name, t.time, t.summary) for i, t in enumerate(found, 1)]
    example = found[0].name
    return (
        "Tutorials, in the order to read them; each is one file of experiments/:\n\n"
        f"{aligned(rows, right=(2,))}\n\n"
        f"jaxnn demo {example} runs one; read experiments/{example}.py beside it."
    )


def run_tutorial(name: str, words: Sequence[str] = ()) -> int:
    """Run the tutorial `name` with its own flags `words`; returns its exit status.

    It runs in a process of its own, as `python -m experiments.NAME` does in the source
    folder, and says itself where its pictures are.

    Raises:
      JaxnnError: unknown name (lists the valid ones), no source folder.
    """
    lookup("tutorial", name, dict.fromkeys(TUTORIALS))
    folder = source_folder()
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    # -P: nothing is imported from the working folder
    command = [sys.executable, "-P", "-m", f"experiments.{name}", *words]
    print(f"reading matter: {folder / 'experiments' / f'{name}.py'}\n", flush=True)
    return subprocess.run(command, env=os.environ | {"PYTHONPATH": path}).returncode


def demo(words: Sequence[str]) -> int:
    """List the tutorials, or run the one that is named; returns the exit status."""
    if words[:1] in ([], ["-h"], ["--help"]):
        print(list_tutorials())
        return 0
    return run_tutorial(words[0], words[1:])
