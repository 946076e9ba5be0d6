"""Path two to a NaN's origin: what each layer was given and gave back, in order.

The step is made once more of layers that hand over their own intermediates; no name
or structure of a traced program is read. It tells the layer and the direction;
`jaxnn.guard.trace` the operation.
"""

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnn.combine.parts import observed
from jaxnn.guard.trace import Replay, has_nan, is_bad
from jaxnn.layers import Layer
from jaxnn.train.step import everything

PHASES = {"augment": "augmentation", "mixup": "mixup", "weight noise": "weight noise"}
"""What happens to a batch, and to the weights, before the network sees them."""


class Spot(NamedTuple):
    """The first layer, or other part of a step, that made something not finite.

    Attributes:
      part: as in `jaxnn.guard.Finding`.
      layer: its place and name, "" outside the network.
      value: what it made: the array with the first bad values.
      given: what it was given.
      or_else: (part, layer) that is to blame instead if what was made is a mask: the
        first that turned its -inf into NaN.
      before: the parameter or state that was bad before the step, "" if none was.
    """

    part: str
    layer: str
    value: np.ndarray
    given: tuple[np.ndarray, ...]
    or_else: tuple[str, str] | None = None
    before: str = ""


class Note(NamedTuple):
    """What one layer was given, what it has of its own, and what it made."""

    part: str
    layer: str
    given: list[np.ndarray]
    own: list[np.ndarray]
    made: list[np.ndarray]


def _note(notes, part, layer, given, own, made):
    """Have the program write down these trees when it runs."""
    floats = [
        [a for a in jax.tree.leaves(tree) if jax.numpy.issubdtype(a.dtype, np.inexact)]
        for tree in (given, own, made)
    ]

    def keep(*arrays):
        notes.append(Note(part, layer, *jax.tree.map(np.asarray, arrays)))

    jax.debug.callback(keep, *floats)


def watched(net: Layer, notes: list) -> Layer:
    """`net`, whose layers write what they do into `notes`."""

    def noted(call, inner):
        def forward(params, state, x, *, key=None, train):
            y, new, cache = inner.forward(params, state, x, key=key, train=train)
            _note(notes, "forward", call.label, x, (params, state), (y, new))
            return y, new, cache

        def backward(cache, dy):
            dx, dparams = inner.backward(cache, dy)
            _note(notes, "backward", call.label, dy, (), (dx, dparams))
            return dx, dparams

        return inner._replace(forward=forward, backward=backward)

    return observed(net, noted)


def layer_spot(step: Any, ts: Any, x: Any, y: Any, key: Any) -> Spot | None:
    """The first layer whose output, or gradient, is bad though what it got was not.

    Args:
      step: made by `make_step`.
      ts: the `TrainState` before the step.
      x: the step's batch.
      y: its targets.
      key: the run's key, as the step was given it.
    """
    if is_bad(x):
        return Spot("data", "", np.asarray(x), ())
    notes: list[Note] = []
    again = partial(everything, replace(step, **_watched_settings(step, notes)))
    try:
        replay = Replay(again, ts, x, y, key)
        replay.frame.run_all()
        new = replay.outputs()
    except (AttributeError, KeyError, TypeError, ValueError, NotImplementedError):
        notes.clear()  # this JAX's internals have moved: by JAX itself
        new = again(ts, x, y, key)
        jax.effects_barrier()
    found = first_spot(notes)
    if found is None:
        for leaf in jax.tree.leaves(new[-2:]):
            if is_bad(leaf):
                given = tuple(np.asarray(a) for a in jax.tree.leaves(ts.params))
                return Spot("update", "", np.asarray(leaf), given)
    return found


def _watched_settings(step, notes):
    """The settings of `step` with network, loss and penalty that take notes."""
    changed: dict[str, Any] = {"net": watched(step.net, notes)}

    def loss(pred, y, **options):
        value, dpred = step.loss(pred, y, **options)
        _note(notes, "loss", "", pred, (), (value, dpred))
        return value, dpred

    def penalty(params):
        value, dparams = step.penalty(params)
        _note(notes, "regulariser", "", params, (), (value, dparams))
        return value, dparams

    def phase(name, function):
        def noted(key, *given):
            made = function(key, *given)
            _note(notes, name, "", given, (), made)
            return made

        return noted

    changed["loss"] = loss
    for name in PHASES:
        function = getattr(step, name.replace(" ", "_"))
        if function is not None:
            changed[name.replace(" ", "_")] = phase(PHASES[name], function)
    if step.penalty is not None:
        changed["penalty"] = penalty
    return changed


def first_spot(notes: list[Note]) -> Spot | None:
    """Of the layers that made something bad of something good, the innermost first.

    A layer that made sound values of bad ones took a mask as it was meant: whoever
    made the mask is not to blame.
    """
    found: Spot | None = None
    for number, note in enumerate(notes):
        bad = [a for a in note.made if is_bad(a)]
        given_bad = [a for a in note.given if is_bad(a)]
        first = number == 0 and note.part == "forward"
        if given_bad and found is None and first:
            return Spot("data", "", given_bad[0], ())
        if given_bad and not bad:
            if found is not None and found.part == note.part:
                found = found if has_nan(found.value) else None
            continue
        if not bad:
            continue
        if found is None:
            own = [a for a in note.own if is_bad(a)]
            before = "parameters or state" if own else ""
            given = (*note.given, *note.own)
            found = Spot(note.part, note.layer, bad[0], given, before=before)
        elif found.or_else is None and _unmasks(found.value, bad, given_bad):
            found = found._replace(or_else=(note.part, note.layer))
    return found


def _unmasks(made, bad, given_bad):
    """Whether a layer made NaN of values that were -inf only."""
    masks = np.isneginf(np.asarray(made, np.float64)).any() and not has_nan(made)
    return masks and any(map(has_nan, bad)) and not any(map(has_nan, given_bad))
