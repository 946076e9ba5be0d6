"""Training that goes on from a run or a file, settings from a file, and the device."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from jaxnn import load_run
from jaxnn.data import load
from jaxnn.files import read_json
from tests.app.common import TINY, done, refused, run

SHORT = ("--batch", "20", "--validation", "40", "--attack-images", "0")


def test_a_run_starts_another_and_frozen_layers_stay(run_folder, digits):
    words = ("train", "--from", run_folder, "--epochs", "1", *SHORT, "--out", "new")
    done(*words, "--data", digits, "--freeze", "0", "1", "2")
    first, new = load_run(run_folder), load_run("new")
    frozen = new.state[2]["params"]
    np.testing.assert_array_equal(frozen["w"], first.params[2]["w"])
    assert new.params[2] == ()
    assert not np.array_equal(new.params[-1]["w"], first.params[-1]["w"])
    done("eval", "new")
    result = read_json("new/result.json")
    assert result["from"] == str(run_folder)
    assert result["command"].startswith("jaxnn train ")
    assert f"--from {run_folder} --freeze 0 1 2" in result["command"]
    # and such a run is made longer, too
    done("train", "--resume", "new", "--epochs", "2")
    np.testing.assert_array_equal(load_run("new").state[2]["params"]["w"], frozen["w"])


def test_arrays_of_a_file_start_the_network_of_the_flags(run_folder, digits):
    words = ("train", *TINY, "--attack-images", "0", "--data", digits, "--out", "new")
    path = run_folder / "params.npz"
    found = done(*words, "--from", path, "--lr", "1e-30", "--seeds", "2")
    first, new = load_run(run_folder), load_run("new")
    for i in range(2):
        np.testing.assert_array_equal(new.params[2]["w"][i], first.params[2]["w"])
    found = done("attack", "new", "--attack", "fgsm", "--images", "20")
    assert "mean of 2 seeds" in found.out
    after = read_json("new/attacks/fgsm_0.1_images20.json")["accuracy_after"]
    assert len(after) == 2
    words = (*words[:-1], "other", "--from", path, "--layers", "9")
    assert "holds another network" in refused(*words)


def test_data_with_other_classes_get_a_new_last_layer(run_folder, digits):
    data = load(str(digits), validation=0)
    parts = {
        f"{a}_{p}": getattr(getattr(data, p), a)
        for a in "xy"
        for p in ("train", "test")
    }
    parts["y_train"][::2] += 3  # six classes where there were three
    np.savez("six.npz", **parts)
    words = ("train", "--from", run_folder, "--freeze", "0", "1", "2", "--out", "new")
    found = done(*words, "--data", "six.npz", "--epochs", "1", *SHORT)
    said = "its network tells 3 classes apart, the data have 6: the last layer is a new"
    assert said in found.out + found.err
    new = load_run("new")
    assert new.params[-1]["w"].shape[-1] == 6
    first = load_run(run_folder).params[2]["w"]
    np.testing.assert_array_equal(new.state[2]["params"]["w"], first)
    done("eval", "new")


def test_what_cannot_be_started_from_is_refused(run_folder, digits):
    words = ("train", "--data", digits, *SHORT, "--from", run_folder)
    assert "so --layers has no effect" in refused(*words, "--layers", "30")
    assert "--dropout 0.2 has no effect" in refused(*words, "--dropout", "0.2")
    assert "expected layers before the last" in refused(*words, "--freeze", "9")
    assert "got no such file" in refused(*words[:-1], "nowhere")
    assert "it needs --from" in refused("train", "--data", digits, "--freeze", "0")
    text = refused("train", "--resume", run_folder, "--from", run_folder)
    assert "got both" in text


def test_a_finished_run_goes_on_with_its_schedule_over_more_epochs(run_folder):
    shutil.copytree(run_folder, "longer")
    found = done("train", "--resume", "longer", "--epochs", "4")
    words = (
        "cosine, now over all 4 epochs: it goes on from epoch 2 with a rate of 0.0005"
    )
    assert words in found.out
    assert "it had ended at 0" in found.out
    lines = Path("longer/metrics.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert 0 <= rows[-1]["training_accuracy"] <= 1
    assert load_run("longer").config.epochs == 4
    assert "would make it another run" in refused(
        "train", "--resume", "longer", "--epochs", "3"
    )


def test_settings_come_from_a_file_and_flags_override(run_folder, digits):
    with open("a.toml", "w", encoding="utf-8") as file:
        file.write(f'layers = [8]\nepochs = 1\ndata = "{digits}"\nbatch = 20\n')
        file.write('validation = 40\n"attack-images" = 0\nkeep = "last"\n')
    done("train", "--config", "a.toml", "--keep", "best", "--out", "one")
    config = load_run("one").config
    assert (config.layers, config.epochs, config.keep) == (("8",), 1, "best")
    # a run's own files say how to make it again
    for name in ("config.json", "result.json"):
        words = ("train", "--config", run_folder / name, "--out", run_folder)
        assert "already holds files" in refused(*words)
    Path("b.json").write_text('{"learning_rate": 1}', encoding="utf-8")
    assert "b.json: there is no flag --learning-rate; did you mean --lr?" in refused(
        "train", "--config", "b.json"
    )
    Path("b.json").write_text('{"epochs": "many"}', encoding="utf-8")
    assert "--epochs: got 'many'" in refused("train", "--config", "b.json")


@pytest.mark.parametrize("name", ["cpu:99", "gpu", "thing"])
def test_a_device_that_is_not_here_is_named(name, run_folder):
    text = refused("eval", run_folder, "--device", name)
    assert f"--device: got {name}, expected one that is here: cpu:0" in text


def test_a_device_that_is_here_is_taken(run_folder):
    done("eval", run_folder, "--device", "cpu")


COMPLETE = """
source ./jaxnn.sh
COMP_WORDS=(jaxnn "$@") COMP_CWORD=$#
_jaxnn
echo "${COMPREPLY[@]}"
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
@pytest.mark.parametrize(
    ("words", "completed"),
    [
        (("rob",), "robustness"),
        (("train", "--la"), "--layers --label-smoothing"),
        (("demo", "one_"), "one_number one_digit"),
        (("train", "--use", "jax"), "jaxnn.sh"),
    ],
)
def test_bash_completes_commands_and_flags(words, completed):
    Path("jaxnn.sh").write_text(run("completion", "bash").out, "utf-8")
    got = subprocess.run(
        ["bash", "-c", COMPLETE, "bash", *words], capture_output=True, text=True
    )
    assert (got.stdout.strip(), got.stderr) == (completed, "")


def test_every_shell_knows_every_flag():
    for shell, flag in (("zsh", "--transfer-from"), ("fish", "-l transfer-from")):
        text = run("completion", shell).out
        assert flag in text
        assert "bashcompinit" in text or shell == "fish"
    assert "bash, zsh, fish" in refused("completion", "csh")
