"""From a bad step, or any function's bad result, to its origin and its samples."""

import re
from collections.abc import Callable
from operator import itemgetter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.guard.backtrace import Origin, Replay, first_nan, is_bad
from jaxnn.guard.causes import likely_cause
from jaxnn.guard.layers import MOVED, Culprit, NotedStep
from jaxnn.guard.report import Finding, counts, learning_rate, value_range
from jaxnn.train.state import float_type, to_unit

SCOPES = {"fwd": "forward", "bwd": "backward"}
SCOPE = re.compile(
    r"(?<![\w])(fwd|bwd)/(?:(\d+)_)?([^/]*)"
    r"|(?<![\w])(data|augmentation|mixup|weight noise|loss|regularizer|update)(?![\w])"
)
ROUNDS = ((("loss", "grads", "state"), "backward"), (("params", "opt"), "update"))
DRAWS = 4  # other random numbers that a step is tried with
DONORS = 4  # rows that are tried in the place of others
MOST = 0.5  # share of the batch: beyond it no sample is to blame but the step


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
    args = ts, x, y, key
    for exact in (False, True):
        noted = NotedStep(step, *args, exact=exact)
        sizes = [_too_large(ts, noted.made, part) for _, part in ROUNDS]
        if any(map(is_bad, jax.tree.leaves(noted.made))) or any(sizes):
            break
    else:
        return None
    origin, large = _search(noted, sizes)
    by_layers = _by_layers(step, ts, x, noted, large, () if origin else sizes)
    part, layer = _place(origin, by_layers)
    scope = "" if origin is None else origin.scope
    ahead = part == "backward" and scope_place(scope)[0] == "forward"
    source = by_layers if part == "data" and by_layers else origin or by_layers
    assert source is not None  # one of the two is there
    cause = likely_cause(part, origin, by_layers, argument_name(args, origin), ahead)
    found = _finding(source, part, layer, cause, epoch=epoch, step=number, seed=seed)
    found.lr = learning_rate(step.optimizer, ts.opt)
    found.grad_norms = [float(n) for n in np.asarray(grad_norms)[-20:]]
    found.agree = _agree(origin, by_layers)
    return _with_samples(found, source.value, noted, args, rows)


def locate_evaluation(
    net: Any, loss: Any, params: Any, state: Any, x: Any, y: Any, epoch: int, seed: int
) -> Finding | None:
    """Where evaluation mode makes what is not finite of parameters that are.

    Args:
      net: the network.
      loss: of the outputs and y.
      params: of one network.
      state: its running statistics.
      x: rows (B, ...), some of them with bad outputs.
      y: their targets.
      epoch: for the report.
      seed: for the report.
    """

    def run(kept, x, y):
        x = to_unit(jnp.asarray(x), float_type(kept["params"]))
        out = net.forward(kept["params"], kept["state"], x, train=False)[0]
        wide = out.astype(jnp.promote_types(out.dtype, jnp.float32))
        with jax.named_scope("loss"):
            return out, loss(wide, y)[0]

    args = {"params": params, "state": state}, x, y
    replay = Replay(run, *args)
    replay.run(*args)
    origin = replay.origin()
    if origin is None:
        return None
    part, layer = scope_place(origin.scope)
    where = layer or ("the loss" if part == "loss" else "")
    words = likely_cause("forward", origin, None, argument_name(args, origin))
    cause = f"in evaluation mode only, training is finite: {words}"
    return _finding(origin, "evaluation", where, cause, epoch=epoch, seed=seed)


def locate_in(
    function: Callable, *args: Any, batch: int | None = None
) -> Finding | None:
    """The first value in `function(*args)` that is not finite, and where it was made.

    The search starts at results that are bad. If there are none it goes through the
    whole program for a NaN that was masked on the way, as an attack does that keeps
    the best of its points: a NaN is never better.

    Args:
      function: pure and traceable, such as `lambda x: pgd(model, x, y, epsilon=0.1)`.
      args: arrays or trees of arrays; the function is traced with all of them.
      batch: samples in a batch: rows of the bad value are then named as samples.

    Returns:
      The finding, its `epoch` and `step` 0; None if there is no NaN and no bad result.
      A -inf that a constant put there, as masks do, is no fault.
    """
    replay = Replay(function, *args)
    replay.run(*args)
    origin = replay.origin() or first_nan(replay.frame)
    if origin is None:
        return None
    part, layer = scope_place(origin.scope)
    part = part or "forward"
    before = "" if origin.argument is None else f"argument leaf {origin.argument}"
    found = _finding(origin, part, layer, likely_cause(part, origin, None, before))
    rows = bad_rows(origin.value, batch) if batch else None
    found.samples = [] if rows is None else np.flatnonzero(rows).tolist()
    return found


def _finding(
    source: Origin | Culprit, part: str, layer: str, cause: str, *,
    epoch: int = 0, step: int = 0, seed: int = 0,
) -> Finding:  # fmt: skip
    """What the operation has to say, or else the layer; step 0 where there is none."""
    op, line, turn = (getattr(source, name, "") for name in ("op", "line", "turn"))
    return Finding(
        epoch=epoch, step=step, seed=seed, part=part, layer=layer, op=op, line=line,
        turn=turn, inputs=value_range(source.given), cause=cause,
        **counts(np.asarray(source.value)),
    )  # fmt: skip


def _search(noted, sizes):
    """(origin, None), (None, what is too large) or (None, None), in a step's order.

    First loss, gradients and statistics; then what is made of them. Gradients that are
    too large for their squares go before the update, whose moments they spoil.
    """
    if noted.replay is None:
        return None, None  # path two tells the layer
    try:
        for (names, _), large in zip(ROUNDS, sizes, strict=True):
            origin = noted.replay.origin(itemgetter(*names))
            if origin is not None or large is not None:
                return origin, None if origin else large
    except MOVED:
        pass
    return None, None


def _by_layers(step, ts, x, noted, large, sizes) -> Culprit | None:
    """What path two says; where no layer is to blame, the update or a size."""
    found = noted.culprit
    if is_bad(x):
        found = Culprit("data", "", np.asarray(x), ())
    if large is None and found is None:
        made = jax.tree.leaves((noted.made["params"], noted.made["opt"]))
        given = tuple(np.asarray(a) for a in jax.tree.leaves(ts.params))
        bad = (Culprit("update", "", np.asarray(a), given) for a in made if is_bad(a))
        found = next(bad, None)
        large = next(filter(None, sizes), None) if found is None else None
    if large is not None:
        part, path, value = large
        found = Culprit(part, _owner(step.net, path), value, (value,))
    return found


def _too_large(ts, made, part):
    """(part, path, value) of what is too large for a sum of squares, if anything is.

    It is the largest leaf of the gradients, or of what the update moves.
    """

    def moved(new, old):
        new, old = np.asarray(new), np.asarray(old)
        return new - old if jax.numpy.issubdtype(new.dtype, np.inexact) else 0 * old

    backward = part == "backward"
    tree = made["grads"] if backward else jax.tree.map(moved, made["params"], ts.params)
    total, largest = np.zeros((), np.float32), (-1.0, None, None)
    # the backward pass makes the last layer's first
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)[::-1]:
        leaf = np.asarray(leaf)
        with np.errstate(over="ignore", invalid="ignore"):
            wide = leaf.astype(np.promote_types(leaf.dtype, np.float32))
            square = np.square(wide).sum()
            total = total + square
        largest = (square, path, leaf) if square > largest[0] else largest
        if not np.isfinite(total):
            return part, *largest[1:]
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


def _place(origin, by_layers) -> tuple[str, str]:
    """(part of the step, layer), from the operation's scopes or from the layers.

    What a layer makes on its way forward and keeps for its way back, as a factor of
    the derivative, belongs to the way back: nothing bad came out of it forward.
    """
    if by_layers is not None and by_layers.part == "data":
        return "data", ""
    part, layer = scope_place(origin.scope) if origin is not None else ("", "")
    if by_layers is None:
        return part or "forward", layer
    if (part, by_layers.part) == ("forward", "backward"):
        part = "backward"
        layer = layer if layer.startswith(by_layers.layer) else by_layers.layer
    part = part or by_layers.part
    return part, layer or (by_layers.layer if by_layers.part == part else "")


def scope_place(scope: str) -> tuple[str, str]:
    """("backward", "1 mlp > 3 dense(10)") of "bwd/1_mlp/bwd/3_dense(10)".

    Within a backward pass JAX writes the forward scopes of what it transposes, which
    are those of the same layers once more.
    """
    part, layers = "", []
    for way, number, name, other in SCOPE.findall(scope):
        if other:
            part, layers = other, []
        elif (part, way) == ("backward", "fwd"):
            break
        else:
            part = SCOPES[way]
            layers.append(f"{number} {name}".strip())
    return part, " > ".join(layers)


def _agree(origin, by_layers) -> bool:
    if origin is None or by_layers is None or origin.argument is not None:
        return True
    part, layer = _place(origin, by_layers)
    if "data" in (part, by_layers.part):
        return part == by_layers.part
    said = [(by_layers.part, by_layers.layer), by_layers.or_else or ("", "")]
    return not part or any(
        part == p and (layer.startswith(name) or name.startswith(layer))
        for p, name in said
    )


def _with_samples(found, value, noted, args, rows):
    """The rows of the batch without which the step is finite."""
    _, x, y, _ = args
    batch, told = len(x), ""
    if plain := is_bad(x):  # to see: no experiment is needed
        bad = ~np.isfinite(np.asarray(x).reshape(batch, -1)).all(-1)
    elif batch > 1 and found.part not in ("update", "weight noise"):
        bad, told = _by_experiment(value, noted, args)
    else:
        bad = np.zeros(batch, bool)
    few = bad.any() and (bad.mean() <= MOST or batch == 1)
    if few and (plain or told == "sound"):
        rows = np.arange(batch) if rows is None else np.asarray(rows)
        labels = np.asarray(y.target if hasattr(y, "target") else y)
        found.samples, found.labels = rows[bad].tolist(), labels[bad].tolist()
    found.experiment = told if few or told != "sound" else ""
    return found


def _by_experiment(value, noted, args):
    """((B,) bool of rows, what leaving them out told); see `Finding.experiment`."""
    ts, x, y, key = args
    suspects = bad_rows(value, len(x))
    parameters = {np.shape(a) for a in jax.tree.leaves(ts.params)}
    if np.shape(value) in parameters:
        suspects = None  # a gradient of a weight that happens to have as many rows
    looks_bad = np.zeros(len(x), bool) if suspects is None else suspects
    names, part = ROUNDS[0]

    def is_finite(x, y, key=key):
        """Whether loss, gradients and statistics are, and the gradients' squares."""
        made = noted.run(ts, x, y, key, pick=lambda out: {n: out[n] for n in names})
        bad = any(map(is_bad, jax.tree.leaves(made)))
        return not bad and _too_large(ts, made, part) is None

    guilty = guilty_rows(is_finite, x, y, suspects)
    if guilty is not None:
        return np.isin(np.arange(len(x)), guilty), "sound"
    others = (jax.random.fold_in(key, n) for n in range(DRAWS))
    chance = any(is_finite(x, y, other) for other in others)
    return looks_bad, "chance" if chance else "bad" if looks_bad.any() else ""


def bad_rows(value: Any, batch: int) -> np.ndarray | None:
    """Rows of a value with batch axis that are bad while others are not, (B,) bool."""
    value = np.asarray(value)
    if not jax.numpy.issubdtype(value.dtype, np.inexact):
        return None
    axes = [a for a in (0, 1) if value.ndim > a and value.shape[a] == batch]
    if axes:  # time may come first
        rows = np.moveaxis(value, axes[0], 0).reshape(batch, -1)
    elif value.ndim and value.shape[0] and value.shape[0] % batch == 0:
        rows = value.reshape(batch, -1)  # a batch of rows, flattened with them
    else:
        return None
    bad = ~np.isfinite(rows).all(-1)
    return np.asarray(bad) if bad.any() and not bad.all() else None


def guilty_rows(
    is_finite: Callable[[Any, Any], bool], x: Any, y: Any, suspects: np.ndarray | None
) -> list[int] | None:
    """The rows without which the step is finite; None if it is bad without them.

    Rows are replaced by another one, the donor: first the suspects, then all but the
    donor, which are then put back by halves to see which of them spoil the step.

    Args:
      is_finite: whether the step is with such inputs and targets.
      x: the batch (B, ...).
      y: its targets, a tree of arrays (B, ...).
      suspects: rows that look bad, (B,) bool, or None.
    """
    batch = len(x)
    x, y = np.asarray(x), jax.tree.map(np.asarray, y)
    everyone = range(batch)
    donors = [i for i in everyone if suspects is None or not suspects[i]]
    donors = donors[:: max(1, len(donors) // DONORS)][:DONORS]
    trials = [([i for i in everyone if i != donor], donor) for donor in donors]
    if suspects is not None and donors:
        trials.insert(0, (np.flatnonzero(suspects).tolist(), donors[0]))

    def finite_without(rows, donor):
        source = np.arange(batch)
        source[rows] = donor
        return is_finite(*jax.tree.map(lambda a: a[source], (x, y)))

    def spoil(part, rows, donor):
        """Of `part` of the rows, those that spoil the step when they are put back."""
        back = set(part)
        if finite_without([i for i in rows if i not in back], donor):
            return []
        if len(part) == 1:
            return part
        middle = len(part) // 2
        halves = part[:middle], part[middle:]
        return [row for half in halves for row in spoil(half, rows, donor)]

    for rows, donor in trials:
        if finite_without(rows, donor):
            return spoil(rows, rows, donor)
    return None
