"""A run with a bad step ends with the report on screen and in its folder."""

import json

import numpy as np

from jaxnn.cli import main
from tests.app.common import TINY, refused


def test_a_bad_run_reports_and_replays(digits, tmp_path, capsys):
    folder = tmp_path / "run"
    words = ["train", *TINY, "--data", str(digits), "--out", str(folder)]
    words += ["--attack-images", "0", "--optimizer", "sgd", "--lr", "1e30"]
    assert main([*words, "--guard", "raise"]) == 1
    shown = capsys.readouterr()
    assert "first bad step  epoch 1, step 1, seed 0" in shown.err
    assert f"jaxnn replay {folder}" in shown.err
    assert "learning rate   1e+30" in shown.err
    found = json.loads((folder / "result.json").read_text())["guard"]["findings"][0]
    assert found["part"] == "update"
    assert found["replay"] == f"jaxnn replay {folder}"
    assert "first bad step" in (folder / "report.md").read_text()
    assert main(["replay", str(folder)]) == 1
    again = capsys.readouterr().out
    assert "first bad step  epoch 1, step 1, seed 0" in again
    assert found["cause"] in again


def test_a_folder_without_a_bad_step_cannot_be_replayed(tmp_path, capsys):
    assert "not a run folder" in refused("replay", tmp_path)
    np.savez(tmp_path / "repro.npz", x=1)
    assert "not a run folder" in refused("replay", tmp_path)
