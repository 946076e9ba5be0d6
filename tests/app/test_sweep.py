"""A sweep's points are the networks they would be alone, and none is lost."""

import dataclasses
from dataclasses import replace

import numpy as np
import pytest

from jaxnn.app import sweep as sweeping
from jaxnn.app.build import DataFacts, build
from jaxnn.app.checks import NO_AXIS
from jaxnn.app.config import TrainConfig
from jaxnn.app.points import grouped, parse_axes, sweep_points, train_group
from jaxnn.app.train import train_in
from jaxnn.data.datasets import Dataset, Split
from jaxnn.errors import JaxnnError
from jaxnn.files import read_json
from jaxnn.plots.run import sweep as picture
from jaxnn.train import fit
from tests.app.common import TINY, done, refused, run, write_folder
from tests.train.problem import pixels

BASE = TrainConfig(
    layers=("6",), epochs=2, batch=20, dtype="float64", schedule="constant", seed=3,
    standardize=False,
)  # fmt: skip
FACTS = DataFacts((5, 5), 3, 0.5, 0.3)


def points_of(*words, base=BASE, draws=None):
    return sweep_points(base, parse_axes(words, draws is not None), draws)


@pytest.fixture(scope="module")
def data():
    splits = [Split(*pixels(n, 5, seed=i)) for i, n in enumerate((120, 30, 30))]
    return Dataset("pixels", *splits, 3, None)


def alone(point, data):
    """The point's own run, by `fit` and nothing of a sweep."""
    e = build(point.config, FACTS, data)
    return fit(
        e.net, data.train, validation=data.validation, loss=e.loss,
        optimizer=e.optimizer, epochs=2, batch=20, seeds=point.config.seed,
        dtype="float64", **e.options,
    )  # fmt: skip


def test_every_point_is_what_it_is_alone(data):
    points = points_of(
        "lr=0.01,0.02", "l2=0,0.01", "dropout=0.2,0.4", "noise=0,0.1",
        "init=he,xavier", "seed=3,4",
    )  # fmt: skip
    (group,) = grouped(points)
    history = train_group(group, data, FACTS)
    assert len(points) == 64
    assert group.traced == ("lr", "l2", "dropout", "noise")
    # the parts of a group share its program; in this one all have one lr
    programs = {}
    parts = [
        train_group(
            group._replace(points=points[at : at + 16]), data, FACTS, programs=programs
        )
        for at in (0, 48)
    ]
    assert len(programs) == 1
    whole = np.array([row["validation_loss"] for row in history.epochs])
    for part, at in zip(parts, (0, 48), strict=True):
        mine = [row["validation_loss"] for row in part.epochs]
        np.testing.assert_allclose(mine, whole[:, at : at + 16], rtol=1e-8)
    for i in (23, 41):
        single = alone(points[i], data)
        for name in ("validation_loss", "grad_norm"):
            mine = [row[name][i] for row in history.epochs]
            theirs = [row[name] for row in single.epochs]
            np.testing.assert_allclose(mine, theirs, rtol=1e-8)
    assert len({round(loss, 9) for loss in history.epochs[0]["validation_loss"]}) == 64


def test_a_point_that_diverges_stops_no_other(data):
    points = points_of("lr=0.01,1e38", base=TrainConfig(**vars(BASE) | {
        "optimizer": "sgd", "loss": "mse"}))  # fmt: skip
    (group,) = grouped(points)
    history = train_group(group, data, FACTS)
    skipped = np.sum([row["skipped"] for row in history.epochs], 0)
    assert skipped[0] == 0
    assert skipped[1] > 5
    assert history.epochs[-1]["loss"][0] < history.epochs[0]["loss"][0]


def test_groups_share_all_that_makes_a_program():
    groups = grouped(points_of("width=4,8", "lr=0.1,0.2", "activation=relu,tanh"))
    assert [len(g.points) for g in groups] == [2, 2, 2, 2]
    assert groups[0].values == {"width": 4, "activation": "relu"}
    assert groups[3].points[1].config.layers == ("8",)
    seeds = points_of("lr=0.1,0.2", base=TrainConfig(seeds=3, seed=7))
    assert [p.config.seed for p in seeds] == [7, 8, 9] * 2
    assert {p.config.seeds for p in seeds} == {1}


def test_random_points_are_drawn_by_the_seed_and_in_range():
    words = ("lr=1e-4:1e-1:log", "dropout=0:0.5", "init=he,xavier")
    points = points_of(*words, draws=200)
    lr = np.array([p.values["lr"] for p in points])
    assert (lr >= 1e-4).all()
    assert (lr <= 1e-1).all()
    assert 0.35 < (lr < 10**-2.5).mean() < 0.65  # even in the logarithm
    assert {p.values["init"] for p in points} == {"he", "xavier"}
    assert [p.values for p in points] == [
        p.values for p in points_of(*words, draws=200)
    ]


def test_axes_that_cannot_be_met_are_named():
    for words, drawn, message in (
        ("", False, "no axes"), ("lr", False, "expected NAME=VALUE"),
        ("lrr=1", False, "Did you mean 'lr'"),
        ("lr=a", False, "lr=a, expected a number"),
        ("batch=1.5", False, "batch=1.5, expected a whole number"),
        ("batch_norm=yes", False, "batch_norm=yes"),
        ("lr=1:2", False, "a grid needs values"), ("batch=1:2", True, "is a range"),
        ("lr=0:1:log", True, "above 0 for log"), ("lr=1 lr=2", False, "given twice"),
        ("out=a,b", False, "out cannot be an axis: a sweep has one folder"),
    ):  # fmt: skip
        with pytest.raises(JaxnnError, match=message):
            parse_axes(words.split(), drawn)


def test_a_sweep_goes_on_where_it_was_killed(tmp_path, monkeypatch):
    write_folder(tmp_path / "digits", count=140)
    words = [
        "sweep", "lr=0.001,0.01", "width=4,6", "--data", "digits", "--epochs", "2",
        "--batch", "20", "--validation", "40", "--seeds", "2", "--quiet",
    ]  # fmt: skip
    assert "test accuracy" in done(*words, "--out", "whole").out
    train = sweeping.train_group

    def dies(group, *args, on_epoch, **options):
        def kill(row):
            if group.points[0].config.layers[0] == "6" and row["epoch"] == 2:
                raise RuntimeError("killed")

        return train(group, *args, on_epoch=kill, **options)

    monkeypatch.setattr(sweeping, "train_group", dies)
    with pytest.raises(RuntimeError, match="killed"):
        run(*words, "--out", "killed")
    saved = read_json(tmp_path / "killed" / "sweep.json")
    assert list(saved["groups"]) == ["0"]
    monkeypatch.setattr(sweeping, "train_group", train)
    done("sweep", "--resume", "killed")
    results = [read_json(f"{name}/sweep.json") for name in ("whole", "killed")]
    assert results[0]["points"] == results[1]["points"]
    assert results[0]["best"] == results[1]["best"]
    assert [len(r["points"]) for r in results] == [8, 8]
    assert results[0]["compiles"] == 2  # one a shape
    assert {p.name for p in (tmp_path / "killed").iterdir()} == {
        "sweep.json", "sweep.png", "group-000", "group-001", "best",
    }  # fmt: skip
    accuracy = f"{100 * results[0]['best']['test_accuracies'][0]:.2f}%"
    first = done("eval", "killed/best")  # of its seeds
    assert f"test accuracy  {accuracy}" in first.out
    assert "got no such file" in refused("sweep", "--resume", "digits")


def test_values_that_are_none_beside_numbers_are_drawn(tmp_path):
    settings = [
        {"values": {"clip_norm": value}, "validation_accuracy": 0.5}
        for value in (None, 1.0, "none", 0.5)
    ]
    picture(settings, ["clip_norm"], tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").stat().st_size > 1000


def test_a_sweep_in_which_nothing_trains_has_failed(digits):
    found = run("sweep", "lr=1e30,1e31", "--optimizer", "sgd", "--data", digits, *TINY,
                "--out", "x", "--quiet")  # fmt: skip
    assert found.status == 1
    assert found.out.count("NOT TRAINED") == 2
    assert "no setting has trained" in found.err


# ---- each setting as an axis does as in a run alone, or is refused

AXIS_BASE = TrainConfig(layers=("6",), epochs=2, batch=20, validation=40, quiet=True)
PGD = {"adversarial": "pgd", "epsilon": 0.1}
# axis -> (its values, what it needs beside it)
AXES: dict[str, tuple[str, dict]] = {
    "model": ("mlp,cnn", {}), "layers": ("6,4+4", {}),
    "activation": ("relu,tanh", {}), "output": ("none,sigmoid", {"loss": "mse"}),
    "init": ("he,xavier", {}), "bias_init": ("zeros,normal", {}),
    "batch_norm": ("false,true", {}), "standardize": ("true,false", {}),
    "loss": ("softmax_cross_entropy,kl", {}), "label_smoothing": ("0.1,0.3", {}),
    "optimizer": ("adam,sgd", {}), "lr": ("0.01,0.02", {}),
    "schedule": ("cosine,constant", {}), "batch": ("20,10", {}), "epochs": ("2,3", {}),
    "patience": ("none,1", {"lr": 1e-9, "epochs": 5}), "keep": ("best,last", {
        "lr": 3.0, "optimizer": "sgd", "epochs": 4}),
    "l1": ("0,0.1", {}), "l2": ("0,0.1", {}), "max_norm": ("none,0.5", {}),
    "spectral_norm": ("0,0.1", {}), "max_spectral_norm": ("none,0.5", {}),
    "weight_noise": ("0,0.1", {}), "weight_decay": ("0,0.5", {"optimizer": "adamw"}),
    "clip_norm": ("none,0.01", {"optimizer": "sgd"}),
    "clip_value": ("none,0.001", {"optimizer": "sgd"}), "ema": ("none,0.5", {}),
    "dropout": ("0.1,0.3", {}), "mixup": ("0,0.5", {}),
    "class_weights": ("none,balanced", {}), "augment": ("none,digits", {}),
    "shift": ("none,1", {}), "rotate": ("none,20", {}), "scale": ("none,0.3", {}),
    "shear": ("none,0.3", {}), "elastic": ("none,1", {}), "noise": ("0,0.3", {}),
    "noise_kind": ("gaussian,sign", {"noise": 0.2}), "noise_shift": ("0,0.3", {}),
    "adversarial": ("none,pgd", {}), "epsilon": ("0.1,0.3", {"adversarial": "pgd"}),
    "epsilon_ramp": ("0,1", PGD), "attack_steps": ("1,5", PGD),
    "attack_step_size": ("0.1,2", PGD),
    "alpha": ("0.2,0.8", {"adversarial": "fgsm_mix"}),
    "beta": ("1,6", {"adversarial": "trades"}), "binarize": ("none,0.5", {}),
    "seed": ("0,1", {}), "precision": ("float32,bfloat16", {}),
}  # fmt: skip
FREE = {"free_replays": "free adversarial training keeps a memory of its own"}


@pytest.fixture(scope="module")
def rare():
    """A class rarer than the others."""
    splits = [Split(*pixels(n, 5, seed=i)) for i, n in enumerate((120, 40, 30))]
    few = np.flatnonzero(splits[0].y == 2)[:9]
    kept = np.sort(np.append(np.flatnonzero(splits[0].y != 2), few))
    splits[0] = Split(splits[0].x[kept], splits[0].y[kept])
    return Dataset("pixels", *splits, 3, None)


def test_no_setting_is_forgotten():
    names = {field.name for field in dataclasses.fields(TrainConfig)}
    assert AXES.keys() | NO_AXIS.keys() | FREE.keys() == names
    assert not AXES.keys() & NO_AXIS.keys()
    for name in NO_AXIS:
        with pytest.raises(JaxnnError, match=f"{name} cannot be an axis: "):
            parse_axes([f"{name}=1,2"], False)
    with pytest.raises(JaxnnError, match="memory of its own"):
        sweep_points(replace(AXIS_BASE, adversarial="free"),
                     parse_axes(["free_replays=1,2"], False), None)  # fmt: skip


@pytest.mark.parametrize("name", AXES)
@pytest.mark.slow
def test_each_axis_does_what_it_does_in_a_run_of_its_own(name, rare, tmp_path):
    values, beside = AXES[name]
    base = replace(AXIS_BASE, **beside)
    points = sweep_points(base, parse_axes([f"{name}={values}"], False), None)
    found = []
    for group in grouped(points):
        history = train_group(group, rare, FACTS)
        for i in range(len(group.points)):
            losses = [row["validation_loss"][i] for row in history.epochs]
            found.append((losses, int(np.atleast_1d(history.best_epoch)[i])))
    assert found[0] != found[1], "the axis changes nothing"
    for point, (losses, best) in zip(points, found, strict=True):
        e = build(point.config, FACTS, rare)
        alone, trouble = train_in(tmp_path / str(point.number), e)
        assert trouble is None
        want = [row["validation_loss"] for row in alone.epochs]
        np.testing.assert_allclose(losses, want, rtol=2e-4)
        assert best == alone.best_epoch
