"""`jaxnn attack` and `jaxnn robustness` on a saved run, as a user types them."""

import json

import pytest
from PIL import Image

from jaxnn.attacks import ATTACKS
from jaxnn.cli import main
from tests.run.problem import errors, write_folder

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
    path = text.rsplit("written", 1)[1].split(",")[0].strip()
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
        (("--attack", "fgsm", "--early-stop"), "fgsm has no setting --early-stop"),
        (("--attack", "pgd", "--steps", "0"), "steps=0, expected steps >= 1"),
        (("--epsilon", "-1"), "expected a finite epsilon >= 0"),
    ],
)
def test_bad_settings_get_one_clear_line(run_folder, capsys, words, expected):
    assert expected in errors(capsys, "attack", run_folder, *words)


def test_no_run_and_images_of_another_shape_are_refused(run_folder, tmp_path, capsys):
    assert "nowhere" in errors(capsys, "attack", "nowhere")
    small = write_folder(tmp_path / "small", side=8)
    text = errors(capsys, "attack", run_folder, "--data", small)
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
