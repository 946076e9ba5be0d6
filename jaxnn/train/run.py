"""One call of `fit` under way: its programs, its epochs, its guard, its best."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn import programs
from jaxnn.distributed.mesh import DataParallel, agreed, host_array, tick
from jaxnn.errors import lookup
from jaxnn.text import bar, html
from jaxnn.train.engine import batch_order, scan_seeds, scan_steps, seeds_axes
from jaxnn.train.evaluate import evaluate
from jaxnn.train.policy import Guard, GuardStopError, TrainingError, chosen
from jaxnn.train.state import TrainState, Weighted, continued, evaluated


@dataclass(repr=False)
class History:
    """What `fit` returns; `history["loss"]` is one of its curves, a value an epoch.

    With several seeds, numbers in `epochs` are lists and arrays have a leading axis.

    Attributes:
      epochs: one dict each: `epoch`, `loss` and `grad_norm` (means over the steps
        that were finite), `skipped` (bad steps left out), without a guard `taken` (bad
        steps all the same taken), `seconds`, and `validation_loss`,
        `validation_accuracy` (of a regression `validation_mae`, `validation_r2`) where
        there is a validation set, `training_accuracy` where it was asked for.
      params: the best parameters by validation, the last ones without; those of the
        moving average where one is kept (`fit(ema=...)`).
      state: the network state that belongs to `params`.
      last: the whole `TrainState` at the end.
      best_epoch: epoch of `params`, counted from 1.
      stopped: "finished", "early stopping", "interrupted", "diverged" or "guard", or
        why a callback stopped it.
      findings: what the guard located, see `jaxnn.guard.Finding`.
      seconds: `compile` (tracing and compiling the programs that initialize and
        train), `train`, and `first_step_at`, the `time.perf_counter()` of the moment
        when the first step could start.
    """

    params: Any
    state: Any
    last: TrainState
    best_epoch: Any
    epochs: list[dict] = field(default_factory=list)
    stopped: str = "finished"
    seconds: dict[str, float] = field(default_factory=dict)
    findings: list = field(default_factory=list)

    def __getitem__(self, name: str) -> list:
        """One column of `epochs`."""
        names = {key: key for row in self.epochs for key in row}
        return [row[lookup("curve", name, names)] for row in self.epochs]

    def plot(self, path: Any = None, dpi: int | None = None) -> Any:
        """Draw loss, accuracy and gradient norm; see `jaxnn.plots`."""
        from jaxnn.plots.run import curves  # matplotlib, only where one is drawn

        return curves(self.epochs, path, dpi=dpi)

    def __repr__(self) -> str:
        last = describe(self.epochs[-1]) if self.epochs else "nothing trained"
        best = f"; parameters of epoch {self.best_epoch}" if self.epochs else ""
        return f"<History: {len(self.epochs)} epochs, {self.stopped}; {last}{best}>"

    def _repr_html_(self) -> str:
        names = list(self.epochs[0]) if self.epochs else []
        rows = [[f"{np.mean(row[n]):.5g}" for n in names] for row in self.epochs]
        return html(names, rows, f"{self!r}".strip("<>"))


class BestEpoch:
    """The best parameters so far (of their moving average, if there is one), for each
    seed by itself, and whether it has run out of patience."""

    def __init__(self, ts, seeds, multi_seed, patience):
        self.patience, self.multi_seed = patience, multi_seed
        self.tree = jax.tree.map(jnp.copy, evaluated(ts))
        self.score = np.full(seeds, -np.inf)
        self.epoch = np.zeros(seeds, int)
        self.stopped = np.zeros(seeds, bool)

    def update(self, epoch: int, row: dict, ts: TrainState) -> None:
        """Keep the parameters of `ts` for those seeds that `row` says are better."""
        if "validation_loss" not in row:
            return
        loss = np.atleast_1d(row["validation_loss"])
        accuracy = np.atleast_1d(row.get("validation_accuracy", np.nan))
        score = np.where(np.isnan(accuracy), -loss, accuracy)
        # outputs that are NaN have a label all the same, and may hit it
        score = np.where(np.isnan(loss), -np.inf, score)
        # A seed that ran out of patience stays as it would be had it run alone.
        better = (score > self.score) & ~self.stopped
        self.score = np.where(better, score, self.score)
        self.epoch = np.where(better, epoch, self.epoch)
        if self.patience is not None:
            self.stopped |= epoch - self.epoch >= self.patience
        if better.all():  # copied, as the step will be given the arrays themselves
            self.tree = jax.tree.map(jnp.copy, evaluated(ts))
        elif better.any():
            self.tree = chosen(better, evaluated(ts), self.tree)

    def should_stop(self) -> bool:
        """Whether every seed has run out of patience."""
        return bool(self.stopped.all())

    def best(self):
        """((params, state), epoch) of the best, an epoch a seed if there are many."""
        return self.tree, (self.epoch if self.multi_seed else self.epoch[0]).tolist()


class Run:
    """The moving parts of one call of `fit`, whose arguments these are.

    `data` is (x, y), y `Weighted` if samples have weights.
    """

    def __init__(
        self, step, data, validation, seeds, batch, *, shuffle="shared", guard="skip",
        max_bad_steps=10, mesh=None, metrics=None, train_sample=0, callbacks=(),
    ):  # fmt: skip
        self.step, self.net, self.batch = step, step.net, batch
        self.parallel = None if mesh is None else DataParallel(mesh, batch)
        where = jnp.asarray if mesh is None else host_array
        self.x, self.y = jax.tree.map(where, tuple(data))
        self.metrics, self.callbacks = metrics or {}, tuple(callbacks)
        x, y = data
        y = y.target if isinstance(y, Weighted) else y
        rows = np.random.default_rng(0).permutation(len(x))[:train_sample]
        self.sample = (np.asarray(x)[rows], np.asarray(y)[rows]) if len(rows) else None
        self.why = ""  # a callback wants it to stop
        self.validation = validation
        self.multi_seed = not isinstance(seeds, (int, np.integer))
        self.seeds = list(seeds) if self.multi_seed else [seeds]
        self.shuffle = shuffle
        self.replays = 1 if step.defense is None else step.defense.replays
        self.guard = Guard(guard, max_bad_steps, self.seeds, self.multi_seed)
        self.programs: dict[tuple[int, bool], Any] = {}
        self.compile_seconds, self.first_step_at = 0.0, 0.0
        self.first_epoch = 0  # of what an earlier run has trained

    def start(self, dtype: Any = None, begin: Any = None) -> None:
        """Initialize the states, one a seed; from `begin` if given, see `continued`."""
        keys = jnp.stack([jax.random.key(s) for s in self.seeds])
        self.keys = keys if self.multi_seed else keys[0]
        began, shape = time.perf_counter(), (self.batch, *self.x.shape[1:])
        init: Callable = partial(self.step.start, shape, dtype=dtype)
        init = jax.vmap(init) if self.multi_seed else init
        key = self.step.key and (self.step.key, shape, str(dtype))
        self.ts = programs.ahead(key, init, self.keys)(self.keys)
        if begin is not None:
            self.ts = continued(self.ts, begin)
        rows = getattr(begin, "epochs", ())
        self.first_epoch = rows[-1]["epoch"] if rows else 0
        if self.parallel is not None:
            self.ts, self.keys = self.parallel.replicate((self.ts, self.keys))
        jax.block_until_ready(self.ts)
        self.compile_seconds += time.perf_counter() - began

    def order(self, epoch: int) -> np.ndarray:
        """The epoch's batches, (steps, batch), or (steps, S, batch) of own orders."""
        if self.shuffle == "per-seed":
            seeds = self.seeds
            orders = [batch_order(len(self.x), self.batch, epoch, s) for s in seeds]
            order = np.stack(orders, 1) if self.multi_seed else orders[0]
        else:
            order = batch_order(len(self.x), self.batch, epoch)
        return np.repeat(order, self.replays, 0)

    def local(self, tree: Any) -> Any:
        """`tree` of the run on one device."""
        return tree if self.parallel is None else self.parallel.local(tree)

    @property
    def params(self) -> Any:
        """The parameters as they are now; of the moving average, if one is kept."""
        return evaluated(self.local(self.ts))[0]

    @property
    def state(self) -> Any:
        """The network's state that belongs to `params`."""
        return evaluated(self.local(self.ts))[1]

    def stop(self, why: str = "stopped by a callback") -> None:
        """End training after this epoch; the history's `stopped` says why."""
        self.why = why

    @property
    def all_or_nothing(self) -> bool:
        """Whether a step that is bad for one seed is taken by none, then done again."""
        guarded = self.guard.policy != "off" and not self.guard.watching
        whole = self.parallel is None and self.ts.scaling == ()
        return self.multi_seed and guarded and whole

    def clock(self) -> float:
        """The time in seconds, which stands still while programs are compiled."""
        return time.perf_counter() - self.compile_seconds

    def program(self, order: np.ndarray) -> Any:
        """The compiled epoch; compiled ahead of time, so a second compile is an error
        rather than a surprise."""
        which = len(order), self.guard.watching
        if which not in self.programs:
            start = time.perf_counter()
            self.programs[which] = self._compiled(order)
            self.compile_seconds += time.perf_counter() - start
            self.first_step_at = self.first_step_at or time.perf_counter()
        return self.programs[which]

    def _compiled(self, order):
        given, step = (self.ts, self.x, self.y, order, self.keys), self.step
        if self.guard.watching:
            step = replace(step, watch_update=True)
        if self.parallel is not None:
            one = jax.vmap(step, seeds_axes(order)) if self.multi_seed else step
            return self.parallel.program(one, *given)
        scan = partial(scan_steps, step)
        if self.multi_seed:
            scan = partial(scan_seeds, step, all_or_nothing=self.all_or_nothing)
        key = step.key and (step.key, self.multi_seed, self.all_or_nothing)
        return programs.ahead(key, scan, *given, donate_argnums=0)

    def train(
        self, epochs: int, *, patience: int | None = None, choose: bool = False,
        steps_per_call: int | None = None, progress: bool = False,
        on_epoch: Callable[[dict], None] | None = None, snapshots: Any = None,
    ) -> History:  # fmt: skip
        """Run all epochs, until one of the reasons to stop; see `jaxnn.train.fit`.

        With `choose` the history has the best parameters by validation, else the last.
        """
        self.stopping = BestEpoch(self.ts, len(self.seeds), self.multi_seed, patience)
        self.history = History(*evaluated(self.ts), self.ts, 0)
        self.snapshots, self.steps_per_call = snapshots, steps_per_call
        with snapshots or nullcontext():  # entered first: it is locked for others
            done, at, parts = snapshots.restore(self) if snapshots else (0, 0, [])
            if not self.history.epochs and not at:
                done = self.first_epoch
            epochs += self.first_epoch
            self.begun: tuple[int, list] = at, parts
            for callback in self.callbacks:
                callback.on_train_start(self)
            start = self.clock()
            with (
                _interruptible() as interrupted,
                bar(total=epochs, initial=done, unit="epoch", disable=not progress)
                as shown,
            ):  # fmt: skip
                try:
                    self._all_epochs(done, epochs, on_epoch, interrupted, shown)
                except GuardStopError:
                    self.history.stopped = "guard"
                except TrainingError as error:
                    self.history.stopped, error.history = "diverged", self.history
                    raise
                finally:
                    self._end(choose, start)
        return self.history

    def _all_epochs(self, done, epochs, on_epoch, interrupted, shown):
        history, stopping = self.history, self.stopping
        for epoch in range(done + 1, epochs + 1):
            if stopping.should_stop():
                break
            row = self.epoch(epoch, interrupted)
            if row is not None:
                stopping.update(epoch, row, self.ts)
                history.epochs.append(row)
                self.guard.check_evaluation(self, row, epoch)
                if self.snapshots is not None:
                    self.snapshots.save(self, epoch)
                shown.update()
                shown.set_postfix_str(describe(row))
                if on_epoch is not None:
                    on_epoch(row)
                for callback in self.callbacks:
                    callback.on_epoch(row, self)
            if self.why:
                history.stopped = self.why
                return
            if row is None or agreed(interrupted.is_set()):
                history.stopped = "interrupted"
                return
        if stopping.should_stop():
            history.stopped = "early stopping"
        steps = len(self.x) // self.batch * self.replays
        self.guard.check_trained(history, len(history.epochs) * steps)

    def _end(self, choose, start):
        history, stopping = self.history, self.stopping
        self.ts, stopping.tree = self.local((self.ts, stopping.tree))
        history.last, history.findings = self.ts, self.guard.findings
        reached = history.epochs[-1]["epoch"] if history.epochs else self.first_epoch
        best = stopping.best() if choose else (evaluated(self.ts), reached)
        (history.params, history.state), history.best_epoch = best
        history.seconds = {
            "compile": self.compile_seconds,
            "train": self.clock() - start,
            "first_step_at": self.first_step_at or time.perf_counter(),
        }
        for callback in self.callbacks:
            callback.on_train_end(history)

    def epoch(self, epoch: int, interrupted: threading.Event) -> dict | None:
        """Run one epoch; None if it was interrupted before its end."""
        start, order, (begin, parts) = self.clock(), self.order(epoch), self.begun
        self.begun = 0, []
        every = self.snapshots and self.snapshots.every
        size = min(self.steps_per_call or len(order), every or len(order), len(order))
        for first in range(begin, len(order), size):
            parts.append(self._call(order[first : first + size], epoch, first))
            end = first + size
            if end < len(order):
                if self.snapshots and every and end // every > first // every:
                    self.snapshots.save(self, epoch - 1, end, parts)
                if agreed(interrupted.is_set()):
                    return None
        metrics = {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
        return self._row(epoch, metrics, self.clock() - start)

    def _call(self, rows, epoch, first):
        """Run the program on some batches, again if the guard wants it done again."""
        tick()
        while True:
            program = self.program(rows)  # compiled before the state is copied
            self.guard.copy(self.ts)
            self.ts, metrics = program(self.ts, self.x, self.y, rows, self.keys)
            metrics = jax.tree.map(np.asarray, metrics)
            bad_for_one = self.all_or_nothing and not metrics["ok"].all()
            if self.guard.needs_rerun(self.ts, bad_for_one):
                self.ts = self.guard.before
                continue
            if self.guard.check_steps(self, metrics, epoch, first, rows):
                return metrics

    def _row(self, epoch, metrics, seconds):
        ok = metrics["ok"]
        row = {"epoch": epoch}
        for name in ("loss", "grad_norm"):
            good = np.where(ok, metrics[name], 0).astype(np.float64).sum(0)
            with np.errstate(invalid="ignore"):
                row[name] = (good / ok.sum(0)).tolist()
        bad, taken = (~ok).sum(0), self.step.guard == "off"
        row["skipped"] = (bad * (not taken)).tolist()
        if taken:
            row["taken"] = bad.tolist()
        if "rescaled" in metrics:
            row["rescaled"] = metrics["rescaled"].sum(0).tolist()
        for name, data in ("validation", self.validation), ("training", self.sample):
            if data is not None:
                row |= self._measured(name, data)
        return row | {"seconds": round(seconds, 4)}

    def _measured(self, name, data):
        found = evaluate(
            self.net, *evaluated(self.ts), *data, loss=self.step.loss,
            seeds=self.multi_seed, parallel=self.parallel,
        )  # fmt: skip
        told = {"loss": found.loss} if name == "validation" else {}  # "loss" is there
        told |= found.measures()
        for metric, function in self.metrics.items():
            outputs = found.outputs if self.multi_seed else found.outputs[None]
            values = np.array([float(function(o, data[1])) for o in outputs])
            told[metric] = values if self.multi_seed else values[0]
        return {f"{name}_{key}": value.tolist() for key, value in told.items()}


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; a second one interrupts as usual.

    An exception in the middle of a step would lose the donated state.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event  # only the main thread may set signal handlers
        return
    before = signal.getsignal(signal.SIGINT)

    def handler(number, frame):
        del number, frame
        event.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, handler)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)


def describe(row: dict) -> str:
    """One short line about an epoch, means over seeds."""
    text = f"loss {np.mean(row['loss']):.4f}"
    for name in ("training", "validation"):
        if f"{name}_mae" in row:
            mae, r2 = (np.mean(row[f"{name}_{key}"]) for key in ("mae", "r2"))
            text += f"  {name} MAE {mae:.4g}, R2 {r2:.4f}"
        elif not np.isnan(accuracy := np.mean(row.get(f"{name}_accuracy", np.nan))):
            text += f"  {name} {100 * accuracy:.2f}%"
        elif f"{name}_loss" in row:
            text += f"  {name} {np.mean(row[f'{name}_loss']):.4f}"
    text += f"  gradient norm {np.mean(row['grad_norm']):.3f}"
    for what in ("skipped", "taken"):
        if count := int(np.sum(row.get(what, 0))):
            text += f"  {count} bad steps {what}"
    return text
