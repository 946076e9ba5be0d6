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
from jaxnn.files import read_text, write_text
from jaxnn.text import aligned

TUTORIALS = (
    "one_number", "linear_recovery", "autodiff", "xor", "four_equations", "separate",
    "one_digit", "convolution", "batch_norm", "lstm_cell", "fooled", "own_layer",
    "design_choices", "automobile", "titanic", "mnist_numpy",
)  # fmt: skip
"""In the order in which to read them: each needs only what those before it explain."""
INSTALLED = "tutorials"
"""Where a wheel has `experiments/` and the tables of `data/`, in the package."""


def source_folder() -> Path:
    """The folder that holds `experiments/`: beside the package, or in an installed one.

    What lies in the working folder may be anybody's, and would be run.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package.parent, package / INSTALLED):
        if all((folder / "experiments" / f"{t}.py").is_file() for t in TUTORIALS):
            return folder
    raise JaxnnError(
        f"demo: no tutorials here: {package} has none, nor a folder experiments/ "
        "beside it; install jaxnn again, or in its source folder (where README.md and "
        "pyproject.toml are) run: pip install -e .   and then: jaxnn demo"
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
    folder, with the flags after its name. What it writes goes to runs/demo-NAME; with
    --record to experiments/results, where the project keeps it. --copy writes its file
    here, to be changed and run by `jaxnn demo FILE.py`.
    """
    if words[:1] in ([], ["-h"], ["--help"]):
        rows = [(str(i), *t) for i, t in enumerate(tutorials(), 1)]
        name = TUTORIALS[0]
        print(
            "Tutorials, in the order to read them; each is one file of experiments/:\n"
            f"\n{aligned(rows, right=(2,))}\n\n"
            f"jaxnn demo {name} runs one and writes to runs/demo-{name}; read "
            f"experiments/{name}.py beside it.\njaxnn demo {name} --copy puts that "
            "file here, to be changed and run; --record writes to experiments/results."
        )
        return 0
    name, *flags = words
    folder = source_folder()
    if name.endswith(".py"):
        source, program = Path(name), [name]
    else:
        lookup("tutorial", name, dict.fromkeys(TUTORIALS))
        source = folder / "experiments" / f"{name}.py"
        # -P: nothing is imported from the working folder
        program = ["-P", "-m", f"experiments.{name}"]
    if "--copy" in flags:
        here = Path("my_" + source.name)
        if here.exists():
            raise JaxnnError(
                f"demo: {here} is there already; move it, or copy elsewhere"
            )
        write_text(here, read_text(source))
        print(f"wrote {here}; change it, and run: jaxnn demo {here}")
        return 0
    if "--record" in flags and folder.name == INSTALLED:
        raise JaxnnError("demo: --record is for jaxnn's source folder; leave it out")
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    env = os.environ | {"PYTHONPATH": path}
    if "--record" not in flags:
        env["JAXNN_RESULTS"] = str(Path("runs", f"demo-{source.stem}").resolve())
    given = [flag for flag in flags if flag != "--record"]
    print(f"reading matter: {source}\n", flush=True)
    return subprocess.run([sys.executable, *program, *given], env=env).returncode
