"""Using a saved run: measure it again, or read digits from pictures."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxnn.compile_cache import enable_compile_cache
from jaxnn.config import EvalConfig, PredictConfig
from jaxnn.data import load, read_digit
from jaxnn.errors import JaxnnError
from jaxnn.losses import loss_by_name
from jaxnn.run.folder import load_run
from jaxnn.run.job import probabilities
from jaxnn.train import evaluate, predict


def evaluate_run(config: EvalConfig) -> dict:
    """Test loss and accuracy of a saved run on all test images; prints one line.

    Raises:
      JaxnnError: no run folder, damaged files, data of another shape.
    """
    enable_compile_cache()
    run = load_run(config.run)
    data = load(config.data or run.config.data, validation=0)
    if data.test.x.shape[1:] != run.facts.in_shape:
        raise JaxnnError(
            f"{run.folder} was trained on images {run.facts.in_shape}, got "
            f"{data.test.x.shape[1:]} from {data.name}"
        )
    if data.classes > run.facts.classes:
        raise JaxnnError(
            f"{run.folder} knows {run.facts.classes} classes, got {data.classes} from "
            f"{data.name}"
        )
    loss = loss_by_name(run.config.loss, run.config.label_smoothing or 0.0)
    many = run.config.seeds > 1
    found = evaluate(run.net, run.params, run.state, *data.test, loss=loss, seeds=many)
    accuracy = np.atleast_1d(found.accuracy)
    spread = (
        f" +- {100 * accuracy.std(ddof=1):.2f} ({accuracy.size} seeds)" if many else ""
    )
    print(
        f"test accuracy  {100 * accuracy.mean():.2f}%{spread}, loss "
        f"{np.mean(found.loss):.4f}, on all {len(data.test.y):,} test images of "
        f"{data.name}"
    )
    return {"test_accuracy": accuracy.tolist(), "loss": found.loss.tolist()}


def predict_run(config: PredictConfig) -> np.ndarray:
    """Class probabilities (images, classes) of picture files; prints a table.

    Several seeds vote with the mean of their probabilities.

    Raises:
      JaxnnError: no run folder, no pictures, or one that cannot be read.
    """
    if not config.images:
        raise JaxnnError("predict: got no pictures; expected RUN IMAGE.png [...]")
    enable_compile_cache()
    run = load_run(config.run)
    if tuple(run.facts.in_shape) != (28, 28):
        raise JaxnnError(
            f"{run.folder} was trained on inputs {run.facts.in_shape}; pictures can be "
            "read for 28x28 networks only"
        )
    x = np.stack([read_digit(path) for path in config.images])
    outputs = predict(run.net, run.params, run.state, x, seeds=run.config.seeds > 1)
    chance = probabilities(outputs, run.config)
    if run.config.seeds > 1:
        chance = chance.mean(0)
    print(_table(config.images, chance))
    return chance


def _table(paths: Sequence[Path], chance: np.ndarray) -> str:
    width = max(len("picture"), *(len(str(p)) for p in paths))
    classes = "".join(f"{c:>7}" for c in range(chance.shape[-1]))
    lines = [f"{'picture':<{width}}  reads  {classes}"]
    for path, row in zip(paths, chance, strict=True):
        shares = "".join(f"{100 * p:6.1f}%" for p in row)
        lines.append(f"{path!s:<{width}}  {row.argmax():>5}  {shares}")
    return "\n".join(lines)
