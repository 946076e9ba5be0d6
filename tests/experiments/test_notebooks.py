"""The notebooks run from top to bottom, show what they say, and are kept without it."""

import json
import os
from itertools import pairwise
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "experiments" / "notebooks"
SHOWN = {  # notebook -> how many pictures, how many tables
    "first_steps": (6, 5), "my_first_attack": (6, 0),
}  # fmt: skip


def cells(name):
    return json.loads((FOLDER / f"{name}.ipynb").read_text("utf-8"))["cells"]


def test_every_notebook_has_a_case():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == SHOWN.keys()


@pytest.mark.parametrize("name", SHOWN)
def test_outputs_are_stripped_and_each_cell_is_told_about(name):
    kept = cells(name)
    for before, cell in pairwise(kept):
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
            assert before["cell_type"] == "markdown"
    assert "## Now you" in "".join(kept[-1]["source"])


@pytest.mark.slow
@pytest.mark.parametrize("name", SHOWN)
def test_it_runs_from_top_to_bottom(name, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    nbformat = pytest.importorskip("nbformat")
    roots = [str(FOLDER.parents[1]), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, roots)))
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", 4)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, resources=resources).execute()
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", ())]
    kinds = [kind for o in outputs for kind in o.get("data", ())]
    pictures = kinds.count("image/png") + kinds.count("image/svg+xml")
    assert (pictures, kinds.count("text/html")) == SHOWN[name]
    told = "".join(o["text"] for o in outputs if o["output_type"] == "stream")
    assert "Warning" not in told
    assert list(tmp_path.iterdir()) == []
