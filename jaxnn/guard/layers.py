"""Path two to a NaN's origin: what each layer was given and gave back, in order.

The step is made once more of layers that hand over their own intermediates; no name
or structure of a traced program is read. It tells the layer and the direction;
`jaxnn.guard.backtrace` the operation.
"""

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnn.arrays import call_back
from jaxnn.combine import observed
from jaxnn.guard.backtrace import QUICK, has_nan, is_bad
from jaxnn.train.step import everything

PHASES = {"augment": "augmentation", "mixup": "mixup", "weight_noise": "weight noise"}
"""What happens to a batch, and to the weights, before the network sees them."""


class Culprit(NamedTuple):
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


class NotedStep:
    """A step whose layers write down what they do: `run(ts, x, y, key)`.

    Args:
      step: made by `make_step`.

    Attributes:
      notes: of the last run, in the order in which they were made.
    """

    def __init__(self, step: Any):
        self.notes: list[Note] = []
        again = replace(step, **_noting(step, self._note))
        self.program = jax.jit(partial(everything, again), compiler_options=QUICK)

    def run(self, *args: Any) -> Any:
        """(loss, grads, state, params, opt) of the step, without guard or branch."""
        self.notes.clear()
        made = jax.block_until_ready(self.program(*args))
        jax.effects_barrier()
        return made

    def _note(self, part, layer, given, own, made):
        """Have the program write down these trees when it runs."""
        floats = [
            [a for a in jax.tree.leaves(t) if jax.numpy.issubdtype(a.dtype, np.inexact)]
            for t in (given, own, made)
        ]

        def keep(*arrays):
            self.notes.append(Note(part, layer, *arrays))

        call_back(keep, *floats)


def _noting(step, note) -> dict[str, Any]:
    """The settings of `step` whose functions, and layers, write down what they do."""

    def layer(call, inner):
        def forward(params, state, x, *, key=None, train):
            y, new, cache = inner.forward(params, state, x, key=key, train=train)
            note("forward", call.label, x, (params, state), (y, new))
            return y, new, cache

        def backward(cache, dy):
            dx, dparams = inner.backward(cache, dy)
            note("backward", call.label, dy, (), (dx, dparams))
            return dx, dparams

        return inner._replace(forward=forward, backward=backward)

    def loss(pred, y, **options):
        made = step.loss(pred, y, **options)
        note("loss", "", pred, (), made)
        return made

    def penalty(params):
        made = step.penalty(params)
        note("regulariser", "", params, (), made)
        return made

    def phase(part, function):
        def noted(key, *given):
            made = function(key, *given)
            note(part, "", given, (), made)
            return made

        return noted

    phases = {name: getattr(step, name) for name in PHASES}
    changed: dict[str, Any] = {
        name: phase(PHASES[name], f) for name, f in phases.items() if f
    }
    if step.penalty is not None:
        changed["penalty"] = penalty
    return changed | {"net": observed(step.net, layer), "loss": loss}


def first_culprit(notes: list[Note]) -> Culprit | None:
    """Of the layers that made something bad of something good, the innermost first.

    A layer that made sound values of bad ones took a mask as it was meant: whoever
    made the mask is not to blame.
    """
    found: Culprit | None = None
    for number, note in enumerate(notes):
        bad = [a for a in note.made if is_bad(a)]
        given_bad = [a for a in note.given if is_bad(a)]
        if given_bad and number == 0 and note.part == "forward":
            return Culprit("data", "", given_bad[0], ())
        if given_bad and not bad:
            if found is not None and found.part == note.part:
                found = found if has_nan(found.value) else None
            continue
        if not bad:
            continue
        if found is None:
            before = "parameters or state" if any(map(is_bad, note.own)) else ""
            given = (*note.given, *note.own)
            found = Culprit(note.part, note.layer, bad[0], given, before=before)
        elif found.or_else is None and _unmasks(found.value, bad, given_bad):
            found = found._replace(or_else=(note.part, note.layer))
    return found


def _unmasks(made, bad, given_bad):
    """Whether a layer made NaN of values that were -inf only."""
    masks = np.isneginf(np.asarray(made, np.float64)).any() and not has_nan(made)
    return masks and any(map(has_nan, bad)) and not any(map(has_nan, given_bad))
