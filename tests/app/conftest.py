"""What the tests of the command line share: data, an empty home, finished runs.

The runs are never written to: who changes one changes a copy.
"""

import numpy as np
import pytest
from PIL import Image

from tests.app.common import TINY, done, run, write_folder


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("shared") / "digits")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def run_folder(digits):
    folder = digits.parent / "run"
    words = ("train", *TINY, "--data", digits, "--out", folder)
    done(*words, "--attack-images", "30")
    return folder


@pytest.fixture(scope="session")
def bad_run(digits):
    """A run whose first step is bad, and what was said of it."""
    words = ("--optimizer", "sgd", "--lr", "1e30", "--guard", "raise")
    folder = digits.parent / "bad"
    found = run("train", *TINY, "--data", digits, "--out", folder, *words)
    assert found.status == 1, found.err
    return folder, found


@pytest.fixture
def picture(tmp_path):
    """A picture of a digit in the working folder."""
    canvas = np.full((40, 40), 255, np.uint8)
    canvas[8:32, 18:22] = 0
    Image.fromarray(canvas).save(tmp_path / "digit.png")
    return "digit.png"
