"""What the tests of the command line share: data, an empty home, a finished run."""

import pytest

from jaxnn.cli import main
from tests.app.common import TINY, write_folder


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("digits"))


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def run_folder(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    words = ["train", *TINY, "--data", str(digits), "--out", str(folder)]
    assert main([*words, "--attack-images", "30"]) == 0
    return folder
