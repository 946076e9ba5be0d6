"""How soon is a network right on 99.0, 99.5 and 99.7% of MNIST's test images?

Question: how many seconds pass from the first touch of the pixels, which lie in memory
as bytes, to the last parameter, until the *mean* accuracy over the seeds is the target?

    python -m experiments.ladder                      30 seeds, for 99.7% 10
    python -m experiments.ladder --targets 99.0       one rung
    python -m experiments.ladder --search             the same on validation images

The clock holds everything in between: the pixels' mean and deviation, making the
network, drawing its start, the copy to the device, compiling, training. Two columns:
with compiling, where nothing was compiled before and no cache is read, and without. All
60,000 training images are trained on, none is looked at before the clock, nothing is
chosen by the test images, which are measured once, after it.

Recipes are those of `jaxnn train --recipe NAME`, found on validation images alone:
`--search` measures one there. For 99.0 half-size images with a small convolutional
network were the cheapest that reached it; wider, deeper and larger batches cost more
than they gained. Half-size images end below 99.5: there the first layer has a stride
instead and learns what to keep, nothing is padded, as the border is black, and the
max-pooling stands before the batch norm, which then has a quarter to do. The last rung
has the same network, wider, with more epochs and larger shifts; it is not reached yet.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import jax

from experiments.common import main, record, spread
from jaxnn import programs
from jaxnn.app.build import DataFacts, build
from jaxnn.app.config import RECIPES, TrainConfig
from jaxnn.data import Dataset, load, pixel_statistics
from jaxnn.data.datasets import Split
from jaxnn.errors import lookup
from jaxnn.train import evaluate, fit

TARGETS = {
    "99.0": ("mnist-99.0", 30), "99.5": ("mnist-99.5", 30), "99.7": ("mnist-99.7", 10),
}  # fmt: skip
"""Percent -> recipe, seeds."""


@dataclass(frozen=True)
class Args:
    """Settings."""

    targets: tuple[str, ...] = tuple(TARGETS)  # Rungs to climb
    seeds: int | None = None  # Networks for each in turn; none: 30, and 10 for 99.7
    images: int | None = None  # Training images; none: all
    seconds: float | None = None  # A rung begins no further seed after so many
    search: bool = False  # Measure on the last 10,000 training images instead


def climb(config: TrainConfig, data: Dataset) -> dict[str, Any]:
    """Train one network against the clock, then measure it: accuracy and seconds."""
    programs.release()  # each seed compiles
    start = time.perf_counter()
    x, y = data.train
    facts = DataFacts(x.shape[1:], data.classes, *pixel_statistics(x))
    e = build(config, facts, data)
    history = fit(
        e.net, x, y, loss=e.loss, optimizer=e.optimizer, epochs=config.epochs,
        batch=config.batch, seeds=config.seed, **e.options,
    )  # fmt: skip
    params, state = jax.block_until_ready((history.params, history.state))
    seconds = time.perf_counter() - start
    found = evaluate(e.net, params, state, *data.test, loss=e.loss)
    return {
        "seed": config.seed,
        "percent": 100 * float(found.accuracy),
        "seconds": seconds,
        "seconds_without_compiling": seconds - history.seconds["compile"],
    }


def rung(target: str, args: Args) -> Iterator[dict[str, Any]]:
    """Climb to one target: after each seed all so far, and if their mean reaches it."""
    name, seeds = lookup("target", target, TARGETS)
    data = load("mnist", validation=0)
    if args.search:
        x, y = data.train
        data = data._replace(
            train=Split(x[:-10_000], y[:-10_000]), test=Split(x[-10_000:], y[-10_000:])
        )
    data = data._replace(train=Split(*(a[: args.images] for a in data.train)))
    rows, begun = [], time.perf_counter()
    for seed in range(seeds if args.seeds is None else args.seeds):
        if seed and args.seconds and time.perf_counter() - begun > args.seconds:
            break
        rows.append(climb(replace(RECIPES[name], seed=seed), data))
        print(
            "{seed:>3}  {percent:.2f}%  {seconds:.1f} s, without compiling "
            "{seconds_without_compiling:.1f} s".format(**rows[-1]),
            flush=True,
        )
        columns = {k: spread(row[k] for row in rows) for k in rows[0] if k != "seed"}
        reached = columns["percent"]["mean"] >= float(target)
        facts = {"recipe": name, "reached": reached, "images": len(data.train.x)}
        yield facts | {"rows": rows} | columns


def measure(args: Args, save: bool = False) -> dict[str, Any]:
    """Every target asked for; a rung is saved after each of its seeds."""
    jax.config.update("jax_enable_compilation_cache", False)  # compiling is measured
    kind, found = f"{'search-' * args.search}{jax.default_backend()}", {}
    try:
        for target in args.targets:
            for value in rung(target, args):
                found[target] = value
                if save:
                    name = f"ladder-{target}-{kind}"
                    record(name, args, {target: value}, module="ladder")
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
    return found


def run(args: Args) -> None:
    for target, found in measure(args, save=True).items():
        print(
            f"{target}%: {found['recipe']}, {found['percent']['mean']:.2f}% in "
            f"{found['seconds_without_compiling']['mean']:.1f} s without compiling, "
            f"{'reached' if found['reached'] else 'NOT reached'}"
        )


if __name__ == "__main__":
    main(Args, run)
