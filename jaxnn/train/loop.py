"""One call of `fit` under way: its programs, its epochs, its guard."""

import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from jaxnn import programs
from jaxnn.distributed.data import Spread, agreed, host_array
from jaxnn.distributed.processes import came
from jaxnn.train.average import evaluated
from jaxnn.train.defense import standard_training
from jaxnn.train.engine import batch_order, scan_seeds, scan_steps
from jaxnn.train.evaluation import evaluate
from jaxnn.train.guarding import Guard, GuardStopError, TrainingError
from jaxnn.train.inputs import check_targets
from jaxnn.train.keep import Best, interruptible
from jaxnn.train.scaling import first_scale, is_half
from jaxnn.train.state import TrainState, Weighted, float_type, init_state


@dataclass
class History:
    """What `fit` returns.

    With several seeds, numbers in `rows` are lists and arrays have a leading axis.

    Attributes:
      rows: one dict an epoch: `epoch`, `loss` and `grad_norm` (means over the steps
        that were sound), `skipped` (bad steps left out), without a guard `taken` (bad
        steps all the same taken), `seconds`, and `validation_loss`,
        `validation_accuracy` where there is a validation set.
      params: the best parameters by validation, the last ones without; those of the
        moving average where one is kept (`fit(ema=...)`).
      state: the network state that belongs to `params`.
      last: the whole `TrainState` at the end.
      best_epoch: epoch of `params`, counted from 1.
      stopped: "finished", "early stopping", "interrupted", "diverged" or "guard".
      findings: what the guard located, see `jaxnn.guard.Finding`.
      seconds: `compile` (tracing and compiling the programs that initialise and
        train), `train`, and `first_step_at`, the `time.perf_counter()` of the moment
        when the first step could start.
    """

    params: Any
    state: Any
    last: TrainState
    best_epoch: Any
    rows: list[dict] = field(default_factory=list)
    stopped: str = "finished"
    seconds: dict[str, float] = field(default_factory=dict)
    findings: list = field(default_factory=list)


class Run:
    """The moving parts of one call of `fit`."""

    def __init__(
        self, net, loss, step, x, y, validation, seeds, order, batch, guard, mesh=None
    ):
        self.net, self.loss, self.step = net, loss, step
        self.spread = None if mesh is None else Spread(mesh, batch)
        where = jnp.asarray if mesh is None else host_array
        self.x, self.y = where(x), jax.tree.map(where, y)
        self.validation = validation
        self.many = not isinstance(seeds, (int, np.integer))
        self.seeds = list(seeds) if self.many else [seeds]
        self.own_order, self.batch = order == "own", batch
        policy, max_bad = guard
        self.guard = Guard(policy, max_bad, self.seeds, self.many)
        self.takes_all = policy == "off"
        self.programs: dict[tuple[int, bool], Any] = {}
        self.compile_seconds, self.first_step_at = 0.0, 0.0

    def start(self, optimizer, dtype, ema=False, defense=None):
        """Initialise the states, one a seed."""
        half = is_half(dtype)
        dtype = None if half else dtype
        self._check_labels()
        defense = defense or standard_training
        self.replays = defense.replays

        def init(key):
            shape = self.x.shape[1:]
            ts = init_state(self.net, optimizer, shape, key, dtype, ema=ema)
            kept = defense.memory((self.batch, *shape), float_type(ts.params))
            return ts._replace(memory=kept, scaling=first_scale() if half else ())

        keys = jnp.stack([jax.random.key(s) for s in self.seeds])
        self.keys = keys if self.many else keys[0]
        start = time.perf_counter()
        shape = self.batch, *self.x.shape[1:]
        key = self.step.key and (self.step.key, shape, str(dtype), half)
        init = jax.vmap(init) if self.many else init
        self.ts = programs.ahead(key, init, self.keys)(self.keys)
        if self.spread is not None:
            self.ts, self.keys = self.spread.replicate((self.ts, self.keys))
        jax.block_until_ready(self.ts)
        self.compile_seconds += time.perf_counter() - start

    def _check_labels(self):
        """Labels must be among the network's outputs; found by shapes, not by NaN."""
        out = []
        jax.eval_shape(
            lambda key: out.append(self.net.init(key, self.x.shape[1:])[2]) or (),
            jax.random.key(0),
        )
        y = self.y.target if isinstance(self.y, Weighted) else self.y
        check_targets("fit: data", y, out[0], self.loss)
        if self.validation is not None:
            check_targets("fit: validation", self.validation[1], out[0], self.loss)

    def order(self, epoch) -> np.ndarray:
        """The epoch's batches, (steps, batch), or (steps, S, batch) of own orders."""
        if self.own_order:
            seeds = self.seeds
            orders = [batch_order(len(self.x), self.batch, epoch, s) for s in seeds]
            order = np.stack(orders, 1) if self.many else orders[0]
        else:
            order = batch_order(len(self.x), self.batch, epoch)
        return np.repeat(order, self.replays, 0)

    @property
    def together(self) -> bool:
        """Whether a step that is bad for one seed is taken by none, then done again."""
        guarded = self.guard.policy != "off" and not self.guard.watching
        whole = self.spread is None and self.ts.scaling == ()
        return self.many and guarded and whole

    def program(self, order):
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
            step = step.remade(watch_update=True)
        if self.spread is not None:
            return self.spread.program(step, self.many, *given)
        scan = partial(scan_steps, step)
        if self.many:
            scan = partial(scan_seeds, step, together=self.together)
        key = step.key and (step.key, self.many, self.together)
        return programs.ahead(key, scan, *given, donate_argnums=0)

    def train(
        self, epochs, patience, choose, steps_per_call, progress, on_epoch,
        snapshots=None,
    ):  # fmt: skip
        """All epochs, until one of the reasons to stop; see `jaxnn.train.fit`."""
        self.keep = Best(self.ts, len(self.seeds), self.many, patience)
        history = self.history = History(*evaluated(self.ts), self.ts, 0)
        self.snapshots = snapshots
        with snapshots or nullcontext():  # entered first: it is locked for others
            done, at, parts = snapshots.restore(self) if snapshots else (0, 0, [])
            self.begun: tuple[int, list] = at, parts
            self._all_epochs(done, epochs, choose, steps_per_call, progress, on_epoch)
        return history

    def _all_epochs(self, done, epochs, choose, steps_per_call, progress, on_epoch):
        keep, history, snapshots = self.keep, self.history, self.snapshots
        start, compiled = time.perf_counter(), self.compile_seconds
        with (
            interruptible() as interrupted,
            tqdm(total=epochs, initial=done, unit="epoch", disable=not progress) as bar,
        ):
            try:
                for epoch in range(done + 1, epochs + 1):
                    if keep.exhausted():
                        history.stopped = "early stopping"
                        break
                    row = self.epoch(epoch, steps_per_call, interrupted)
                    if row is None:
                        history.stopped = "interrupted"
                        break
                    keep.offer(epoch, row, self.ts)
                    history.rows.append(row)
                    self.guard.look_at_evaluation(self, row, epoch)
                    if snapshots is not None:
                        snapshots.save(self, epoch)
                    bar.update()
                    bar.set_postfix_str(describe(row))
                    if on_epoch is not None:
                        on_epoch(row)
                    if agreed(interrupted.is_set()):
                        history.stopped = "interrupted"
                        break
                if history.stopped == "finished" and keep.exhausted():
                    history.stopped = "early stopping"
                if history.stopped != "interrupted":
                    steps = len(self.x) // self.batch * self.replays
                    self.guard.finish(history, len(history.rows) * steps)
            except GuardStopError:
                history.stopped = "guard"
            except TrainingError as error:
                history.stopped, error.history = "diverged", history
                raise
            finally:
                self._finish(history, keep if choose else None, start, compiled)

    def _finish(self, history, keep, start, compiled):
        if self.spread is not None:
            self.ts = self.spread.local(self.ts)
            self.keep.tree = self.spread.local(self.keep.tree)
        history.last, history.findings = self.ts, self.guard.findings
        best = keep.best() if keep else (evaluated(self.ts), len(history.rows))
        (history.params, history.state), history.best_epoch = best
        compiling = self.compile_seconds - compiled
        history.seconds = {
            "compile": self.compile_seconds,
            "train": time.perf_counter() - start - compiling,
            "first_step_at": self.first_step_at or start,
        }

    def epoch(self, epoch, steps_per_call, interrupted) -> dict | None:
        """Run one epoch; None if it was interrupted before its end."""
        start, compiled = time.perf_counter(), self.compile_seconds
        order, (begin, parts) = self.order(epoch), self.begun
        self.begun = 0, []
        every = self.snapshots and self.snapshots.every
        size = min(steps_per_call or len(order), every or len(order), len(order))
        for first in range(begin, len(order), size):
            rows = order[first : first + size]
            parts.append(self._call(rows, epoch, first))
            end = first + size
            if end < len(order):
                if self.snapshots and every and end // every > first // every:
                    self.snapshots.save(self, epoch - 1, end, parts)
                if agreed(interrupted.is_set()):
                    return None
        metrics = {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
        compiling = self.compile_seconds - compiled
        seconds = time.perf_counter() - start - compiling
        return self._row(epoch, metrics, seconds)

    def _call(self, rows, epoch, first):
        """Run the program on some batches, again if the guard wants it done again."""
        came()
        while True:
            program = self.program(rows)  # compiled before the state is copied
            self.guard.copy(self.ts)
            self.ts, metrics = program(self.ts, self.x, self.y, rows, self.keys)
            metrics = jax.tree.map(np.asarray, metrics)
            held_up = self.together and not metrics["ok"].all()
            if self.guard.spoilt(self.ts, held_up):
                self.ts = self.guard.before
                continue
            if self.guard.look(self, metrics, epoch, first, rows):
                return metrics

    def _row(self, epoch, metrics, seconds):
        ok = metrics["ok"]
        row = {"epoch": epoch}
        for name in ("loss", "grad_norm"):
            good = np.where(ok, metrics[name], 0).astype(np.float64).sum(0)
            with np.errstate(invalid="ignore"):
                row[name] = (good / ok.sum(0)).tolist()
        bad = (~ok).sum(0)
        row["skipped"] = (bad * (not self.takes_all)).tolist()
        if self.takes_all:
            row["taken"] = bad.tolist()
        if "rescaled" in metrics:
            row["rescaled"] = metrics["rescaled"].sum(0).tolist()
        if self.validation is not None:
            found = evaluate(
                self.net,
                *evaluated(self.ts),
                *self.validation,
                loss=self.loss,
                seeds=self.many,
                spread=self.spread,
            )
            row["validation_loss"] = found.loss.tolist()
            row["validation_accuracy"] = found.accuracy.tolist()
        return row | {"seconds": round(seconds, 4)}


def describe(row: dict) -> str:
    """One short line about an epoch, means over seeds."""
    text = f"loss {np.mean(row['loss']):.4f}"
    if "validation_loss" in row:
        accuracy = float(np.mean(row["validation_accuracy"]))
        text += (
            f"  validation {np.mean(row['validation_loss']):.4f}"
            if np.isnan(accuracy)
            else f"  validation {100 * accuracy:.2f}%"
        )
    text += f"  gradient norm {np.mean(row['grad_norm']):.3f}"
    for what in ("skipped", "taken"):
        if count := int(np.sum(row.get(what, 0))):
            text += f"  {count} bad steps {what}"
    return text
