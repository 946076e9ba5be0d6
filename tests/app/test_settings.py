"""The rules between settings, one by one, and settings that someone edited."""

import json
import shutil
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from jaxnn.app.build import DataFacts, build
from jaxnn.app.checks import check
from jaxnn.app.config import TrainConfig
from jaxnn.app.folder import load_run, read_config
from jaxnn.app.settings import resolved, without_effect
from jaxnn.app.train import train_run
from jaxnn.errors import JaxnnError
from jaxnn.files import read_json
from jaxnn.layers import ACTIVATIONS
from jaxnn.losses import LOSSES
from jaxnn.train.checkpoint import save_params
from tests.app.common import done, refused, refused_in_python, run

OUTPUTS = {None, *ACTIVATIONS, "softmax", "log_softmax"}
VALUES = OUTPUTS - {"log_softmax"}
FITS = {
    "softmax_cross_entropy": {None}, "softmax_focal": {None}, "kl": {None},
    "sigmoid_cross_entropy": {None}, "sigmoid_focal": {None}, "nll": {"log_softmax"},
    "margin": {None, "tanh"}, "hinge": {None, "tanh"},
    "mse": VALUES, "quadratic": VALUES, "mae": VALUES, "huber": VALUES,
}  # fmt: skip


@pytest.mark.parametrize("loss", LOSSES)
def test_each_loss_takes_the_outputs_that_fit_and_names_them(loss):
    for output in OUTPUTS:
        config = TrainConfig(loss=loss, output=output, label_smoothing=0.0)
        if output in FITS[loss]:
            build(config, DataFacts((4,), 3, 0, 1))
            continue
        words = refused_in_python(build, config, DataFacts((4,), 3, 0, 1))
        for fitting in LOSSES[loss].outputs:
            assert (fitting or "logits") in words
        for other in (name for name in LOSSES if output in FITS[name]):
            assert other in words.partition("the loss to one")[2]


@pytest.mark.parametrize(
    "settings",
    [
        {}, {"adversarial": "pgd"}, {"adversarial": "trades"}, {"noise": 0.1},
        {"validation": 0}, {"loss": "mse"}, {"adversarial": "free", "epsilon": 0.2},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_filled_in_is_right_and_stays(settings):
    config = resolved(TrainConfig(**settings))
    check(config)
    assert resolved(config) == config
    assert (config.epsilon is None) == (config.adversarial == "none")


def test_only_the_usual_network_has_batch_norm_and_a_high_rate_unasked():
    for settings, batch_norm, lr in (
        ({}, True, 0.01),
        ({"optimizer": "sgd"}, True, 0.1),
        ({"batch_norm": False}, False, 1e-3),
        ({"model": "linear"}, False, 1e-3),
        ({"layers": ("30",)}, False, 1e-3),
        ({"layers": ("30",), "batch_norm": True}, True, 1e-3),
    ):
        config = resolved(TrainConfig(**settings))
        assert (config.batch_norm, config.lr) == (batch_norm, lr)
        ghosts = TrainConfig(**settings, batch_stats="ghost", devices=2)
        assert ("batch_stats" in without_effect(ghosts)) is not batch_norm


@pytest.mark.parametrize("field", fields(TrainConfig), ids=lambda f: f.name)
def test_a_wrong_type_is_named_before_anything_is_loaded(field, tmp_path):
    for wrong in ([], {}, object(), b"x", float, ("a", 1)):
        config = replace(TrainConfig(out=tmp_path / "x"), **{field.name: wrong})
        if field.name == "out" and wrong == []:
            continue
        words = refused_in_python(train_run, config)
        assert "--" + field.name.replace("_", "-") in words
    assert not (tmp_path / "x").exists()


EDITED = [
    # values of the right type or a near one; test_damaged_files has the other types
    *(({name: value}, {}) for name, value in [
        ("batch", 0), ("lr", -1), ("dropout", 2), ("seeds", 10**9), ("loss", "nll"),
        ("epsilon", 0.2), ("learning_rate", 0.1), ("batch", True), ("batch", 1.5),
        ("batch_norm", 0), ("keep", "worst"), ("network", None), ("network", []),
    ]),
    *(({}, {name: value}) for name, value in [
        ("in_shape", []), ("in_shape", [0, 28]), ("classes", 0), ("classes", 1.5),
        ("std", -1), ("more", 1),
    ]),
]  # fmt: skip


def test_an_edited_config_is_never_guessed_at(run_folder, tmp_path):
    saved = read_json(run_folder / "config.json")
    path = tmp_path / "config.json"
    path.write_text(json.dumps(saved))
    read_config(path)
    for settings, network in EDITED:
        edited = saved | {"network": saved["network"] | network} | settings
        path.write_text(json.dumps(edited))
        assert "config.json" in refused_in_python(read_config, path), edited
    for text in ("", "[]", "null", "3", '"x"', "{}", "[" * 10_000, "{" * 10_000):
        path.write_text(text)
        assert "config.json" in refused_in_python(read_config, path), text[:9]


EDITS = [
    # one that no setting has, and those that fit the arrays
    {"lr_max": 1}, {"activation": "tanh"}, {"standardize": False}, {"binarize": 0.5},
    {"data": "fashion-mnist"}, {"loss": "margin", "label_smoothing": 0.0},
    {"network mean": 0.2},
]  # fmt: skip


def test_every_command_refuses_an_edited_config(run_folder, tmp_path, picture):
    copy = Path(shutil.copytree(run_folder, tmp_path / "edited"))
    saved = read_json(copy / "config.json")
    for edit in EDITS:
        (name, value), *_ = edit.items()
        edited = saved | edit
        if name == "network mean":
            edited = saved | {"network": saved["network"] | {"mean": value}}
        (copy / "config.json").write_text(json.dumps(edited))
        for words in (
            ("eval", copy), ("predict", copy, picture), ("attack", copy),
            ("robustness", copy), ("compare", copy), ("train", "--resume", copy),
        ):  # fmt: skip
            if words[0] != "train" or name == "lr_max":
                said = f"setting {name}" if name == "lr_max" else f"{name} is "
                assert said in refused(*words)


def test_a_resumed_run_has_the_facts_of_its_data(run_folder, tmp_path):
    copy = Path(shutil.copytree(run_folder, tmp_path / "edited"))
    (copy / "result.json").unlink()
    saved = read_json(copy / "config.json")
    saved["network"]["mean"] *= 1 + 1e-9  # as another machine may sum it
    (copy / "config.json").write_text(json.dumps(saved))
    done("train", "--resume", copy, "--attack-images", "0")
    (copy / "result.json").unlink()
    saved["network"]["mean"] = 0.2
    (copy / "config.json").write_text(json.dumps(saved))
    assert "network mean is 0.2, but" in refused("train", "--resume", copy)


def test_a_run_of_before_settings_were_kept_works_with_a_word(run_folder, tmp_path):
    copy = Path(shutil.copytree(run_folder, tmp_path / "old"))
    loaded = load_run(copy)
    save_params(copy / "params.npz", {"params": loaded.params, "state": loaded.state})
    found = run("eval", copy)
    assert found.status == 0
    assert found.err.startswith("jaxnn: note: ")
    assert "params.npz holds no settings" in found.err
    assert run("eval", run_folder).err == ""


def test_a_run_from_before_a_setting_existed_has_its_default(run_folder, tmp_path):
    copy = Path(shutil.copytree(run_folder, tmp_path / "older"))
    (copy / "result.json").unlink()
    saved = read_json(copy / "config.json")
    del saved["precision"], saved["network"]["names"]
    (copy / "config.json").write_text(json.dumps(saved))
    for path in (copy / "params.npz", *copy.glob("snapshots/*.npz")):
        with np.load(path) as file:
            arrays = dict(file)
        header = json.loads(str(arrays["__jaxnn__"]))
        for part, start in ("settings", ""), ("run", "setting "):
            for name in (f"{start}precision", "network names"):
                header["meta"].get(part, {}).pop(name, None)
        np.savez(path, **(arrays | {"__jaxnn__": np.array(json.dumps(header))}))
    words = (copy, "--attack-images", "0", "--quiet")
    for found in (run("eval", copy), run("train", "--resume", *words)):
        assert (found.status, found.err) == (0, "")
    wrong = saved | {"precisions": "float32"}
    (copy / "config.json").write_text(json.dumps(wrong))
    assert "unknown setting precisions" in refused("eval", copy)
    del saved["layers"]  # which were no default, as params.npz knows
    (copy / "config.json").write_text(json.dumps(saved))
    assert "layers is " in refused("eval", copy)


def test_what_a_resumed_run_cannot_obey_is_refused(run_folder, digits):
    for flag, value in (
        ("--recipe", "cnn"), ("--out", "elsewhere"), ("--lr", "1"), ("--seeds", "2"),
        ("--epochs", "1"),
    ):  # fmt: skip
        text = refused("train", "--resume", run_folder, flag, value)
        assert f"{flag} would make it another run" in text
    for words in ("--attack-images", "-2"), ("--keep-checkpoints", "-1"):
        refused("train", "--resume", run_folder, *words)
    assert "has no config.json" in refused("train", "--resume", "nowhere")
    done("train", "--resume", run_folder)
    Path("sweep").mkdir()
    Path("sweep/sweep.json").write_text("{}")
    for words in (("lr=1,2",), ("--epochs", "3"), ("--random", "2"), ()):
        refused("sweep", "--resume", "sweep", *words)


def test_a_failed_command_leaves_the_folder_free_for_the_corrected_one(digits):
    words = ("train", "--data", digits, "--out", "x", "--epochs", "1", "--validation",
             "40", "--attack-images", "0")  # fmt: skip
    for wrong in ("--batch", "500"), ("--layers", "dense:4", "conv:3:3"), ("--lr", "0"):
        refused(*words, *wrong)
    done(*words, "--batch", "50", "--layers", "4", "--quiet")


def test_memory_is_counted_before_any_is_taken(digits):
    with pytest.raises(JaxnnError, match=r"need at least .* GB, but there are"):
        train_run(
            TrainConfig(
                layers=("1000000", "1000000"), data=str(digits), validation=40,
                seeds=1000, out=Path("x"),
            )
        )  # fmt: skip
    assert not Path("x").exists()
