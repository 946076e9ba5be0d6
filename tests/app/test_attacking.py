"""`jaxnn attack` and `jaxnn robustness` on a saved run, as a user types them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxnn.attacks import ATTACKS
from jaxnn.cli import main
from jaxnn.data import write_idx
from tests.app.common import refused, write_folder

SETTINGS = {
    "pgd": ("--steps", "5", "--restarts", "2"),
    "apgd": ("--steps", "5"),
    "bim": ("--norm", "l2", "--steps", "3"),
    "square": ("--queries", "20"),
    "carlini_wagner": ("--steps", "5"),
    "ddn": ("--steps", "5"),
    "noise": ("--kind", "gaussian"),
    "camera": ("--kind", "translation", "--amount", "2"),
}


def attacked(run_folder, capsys, *words):
    """What `jaxnn attack RUN WORDS` wrote as JSON, and what it printed."""
    assert main(["attack", str(run_folder), *words, "--out", "found"]) == 0
    text = capsys.readouterr().out
    path = text.rsplit("saved to", 1)[1].split(",")[0].strip()
    with Image.open(path.replace(".json", ".png")) as picture:
        assert picture.width > 200
    with open(path) as file:
        return json.load(file), text


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_every_attack_reports_before_and_after(name, run_folder, capsys):
    words = SETTINGS.get(name, ())
    found, text = attacked(run_folder, capsys, "--attack", name, *words)
    assert found["images"] == 80
    assert found["rows"] == "all"
    assert 0 <= found["accuracy_after"] <= found["accuracy_before"] + 0.1
    assert "before" in text
    assert f"under {name}, 80 images" in text


def test_early_stop_finds_what_pgd_finds(run_folder, capsys):
    words = ("--attack", "pgd", "--epsilon", "0.05", "--images", "50")
    plain, _ = attacked(run_folder, capsys, *words)
    early, _ = attacked(run_folder, capsys, *words, "--early-stop")
    assert early["accuracy_after"] == pytest.approx(plain["accuracy_after"], abs=0.03)
    assert early["settings"]["early_stop"] is True
    assert len(early["rows"]) == 50


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--attack", "pdg"), "Did you mean 'pgd'"),
        (("--attack", "fgsm", "--steps", "3"), "fgsm has no setting --steps"),
        (("--attack", "ddn", "--epsilon", "0.3"), "ddn has no setting --epsilon"),
        (("--attack", "pgd", "--amount", "3"), "pgd has no setting --amount"),
        (("--attack", "pgd", "--kind", "blur"), "pgd has no setting --kind"),
        (("--attack", "fgsm", "--early-stop"), "fgsm has no setting --early-stop"),
        (("--attack", "pgd", "--steps", "0"), "steps=0, expected steps >= 1"),
        (("--epsilon", "-1"), "expected a finite epsilon >= 0"),
    ],
)
def test_bad_settings_get_one_clear_line(run_folder, capsys, words, expected):
    assert expected in refused("attack", run_folder, *words)


def test_no_run_and_images_of_another_shape_are_refused(run_folder, tmp_path, capsys):
    assert "nowhere" in refused("attack", "nowhere")
    small = write_folder(tmp_path / "small", side=8)
    text = refused("attack", run_folder, "--data", small)
    assert "(28, 28)" in text
    assert "(8, 8)" in text


@pytest.mark.slow
def test_robustness_writes_its_page(run_folder, capsys):
    words = ["robustness", str(run_folder), "--images", "40", "--out", "found"]
    assert main([*words, "--epsilon", "0.1"]) == 0
    text = capsys.readouterr().out
    assert "K1" in text
    with open("found/report.md") as file:
        assert "K20" in file.read()
    with open("found/robustness.json") as file:
        assert json.load(file)["threat"]["epsilon"] == 0.1


@pytest.mark.parametrize(("believable", "status"), [(True, 0), (False, 1)])
def test_a_failed_check_is_an_exit_status(
    believable, status, run_folder, monkeypatch, capsys
):
    import importlib

    from jaxnn.robustness.evidence import Check

    checks = {"K1": lambda e: Check("K1", "a check", "pass", 0.0, "")}
    if not believable:
        checks["K2"] = lambda e: Check("K2", "another", "fail", 1.0, "")
    monkeypatch.setattr(
        importlib.import_module("jaxnn.robustness.evaluate"), "CHECKS", checks
    )
    words = ["robustness", str(run_folder), "--images", "10", "--out", "judged"]
    assert main(words) == status
    assert ("DO NOT BELIEVE" in capsys.readouterr().out) != believable


def test_every_setting_has_a_file_of_its_own(run_folder, capsys):
    words = ("--attack", "fgsm", "--images", "10", "--out", "own")
    settings = [(), ("--norm", "l2"), ("--epsilon", "0.2"), ("--seed", "3")]
    settings += [("--images", "20"), ("--data", str(run_folder.parent.parent / "copy"))]
    data = json.loads((run_folder / "config.json").read_text())["data"]
    (run_folder.parent.parent / "copy").symlink_to(data)
    for more in [*settings, ()]:
        assert main(["attack", str(run_folder), *words, *more]) == 0
    capsys.readouterr()
    found = [json.loads(p.read_text()) for p in Path("own").glob("*.json")]
    assert len(found) == len(settings) == len({f["command"] for f in found})
    for one in found:
        assert one["settings"]["loss"] == "softmax_cross_entropy"
        assert one["settings"].keys() >= {"epsilon", "norm", "box", "targeted", "seed"}
        assert one["versions"]["jax"]
        assert one["device"]


def test_out_that_is_a_file_is_refused(run_folder, tmp_path, capsys):
    (tmp_path / "taken").write_text("mine")
    for command in ("attack", "robustness"):
        text = refused(command, run_folder, "--out", tmp_path / "taken")
        assert "it is a file" in text
    assert (tmp_path / "taken").read_text() == "mine"


@pytest.mark.parametrize("kind", ["contrast", "blur"])
def test_every_kind_of_camera_has_an_amount_of_its_own(kind, run_folder, capsys):
    found, _ = attacked(run_folder, capsys, "--attack", "camera", "--kind", kind)
    assert found["settings"]["amount"] in (0.5, 1.0)


def test_data_of_more_classes_is_refused(run_folder, tmp_path, capsys):
    y = np.arange(80, dtype=np.uint8) % 5
    more = write_folder(tmp_path / "more", **{"t10k-labels-idx1-ubyte": y})
    write_idx(more / "train-labels-idx1-ubyte.gz", np.arange(240, dtype=np.uint8) % 5)
    for command in ("attack", "robustness"):
        text = refused(command, run_folder, "--data", more)
        assert "knows 3 classes, got 5" in text


def test_outputs_that_are_nan_are_said_first_and_fail(run_folder, tmp_path, capsys):
    broken = tmp_path / "broken"
    shutil.copytree(run_folder, broken)
    tree = dict(np.load(broken / "params.npz"))
    tree = {
        k: v * np.nan if np.issubdtype(v.dtype, np.floating) else v
        for k, v in tree.items()
    }
    np.savez(broken / "params.npz", **tree)
    for attack in ("pgd", "square"):
        words = ("--steps", "2") if attack == "pgd" else ("--queries", "2")
        assert main(["attack", str(broken), "--attack", attack, *words]) != 0
        out, err = capsys.readouterr()
        assert out.startswith("NOT FINITE     the outputs for 80 of 80 images")
        assert "are not finite" in err
    found = [json.loads(p.read_text()) for p in (broken / "attacks").glob("*.json")]
    assert [f["accuracy_before"] for f in found] == [0, 0]
    assert [f["accuracy_after"] for f in found] == [0, 0]


@pytest.mark.slow
def test_other_runs_of_one_name_are_told_apart(run_folder, tmp_path, capsys):
    other = tmp_path / "other" / run_folder.name
    shutil.copytree(run_folder, other)
    words = ["robustness", str(run_folder), "--images", "20", "--out", "found"]
    assert main([*words, "--transfer-from", str(other)]) == 0
    capsys.readouterr()
    transfer = json.loads(Path("found/robustness.json").read_text())["transfer"]
    assert transfer["names"] == [str(run_folder), str(other)]
    assert np.shape(transfer["matrix"]) == (2, 2)
    text = refused("robustness", run_folder, "--transfer-from", run_folder)
    assert "the run itself" in text
