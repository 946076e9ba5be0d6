"""From a bad step to its origin: two ways of looking at a replay of it."""

import re
from functools import partial
from typing import Any

import jax
import numpy as np

from jaxnn.guard.finding import Finding, counts, likely_cause, value_range
from jaxnn.guard.layers import Spot, layer_spot
from jaxnn.guard.rate import learning_rate
from jaxnn.guard.samples import MOST, bad_rows, guilty_rows
from jaxnn.guard.trace import Replay, is_bad
from jaxnn.train.step import everything

SCOPES = {"fwd": "forward", "bwd": "backward"}
STEP = ("loss", "grads", "state", "params", "opt")  # what `train.step.everything` gives
ROUNDS = ((("loss", "grads", "state"), "backward"), (("params", "opt"), "update"))
DRAWS = 4  # other random numbers that a step is tried with
MOVED = (AttributeError, KeyError, TypeError, ValueError, NotImplementedError)
"""What a JAX whose internals have moved makes of path one; path two still stands."""


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
    replay, origin, large = _traced(step, ts, x, y, key)
    if replay is not None and origin is None and large is None:
        return None
    spot = layer_spot(step, ts, x, y, key) if large is None else None
    if origin is None and spot is None:
        spot = _too_large(step, large, ts, x, y, key)
    if origin is None and spot is None:
        return None
    part, layer = _place(origin, spot)
    ahead = part == "backward" and origin is not None and _is_forward(origin.scope)
    if spot is not None and (part == "data" or origin is None):
        value, given = spot.value, spot.given
    else:
        assert origin is not None  # one of the two is there
        value, given = origin.output, origin.inputs
    told = origin is not None and (part != "data" or spot is None)
    before = argument_name((ts, x, y, key), origin)
    found = Finding(
        epoch=epoch,
        step=number,
        seed=seed,
        part=part,
        layer=layer,
        op=origin.op if told else "",
        line=origin.line if told else "",
        inputs=value_range(given),
        lr=learning_rate(step.optimizer, ts.opt),
        grad_norms=[float(n) for n in np.asarray(grad_norms)[-20:]],
        agree=_agree(origin, spot),
        turn=origin.turn if told else "",
        cause=likely_cause(part, origin, spot, before, ahead),
        **counts(np.asarray(value)),
    )
    return _with_samples(found, value, replay, (ts, x, y, key), rows)


def _traced(step, ts, x, y, key):
    """(replay, origin, None) or (replay, None, what is too large) by path one.

    First by NumPy, then to the letter if that finds nothing.
    """
    replay = None
    for exact in (False, True):
        try:
            replay = Replay(partial(everything, step), ts, x, y, key, exact=exact)
            origin, large = _searched(replay, ts)
        except MOVED:
            continue
        if origin is not None or large is not None:
            return replay, origin, large
    return replay, None, None


def _searched(replay, ts):
    """In the order of a step: loss, gradients, statistics; then what is made of them.

    Gradients that are too large for their squares go before the update, whose moments
    they spoil.
    """
    for names, part in ROUNDS:
        pick = _picker(names)
        origin = replay.origin(pick)
        if origin is not None:
            return origin, None
        large = _outsized(ts, replay.outputs, part)
        if large is not None:
            return None, large
    return None, None


def _sound(replay, ts):
    """Whether loss, gradients and statistics are finite, and their squares."""
    names, part = ROUNDS[0]
    made = replay.outputs(_picker(names))
    bad = any(is_bad(leaf) for leaf in jax.tree.leaves(made))
    return not bad and _outsized(ts, replay.outputs, part) is None


def _picker(names):
    return lambda out: [out[STEP.index(name)] for name in names]


def _too_large(step, large, ts, x, y, key) -> Spot | None:
    """The gradient or update whose square overflows though it does not itself."""
    if large is None:
        made = everything(step, ts, x, y, key)
        found = (
            _outsized(ts, lambda pick: pick(made), part)
            for part in ("backward", "update")
        )
        large = next((one for one in found if one is not None), None)
    if large is None:
        return None
    part, path, value = large
    return Spot(part, _owner(step.net, path), value, (value,))


def _outsized(ts, outputs, part):
    """(part, path, value) of what is too large for a sum of squares, if anything is."""

    def moved(new, old):
        new, old = np.asarray(new), np.asarray(old)
        return new - old if jax.numpy.issubdtype(new.dtype, np.inexact) else 0 * old

    if part == "backward":
        tree = outputs(lambda out: out[1])
    else:
        tree = jax.tree.map(moved, outputs(lambda out: out[3]), ts.params)
    total, largest = np.zeros((), np.float32), (-1.0, None, None)
    # the backward pass makes the last layer's first
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)[::-1]:
        leaf = np.asarray(leaf)
        wide = np.promote_types(leaf.dtype, np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            square = np.square(leaf.astype(wide)).sum()
            total = total + square
        if square > largest[0]:
            largest = square, path, leaf
        if not np.isfinite(total):
            return part, largest[1], largest[2]
    return None


def _owner(net, path) -> str:
    """The layer whose parameter has this path, as scopes name it."""
    label = ""
    for entry in path:
        index = getattr(entry, "idx", None)
        if index is None or not net.parts or index >= len(net.parts):
            break
        net = net.parts[index]
        label = f"{label} > {index} {net.name}".removeprefix(" > ")
    leaf = jax.tree_util.keystr(path, simple=True, separator="/")
    return label or f"parameter {leaf}"


def argument_name(args, origin) -> str:
    """What of the step's arguments was bad before it, in words."""
    if origin is None or origin.argument is None:
        return ""
    paths = jax.tree_util.tree_leaves_with_path(args)
    name = jax.tree_util.keystr(paths[origin.argument][0], simple=True, separator="/")
    for start, words in (
        ("0/params/", "parameter "), ("0/state/", "running statistic "),
        ("0/opt/", "optimizer state "), ("1", "input"), ("2", "target or weight"),
    ):  # fmt: skip
        if name.startswith(start):  # of a `TrainState`, or of what stands in its place
            return words + name.removeprefix(start)
    return name


def _place(origin, spot) -> tuple[str, str]:
    """(part of the step, layer), from the operation's scopes or from the layers.

    What a layer makes on its way forward and keeps for its way back, as a factor of
    the derivative, belongs to the way back: nothing bad came out of it forward.
    """
    if spot is not None and spot.part == "data":
        return "data", ""
    part, layer = scope_place(origin.scope) if origin is not None else ("", "")
    if spot is not None and (part, spot.part) == ("forward", "backward"):
        part = "backward"
        layer = layer if layer.startswith(spot.layer) else spot.layer
    if not part:
        part = spot.part if spot is not None else "forward"
    if not layer and spot is not None and spot.part == part:
        layer = spot.layer
    return part, layer


def _is_forward(scope) -> bool:
    return scope_place(scope)[0] == "forward"


def scope_place(scope: str) -> tuple[str, str]:
    """("backward", "1 mlp > 3 dense(10)") of "bwd/1_mlp/bwd/3_dense(10)".

    Within a backward pass JAX writes the forward scopes of what it transposes, which
    are those of the same layers once more.
    """
    part, layers = "", []
    for match in re.finditer(
        r"(?<![\w])(fwd|bwd)/(?:(\d+)_)?([^/]*)"
        r"|(?<![\w])(data|augmentation|mixup|weight noise|loss|regulariser|update)"
        r"(?![\w])",
        scope,
    ):
        if match[4]:
            part, layers = match[4], []
            continue
        if part == "backward" and match[1] == "fwd":
            break
        part = SCOPES[match[1]]
        layers.append(f"{match[2]} {match[3]}" if match[2] else match[3])
    return part, " > ".join(layers)


def _agree(origin, spot) -> bool:
    if origin is None or spot is None or origin.argument is not None:
        return True
    part, layer = _place(origin, spot)
    if "data" in (part, spot.part):
        return part == spot.part
    said = [(spot.part, spot.layer)] + ([spot.or_else] if spot.or_else else [])
    return not part or any(
        part == p and (layer.startswith(name) or name.startswith(layer))
        for p, name in said
    )


def _with_samples(found, value, replay, args, rows):
    """The rows of the batch without which the step is sound."""
    _, x, y, _ = args
    batch = len(x)
    rows = np.arange(batch) if rows is None else np.asarray(rows)
    labels = np.asarray(y.target if hasattr(y, "target") else y)
    raw = np.asarray(x)
    bad, told = np.zeros(batch, bool), ""
    plain = is_bad(raw)  # to see: no experiment is needed
    if plain:
        bad = ~np.isfinite(raw.reshape(batch, -1)).all(-1)
    elif batch > 1 and found.part not in ("update", "weight noise"):
        bad, told = _by_experiment(value, replay, args)
    few = bad.any() and (bad.mean() <= MOST or batch == 1)
    if few and (plain or told == "sound"):
        found.samples = [int(r) for r in rows[bad]]
        found.labels = [np.asarray(v).tolist() for v in labels[bad]]
    found.experiment = told if few or told != "sound" else ""
    return found


def _by_experiment(value, replay, args):
    """((B,) bool of rows, what leaving them out told); see `Finding.experiment`."""
    ts, x, y, key = args
    suspects = bad_rows(value, len(x))
    parameters = {np.shape(a) for a in jax.tree.leaves(ts.params)}
    if np.shape(value) in parameters:
        suspects = None  # a gradient of a weight that happens to have as many rows
    looks_bad = np.zeros(len(x), bool) if suspects is None else suspects
    if replay is None:
        return looks_bad, ""

    def sound(x, y, key=key):
        return _sound(replay.with_arguments(ts, x, y, key), ts)

    try:
        guilty = guilty_rows(sound, x, y, suspects)
        if guilty is None:
            others = (jax.random.fold_in(key, n) for n in range(DRAWS))
            chance = any(sound(x, y, other) for other in others)
            return looks_bad, "chance" if chance else "bad" if looks_bad.any() else ""
    except MOVED:
        return looks_bad, ""
    return np.isin(np.arange(len(x)), guilty), "sound"
