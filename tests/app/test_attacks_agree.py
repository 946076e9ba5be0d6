"""`train`, `attack` and `robustness` say the same of one attack, whatever the loss."""

import importlib
import json

import pytest

from jaxnn.cli import main
from tests.app.common import write_folder

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


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("small"), side=6)


DEAR = [pytest.param(n, marks=pytest.mark.slow) for n in RUNS if n != "quadratic"]


@pytest.mark.parametrize("name", ["quadratic", *DEAR])
def test_one_attack_has_one_accuracy(name, small, monkeypatch, capsys):
    # the checks are not what this is about, and dear
    monkeypatch.setattr(
        importlib.import_module("jaxnn.robustness.evaluate"), "CHECKS", {}
    )
    words = ["--layers", "8", "--epochs", "1", "--batch", "20", "--validation", "40"]
    words += ["--attack-images", "50", "--quiet", *RUNS[name]]
    assert main(["train", "--data", str(small), "--out", "r", *words]) == 0
    with open("r/result.json") as file:
        train = json.load(file)["adversarial"]
    epsilon = str(train["epsilon"])
    assert epsilon == ("0.2" if name == "trained for .2" else "0.1")
    given = ["r", "--images", "50", "--epsilon", epsilon]
    assert main(["robustness", *given, "--quiet"]) == 0
    with open("r/robustness/robustness.json") as file:
        robust = json.load(file)
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
        assert main(["attack", *given, "--attack", attack]) == 0
        path = f"r/attacks/{attack}_{epsilon}_images50.json"
        with open(path) as file:
            assert json.load(file)["accuracy_after"] == train[f"{key}_{epsilon}"]
    capsys.readouterr()
