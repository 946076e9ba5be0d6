"""`jaxnn attack` and `jaxnn robustness` on a saved run, as a user types them."""

import importlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxnn.attacks import ATTACKS
from jaxnn.cli import main
from jaxnn.data import write_idx
from jaxnn.files import read_json
from jaxnn.robustness.context import Check
from jaxnn.robustness.worst import attack_suite
from tests.app.common import TINY, done, refused, run, write_folder

SETTINGS = {
    "pgd": ("--steps", "5", "--restarts", "2"),
    "apgd": ("--steps", "5"),
    "bim": ("--norm", "l2", "--steps", "3"),
    "square": ("--queries", "20"),
    "spsa": ("--steps", "3"),
    "carlini_wagner": ("--steps", "5"),
    "ddn": ("--steps", "5"),
    "noise": ("--kind", "gaussian"),
    "corruptions": ("--kind", "translation", "--amount", "2"),
}


def attacked(run_folder, *words):
    """What `jaxnn attack RUN WORDS` wrote as JSON, and what it printed."""
    text = done("attack", run_folder, *words, "--out", "found").out
    path = text.rsplit("saved to", 1)[1].split(",")[0].strip()
    with Image.open(path.replace(".json", ".png")) as picture:
        assert picture.width > 200
    return read_json(path), text


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_every_attack_reports_before_and_after(name, run_folder):
    words = SETTINGS.get(name, ())
    found, text = attacked(run_folder, "--attack", name, *words)
    assert found["images"] == 80
    assert found["rows"] == "all"
    assert 0 <= found["accuracy_after"] <= found["accuracy_before"] + 0.1
    assert "before" in text
    assert f"under {name}, 80 images" in text


def test_pictures_have_as_many_dots_an_inch_as_is_asked_for(run_folder):
    sizes = []
    for words in ((), ("--dpi", "300")):
        attacked(run_folder, "--attack", "fgsm", "--images", "20", *words)
        (picture,) = Path("found").glob("*.png")
        with Image.open(picture) as image:
            sizes.append((image.width, round(image.info["dpi"][0])))
        shutil.rmtree("found")
    assert [dots for _, dots in sizes] == [110, 300]
    assert sizes[1][0] == pytest.approx(sizes[0][0] * 300 / 110, abs=3)
    for dots in ("0", "-1", "nan", "1e9", "9999"):
        text = refused("attack", run_folder, "--dpi", dots, "--out", "found")
        assert f"--dpi: got {dots}, expected dots an inch" in text


def test_early_stop_finds_what_pgd_finds(run_folder):
    words = ("--attack", "pgd", "--epsilon", "0.05", "--images", "50")
    plain, _ = attacked(run_folder, *words)
    early, _ = attacked(run_folder, *words, "--early-stop")
    assert early["accuracy_after"] == pytest.approx(plain["accuracy_after"], abs=0.03)
    assert early["settings"]["early_stop"] is True
    assert len(early["rows"]) == 50


@pytest.mark.slow
def test_robustness_writes_its_page(run_folder):
    words = ("robustness", run_folder, "--images", "40", "--out", "found")
    assert "K1" in done(*words, "--epsilon", "0.1").out
    assert "K20" in Path("found/report.md").read_text("utf-8")
    assert read_json("found/robustness.json")["threat"]["epsilon"] == 0.1


@pytest.mark.parametrize(("believable", "status"), [(True, 0), (False, 1)])
def test_a_failed_check_is_an_exit_status(believable, status, run_folder, monkeypatch):
    checks = {"K1": lambda e: Check("K1", "a check", "pass", 0.0, "")}
    if not believable:
        checks["K2"] = lambda e: Check("K2", "another", "fail", 1.0, "")
    monkeypatch.setattr(
        importlib.import_module("jaxnn.robustness.evaluate"), "CHECKS", checks
    )
    found = run("robustness", run_folder, "--images", "10", "--out", "judged")
    assert found.status == status
    assert ("DO NOT BELIEVE" in found.out) != believable


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("small"), side=6)


@pytest.fixture
def _no_checks(monkeypatch):
    """They are not what a test is about, and dear."""
    monkeypatch.setattr(
        importlib.import_module("jaxnn.robustness.evaluate"), "CHECKS", {}
    )


@pytest.mark.usefixtures("_no_checks")
def test_every_seed_is_evaluated_and_a_bar_shows_how_far(small, capsys, monkeypatch):
    words = ("train", "--data", small, "--out", "r", "--seeds", "2", "--seed", "5")
    done(*words, *TINY, "--epochs", "1", "--attack-images", "0", "--quiet")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert main(["robustness", "r", "--images", "20"]) == 0
    out, bar = capsys.readouterr()
    count = len(attack_suite("fast", "linf", 3)) + 1
    assert f"{2 * count}/{2 * count}" in bar
    assert "first: seed" not in bar
    found = read_json("r/robustness/robustness.json")
    assert [one["seed"] for one in found["seeds"]] == [5, 6]
    first, second = found["seeds"]
    assert first.keys() - {"seed"} <= found.keys()
    assert {k: found[k] for k in first.keys() - {"seed"}} == {
        k: v for k, v in first.items() if k != "seed"
    }
    mean = (first["robust"]["share"] + second["robust"]["share"]) / 2
    page = Path("r/robustness/report.md").read_text()
    for text in (out, page):
        assert f"robust {mean:.2%} +- " in text
        assert "(2 seeds)" in text
    assert [line[:15].strip() for line in out.splitlines()][-4:-1] == [
        "seed 5", "seed 6", "mean",
    ]  # fmt: skip
    assert "| 6 |" in page
    assert main(["attack", "r", "--attack", "fgsm"]) == 0
    assert "160/160" in capsys.readouterr().err


def test_settings_that_an_attack_has_not_are_named(run_folder):
    for words, expected in (
        (("--attack", "pdg"), "Did you mean 'pgd'"),
        (("--attack", "fgsm", "--steps", "3"), "fgsm has no setting --steps"),
        (("--attack", "ddn", "--epsilon", "0.3"), "ddn has no setting --epsilon"),
        (("--attack", "pgd", "--amount", "3"), "pgd has no setting --amount"),
        (("--attack", "pgd", "--kind", "blur"), "pgd has no setting --kind"),
        (("--attack", "fgsm", "--early-stop"), "fgsm has no setting --early-stop"),
        (("--attack", "pgd", "--steps", "0"), "steps=0, expected steps >= 1"),
        (("--epsilon", "-1"), "expected a finite epsilon >= 0"),
    ):
        assert expected in refused("attack", run_folder, *words)


def test_images_of_another_shape_and_more_classes_are_refused(run_folder, tmp_path):
    small = write_folder(tmp_path / "small", side=8)
    labels = {"t10k-labels-idx1-ubyte": np.arange(80, dtype=np.uint8) % 5}
    more = write_folder(tmp_path / "more", **labels)
    write_idx(more / "train-labels-idx1-ubyte.gz", np.arange(240, dtype=np.uint8) % 5)
    for command in ("eval", "attack", "robustness"):
        text = refused(command, run_folder, "--data", small)
        assert "(28, 28)" in text
        assert "(8, 8)" in text
        text = refused(command, run_folder, "--data", more)
        assert "knows 3 classes, got 5" in text


def test_outputs_that_are_nan_are_said_first_and_fail(run_folder, tmp_path, picture):
    broken = Path(shutil.copytree(run_folder, tmp_path / "broken"))
    tree = dict(np.load(broken / "params.npz"))
    tree |= {k: v * np.nan for k, v in tree.items() if k.endswith("/w")}
    np.savez(broken / "params.npz", **tree)
    for words in (("eval", broken), ("predict", broken, picture)):
        found = run(*words)
        assert found.status == 2
        assert "%" not in found.out
        assert "outputs are not finite" in found.err
    for attack, few in (("pgd", "--steps"), ("square", "--queries")):
        found = run("attack", broken, "--attack", attack, few, 2)
        assert found.status != 0
        assert found.out.startswith("NOT FINITE     the outputs for 80 of 80 images")
        assert "are not finite" in found.err
    found = [read_json(p) for p in (broken / "attacks").glob("*.json")]
    assert [(f["accuracy_before"], f["accuracy_after"]) for f in found] == [(0, 0)] * 2


def test_every_setting_has_a_file_of_its_own(run_folder):
    words = ("--attack", "fgsm", "--images", "10", "--out", "own")
    settings = [(), ("--norm", "l2"), ("--epsilon", "0.2"), ("--seed", "3")]
    settings += [("--images", "20"), ("--data", "copy")]
    data = read_json(run_folder / "config.json")["data"]
    Path("copy").symlink_to(data)
    for more in [*settings, ()]:
        done("attack", run_folder, *words, *more)
    found = [read_json(p) for p in Path("own").glob("*.json")]
    assert len(found) == len(settings) == len({f["command"] for f in found})
    for one in found:
        assert one["settings"]["loss"] == "softmax_cross_entropy"
        assert one["settings"].keys() >= {"epsilon", "norm", "box", "targeted", "seed"}
        assert one["versions"]["jax"]
        assert one["device"]


def test_out_that_is_a_file_is_refused(run_folder, tmp_path):
    (tmp_path / "taken").write_text("mine")
    for command in ("attack", "robustness"):
        text = refused(command, run_folder, "--out", tmp_path / "taken")
        assert "it is a file" in text
    assert (tmp_path / "taken").read_text() == "mine"


def test_every_kind_of_corruption_has_an_amount_of_its_own(run_folder):
    for kind, amount in (("contrast", 0.5), ("blur", 1.0)):
        words = ("--attack", "corruptions", "--kind", kind)
        assert attacked(run_folder, *words)[0]["settings"]["amount"] == amount


@pytest.mark.slow
def test_other_runs_of_one_name_are_told_apart(run_folder, tmp_path):
    other = tmp_path / "other" / run_folder.name
    shutil.copytree(run_folder, other)
    words = ("robustness", run_folder, "--images", "20", "--out", "found")
    done(*words, "--transfer-from", other)
    transfer = read_json("found/robustness.json")["transfer"]
    assert transfer["names"] == [str(run_folder), str(other)]
    assert np.shape(transfer["matrix"]) == (2, 2)
    text = refused("robustness", run_folder, "--transfer-from", run_folder)
    assert "the run itself" in text


# ---- `train`, `attack` and `robustness` say the same of one attack

RUNS = {
    "plain": ("--label-smoothing", "0"),
    "smoothed": ("--label-smoothing", "0.3"),
    "mse": ("--loss", "mse"),
    "quadratic": ("--loss", "quadratic", "--output", "sigmoid"),
    "hinge": ("--loss", "hinge"),
    "margin": ("--loss", "margin"),
    "nll": ("--loss", "nll", "--output", "log_softmax"),
    "focal": ("--loss", "softmax_focal"),
    "sigmoid": ("--loss", "sigmoid_cross_entropy"),
    "trained for .2": ("--adversarial", "fgsm_rs", "--epsilon", "0.2"),
}


DEAR = [pytest.param(n, marks=pytest.mark.slow) for n in RUNS if n != "quadratic"]


@pytest.mark.parametrize("name", ["quadratic", *DEAR])
@pytest.mark.usefixtures("_no_checks")
def test_one_attack_has_one_accuracy(name, small):
    words = (*TINY, "--epochs", "1", "--attack-images", "50", "--quiet", *RUNS[name])
    done("train", "--data", small, "--out", "r", *words)
    train = read_json("r/result.json")["adversarial"]
    epsilon = str(train["epsilon"])
    assert epsilon == ("0.2" if name == "trained for .2" else "0.1")
    given = ["r", "--images", "50", "--epsilon", epsilon]
    done("robustness", *given, "--quiet")
    robust = read_json("r/robustness/robustness.json")
    rounds = {r["name"]: r["alone"] for r in robust["rounds"]}
    assert train["worst"] <= min(train[f"pgd40_{epsilon}"], train[f"fgsm_{epsilon}"])
    assert robust["robust"]["share"] <= train["worst"]
    for attack, key in {
        "FGSM": f"fgsm_{epsilon}",
        "PGD-40": f"pgd40_{epsilon}",
        "PGD-40, margin": f"margin_pgd40_{epsilon}",
    }.items():
        assert rounds[attack] | {"share": train[key]} == rounds[attack]
        assert rounds[attack]["of"] == 50
    for attack, key in (("fgsm", "fgsm"), ("pgd", "pgd40")):
        done("attack", *given, "--attack", attack)
        path = f"r/attacks/{attack}_{epsilon}_images50.json"
        assert read_json(path)["accuracy_after"] == train[f"{key}_{epsilon}"]
