"""Does a run survive bad steps?

Question: (1) if 1% of the batches of an MNIST run are poisoned by one image of NaN,
does `skip` reach the accuracy of the same run without? (2) With a learning rate 100
times too large, does `rollback` reach 97% without help, and what do the others reach?
(3) What becomes of training in float16 with a loss scale that adapts?

    python -m experiments.guard_recovery        about 10 minutes

784-128-10, Adam at 1e-3 or SGD at 0.1, each 100 times as much in (2), falling by a
cosine, 4 epochs, seeds side by side; accuracy on all 10,000 test images, tested once,
with the epoch best on validation.
Expected: (1) within 0.2 percentage points; (2) at least 97%; (3) within 0.2 points.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import Line, main, record, spread, verdicts
from jaxnn import evaluate, fit, mlp
from jaxnn.data import load
from jaxnn.optimizers import OPTIMIZERS, optimizer_by_name
from jaxnn.train import TrainingError

GAP, GOAL = 0.002, 0.97


@dataclass(frozen=True)
class Args:
    """Settings."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)  # Networks trained side by side
    epochs: int = 4  # Of each run
    width: int = 128  # Hidden units
    too_large: float = 100.0  # How many times the usual rate the second part takes


def poison(share: float) -> Any:
    """An augmentation that makes one image of a batch NaN, in that share of batches."""

    def augment(key, x):
        hit = jax.random.uniform(key) < share
        first = jnp.arange(len(x)).reshape(-1, *[1] * (x.ndim - 1)) == 0
        return jnp.where(hit & first, jnp.nan, x)

    return augment


def train(data, args: Args, name: str = "adam", times: float = 1.0, **options) -> dict:
    """Test accuracies of a run, and what the guard did."""
    net = mlp([784, args.width, 10], normalize=True)
    steps = len(data.train.x) // 128 * args.epochs
    optimizer = optimizer_by_name(name, times * OPTIMIZERS[name][1], "cosine", steps)
    seeds = list(args.seeds)
    try:
        history = fit(
            net, data.train, validation=data.validation, epochs=args.epochs,
            optimizer=optimizer, seeds=seeds, **options,
        )  # fmt: skip
        stopped = history.stopped
    except TrainingError as error:
        history, stopped = error.history, "error"
    found = evaluate(net, history.params, history.state, *data.test, seeds=True)
    rows = history.epochs
    return spread(found.accuracy) | {
        "stopped": stopped,
        "steps_left_out": np.sum([row["skipped"] for row in rows], 0).tolist(),
        "rescaled": np.sum([row.get("rescaled", 0) for row in rows], 0).tolist(),
        "slowed_to": np.asarray(getattr(history.last.opt, "scale", 1.0)).tolist(),
        "findings": [found.to_json() for found in history.findings],
    }


def run(args: Args) -> None:
    data = load("mnist")
    poisoned, much = poison(0.01), args.too_large
    runs = {
        "sound": train(data, args),
        "1% poisoned, skip": train(data, args, augment=poisoned),
        "1% poisoned, off": train(data, args, augment=poisoned, guard="off"),
        "float16, loss scaled": train(data, args, dtype="float16"),
    }
    for name in ("adam", "sgd"):
        for guard in ("skip", "rollback"):
            found = train(data, args, name, much, guard=guard)
            runs[f"{name}, lr x {much:g}, {guard}"] = found
    for name, found in runs.items():
        each = ", ".join(f"{100 * a:.2f}" for a in found["values"])
        print(f"{name:<22} {100 * found['mean']:6.2f}%  ({each})  {found['stopped']}")
    sound = runs["sound"]["mean"]
    gaps = {
        name: runs[name]["mean"] - sound
        for name in ("1% poisoned, skip", "float16, loss scaled")
    }
    rolled = [found for name, found in runs.items() if "rollback" in name]
    mean, worst = min(f["mean"] for f in rolled), min(min(f["values"]) for f in rolled)
    print(f"rollback, worst seed {100 * worst:.2f}%")
    verdicts(
        *(Line(f"{n}, against sound", gap, -GAP, GAP) for n, gap in gaps.items()),
        Line("rollback, mean", mean, GOAL),
    )
    values = {"runs": runs, "gaps": gaps, "rollback_worst": worst}
    record("guard_recovery", args, values)


if __name__ == "__main__":
    main(Args, run)
