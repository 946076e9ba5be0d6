"""The command line as a user meets it: whole runs, clear words for what is wrong."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import jaxnn.environment
from jaxnn import attacks
from jaxnn.cli import main
from jaxnn.files import locked, read_json
from jaxnn.layers import LAYERS
from jaxnn.losses import LOSSES
from jaxnn.robustness.worst import attack_suite
from tests.app.common import TINY, done, refused, run


def test_a_run_leaves_everything_it_promises(run_folder):
    assert {p.name for p in run_folder.iterdir()} == {
        "config.json", "metrics.jsonl", "result.json", "params.npz", "report.md",
        "curves.png", "confusion.png", "mistakes.png", "adversarial.png", "snapshots",
    }  # fmt: skip
    result = read_json(run_folder / "result.json")
    assert result.keys() >= {
        "test_accuracy", "mean", "std", "epochs", "parameters", "steps_skipped",
        "seconds", "gradients", "adversarial", "config", "versions", "device", "git",
    }  # fmt: skip
    assert result["seconds"].keys() >= {"import", "compile", "train", "total"}
    assert result["gradients"]["float64_max_relative"] <= 1e-12
    assert result["gradients"]["float32_max_relative"] <= 1e-5
    found = result["adversarial"]
    assert 0 <= found["pgd40_0.1"] <= found["fgsm_0.1"] <= 1
    assert found["sample"] == "seeded stratified sample"
    assert result["parameters"] == 784 * 8 + 8 + 8 * 3 + 3
    lines = (run_folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]
    for picture in run_folder.glob("*.png"):
        Image.open(picture).verify()
    assert f"{100 * result['mean']:.2f}%" in run("eval", run_folder).out


def test_several_seeds_give_a_list_a_mean_and_a_spread(digits, tmp_path):
    words = ("--seeds", "2", "--attack-images", "0")
    done("train", *TINY, "--data", digits, "--out", "s", *words)
    result = read_json(tmp_path / "s" / "result.json")
    assert len(result["test_accuracy"]) == result["n"] == 2
    assert result["mean"] == pytest.approx(np.mean(result["test_accuracy"]))
    assert result["adversarial"] is None
    assert "2 seeds" in run("eval", "s").out
    said = run("attack", "s", "--attack", "fgsm", "--images", "9").out
    assert "images, seed 1" in said
    assert "under fgsm, mean of 2 seeds" in said


@pytest.mark.parametrize(
    "words",
    [
        ("--model", "linear", "--layers"),
        ("--model", "serial", "--layers", "flatten", "dense:8", "relu", "dense:3"),
        ("--layers", "16", "dropout:0.2", "8", "--batch-norm", "--dropout", "0.1",
         "--activation", "tanh", "--init", "xavier_uniform", "--optimizer", "nesterov"),
        ("--loss", "mse", "--output", "sigmoid", "--schedule", "onecycle", "--l1",
         "1e-4", "--l2", "1e-4", "--max-norm", "2"),
        ("--dtype", "bfloat16", "--shuffle", "per-seed", "--seeds", "2"),
        ("--patience", "1", "--lr", "0.5", "--optimizer", "sgd"),
        ("--validation", "0", "--loss", "kl"),
        ("--mixup", "0.2", "--weight-noise", "0.01", "--clip-norm", "1", "--ema", "0.9",
         "--spectral-norm", "1e-3", "--max-spectral-norm", "3", "--class-weights",
         "balanced", "--augment", "digits", "--elastic", "0.5", "--noise", "0.1",
         "--noise-kind", "sign"),
        ("--loss", "hinge", "--shift", "2", "--clip-value", "0.1", "--mixup", "1"),
        ("--loss", "margin", "--rotate", "10", "--seeds", "2"),
    ],
    ids=" ".join,
)  # fmt: skip
@pytest.mark.slow
def test_flags_train(digits, words):
    out = ("--data", digits, "--out", "x", "--attack-images", "0", "--quiet")
    done("train", *TINY, *words, *out)


def test_a_folder_with_files_is_never_written_into(digits, tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "mine.txt").write_text("precious")
    text = refused("train", *TINY, "--data", digits, "--out", "x")
    assert "already holds files" in text


def test_a_bad_picture_does_not_silence_the_others(run_folder, tmp_path, picture):
    (tmp_path / "text.png").write_text("no picture")
    assert "text.png: got" in refused("predict", run_folder, "text.png")
    assert "no pictures" in refused("predict", run_folder)
    found = run("predict", run_folder, "text.png", picture, "absent.png", picture)
    assert found.status == 2
    assert [line.split()[0] for line in found.out.splitlines()[-2:]] == [picture] * 2
    assert found.out.splitlines()[-1].endswith("%")
    assert "text.png: got a file that is no image" in found.err
    assert "absent.png: got no such file" in found.err


def test_only_warnings_of_jaxnn_are_notes():
    assert main(["--version"]) == 0
    ours = jaxnn.environment.__file__
    for category, file, note in (
        (UserWarning, ours, True), (RuntimeWarning, ours, False),
        (UserWarning, "lib.py", False), (DeprecationWarning, "lib.py", False),
    ):  # fmt: skip
        told = warnings.formatwarning("care", category, file, 3)
        assert told.startswith(
            "jaxnn: note: care" if note else f"{file}:3: {category.__name__}"
        )
        assert "care" in told


OWN = """
import jax.numpy as jnp
from jaxnn import attacks
from jaxnn.layers import LAYERS, relu
from jaxnn.losses import loss

LAYERS["twice"] = lambda: relu

@loss()
def own(pred, t):
    d = pred - t
    return (d * d).sum(-1), 2 * d

@attacks.attack(norms=("linf",), traced=("epsilon",), in_suite=True)
def darker(model, x, y, *, epsilon):
    return jnp.clip(x - epsilon, 0, 1)
"""


@pytest.mark.usefixtures("_registry")
def test_what_a_file_registers_is_known_to_every_command(digits):
    Path("own.py").write_text(OWN)
    train = ["train", *TINY, "--data", digits, "--layers", "8", "twice"]
    out = ["--loss", "own", "--attack-images", "0", "--quiet", "--out", "x"]
    assert "unknown layer 'twice'" in refused(*train)
    assert "unknown loss 'own'" in refused(*train, *out)
    done(*train, *out, "--use", "own.py")
    command = read_json("x/result.json")["command"]
    assert command.startswith("jaxnn train --use own.py --")
    found = run("attack", "x", "--use=own.py", "--attack", "darker", "--epsilon", ".3")
    assert "under darker, 80 images" in found.out, found.err
    assert attack_suite("fast", "linf", 10)[-1].name == "darker"
    done("compare", "x", "--use", "own.py", "--dtypes", "float64")
    assert "darker" in run("attack", "--help", "--use", "own.py").out
    assert "no such file" in refused("eval", "x", "--use", "nothing.py")
    del LAYERS["twice"]
    assert "or it needs the --use of its training" in refused("eval", "x")
    assert "cannot be imported" in refused("eval", "x", "--use", "no.such.module")
    Path("bad.py").write_text("x = 1\nraise ValueError('mine')\n")
    assert "bad.py line 2" in refused("eval", "x", "--use", "bad.py")


@pytest.fixture
def _registry():
    """Tables as they were, after the test."""
    tables = LOSSES, LAYERS, attacks.ATTACKS
    before = [dict(table) for table in tables]
    yield
    for table, was in zip(tables, before, strict=True):
        table.clear()
        table.update(was)


def started_run(digits, tmp_path, epochs=100_000):
    words = ["--data", str(digits), "--out", str(tmp_path / "x")]
    words += ["--epochs", str(epochs)]
    process = subprocess.Popen(
        [sys.executable, "-m", "jaxnn.cli", "train", *TINY, *words],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    metrics = tmp_path / "x" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text().count("\n") > 3):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process, tmp_path / "x"


def test_ctrl_c_ends_with_what_was_learned_saved(digits, tmp_path):
    process, folder = started_run(digits, tmp_path)
    process.send_signal(signal.SIGINT)
    text = process.communicate(timeout=120)[0]
    assert process.returncode == 130, text
    assert "Traceback" not in text
    result = read_json(folder / "result.json")
    assert result["stopped"] == "interrupted"
    assert result["epochs"] >= 4
    assert f"{100 * result['mean']:.2f}%" in done("eval", folder).out


def test_a_killed_run_leaves_whole_lines_and_no_half_files(digits, tmp_path):
    process, folder = started_run(digits, tmp_path)
    process.kill()
    process.communicate(timeout=60)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == list(
        range(1, len(lines) + 1)
    )
    read_json(folder / "config.json")
    left = {p.name for p in folder.iterdir()}
    assert left - {"snapshots"} == {"config.json", "metrics.jsonl"}


def test_resume_finishes_a_run_and_knows_when_all_is_done(run_folder, tmp_path):
    shutil.copytree(run_folder, tmp_path / "a")
    end = (tmp_path / "a" / "params.npz").read_bytes()
    for name in ("result.json", "params.npz", "report.md"):  # as if killed in between
        (tmp_path / "a" / name).unlink()
    last = tmp_path / "a" / "snapshots" / "snapshot-000002-0000000.npz"
    kept = last.read_bytes()
    # one row was not written yet, and half of another: the snapshot has them whole
    (tmp_path / "a" / "metrics.jsonl").write_text('{"epoch": 3, "lo')
    config = (tmp_path / "a" / "config.json").read_text()
    edited = config.replace('"l2": 0.0', '"l2": 0.5')
    (tmp_path / "a" / "config.json").write_text(edited)
    text = run("train", "--resume", "a").err
    assert "setting l2 is 0.0 there and 0.5 here" in text
    (tmp_path / "a" / "config.json").write_text(config)
    with locked(tmp_path / "a" / "snapshots", "run"):
        text = refused("train", "--resume", "a")
        assert "run a is in use by another process" in text.replace("/snapshots", "")
    last.write_bytes(kept[:-50])
    found = run("train", "--resume", "a", "--attack-images", "0")
    assert "an older one is resumed" in found.err
    assert last.read_bytes()[:100] == kept[:100]
    assert (tmp_path / "a" / "params.npz").read_bytes() == end
    lines = (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]
    assert "nothing to do" in run("train", "--resume", "a").out
    for path in (tmp_path / "a" / "snapshots").iterdir():
        path.unlink()
    (tmp_path / "a" / "result.json").unlink()
    found = run("train", "--resume", "a", "--attack-images", "0")
    assert "training starts from the beginning" in found.err
    assert (tmp_path / "a" / "params.npz").read_bytes() == end


@pytest.mark.parametrize(
    "name", ["l" * 300, "a\0b", "loop", "loop/x", "pipe", "/dev/null"]
)
def test_a_path_of_any_kind_is_refused_in_one_line(run_folder, tmp_path, name):
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    for words in (
        ["eval", name], ["eval", run_folder, "--data", name],
        ["predict", run_folder, name],
        ["attack", name], ["attack", run_folder, "--out", name], ["robustness", name],
        ["robustness", run_folder, "--transfer-from", name], ["replay", name],
        ["train", "--resume", name], ["train", *TINY, "--data", name, "--out", "x"],
        ["sweep", "--resume", name], ["data", "verify", name],
        ["compare", name], ["compare", f"{name}:f"], ["compare", f"{name}.py:f"],
        ["compare", f"{run_folder}/report.md:f"],
    ):  # fmt: skip
        refused(*words)
    assert {p.name for p in tmp_path.iterdir()} - {"cache"} == {"loop", "pipe"}
