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

from jaxnn.errors import JaxnnError, lookup
from jaxnn.files import read_text
from jaxnn.text import aligned

TUTORIALS = (
    "linear_recovery", "autodiff", "xor", "separate", "one_digit", "design_choices",
    "automobile", "titanic", "mnist_numpy",
)  # fmt: skip
"""In the order in which to read them: each needs only what those before it explain."""


def source_folder() -> Path:
    """The folder that holds `experiments/`: the one beside the package, and no other.

    What lies in the working folder may be anybody's, and would be run.
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


def tutorials() -> list[tuple[str, str, str]]:
    """Name, time and first line of all tutorials in reading order."""
    found = []
    for name in TUTORIALS:
        text = read_text(source_folder() / "experiments" / f"{name}.py")
        words = ast.get_docstring(ast.parse(text)) or ""
        time = re.search(rf"python -m experiments\.{name} +about (.+)", words)
        found.append((name, time[1] if time else "", words.partition("\n")[0]))
    return found


def demo(words: Sequence[str]) -> int:
    """List the tutorials, or run the one that is named; returns the exit status.

    It runs in a process of its own, as `python -m experiments.NAME` does in the source
    folder, with the flags after its name, and says itself where its pictures are.
    """
    if words[:1] in ([], ["-h"], ["--help"]):
        rows = [(str(i), *t) for i, t in enumerate(tutorials(), 1)]
        name = TUTORIALS[0]
        print(
            "Tutorials, in the order to read them; each is one file of experiments/:\n"
            f"\n{aligned(rows, right=(2,))}\n\n"
            f"jaxnn demo {name} runs one; read experiments/{name}.py beside it."
        )
        return 0
    name, *flags = words
    lookup("tutorial", name, dict.fromkeys(TUTORIALS))
    folder = source_folder()
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    # -P: nothing is imported from the working folder
    command = [sys.executable, "-P", "-m", f"experiments.{name}", *flags]
    print(f"reading matter: {folder / 'experiments' / f'{name}.py'}\n", flush=True)
    return subprocess.run(command, env=os.environ | {"PYTHONPATH": path}).returncode
