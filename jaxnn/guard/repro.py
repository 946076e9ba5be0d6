"""A bad step of a run, found again: from its call, and from a file that anyone has."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.errors import JaxnnError
from jaxnn.guard.locate import MOST, locate_evaluation, locate_nonfinite
from jaxnn.guard.report import Finding
from jaxnn.train.checkpoint import load_meta, load_params, load_shapes, save_params
from jaxnn.train.evaluate import predict
from jaxnn.train.state import NO_LIMIT, Weighted

FEW = 16  # validation rows, bad ones and others, that a search looks into


class Case(NamedTuple):
    """What one step was given.

    Attributes:
      ts: the `TrainState` before it, of one network.
      x: its batch.
      y: its targets, `Weighted` if they have weights.
      key: the run's key.
      about: `epoch`, `number`, `seed`, `rows` and `grad_norms`, for the report.
    """

    ts: Any
    x: Any
    y: Any
    key: Any
    about: dict[str, Any]


def find_in_step(
    run: Any, which: int, epoch: int, number: int, at: int, rows: Any, past: Any
) -> Finding | None:
    """Replay a call of `fit` up to a bad step, then look into that step.

    Args:
      run: the `jaxnn.train.run.Run`, its guard with the state before the call.
      which: of its networks.
      epoch: of the call.
      number: of the step in the epoch, from 1.
      at: the step in the call, from 0.
      rows: of the call's batches.
      past: gradient norms of the steps before.
    """
    guard = run.guard
    start = np.asarray(guard.before.step).reshape(-1)[which]
    # by a copy: the program takes what it is given
    again = jax.tree.map(jnp.copy, guard.before)
    again = again._replace(limit=jnp.full_like(again.limit, start + at))
    ts, _ = run.program(rows)(again, run.x, run.y, rows, run.keys)
    (ts, key), picked = run.local((ts, run.keys)), rows[at]
    if run.multi_seed:
        ts = jax.tree.map(lambda a: a[which], ts)
        key = run.keys[which]
        picked = picked[which] if rows.ndim == 3 else picked
    ts = ts._replace(
        step=jnp.asarray(start + at, jnp.int32), limit=jnp.asarray(NO_LIMIT)
    )
    # by NumPy, which need not compile it
    x, y = jax.tree.map(lambda a: np.asarray(a)[picked], (run.x, run.y))
    about = {
        "epoch": epoch, "number": number, "seed": run.seeds[which], "rows": picked,
        "grad_norms": past,
    }  # fmt: skip
    case = Case(ts, x, y, key, about)
    finding = locate_nonfinite(run.step, *case[:4], **about)
    if finding is not None:
        finding.case = case
    return finding


def find_in_evaluation(run: Any, which: int, epoch: int) -> Finding | None:
    """Look into the first validation rows with a bad output; see `find_in_step`."""
    params, state = run.params, run.state
    if run.multi_seed:
        params, state = jax.tree.map(lambda a: a[which], (params, state))
    x, y = map(np.asarray, run.validation)
    outputs = np.asarray(predict(run.net, params, state, x), np.float64)
    bad = ~np.isfinite(outputs.reshape(len(x), -1)).all(1)
    few = np.concatenate([np.flatnonzero(b)[:FEW] for b in (bad, ~bad)])
    found = locate_evaluation(
        run.net, run.step.loss, params, state, x[few], y[few], epoch, run.seeds[which]
    )
    if found is not None and bad.mean() <= MOST:  # else no row is to blame
        found.samples = np.flatnonzero(bad).tolist()
        found.labels = y[bad].tolist()
    return found


def save_case(path: str | Path, case: Case, **meta: Any) -> None:
    """Write a case as one .npz, whole or not at all; arrays by their names, no pickle.

    Raises:
      JaxnnError: the file cannot be written.
    """
    tree = {"ts": case.ts, "x": case.x, "y": case.y}
    tree["key"] = jax.random.key_data(case.key)
    about = jax.tree.map(lambda a: np.asarray(a).tolist(), case.about)
    save_params(path, tree, {"about": about, **meta})


def load_case(path: str | Path, step: Any) -> Case:
    """Read what `save_case` wrote, for the step it belongs to.

    Raises:
      JaxnnError: no such file, a damaged one, or one of another network or optimizer.
    """
    meta = load_meta(path)
    if "about" not in meta:
        raise JaxnnError(
            f"{path} holds parameters, no bad step; expected repro.npz of a run"
        )
    shapes = load_shapes(path)
    weighted = "y/weights" in shapes and "y/target" in shapes
    if not {"x", "key"} <= shapes.keys() or not (weighted or "y" in shapes):
        raise JaxnnError(f"{path} has no batch, targets or key; it may be damaged")
    like: dict[str, Any] = {"x": shapes["x"], "key": shapes["key"]}
    like["y"] = shapes.get("y")
    if weighted:
        parts: list[Any] = [shapes[f"y/{part}"] for part in Weighted._fields]
        like["y"] = Weighted(*parts)
    shape = shapes["x"].shape
    about = _about(path, meta["about"], shape)
    like["ts"] = jax.eval_shape(lambda: step.start(shape, jax.random.key(0)))
    tree = load_params(path, like)
    try:
        key = jax.random.wrap_key_data(tree["key"])
    except (TypeError, ValueError) as error:
        raise JaxnnError(f"{path} holds no key of JAX: {error}") from error
    return Case(tree["ts"], tree["x"], tree["y"], key, about)


def _about(path, about, shape) -> dict[str, Any]:
    """What a report says of the step, looked through before anything relies on it."""
    try:
        found: dict[str, Any] = {
            name: int(about[name]) for name in ("epoch", "number", "seed")
        }
        found["rows"] = [int(row) for row in about["rows"]]
        found["grad_norms"] = [float(norm) for norm in about["grad_norms"]]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise JaxnnError(
            f"{path} has a record of the step that jaxnn did not write ({error!r})"
        ) from error
    if not shape or len(found["rows"]) != shape[0] or len(found) != len(about):
        raise JaxnnError(
            f"{path}: the record of the step is of {len(found['rows'])} rows, but its "
            f"batch has shape {shape}"
        )
    return found


def replay(path: str | Path, step: Any) -> Finding | None:
    """Run the step of a `repro.npz` again and locate what is bad in it.

    Args:
      path: what `save_case` wrote.
      step: made by `make_step` with the same network, loss and optimizer.

    Returns:
      The finding; None if everything is finite now, so the fault is repaired.
    """
    *args, about = load_case(path, step)
    return locate_nonfinite(step, *args, **about)
