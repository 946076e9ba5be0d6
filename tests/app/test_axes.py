"""Each setting of `jaxnn train` is an axis that does as in a run alone, or refused."""

import dataclasses
from dataclasses import replace

import numpy as np
import pytest

from jaxnn.app.build import DataFacts, build
from jaxnn.app.config import TrainConfig
from jaxnn.app.group import train_group
from jaxnn.app.points import grouped, parse_axes, sweep_points
from jaxnn.app.settings import rows
from jaxnn.app.train import train_in
from jaxnn.data.datasets import Dataset, Split
from jaxnn.errors import JaxnnError
from tests.train.problem import pixels

FACTS = DataFacts((5, 5), 3, 0.5, 0.3)
BASE = TrainConfig(layers=("6",), epochs=2, batch=20, validation=40, quiet=True)
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
    "seed": ("0,1", {}),
}  # fmt: skip
NO_AXIS = {name for name, row in rows(TrainConfig).items() if row.no_axis}
FREE = {"free_replays": "free adversarial training keeps a memory of its own"}


@pytest.fixture(scope="module")
def data():
    splits = [Split(*pixels(n, 5, seed=i)) for i, n in enumerate((120, 40, 30))]
    rare = np.flatnonzero(splits[0].y != 2)  # class 2 is rarer than the others
    rare = np.sort(np.append(rare, np.flatnonzero(splits[0].y == 2)[:9]))
    splits[0] = Split(splits[0].x[rare], splits[0].y[rare])
    return Dataset("pixels", *splits, 3, None)


def test_no_setting_is_forgotten():
    names = {field.name for field in dataclasses.fields(TrainConfig)}
    assert AXES.keys() | NO_AXIS | FREE.keys() == names
    assert not AXES.keys() & NO_AXIS
    for name in NO_AXIS:
        with pytest.raises(JaxnnError, match=f"{name} cannot be an axis: "):
            parse_axes([f"{name}=1,2"], False)
    with pytest.raises(JaxnnError, match="memory of its own"):
        sweep_points(replace(BASE, adversarial="free"),
                     parse_axes(["free_replays=1,2"], False), None)  # fmt: skip


@pytest.mark.parametrize("name", AXES)
@pytest.mark.slow
def test_each_axis_does_what_it_does_in_a_run_of_its_own(name, data, tmp_path):
    values, beside = AXES[name]
    base = replace(BASE, **beside)
    points = sweep_points(base, parse_axes([f"{name}={values}"], False), None)
    found = []
    for group in grouped(points):
        history = train_group(group, data, FACTS)
        for i in range(len(group.points)):
            losses = [row["validation_loss"][i] for row in history.rows]
            found.append((losses, int(np.atleast_1d(history.best_epoch)[i])))
    assert found[0] != found[1], "the axis changes nothing"
    for point, (losses, best) in zip(points, found, strict=True):
        e = build(point.config, FACTS, data)
        alone, trouble = train_in(tmp_path / str(point.number), e)
        assert trouble is None
        want = [row["validation_loss"] for row in alone.rows]
        np.testing.assert_allclose(losses, want, rtol=2e-4)
        assert best == alone.best_epoch
