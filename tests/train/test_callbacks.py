"""What `fit` tells and lets stop it: callbacks, metrics, training accuracy, MAE, R2."""

import csv
import sys
import types

import numpy as np
import pytest

from jaxnn import load_params, mlp
from jaxnn.errors import JaxnnError
from jaxnn.losses import mse
from jaxnn.train import (
    Callback,
    Checkpoint,
    CSVLog,
    EarlyStopping,
    TensorBoard,
    WandB,
    describe,
    evaluate,
    fit,
)
from tests.train.problem import blobs, leaves_equal

NET, DATA, HELD = mlp([6, 8, 3]), blobs(256), blobs(64, seed=1)
OPTIONS = {"batch": 32, "validation": HELD}


class Seen(Callback):
    def __init__(self):
        self.calls = []

    def on_train_start(self, run):
        self.calls.append("start")

    def on_epoch(self, row, run):
        self.calls.append(row["epoch"])
        self.params = run.params
        if row["epoch"] == 2:
            run.stop("seen enough")

    def on_train_end(self, history):
        self.calls.append(history.stopped)


def test_a_callback_sees_parameters_and_stops_training():
    seen = Seen()
    history = fit(NET, DATA, epochs=5, callbacks=[seen], **OPTIONS)
    assert seen.calls == ["start", 1, 2, "seen enough"]
    assert history.stopped == "seen enough"
    leaves_equal(seen.params, history.last.params)
    plain = fit(NET, DATA, epochs=2, **OPTIONS)
    leaves_equal(plain.params, history.params, rtol=0)


def test_early_stopping_waits_for_a_better_epoch():
    # an accuracy rises to 1 and cannot be better after that
    stop = EarlyStopping("validation_accuracy", patience=2, min_delta=0.01)
    history = fit(NET, DATA, epochs=40, seeds=[0, 1], callbacks=[stop], **OPTIONS)
    means = [np.mean(row["validation_accuracy"]) for row in history.epochs]
    assert history.stopped == "early stopping"
    assert len(means) == stop.epoch + 2 < 40
    assert max(means) < stop.best + 0.01
    with pytest.raises(JaxnnError, match="unknown curve 'accuracy'"):
        fit(NET, DATA, epochs=1, callbacks=[EarlyStopping("accuracy")], **OPTIONS)


def test_checkpoints_and_a_table_are_written(tmp_path):
    callbacks = [
        Checkpoint(tmp_path / "{epoch}.npz"),
        Checkpoint(tmp_path / "best.npz", "validation_accuracy"),
        CSVLog(tmp_path / "curves.csv"),
    ]
    history = fit(NET, DATA, epochs=3, seeds=[0, 1], callbacks=callbacks, **OPTIONS)
    like = {"params": history.last.params, "state": history.last.state}
    last = load_params(tmp_path / "3.npz", like)
    leaves_equal(last["params"], history.last.params)
    assert (tmp_path / "best.npz").exists()
    with open(tmp_path / "curves.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["loss_1"]) for row in rows] == [
        pytest.approx(row["loss"][1]) for row in history.epochs
    ]


def test_curves_go_to_tensorboard_and_wandb(monkeypatch):
    got = []
    writer = types.SimpleNamespace(
        add_scalar=lambda *given: got.append(given), close=lambda: got.append("close")
    )
    run = types.SimpleNamespace(
        log=lambda row, step: got.append((step, set(row))),
        finish=lambda: got.append("finish"),
    )
    board = types.SimpleNamespace(SummaryWriter=lambda folder: writer)
    monkeypatch.setitem(sys.modules, "tensorboardX", board)
    wandb = types.SimpleNamespace(init=lambda project: run)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    both = [TensorBoard("logs"), WandB(project="digits")]
    history = fit(NET, DATA, epochs=1, callbacks=both, **OPTIONS)
    assert ("loss", history["loss"][0], 1) in got
    assert (1, set(history.epochs[0])) in got
    assert got[-2:] == ["close", "finish"]


def test_a_missing_extra_is_named(monkeypatch, tmp_path):
    for module, make in [
        ("tensorboardX", lambda: TensorBoard(tmp_path)),
        ("wandb", WandB),
    ]:
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(
            JaxnnError, match=r"pip install 'jaxnn\[(tensorboard|wandb)\]'"
        ):
            make()


def test_metrics_of_ones_own_and_the_training_accuracy_are_curves():
    def top2(outputs, y):
        return (np.argsort(outputs)[:, -2:] == y[:, None]).any(1).mean()

    history = fit(
        NET, DATA, epochs=2, metrics={"top2": top2}, train_sample=1000, **OPTIONS
    )
    found = evaluate(NET, history.last.params, history.last.state, *DATA)
    last = history.epochs[-1]
    assert last["training_accuracy"] == pytest.approx(found.accuracy)
    assert last["training_top2"] == pytest.approx(top2(found.outputs, DATA[1]))
    assert last["validation_accuracy"] <= last["validation_top2"] <= 1
    assert f"training {100 * found.accuracy:.2f}%  validation" in describe(last)


def test_a_regression_shows_mae_and_r2():
    x, _ = blobs(128)
    y = x[:, :2] * 2 + 1
    net, held = mlp([6, 8, 2]), (x[:40], y[:40])
    history = fit(net, x, y, validation=held, loss="mse", epochs=2, batch=32)
    found = evaluate(net, history.params, history.state, *held, loss=mse)
    rest = found.outputs - held[1]
    assert found.mae == pytest.approx(np.abs(rest).mean())
    spread = ((held[1] - held[1].mean(0)) ** 2).sum(0)
    assert found.r2 == pytest.approx((1 - (rest**2).sum(0) / spread).mean())
    assert history["validation_r2"][1] == pytest.approx(found.r2)
    assert "validation_accuracy" not in history.epochs[0]
    for words in (repr(found), describe(history.epochs[1]), repr(history)):
        assert "nan" not in words
        assert "r2" in words.lower()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"callbacks": [print]}, "callbacks, expected an object with on_train_start,"),
        ({"callbacks": [EarlyStopping]}, "fit: got EarlyStopping in callbacks"),
        ({"metrics": {"a": np.mean}, "validation": None}, "metrics have no effect"),
        ({"metrics": ["accuracy"]}, "metrics=.'accuracy'., expected a dict of name ->"),
        ({"train_sample": -1}, "train_sample=-1, expected a whole number"),
    ],
)
def test_what_is_no_callback_or_metric_is_refused(options, words):
    with pytest.raises(JaxnnError, match=words):
        fit(NET, DATA, epochs=1, **(OPTIONS | options))


def test_any_object_with_the_three_methods_is_called():
    class Notes:  # of nothing of ours
        def __init__(self):
            self.seen = []

        def on_train_start(self, run):
            self.seen.append("start")

        def on_epoch(self, row, run):
            self.seen.append(row["epoch"])
            run.stop("enough")

        def on_train_end(self, history):
            self.seen.append(history.stopped)

    notes = Notes()
    fit(NET, DATA, callbacks=[notes], **(OPTIONS | {"epochs": 3}))
    assert notes.seen == ["start", 1, "enough"]
