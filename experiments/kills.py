"""kill -9 at random moments: does a run that is resumed end with the same bits?

Question: of 30 runs killed once each, at a random moment (about one in six while it
starts and compiles, the others at a share of its steps drawn evenly, and up to 50 ms
later), how many end, resumed, with exactly the parameters, optimizer state and history
of a run that nobody killed?

    python -m experiments.kills        about 5 minutes on 2 cores

Expected: all of them, 0 bits different, and no file that is read half-written.
"""

import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from experiments.common import Line, main, record, verdicts
from jaxnn.data import load
from jaxnn.train import Snapshots, fit
from jaxnn.train.checkpoint import save_params

STEPS = 100  # of an epoch


@dataclass(frozen=True)
class Args:
    """Settings."""

    kills: int = 30  # Runs, each killed once
    epochs: int = 6  # Of each run
    every: int = 40  # Steps between two snapshots; an epoch has 100
    seed: int = 0  # Of the moments


def train(args: Args, data, folder: Path) -> None:
    """One run from where `folder` stands to its end; what it learned in end.npz."""
    import optax

    from jaxnn import mlp
    from jaxnn.app.compile_cache import enable_compile_cache

    enable_compile_cache()
    net = mlp([784, 30, 10], normalize=True, drop_rate=0.1)
    history = fit(
        net, (data.train.x[:12800], data.train.y[:12800]), epochs=args.epochs,
        validation=(data.validation.x[:1000], data.validation.y[:1000]),
        optimizer=optax.adam(1e-3), seeds=[0, 1],
        snapshots=Snapshots(folder, every=args.every, resume=True),
    )  # fmt: skip
    rows = [[row["loss"], row["validation_loss"]] for row in history.epochs]
    tree = {"last": history.last, "best": history.params, "rows": np.array(rows)}
    save_params(folder / "end.npz", tree)


def child(args: Args, data, folder: Path, wait: Callable | None = None) -> bool:
    """Train in a process of its own; kill it when `wait()` ends. Whether it was killed.

    It is a copy of this process, in which JAX has not started: importing everything
    thirty times would be most of the time.
    """
    folder.mkdir(exist_ok=True)
    pid = os.fork()
    if pid == 0:
        try:
            train(args, data, folder)
        finally:
            os._exit(0 if (folder / "end.npz").exists() else 1)
    if wait is not None:
        wait()
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status)


def until(args: Args, folder: Path, moment: float, later: float) -> None:
    """Wait until a share `moment` of the steps is in a snapshot, and `later` seconds.

    Below 0: for -5 * moment seconds from the start.
    """
    begin = time.perf_counter()
    limit = -5 * moment if moment < 0 else 300
    while time.perf_counter() - begin < limit:
        epochs, first = Snapshots(folder, resume=True).newest() or (0, 0)
        done = epochs * STEPS + first
        if moment >= 0 and done and done >= moment * STEPS * args.epochs:
            break
        time.sleep(0.002)
    time.sleep(later)


def contents(folder: Path) -> dict[str, bytes]:
    """Every array of the end, as bytes."""
    with np.load(folder / "end.npz") as file:
        return {name: file[name].tobytes() for name in file.files}


def run(args: Args) -> None:
    data, rng = load("mnist", validation=5000), random.Random(args.seed)
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        child(args, data, root / "warm")  # fills the cache of compiled programs
        child(args, data, root / "whole")
        expected = contents(root / "whole")
        for number in range(args.kills):
            folder, later = root / f"run{number}", rng.uniform(0, 0.05)
            moment = rng.uniform(-0.2, 0.95)
            wait = partial(until, args, folder, moment, later)
            killed = child(args, data, folder, wait)
            newest = Snapshots(folder, resume=True).newest()
            left = len(list(folder.glob(".*.tmp")))
            child(args, data, folder)
            same = contents(folder) == expected
            found.append({"at": moment, "killed": killed, "resumed_from": newest,
                          "half_written_left": left, "same_bits": same})  # fmt: skip
            verdict = "same bits" if same else "DIFFERENT"
            print(
                f"{number + 1:>3}: killed at {moment:5.2f} of the run, resumed from "
                f"{newest}: {verdict}",
                flush=True,
            )
            shutil.rmtree(folder)
    good = sum(one["same_bits"] for one in found)
    resumed = sum(one["resumed_from"] is not None for one in found)
    values = {"runs": found, "same_bits": good,
              "killed_in_time": sum(one["killed"] for one in found),
              "resumed_from_a_snapshot": resumed}  # fmt: skip
    path = record("kills", args, values)
    verdicts(
        Line("killed in time", values["killed_in_time"], args.kills),
        Line("end with the bits of the run that nobody killed", good, args.kills),
        percent=False,
    )
    print(
        f"{resumed} had a snapshot to continue from, the others were killed before the "
        f"first.\nEach run is in {path}."
    )


if __name__ == "__main__":
    main(Args, run)
