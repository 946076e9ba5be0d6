"""A run's whole state on disk, so that a kill costs an epoch at most, and no bit.

A snapshot is one .npz file without pickle: the train state, the best parameters so far
and the keys as arrays, the history and what the guard and early stopping count as JSON.
The order of the data follows from seed and epoch and needs no saving. Files are written
beside the training, by a thread, under a temporary name that is renamed at the end.
"""

import json
import re
import warnings
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.arrays import is_key
from jaxnn.distributed.mesh import same_everywhere
from jaxnn.errors import JaxnnError
from jaxnn.files import locked, plain
from jaxnn.train.checkpoint import load_meta, load_params, save_params
from jaxnn.train.state import float_type

KIND = "snapshot"
COUNTED = {"score": float, "epoch": int, "stopped": bool}  # by early stopping
NOT_OURS = (
    KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError,
    RecursionError,
)  # fmt: skip
"""What a record raises that is not as it was written."""


class OtherRunError(JaxnnError):
    """A snapshot that is whole, but of another run."""


class Snapshots:
    """Where a run keeps its snapshots, and how many of them.

    Args:
      folder: made if missing; one process at a time may train with it.
      keep: the last so many are kept, and that of the best epoch so far.
      every: also within an epoch, after so many steps; None: after each epoch.
      resume: continue from the newest one in `folder`, if there is one. The
        continuation is that of the uninterrupted run, bit for bit on the same
        processor, if `fit` is called with the same arguments; `epochs` may be more, and
        the mesh another one. Where the newest is damaged an older one is taken, and
        `log` says so.
      settings: plain values that a continuation must share with the run, such as those
        that `fit` was called by.
      restored: called with the history's rows before the first step of a resumed run.
      log: called with what a person should know, a line each; None warns.

    Raises:
      JaxnnError: `folder` holds snapshots and `resume` is False; bad settings.
    """

    def __init__(
        self, folder: str | Path, keep: int = 2, every: int | None = None,
        resume: bool = False, settings: Mapping[str, Any] | None = None,
        restored: Callable[[list[dict]], None] | None = None,
        log: Callable[[str], None] | None = None,
    ):  # fmt: skip
        self.folder, self.keep, self.every = Path(folder), keep, every
        self.resume, self.restored = resume, restored
        # as JSON gives them back
        self.settings = json.loads(json.dumps(plain(dict(settings or {})), default=str))
        self.log = warnings.warn if log is None else log
        self.facts: dict[str, Any] = {}  # of the run: they take a moment
        if keep < 1 or (every is not None and every < 1):
            raise JaxnnError(
                f"snapshots: got keep={keep} and every={every}, expected at least 1"
            )
        if not resume and self.newest() is not None:
            raise JaxnnError(
                f"snapshots: {self.folder} already holds some; resume from them, or "
                "choose another folder"
            )
        self.thread = ThreadPoolExecutor(1, "snapshots")
        self.writing: Future | None = None
        self.held = ExitStack()

    def __enter__(self):
        if jax.process_index() == 0:
            self.held.enter_context(locked(self.folder, "snapshots in"))
        return self

    def __exit__(self, kind, error, trace):
        try:
            self._wait()
        except JaxnnError:
            if error is None:  # else what went wrong first is what counts
                raise
        finally:
            self.thread.shutdown()
            self.held.close()

    def newest(self) -> tuple[int, int] | None:
        """(whole epochs, steps of the next one) of the newest snapshot, if any."""
        return max(self._all(), default=None)

    def path(self, epoch: int, first: int) -> Path:
        """The file of the state after `epoch` epochs and `first` steps of the next."""
        return self.folder / f"snapshot-{epoch:06d}-{first:07d}.npz"

    def save(self, run: Any, epoch: int, first: int = 0, parts: Any = ()) -> None:
        """Write where `run` stands: after `epoch` epochs and `first` further steps.

        Returns at once, with the state copied; `parts` are the metrics of those steps.

        Raises:
          JaxnnError: the snapshot before this one could not be written.
        """
        self._wait()
        if jax.process_index() == 0:
            tree, meta = _packed(run, self._facts(run), epoch, first, parts)
            best = _best_epoch(run.history.epochs)
            self.writing = self.thread.submit(
                self._write, epoch, first, tree, meta, best
            )

    def restore(self, run: Any) -> tuple[int, int, list]:
        """Bring `run` where the newest snapshot stands; says where, as `save` was told.

        Raises:
          JaxnnError: every snapshot is damaged, of a newer format, or of another run.
        """
        found = self._newest_whole(run) if self.resume else None
        if found is not None:
            for stale in self.folder.glob(".snapshot-*.tmp"):  # of a killed writer
                stale.unlink(missing_ok=True)
            _unpack(run, found)
        if self.resume and self.restored is not None:
            self.restored(run.history.epochs)
        if found is None:
            return 0, 0, []
        meta, parts = found.meta, found.metrics
        return meta["epoch"], meta["first"], [parts] if meta["first"] else []

    def _newest_whole(self, run) -> "_Read | None":
        """The newest snapshot that can be read; those that cannot are put aside."""
        there = sorted(self._all(), reverse=True)
        names = zlib.crc32(repr(there).encode()) & 0x7FFFFFFF
        if not same_everywhere(names):
            raise JaxnnError(
                f"snapshots: not all processes see the same ones in {self.folder}; it "
                "must be on a file system that they share"
            )
        found, errors = None, []
        for at in there:
            try:
                found = self._read(at, run)
                break
            except JaxnnError as error:
                errors.append(error)
        if not same_everywhere(len(errors)):
            raise JaxnnError(
                f"snapshots: one in {self.folder} can be read by some of the processes "
                "only; are the settings and data of all the same?"
            )
        if errors and found is None:
            for error in errors[1:]:
                errors[0].add_note(f"nor can an older one be resumed: {error}")
            raise errors[0]
        for at, error in zip(there, errors, strict=False):
            self._put_aside(self.path(*at), error)
        return found

    def _put_aside(self, path, error):
        """Out of the way of the snapshot that will have its name."""
        if jax.process_index() == 0:
            of_another = isinstance(error, OtherRunError)
            aside = path.with_suffix(".npz.other" if of_another else ".npz.damaged")
            path.rename(aside)
            self.log(f"{error}. It is now {aside.name}, and an older one is resumed")

    def _read(self, at, run) -> "_Read":
        """One snapshot, looked through before anything relies on it."""
        path = self.path(*at)
        meta = load_meta(path)
        if meta.get("kind") != KIND:
            raise JaxnnError(
                f"{path} is not a snapshot: it holds parameters only, and not what is "
                "needed to resume"
            )
        try:
            for name, value in self._facts(run).items():
                # a setting that an earlier version did not have says nothing
                earlier = value if name.startswith("setting ") else None
                there = meta["run"].get(name, earlier)
                if there != value:
                    raise OtherRunError(
                        f"{path} is a snapshot of another run: {name} is {there} there "
                        f"and {value} here; resume with the settings and data it was "
                        "made with"
                    )
            metrics = _looked_through(meta, at, run)
        except JaxnnError:
            raise
        except NOT_OURS as error:
            raise JaxnnError(
                f"{path} has a record that jaxnn did not write ({error!r})"
            ) from error
        like = _arrays(run)
        shapes = jax.eval_shape(lambda tree: jax.tree.map(_plain, tree), like)
        tree = load_params(path, shapes, same_dtype=True)

        def as_it_was(a, like):
            kind = jax.random.key_impl(like) if is_key(like) else None
            return a if kind is None else jax.random.wrap_key_data(a, impl=kind)

        return _Read(jax.tree.map(as_it_was, tree, like), meta, metrics)

    def _facts(self, run):
        if not self.facts:
            self.facts = _facts(run) | {
                f"setting {name}": value for name, value in self.settings.items()
            }
        return self.facts

    def _write(self, epoch, first, tree, meta, best):
        save_params(self.path(epoch, first), tree, meta)
        keep = set(sorted(self._all())[-self.keep :]) | {(best, 0)}
        for other in set(self._all()) - keep:
            self.path(*other).unlink(missing_ok=True)

    def _wait(self):
        if self.writing is not None:
            writing, self.writing = self.writing, None
            writing.result()

    def _all(self) -> list[tuple[int, int]]:
        found = (
            re.fullmatch(r"snapshot-(\d+)-(\d+)\.npz", path.name)
            for path in self.folder.glob("snapshot-*.npz")
        )
        return [(int(m[1]), int(m[2])) for m in found if m]


class _Read(NamedTuple):
    """What a snapshot holds: arrays, the record, and the metrics of a begun epoch."""

    tree: dict[str, Any]
    meta: dict[str, Any]
    metrics: dict[str, np.ndarray]


def _arrays(run) -> dict[str, Any]:
    kept = {"train": run.ts, "best": run.stopping.tree, "keys": run.keys}
    if run.guard.policy == "rollback":
        kept["sound"] = run.ts if run.guard.last_good is None else run.guard.last_good
    return kept


def _packed(run, facts, epoch, first, parts):
    """The tree of host arrays and the JSON that make up a snapshot."""
    metrics = {
        name: np.concatenate([np.asarray(part[name]) for part in parts])
        for name in (parts[0] if parts else ())
    }
    meta = {
        "kind": KIND,
        "run": facts,
        "epoch": epoch,
        "first": first,
        "rows": list(run.history.epochs),  # it grows while the thread writes
        "metrics": {k: (v.dtype.name, v.tolist()) for k, v in metrics.items()},
        "best": {name: getattr(run.stopping, name).tolist() for name in COUNTED},
        "guard": run.guard.saved(),
    }
    # A process saves its own copy: the others do not take part in what it computes.
    tree = run.local(_arrays(run))
    # A copy, not a view: the next call takes the state's memory.
    return jax.tree.map(lambda a: np.array(_plain(a)), tree), meta


def _looked_through(meta, at, run) -> dict[str, np.ndarray]:
    """The metrics of a begun epoch; raises if anything of the record is not as it
    was written."""
    seeds, before = len(run.seeds), run.first_epoch
    if (meta["epoch"], meta["first"]) != at or len(meta["rows"]) != at[0] - before:
        raise ValueError(f"it is of epoch {meta['epoch']}, step {meta['first']}")
    for number, row in enumerate(meta["rows"], before + 1):
        numbers = [np.asarray(value, float) for value in row.values()]
        wide = [a for a in numbers if a.shape != ((seeds,) if run.multi_seed else ())]
        if row["epoch"] != number or any(a.ndim for a in wide):
            raise ValueError(f"row {number} of its history is {row}")
        row["loss"], row["grad_norm"], row["skipped"], row["seconds"]
    for name in COUNTED:
        if np.shape(np.asarray(meta["best"][name], float)) != (seeds,):
            raise ValueError(f"best {name} is {meta['best'][name]}")
    run.guard.resumed(meta["guard"])
    metrics = {}
    for name, (kind, values) in meta["metrics"].items():
        metrics[name] = np.array(values, jnp.dtype(kind))
        if metrics[name].shape[0] != at[1] or metrics[name].dtype.hasobject:
            raise ValueError(f"{name} of its begun epoch has other steps")
    if at[1] and not metrics:
        raise ValueError("the metrics of its begun epoch are missing")
    return metrics


def _unpack(run, found):
    tree, meta = found.tree, found.meta
    if run.parallel is not None:
        tree = run.parallel.replicate(tree)
    run.ts, run.keys, run.stopping.tree = tree["train"], tree["keys"], tree["best"]
    run.guard = run.guard.resumed(meta["guard"])
    run.guard.last_good = tree.get("sound")
    for name, kind in COUNTED.items():
        setattr(run.stopping, name, np.array(meta["best"][name], kind))
    run.history.epochs[:] = meta["rows"]


def _facts(run) -> dict[str, Any]:
    """What a continuation must share with the run that it continues."""
    return {
        "seeds": [int(seed) for seed in run.seeds],
        "side by side": run.multi_seed,
        "order": "own" if run.shuffle == "per-seed" else "shared",
        "batch": run.batch,
        "guard": run.guard.policy,
        "dtype": jnp.dtype(float_type(run.ts.params)).name,
        "training inputs": [len(run.x), *run.x.shape[1:], run.x.dtype.name],
        "training data": _checksum((run.x, run.y)),
        "validation data": _checksum(run.validation),
    }


def _checksum(tree) -> str:
    """Of every number: one changed label of a million is another run."""
    crc = 0
    for a in map(np.asarray, jax.tree.leaves(tree)):
        crc = zlib.crc32(f"{a.dtype.name}{a.shape}".encode(), crc)
        crc = zlib.crc32(np.ascontiguousarray(a).reshape(-1).view(np.uint8).data, crc)
    return f"crc32 {crc:08x}"


def _plain(a):
    """Keys as their numbers; everything else as it is."""
    return jax.random.key_data(a) if is_key(a) else a


def _best_epoch(rows) -> int:
    """The epoch with the best mean validation, the last one without validation."""
    if not rows or "validation_loss" not in rows[-1]:
        return len(rows)
    accuracy = [np.mean(row.get("validation_accuracy", np.nan)) for row in rows]
    loss = np.array([np.mean(row["validation_loss"]) for row in rows])
    return rows[int(np.argmax(np.where(np.isnan(accuracy), -loss, accuracy)))]["epoch"]
