"""The main job in numbers: accuracy over seeds, and how long a newcomer waits.

Questions: how accurate is `jaxnn train` with its defaults over 5 seeds? How long does
one such run take from a cold and from a warm compilation cache? Does Nielsen's first
network (784-30-10, sigmoid, quadratic cost, SGD eta 3, batch 10, 30 epochs) reach the
95% of his book? What of [784, 30, 30, 10], and is a network trained beside seven others
by vmap the network it would have been alone?

    python -m experiments.mnist            about 6 minutes

Accuracy is always on all 10,000 test images, once, with the parameters that were best
on validation. Expected: default at least 98.4%, Nielsen 94.5 to 95.7%.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from experiments.common import RESULTS, at, main, record, spread
from jaxnn import mlp
from jaxnn.data import load
from jaxnn.files import read_json
from jaxnn.train import fit


@dataclass(frozen=True)
class Args:
    """Settings."""

    seeds: int = 5  # Seeds of every claim on accuracy


def measured(words: list[str], cache: Path) -> dict:
    """Run `jaxnn train WORDS` as a user would; what of its result is a claim."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "jaxnn.cli", "train", *words, "--out", str(out)],
            env=os.environ | {"XDG_CACHE_HOME": str(cache)},
            check=True,
        )
        wall = time.perf_counter() - start
        result = read_json(out / "result.json")
        if not words:  # README shows it
            (RESULTS / "mnist").mkdir(parents=True, exist_ok=True)
            shutil.copy(out / "adversarial.png", RESULTS / "mnist")
    attacked = result["adversarial"]
    attacks = ("fgsm_0.1", "pgd40_0.1", "margin_pgd40_0.1", "worst")
    agreed = ("float32_max_relative", "float64_max_relative", "passed")
    return {
        "command": "jaxnn train " + " ".join(words),
        "accuracy_percent": spread([100 * a for a in result["test_accuracy"]]),
        **{k: result[k] for k in ("test_images", "epochs", "parameters")},
        "seconds": result["seconds"] | {"wall": wall},
        "gradients": {k: result["gradients"][k] for k in agreed},
        "adversarial": attacked
        | {"mean": {name: float(np.mean(attacked[name])) for name in attacks}},
    }


def vmap_is_alone(dtype: str, epochs: int = 1) -> dict:
    """Largest differences between a seed trained among 8 and the same seed alone.

    float64 tells whether they are the same computation; in float32 they are too, but
    products are summed in another order, and training amplifies the rounding.
    """
    data, net = load("mnist"), mlp([784, 128, 10])
    options = {
        "optimizer": optax.adam(1e-3), "epochs": epochs, "validation": data.validation,
        "dtype": dtype,
    }  # fmt: skip
    found: dict[str, list[float]] = {"parameter": [], "loss": [], "accuracy": []}
    with jax.enable_x64(dtype == "float64"):
        together = fit(net, data.train, seeds=list(range(8)), **options)
        for seed in range(8):
            alone = fit(net, data.train, seeds=seed, **options)
            mine, other = at(together.last.params, seed), alone.last.params
            gaps = jax.tree.map(lambda a, b: float(abs(a - b).max()), mine, other)
            found["parameter"].append(max(jax.tree.leaves(gaps)))
            a, b = together.epochs[-1], alone.epochs[-1]
            for name in ("loss", "accuracy"):
                key = f"validation_{name}"
                found[name].append(abs(a[key][seed] - b[key]))
    return {f"max_{name}_difference": max(gap) for name, gap in found.items()} | {
        "epochs": epochs
    }


def run(args: Args) -> None:
    seeds = ["--seeds", str(args.seeds)]
    commands: dict[str, list[str]] = {
        "one_seed_cold_cache": [], "one_seed_warm_cache": [], "default": seeds,
        "nielsen": ["--recipe", "nielsen", *seeds],
        # with the first chapter's own start, N(0, 1): a seed may never learn one digit
        "nielsen_chapter_1": ["--recipe", "nielsen", "--init", "normal", *seeds],
        "two_small_layers": ["--layers", "30", "30", "--epochs", "8", *seeds],
    }  # fmt: skip
    values: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as cache:
        for name, words in commands.items():
            values[name] = measured(words, Path(cache))
    values["vmap_is_alone"] = {
        dtype: vmap_is_alone(dtype) for dtype in ("float32", "float64")
    }
    record("mnist", args, values)


def table(result: dict) -> list[list[str]]:
    rows = [
        ["network", "test accuracy, all 10,000 images", "seeds", "command", "seconds"]
    ]
    for name, title in (
        ("default", "default"),
        ("nielsen", "Nielsen's 784-30-10"),
        ("nielsen_chapter_1", "the same, weights from N(0, 1)"),
        ("two_small_layers", "784-30-30-10"),
    ):
        found = result["values"][name]
        a = found["accuracy_percent"]
        rows.append([
            title, f"{a['mean']:.2f}% +- {a['std']:.2f}",
            f"{a['n']}: " + ", ".join(f"{v:.1f}" for v in a["values"]),
            f"`{found['command']}`", f"{found['seconds']['wall']:.0f}",
        ])  # fmt: skip
    return rows


if __name__ == "__main__":
    main(Args, run)
