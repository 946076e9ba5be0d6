"""Sixty-four networks: one compiled program, or one run after the other?

Question: how much sooner is a grid of lr x l2 x seed done as a sweep, and is each of
its networks the one that a run by itself would have given?

    python -m experiments.sweep_speed            about 4 minutes on 2 cores

784-30-10, four learning rates, four strengths of l2, four seeds; both ways train,
validate after each epoch and keep the best parameters, in this process, without a
cache of compiled programs. A run by itself compiles its own program, for its settings
are constants in it. Expected: at least 3 times the throughput, one compile for each
shape, and the same networks but for rounding, which large learning rates blow up.
"""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.common import Line, main, record, verdicts
from jaxnn.app.build import build, facts_of
from jaxnn.app.config import TrainConfig
from jaxnn.app.points import Group, grouped, sweep_points, train_group
from jaxnn.app.sweep import MAX_PARALLEL
from jaxnn.app.train import train_in
from jaxnn.data import load


@dataclass(frozen=True)
class Args:
    """Settings."""

    lr: tuple[float, ...] = (5e-4, 1e-3, 2e-3, 4e-3)  # Learning rates of Adam
    l2: tuple[float, ...] = (0.0, 1e-5, 1e-4, 1e-3)  # Strengths of the penalty
    seeds: int = 4  # Networks of each setting
    epochs: int = 4  # Times through the 55,000 training images


def side_by_side(points: list, data: Any, facts: Any) -> tuple[dict, float, int]:
    """Accuracy of each point as the sweep trains it, seconds, programs compiled."""
    start, programs, found = time.perf_counter(), {}, {}
    (group,) = grouped(points)
    size = MAX_PARALLEL.get(jax.default_backend(), len(points))
    for at in range(0, len(points), size):
        part = Group(group.values, group.points[at : at + size], group.traced)
        history = train_group(part, data, facts, programs=programs)
        best = np.atleast_1d(history.best_epoch)
        for i, point in enumerate(part.points):
            row = history.epochs[int(best[i]) - 1]
            found[point.number] = row["validation_accuracy"][i]
    return found, time.perf_counter() - start, len(programs)


def in_turn(points: list, data: Any, facts: Any) -> tuple[dict, float, float]:
    """Accuracy of each point run by itself, seconds, seconds without compiling."""
    start, trained, found = time.perf_counter(), 0.0, {}
    with tempfile.TemporaryDirectory() as folder:
        for point in points:
            history, error = train_in(Path(folder), build(point.config, facts, data))
            assert error is None
            trained += history.seconds["train"]
            row = history.epochs[history.best_epoch - 1]
            found[point.number] = row["validation_accuracy"]
            if point.number % 16 == 15:
                print(f"  {point.number + 1} of {len(points)} run", flush=True)
    return found, time.perf_counter() - start, trained


def run(args: Args) -> None:
    jax.config.update("jax_enable_compilation_cache", False)  # compiling is measured
    data = load("mnist")
    facts = facts_of(data)
    base = TrainConfig(
        layers=("30",), epochs=args.epochs, seeds=args.seeds, quiet=True,
        keep_checkpoints=0,
    )  # fmt: skip
    axes = {"lr": list(args.lr), "l2": list(args.l2)}
    points = sweep_points(base, axes, None)
    side_by_side(points[:1], data, facts)  # warm-up of both ways
    in_turn(points[:1], data, facts)
    together, swept, compiles = side_by_side(points, data, facts)
    print(f"{len(points)} side by side: {swept:.0f} s, {compiles} compiles", flush=True)
    alone, turned, trained = in_turn(points, data, facts)
    print(f"{len(points)} in turn: {turned:.0f} s, {trained:.0f} s of them training")
    print("\nlr, validation accuracy side by side and alone, largest difference")
    rows = {}
    for lr in args.lr:
        mine = [p.number for p in points if p.config.lr == lr]
        rows[f"{lr:g}"] = row = {
            "side_by_side": float(np.mean([together[n] for n in mine])),
            "alone": float(np.mean([alone[n] for n in mine])),
            "largest_difference": float(max(abs(together[n] - alone[n]) for n in mine)),
        }
        print(f"  {lr:<8g}" + "  ".join(f"{100 * v:.2f}%" for v in row.values()))
    gap = abs(float(np.mean(list(together.values())) - np.mean(list(alone.values()))))
    values = {
        "points": len(points), "sweep_seconds": swept, "in_turn_seconds": turned,
        "in_turn_training_seconds": trained, "throughput": turned / swept,
        "against_training_alone": trained / swept, "compiles": compiles,
        "by_lr": rows, "expected": verdicts(
            Line("throughput of the sweep / runs in turn", turned / swept, 3.0),
            Line("programs compiled", compiles, high=1),
            Line("mean accuracy, difference in points", 100 * gap, high=0.2),
            percent=False,
        ),
    }  # fmt: skip
    record("sweep_speed", args, values)


if __name__ == "__main__":
    main(Args, run)
