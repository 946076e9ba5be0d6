"""Objects that `fit(callbacks=[...])` calls: they see parameters, and can stop it.

    stopping = EarlyStopping("validation_loss", patience=3)
    fit(net, data, validation=held, callbacks=[stopping, CSVLog("curves.csv")])

One of your own is a `Callback` with any of its three methods:

    class Halve(Callback):
        def on_epoch(self, row, run):
            if row["loss"] < 0.1:
                run.stop("good enough")
"""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np

from jaxnn.errors import JaxnnError, lookup, need, require
from jaxnn.files import write_text
from jaxnn.train.checkpoint import save_params


class Callback:
    """What `fit` calls. `run` has `params`, `state`, `net`, `history` and `stop(why)`;
    with several seeds arrays have a leading axis, and numbers in rows are lists."""

    def on_train_start(self, run: Any) -> None:
        """Before the first epoch; a resumed run's rows are in `run.history.epochs`."""

    def on_epoch(self, row: dict, run: Any) -> None:
        """After each epoch, with its row of the history."""

    def on_train_end(self, history: Any) -> None:
        """After the last epoch, and where training was stopped or failed."""


METHODS = ("on_train_start", "on_epoch", "on_train_end")


def check_callbacks(callbacks: Any) -> None:
    """Raise unless each has the methods of a `Callback`."""
    for callback in callbacks:
        methods = (getattr(callback, name, None) for name in METHODS)
        if isinstance(callback, type) or not all(map(callable, methods)):
            raise JaxnnError(
                f"fit: got {getattr(callback, '__name__', type(callback).__name__)} in "
                f"callbacks, expected an object with {', '.join(METHODS)}, as a "
                "jaxnn.train.Callback has; a function goes to on_epoch="
            )


class _Monitor(Callback):
    """The epochs better than all before, by a curve of the history.

    Args:
      monitor: its name; of several seeds their mean.
      min_delta: by how much a better one must be better.
    """

    def __init__(self, monitor: str = "validation_loss", min_delta: float = 0.0):
        require(min_delta >= 0, type(self).__name__, "min_delta", min_delta, ">= 0")
        self.monitor, self.min_delta = monitor, min_delta

    def on_train_start(self, run: Any) -> None:
        self.best, self.epoch = -np.inf, 0
        for row in run.history.epochs:
            self.is_better(row)

    def is_better(self, row: dict) -> bool:
        """Whether this epoch is the best so far; accuracies and R2 shall rise."""
        value = float(np.mean(lookup("curve", self.monitor, row)))
        value = value if self.monitor.endswith(("accuracy", "r2")) else -value
        better = value > self.best + self.min_delta
        if better:
            self.best, self.epoch = value, row["epoch"]
        return better


class EarlyStopping(_Monitor):
    """Stop after `patience` epochs without a better one."""

    def __init__(
        self,
        monitor: str = "validation_loss",
        patience: int = 3,
        min_delta: float = 0.0,
    ):
        super().__init__(monitor, min_delta)
        require(patience >= 1, "EarlyStopping", "patience", patience, "at least 1")
        self.patience = patience

    def on_epoch(self, row: dict, run: Any) -> None:
        if not self.is_better(row) and row["epoch"] - self.epoch >= self.patience:
            run.stop("early stopping")


class Checkpoint(_Monitor):
    """Keep parameters and state in a file, after every epoch or after better ones.

    `jaxnn.load_params(path, {"params": ..., "state": ...})` reads them. To go on after
    a kill, bit for bit, see `fit(snapshots=...)`.

    Args:
      path: with {epoch} in it each has a file of its own, else it is overwritten.
      monitor: only epochs better by this curve; None: every epoch.
    """

    def __init__(self, path: str | Path, monitor: str | None = None):
        super().__init__(monitor or "epoch")
        self.path, self.every = str(path), monitor is None

    def on_epoch(self, row: dict, run: Any) -> None:
        if self.every or self.is_better(row):
            path = self.path.format(epoch=row["epoch"])
            tree = {"params": run.params, "state": run.state}
            save_params(path, tree, {"epoch": row["epoch"]})


class CSVLog(Callback):
    """Write the history to a .csv file, whole after every epoch; a column a seed."""

    def __init__(self, path: str | Path):
        self.path = path

    def on_epoch(self, row: dict, run: Any) -> None:
        rows = [scalars(row) for row in run.history.epochs]
        text = io.StringIO()
        table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
        write_text(self.path, text.getvalue())


class TensorBoard(Callback):
    """Write the curves for TensorBoard (the package tensorboardX)."""

    def __init__(self, folder: str | Path):
        need("tensorboard", "tensorboardX")
        from tensorboardX import SummaryWriter

        self.writer = SummaryWriter(str(folder))

    def on_epoch(self, row: dict, run: Any) -> None:
        for name, value in scalars(row).items():
            self.writer.add_scalar(name, value, row["epoch"])

    def on_train_end(self, history: Any) -> None:
        self.writer.close()


class WandB(Callback):
    """Log the curves to Weights & Biases; `settings` are those of `wandb.init`."""

    def __init__(self, **settings: Any):
        need("wandb")
        import wandb

        self.logged = wandb.init(**settings)

    def on_epoch(self, row: dict, run: Any) -> None:
        self.logged.log(scalars(row), step=row["epoch"])

    def on_train_end(self, history: Any) -> None:
        self.logged.finish()


def scalars(row: dict) -> dict[str, float]:
    """A row with a number of each seed, `loss_0`, `loss_1`, in place of a list."""
    found = {}
    for name, value in row.items():
        many = enumerate(value) if isinstance(value, list) else ()
        found |= {f"{name}_{i}": v for i, v in many} or {name: value}
    return found
