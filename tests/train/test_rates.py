"""`find_lr` and `jaxnn lr`: the rate that is suggested is one that learns."""

import json

import numpy as np
import optax
import pytest

from jaxnn import find_lr, fit, mlp
from jaxnn.cli import main
from jaxnn.errors import JaxnnError
from jaxnn.train.rates import judge
from tests.train.problem import blobs

NET, DATA = mlp([6, 8, 3], normalize=True), blobs(256)
FEW = {"rates": [1e-5, 1e-2, 0.1, 1e4], "steps": 20, "batch": 32, "seeds": [0, 1]}


def test_the_suggestion_learns_more_than_the_others_and_can_be_drawn(tmp_path):
    found = find_lr(NET, *DATA, optimizer="sgd", **FEW)
    assert found.suggestion == pytest.approx(0.1)
    assert found.breaks == 1e4
    found.plot(tmp_path / "lr.png")
    assert (tmp_path / "lr.png").read_bytes()[:4] == b"\x89PNG"
    # what a training at that rate reaches
    run = fit(NET, DATA, optimizer=optax.sgd(0.1), epochs=3, batch=32)
    assert run["loss"][-1] < run["loss"][0] < found.start
    assert found.losses[2].max() < found.losses[1].min()


def test_a_loss_of_its_steps_is_that_of_fit():
    found = find_lr(NET, DATA, optimizer=optax.sgd, **FEW | {"steps": 8, "seeds": [3]})
    history = fit(NET, DATA, optimizer=optax.sgd(0.1), epochs=1, batch=32, seeds=3)
    first = fit(NET, DATA, optimizer=optax.sgd(0.0), epochs=1, batch=256, seeds=3)
    assert found.start == pytest.approx(first["loss"][0], rel=0.3)
    assert found.losses[2, 0] < history["loss"][0]


def test_a_step_that_is_not_finite_is_a_failure_and_an_edge_is_said():
    rates, losses = np.array([0.1, 1.0]), np.ones((2, 3, 10))
    ok = np.ones(losses.shape, bool)
    losses[0, :, 1:], losses[1, :, 1:] = 0.5, 0.1
    assert judge(rates, losses, ok).suggestion == 1.0
    assert "try beyond it" in judge(rates, losses, ok).why
    ok[1, 0, 4] = False
    assert judge(rates, losses, ok).suggestion == 1.0  # of the median seed
    ok[1, 1, 4] = False
    found = judge(rates, losses, ok)
    assert (found.suggestion, found.breaks) == (0.1, 1.0)
    assert np.isinf(found.losses[1, :2]).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rates": [0.1]}, "at least two"),
        ({"rates": [0.0, 0.1]}, "finite ones > 0"),
        ({"optimizer": "adm"}, "Did you mean 'adam'"),
        ({"batch": 1000}, "only 256 training rows"),
        ({"steps": 0}, "steps"),
        ({"penalti": None}, "Did you mean 'penalty'"),
        ({"penalty": 3}, "penalty=3, expected a function"),
        ({"loss": "nll"}, "the loss nll takes"),
        ({"optimizer": lambda lr: optax.sgd(0 * lr)}, "lowers the loss"),
    ],
)
def test_what_cannot_be_searched_is_named(change, words):
    with pytest.raises(JaxnnError, match=words):
        find_lr(NET, DATA, **FEW | change)


def test_the_command_writes_its_numbers_and_a_picture(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["--layers", "8", "--count", "3", "--steps", "10", "--seeds", "2"]
    assert main(["lr", *words, "--out", "lr", "--lowest", "1e-3"]) == 0
    result = json.loads((tmp_path / "lr" / "lr.json").read_text())
    assert np.shape(result["losses"]) == (3, 2)
    assert f"--lr {result['suggestion']:.3g}" in capsys.readouterr().out
    assert (tmp_path / "lr" / "lr.png").exists()
    for words in ("--lr", "0.1"), ("--epochs", "8"):  # typed, though the default
        assert main(["lr", *words]) == 2
        assert "no part here" in capsys.readouterr().err
    for words in ("--lowest", "1", "--highest", "1"), ("--alpha", "0.3"):
        assert main(["lr", *words]) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["lr"]
