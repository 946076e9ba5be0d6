"""From a bad step to its origin: two ways of looking at a replay of it."""

import re
from functools import partial
from typing import Any

import jax
import numpy as np

from jaxnn.guard.finding import Finding, counts, likely_cause, value_range
from jaxnn.guard.layers import Spot, layer_spot
from jaxnn.guard.trace import Origin, is_bad, trace_origin

SCOPES = {"fwd": "forward", "bwd": "backward"}


def locate_nonfinite(
    step: Any,
    ts: Any,
    x: Any,
    y: Any,
    key: Any,
    *,
    epoch: int = 1,
    number: int = 1,
    seed: int = 0,
    rows: Any = None,
    grad_norms: Any = (),
) -> Finding | None:
    """The first value of a training step that is not finite, and where it was made.

    Args:
      step: made by `make_step`.
      ts: the `TrainState` before the step (of one network).
      x: the step's batch.
      y: its targets.
      key: the run's key, as the step was given it.
      epoch: for the report.
      number: of the step in its epoch, for the report.
      seed: for the report.
      rows: row numbers of the batch in the training data, for the report.
      grad_norms: of the steps before, for the report.

    Returns:
      The finding, None if everything in the step is finite.
    """
    origin = _traced(step, ts, x, y, key)
    spot = _by_layers(step, ts, x, y, key)
    if origin is None and spot is None:
        spot = _too_large(step, ts, x, y, key)
    if origin is not None:
        value, given = origin.output, origin.inputs
    elif spot is not None:
        value, given = spot.value, spot.given
    else:
        return None
    part, layer = _place(origin, spot)
    if part == "data" and spot is not None:
        value = spot.value
    found = Finding(
        epoch=epoch,
        step=number,
        seed=seed,
        part=part,
        layer=layer,
        op=origin.op if origin is not None and part != "data" else "",
        line=origin.line if origin is not None and part != "data" else "",
        inputs=value_range(given),
        lr=_learning_rate(ts.opt),
        grad_norms=[float(n) for n in np.asarray(grad_norms)[-20:]],
        agree=_agree(origin, spot),
        cause=likely_cause(part, origin, spot),
        **counts(np.asarray(value)),
    )
    return _with_samples(found, value, x, y, rows)


def _traced(step, ts, x, y, key) -> Origin | None:
    """Path one; None if this JAX's internals have moved, path two still stands."""
    try:
        return trace_origin(step.everything, ts, x, y, key, roots=lambda out: out)
    except (AttributeError, KeyError, TypeError, ValueError, NotImplementedError):
        return None


def _by_layers(step, ts, x, y, key) -> Spot | None:
    """Path two: the data, the layers forward, the loss, back, the rest of the step."""
    folded = jax.random.fold_in(key, ts.step)
    params, seen, target, weights, key_net = step.prepare(ts, x, y, folded)
    loss = step.loss if weights is None else partial(step.loss, weights=weights)
    spot = layer_spot(step.net, loss, params, ts.state, seen, target, key_net)
    if spot is not None:
        return spot
    given = tuple(map(np.asarray, jax.tree.leaves(ts.params)))
    if step.penalty is not None:
        for made in jax.tree.leaves(step.penalty(ts.params)):
            if is_bad(made):
                return Spot("regulariser", "", np.asarray(made), given)
    for made in jax.tree.leaves(step.everything(ts, x, y, key)[-1]):
        if is_bad(made):
            return Spot("update", "", np.asarray(made), given)
    return None


def _too_large(step, ts, x, y, key) -> Spot | None:
    """The gradient whose square overflows though it does not itself, if one does."""
    _, grads, _, _ = step.everything(ts, x, y, key)
    largest, where = 0.0, None
    for path, g in jax.tree_util.tree_leaves_with_path(grads):
        size = float(np.abs(np.asarray(g, np.float64)).max(initial=0))
        if size > largest:
            largest, where = size, (path, np.asarray(g))
    if where is None:
        return None
    path, g = where
    widest = np.finfo(np.promote_types(g.dtype, np.float32)).max
    if largest * np.sqrt(g.size) < np.sqrt(widest):
        return None
    leaf = jax.tree_util.keystr(path, simple=True, separator="/")
    return Spot("backward", f"parameter {leaf}", g, (g,))


def _place(origin, spot) -> tuple[str, str]:
    """(part of the step, layer), from the operation's scopes or from the layers."""
    if spot is not None and spot.part == "data":
        return "data", ""
    part, layer = scope_place(origin.scope) if origin is not None else ("", "")
    if not part:
        part = spot.part if spot is not None else "forward"
    if not layer and spot is not None and spot.part == part:
        layer = spot.layer
    return part, layer


def scope_place(scope: str) -> tuple[str, str]:
    """("backward", "1 mlp > 3 dense(10)") of "bwd/1_mlp/bwd/3_dense(10)"."""
    part, layers = "", []
    for match in re.finditer(
        r"(?<![\w])(fwd|bwd)/(\d+)_([^/]*)|(?<![\w])(data|loss|regulariser|update)(?![\w])",
        scope,
    ):
        if match[4]:
            part, layers = match[4], []
            continue
        part = SCOPES[match[1]]
        layers.append(f"{match[2]} {match[3]}")
    return part, " > ".join(layers)


def _agree(origin, spot) -> bool:
    if origin is None or spot is None:
        return True
    part, layer = scope_place(origin.scope)
    return part == spot.part and (not layer or not spot.layer or layer == spot.layer)


def _learning_rate(opt) -> float | None:
    """The rate that an optimiser keeps in its state (inject_hyperparams), if any."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(opt):
        if "learning_rate" in jax.tree_util.keystr(path):
            return float(leaf)
    return None


def _with_samples(found, value, x, y, rows):
    """The rows of the batch whose values are bad, if some are and others are not."""
    rows = np.arange(len(x)) if rows is None else np.asarray(rows)
    labels = np.asarray(y.target if hasattr(y, "target") else y)
    value, batch = np.asarray(value), len(rows)
    bad = None
    raw = np.asarray(x)
    if np.issubdtype(raw.dtype, np.floating) and not np.isfinite(raw).all():
        bad = ~np.isfinite(raw.reshape(batch, -1)).all(-1)
    elif value.ndim and value.shape[0] == batch:
        bad = ~np.isfinite(value.reshape(batch, -1).astype(np.float64)).all(-1)
    elif value.ndim > 1 and value.shape[1] == batch:  # time first
        wide = np.moveaxis(value, 1, 0).reshape(batch, -1).astype(np.float64)
        bad = ~np.isfinite(wide).all(-1)
    if bad is not None and bad.any() and not (bad.all() and batch > 1):
        found.samples = [int(r) for r in rows[bad]]
        found.labels = [np.asarray(v).tolist() for v in labels[bad]]
    return found
