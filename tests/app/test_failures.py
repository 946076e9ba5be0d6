"""What goes wrong around a run costs no result, and a worthless result is called so."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxnn import plots
from jaxnn.app.folder import fresh_folder
from jaxnn.files import read_json
from tests.app.common import TINY, done, refused, run, write_folder


def train(digits, *words):
    return ["train", *TINY, "--data", str(digits), "--out", "x", *words]


def result():
    return read_json("x/result.json")


@pytest.mark.parametrize(
    ("words", "said", "finite"),
    [
        (("--guard", "off"), "not finite: 6,307 of 6,307 parameters", False),
        (("--guard", "off", "--validation", "0"), "kept for 80 of 80 test im", False),
        (("--epochs", "1", "--batch", "40"), "not trained: each of the 5 steps", True),
        (
            ("--guard", "off", "--seeds", "2"),
            "seed 1: not finite: 6,307 of 6,307 parameters", False,
        ),
    ],
)  # fmt: skip
def test_what_is_not_finite_or_not_trained_is_said_first(digits, words, said, finite):
    found = run(*train(digits, "--optimizer", "sgd", "--lr", "1e30", *words, "--quiet"))
    assert found.status == 1
    lines = found.out.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("FAILED"))
    assert said in "".join(lines[first : first + 2])
    assert not any("test accuracy" in line for line in lines[:first])
    assert "not finite" in found.err or "has not been trained" in found.err
    assert result()["finite"] is finite
    assert result()["adversarial"] is result()["gradients"] is None
    assert Path("x/report.md").read_text("utf-8").startswith("# Failed")
    again = run("train", "--resume", "x")
    assert again.status == 1
    if not finite:
        assert result()["mean"] == 0 or "for 0 of 80" in found.err
        assert "bad steps skipped" not in found.out
        assert result()["steps_skipped"] in (0, [0, 0])


def test_a_picture_that_fails_fails_nothing_else(digits, monkeypatch):
    seen = []

    def fails(*args, **options):
        seen.append(result()["mean"])
        raise ZeroDivisionError("no\nclass")

    monkeypatch.setattr(plots, "confusion", fails)
    monkeypatch.setattr("jaxnn.app.report.write_report", fails)
    found = done(*train(digits, "--attack-images", "0"))
    assert seen == [result()["mean"]] * 2  # it was written before
    why = "ZeroDivisionError: no"
    assert result()["not_drawn"] == {"confusion.png": why, "report.md": why}
    assert f"not drawn      confusion.png: {why}" in found.out
    assert os.path.exists("x/mistakes.png")
    monkeypatch.undo()


def test_a_test_set_of_one_class_is_measured_to_the_end(tmp_path):
    zeros = {"t10k-labels-idx1-ubyte": np.zeros(80, np.uint8)}
    found = run(*train(write_folder(tmp_path / "zeros", **zeros)))
    assert found.status == 0, found.err
    assert result()["not_drawn"] == {}


X, Y = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"
XT, YT = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
WRONG_DATA = [
    # arrays in place of the right ones, and what is said of them
    ({Y: np.zeros(239, np.uint8)}, f"{Y}: got 239 labels, expected 240"),
    ({YT: np.full(80, 77, np.uint8)}, f"{YT}: got label 77"),
    ({X: np.full((240, 28, 28), np.nan, np.float32)}, f"{X}: got 188160 NaN"),
    ({X: np.full((240, 28, 28), 7, np.uint8)}, "all 7"),
    ({Y: np.zeros(240, np.uint8), YT: np.zeros(80, np.uint8)}, "label 0 only"),
    ({X: np.zeros((240, 8, 8, 3), np.uint8), XT: np.zeros((80, 8, 8, 3), np.uint8)},
     "gray"),
]  # fmt: skip


def test_data_that_cannot_be_learned_are_named_before_anything_is_written(tmp_path):
    for i, (change, said) in enumerate(WRONG_DATA):
        folder = write_folder(tmp_path / f"wrong {i}", **change)
        assert said in refused(*train(folder))


def test_a_run_outlives_closed_streams_a_lost_reader_and_a_foreign_backend(digits):
    read, write = os.pipe()
    os.close(read)  # as `| head` after its lines
    process = subprocess.Popen(
        ["sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, "-m", "jaxnn.cli",
         *train(digits, "--epochs", "1")],
        stdout=write, env=os.environ | {"MPLBACKEND": "module://no.such"},
    )  # fmt: skip
    assert process.wait(300) == 0
    os.close(write)
    assert result()["not_drawn"] == {}
    assert os.path.exists("x/adversarial.png")


@pytest.mark.parametrize("platform", ["cuda", "nonsense"])
def test_no_device_is_one_clear_error(digits, platform):
    done = subprocess.run(
        [sys.executable, "-m", "jaxnn.cli", *train(digits)], capture_output=True,
        text=True, env=os.environ | {"JAX_PLATFORMS": platform},
    )  # fmt: skip
    if not (platform == "cuda" and done.returncode == 0):  # where there is one
        assert done.returncode == 2
        assert done.stderr.startswith("jaxnn: error: JAX found no device")
        assert "Traceback" not in done.stderr
        assert not os.path.exists("x")


def test_the_output_on_a_full_disk_is_an_error_and_the_run_is_whole(digits):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "jaxnn.cli", "data", "list"], stdout=full,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert done.returncode == 1
    assert "No space left" in done.stderr


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_without_a_result_is_taken_away(tmp_path, there):
    out = tmp_path / "a" / "b" / "c"
    if there:
        out.mkdir(parents=True)

    def fails(name):
        with fresh_folder(out, "run") as folder:
            (folder / "snapshots").mkdir()
            (folder / name).write_text("")
            raise KeyError

    for name, kept in (("config.json", False), ("metrics.jsonl", True)):
        with pytest.raises(KeyError):
            fails(name)
        assert out.exists() is (kept or there)
        assert (tmp_path / "a").exists() is (kept or there)
        assert there is False or len(list(out.iterdir())) == (2 if kept else 0)


def test_a_bad_run_reports_and_replays(bad_run):
    folder, shown = bad_run
    assert "first bad step  epoch 1, step 1, seed 0" in shown.err
    assert f"jaxnn replay {folder}" in shown.err
    assert "learning rate   1e+30" in shown.err
    found = read_json(folder / "result.json")["guard"]["findings"][0]
    assert found["part"] == "update"
    assert found["replay"] == f"jaxnn replay {folder}"
    assert "first bad step" in (folder / "report.md").read_text()
    again = run("replay", folder)
    assert again.status == 1
    assert "first bad step  epoch 1, step 1, seed 0" in again.out
    assert found["cause"] in again.out


def test_a_run_without_a_bad_step_cannot_be_replayed(run_folder):
    assert "the run had no bad step that was located" in refused("replay", run_folder)
