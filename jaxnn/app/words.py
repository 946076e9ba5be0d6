"""What a run says on the screen."""

from typing import Any

import jax
import numpy as np

from jaxnn import __version__
from jaxnn.app.config import TrainConfig
from jaxnn.data import Dataset
from jaxnn.environment import device


def heading(config: TrainConfig, data: Dataset, mesh: Any = None) -> str:
    """Versions, data and plan of the run, before it begins."""
    spread = ""
    if mesh is not None:
        count = jax.process_count()
        spread = f", on {mesh.size} devices" + (
            f" of {count} processes" if count > 1 else ""
        )
    size = "x".join(map(str, data.train.x.shape[1:]))
    steps = len(data.train.x) // config.batch
    seeds = f", {config.seeds} seeds side by side" if config.seeds > 1 else ""
    return (
        f"jaxnn {__version__}, jax {jax.__version__} on {device()}\n"
        f"data           {data.name}: {len(data.train.x):,} training, "
        f"{len(data.validation.x):,} validation, {len(data.test.x):,} test images "
        f"{size}, {data.classes} classes\n"
        f"training       {config.epochs} epochs of {steps} steps, batch "
        f"{config.batch}, {config.optimizer}, lr {config.lr:g}, {config.schedule} "
        f"schedule{seeds}{spread}\n"
    )


def say_accuracy(result: dict) -> None:
    """Print the test accuracy and which parameters it is of; also when quiet.

    What makes it worthless comes first.
    """
    for problem in result["problems"]:
        print(f"FAILED         {problem}")
    mean, n, spread = 100 * result["mean"], result["n"], 100 * result["std"]
    seeds = f" +- {spread:.2f} ({n} seeds)" if n > 1 else ""
    epochs = sorted(set(np.atleast_1d(result["best_epoch"]).tolist()))
    which = f"of epoch {epochs[0]}" if len(epochs) == 1 else f"of epochs {epochs}"
    config = result["config"]
    selected = config["validation"] and config["keep"] == "best"
    chosen = ", best on validation" if selected else ""
    stopped = "" if result["stopped"] == "finished" else f"; {result['stopped']}"
    print(
        f"test accuracy  {mean:.2f}%{seeds} of all {result['test_images']:,} test "
        f"images (parameters {which}{chosen}{stopped})"
    )


def attack_line(result: dict) -> str:
    """Accuracy under attack, with the threat model and the images in numbers."""
    found = result["adversarial"]
    total = result["test_images"]
    sample = (
        f"all {total:,} test images"
        if found["sample"] == "all"
        else f"a {found['sample']} of {found['images']:,} of {total:,} test images"
    )
    steps, epsilon = found["steps"], found["epsilon"]
    fgsm, pgd, margin, worst = (
        f"{100 * np.mean(found[key]):.1f}%"
        for key in (
            f"fgsm_{epsilon:g}", f"pgd{steps}_{epsilon:g}",
            f"margin_pgd{steps}_{epsilon:g}", "worst",
        )
    )  # fmt: skip
    lost = np.sum(found["not_attacked"])
    lost = f"; {lost:,} NOT ATTACKED, their gradient is NaN" if lost else ""
    return (
        f"{worst} still right in the worst case: FGSM {fgsm}, PGD-{steps} {pgd}, on "
        f"the margin {margin} (every pixel within {epsilon:g} of [0, 1], "
        f"{sample}){lost}"
    )


def time_line(seconds: dict) -> str:
    """Where the time went."""
    return (
        f"{seconds['total']:.1f} s: import {seconds['import']:.1f}, compile "
        f"{seconds['compile']:.1f}, train {seconds['train']:.1f}"
    )
