"""A convolutional network on MNIST in minutes, and a larger one that votes.

Questions: how accurate is `jaxnn train --recipe cnn` over 3 seeds, each trained alone,
and how long does one take? What does it gain that the three vote? And how far does the
larger recipe get, with more channels and three times the epochs?

    python -m experiments.cnn                           about 7 minutes
    python -m experiments.cnn --recipe cnn-large        about 40 minutes

Both recipes: 3x3 convolutions with batch norm and relu, two max-poolings, the mean over
the image, one dense layer; digits rotated, scaled, sheared and shifted anew in each
epoch; Adam on a one-cycle schedule; a moving average of the parameters is what is
validated and tested. Accuracy is on all 10,000 test images, once. Expected: at least
99.4% (cnn).
"""

import tempfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from experiments.common import conclude, main, spread
from jaxnn import plots
from jaxnn.app.config import RECIPES
from jaxnn.app.folder import load_run
from jaxnn.app.train import train_run
from jaxnn.data import load
from jaxnn.errors import lookup
from jaxnn.train import predict


@dataclass(frozen=True)
class Args:
    """Settings."""

    recipe: str = "cnn"  # cnn or cnn-large
    seeds: int = 3  # Networks trained, one after the other; then they vote


def run(args: Args) -> None:
    lookup("recipe", args.recipe, {"cnn": 0, "cnn-large": 0})
    x, y = load("mnist").test
    results, chances = [], []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(args.seeds):
            out = Path(folder) / str(seed)
            config = replace(RECIPES[args.recipe], seed=seed, attack_images=0, out=out)
            results.append(train_run(config))
            net = load_run(out)
            outputs = predict(net.net, net.params, net.state, x)
            chances.append(net.probabilities(outputs))
    vote = np.mean(chances, 0)
    seconds = [r["seconds"] for r in results]
    values = {
        "recipe": args.recipe,
        "accuracy_percent": spread([100 * r["test_accuracy"][0] for r in results]),
        "vote_accuracy_percent": 100 * float((vote.argmax(-1) == y).mean()),
        "vote_misread": np.flatnonzero(vote.argmax(-1) != y).tolist(),
        "test_images": len(y),
        "epochs": results[0]["epochs"],
        "parameters": results[0]["parameters"],
        "train_seconds": spread([s["train"] for s in seconds]),
        "total_seconds": spread([s["total"] for s in seconds]),
        "gradients": [
            {k: r["gradients"][k] for k in ("float64_max_relative", "passed")}
            for r in results
        ],
    }
    name = args.recipe.replace("-", "_")
    accuracy = values["accuracy_percent"]
    print(
        f"\n{args.recipe}: {accuracy['mean']:.2f}% +- {accuracy['std']:.2f} of "
        f"{len(y):,}, {values['total_seconds']['mean']:.0f} s each; "
        f"voting {values['vote_accuracy_percent']:.2f}%"
    )
    conclude(
        name, args, values, {"misread.png": partial(plots.mistakes, x, y, vote)},
        "The digits that three voting networks misread, worst first.", module="cnn",
    )  # fmt: skip


if __name__ == "__main__":
    main(Args, run)
