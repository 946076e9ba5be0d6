"""A run's whole state on disk, so that a kill costs an epoch at most, and no bit.

A snapshot is one .npz file without pickle: the train state, the best parameters so far
and the keys as arrays, the history and what the guard and early stopping count as JSON.
The order of the data follows from seed and epoch and needs no saving. Files are written
beside the training, by a thread, under a temporary name that is renamed at the end.
"""

import re
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.distributed.data import same_everywhere
from jaxnn.errors import JaxnnError
from jaxnn.train.checkpoint import load_meta, load_params, save_params
from jaxnn.train.state import float_type

KIND = "snapshot"


class Snapshots:
    """Where a run keeps its snapshots, and how many of them.

    Args:
      folder: made if missing.
      keep: the last so many are kept, and that of the best epoch so far.
      every: also within an epoch, after so many steps; None: after each epoch.
      resume: continue from the newest one in `folder`, if there is one. The
        continuation is that of the uninterrupted run, bit for bit on the same
        processor, if `fit` is called with the same arguments; `epochs` may be more, and
        the mesh another one.

    Raises:
      JaxnnError: `folder` holds snapshots and `resume` is False; bad settings.
    """

    def __init__(
        self,
        folder: str | Path,
        keep: int = 2,
        every: int | None = None,
        resume: bool = False,
    ):
        self.folder, self.keep, self.every = Path(folder), keep, every
        self.resume = resume
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

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        try:
            self._wait()
        except JaxnnError:
            if error is None:  # else what went wrong first is what counts
                raise
        finally:
            self.thread.shutdown()

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
            tree, meta = _packed(run, epoch, first, parts)
            best = _best_epoch(run.history.rows)
            self.writing = self.thread.submit(
                self._write, epoch, first, tree, meta, best
            )

    def restore(self, run: Any) -> tuple[int, int, list]:
        """Bring `run` where the newest snapshot stands; says where, as `save` was told.

        Raises:
          JaxnnError: the snapshot is damaged, of a newer format, or of another run.
        """
        newest = self.newest() if self.resume else None
        if self.resume and not same_everywhere(newest or (0, 0)):
            raise JaxnnError(
                f"snapshots: not all processes see the same ones in {self.folder}; it "
                "must be on a file system that they share"
            )
        if newest is None:
            return 0, 0, []
        for stale in self.folder.glob(".snapshot-*.tmp"):  # of a killed writer
            stale.unlink(missing_ok=True)
        path = self.path(*newest)
        meta = load_meta(path)
        if meta.get("kind") != KIND:
            raise JaxnnError(
                f"{path} is not a snapshot: it holds parameters only, and not what is "
                "needed to resume"
            )
        _check(path, meta["run"], _facts(run))
        like = _arrays(run)
        tree = load_params(path, jax.tree.map(_plain, like))
        _unpack(run, jax.tree.map(_as_it_was, tree, like), meta)
        parts = [{k: np.array(v, kind) for k, (kind, v) in meta["metrics"].items()}]
        return meta["epoch"], meta["first"], parts if meta["first"] else []

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


def _arrays(run) -> dict[str, Any]:
    return {"train": run.ts, "best": run.keep.tree, "keys": run.keys}


def _packed(run, epoch, first, parts):
    """The tree of host arrays and the JSON that make up a snapshot."""
    metrics = {
        name: np.concatenate([np.asarray(part[name]) for part in parts])
        for name in (parts[0] if parts else ())
    }
    keep = run.keep
    meta = {
        "kind": KIND,
        "run": _facts(run),
        "epoch": epoch,
        "first": first,
        "rows": run.history.rows,
        "metrics": {k: (v.dtype.name, v.tolist()) for k, v in metrics.items()},
        "best": {
            "score": keep.score.tolist(),
            "epoch": keep.epoch.tolist(),
            "stopped": keep.stopped.tolist(),
        },
        "guard": run.guard.saved(),
    }
    # A copy, not a view: the next call takes the state's memory.
    tree = jax.tree.map(lambda a: np.array(_plain(a)), _arrays(run))
    return tree, meta


def _unpack(run, tree, meta):
    run.ts, run.keep.tree = tree["train"], tree["best"]
    run.keep.score = np.array(meta["best"]["score"], float)
    run.keep.epoch = np.array(meta["best"]["epoch"], int)
    run.keep.stopped = np.array(meta["best"]["stopped"], bool)
    run.history.rows[:] = meta["rows"]
    run.guard.restore(meta["guard"])


def _facts(run) -> dict[str, Any]:
    """What a continuation must share with the run that it continues."""
    x, y = run.x, jax.tree.leaves(run.y)
    rows = slice(None, None, max(len(x) // 1000, 1))  # a sample: all take 50 ms
    crc = 0
    for a in (x, *y):
        crc = zlib.crc32(np.ascontiguousarray(np.asarray(a)[rows]).data, crc)
    return {
        "seeds": [int(seed) for seed in run.seeds],
        "side by side": run.many,
        "order": "own" if run.own_order else "shared",
        "batch": run.batch,
        "guard": run.guard.policy,
        "dtype": jnp.dtype(float_type(run.ts.params)).name,
        "training inputs": [len(x), *x.shape[1:], x.dtype.name],
        "training data": f"crc32 {crc:08x}",
    }


def _check(path, found, wanted):
    for name, value in wanted.items():
        if found.get(name) != value:
            raise JaxnnError(
                f"{path} is a snapshot of another run: {name} is {found.get(name)} "
                f"there and {value} here; resume with the settings and data it was "
                "made with"
            )


def _is_key(a) -> bool:
    return jnp.issubdtype(a.dtype, jax.dtypes.prng_key)


def _plain(a):
    """Keys as their numbers; everything else as it is."""
    return jax.random.key_data(a) if _is_key(a) else a


def _as_it_was(a, like):
    """Array `a` of a file as the run has it: a key again, and where `like` lies."""
    if _is_key(like):
        a = jax.random.wrap_key_data(a, impl=jax.random.key_impl(like))
    sharding = getattr(like, "sharding", None)
    if sharding is None or len(sharding.device_set) == 1:
        return a
    return jax.device_put(a, sharding)


def _best_epoch(rows) -> int:
    """The epoch with the best mean validation, the last one without validation."""
    if not rows or "validation_loss" not in rows[-1]:
        return len(rows)
    accuracy = np.array([np.mean(row["validation_accuracy"]) for row in rows])
    loss = np.array([np.mean(row["validation_loss"]) for row in rows])
    return rows[int(np.argmax(np.where(np.isnan(accuracy), -loss, accuracy)))]["epoch"]
