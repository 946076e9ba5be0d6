"""Path two to a NaN's origin: what each layer was given and gave back, in order.

The step is made once more of layers that hand over their own intermediates; no name
or structure of a traced program is read. It tells the layer and the direction;
`jaxnn.guard.backtrace`, which searches the same program, the operation.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnn.arrays import call_back
from jaxnn.combine import observed
from jaxnn.guard.backtrace import Replay, has_nan, is_bad
from jaxnn.traced import QUICK
from jaxnn.train.step import everything

PHASES = {"augment": "augmentation", "mixup": "mixup", "weight_noise": "weight noise"}
"""What happens to a batch, and to the weights, before the network sees them."""
STEP = ("loss", "grads", "state", "params", "opt")  # what `train.step.everything` gives
MOVED = (AttributeError, KeyError, TypeError, ValueError, NotImplementedError)
"""What a JAX whose internals have moved makes of path one; path two still stands."""


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
    """A step whose layers write down what they do, run when it is made.

    It is traced once, for both paths.

    Args:
      step: made by `make_step`.
      args: what it is given: `ts, x, y, key`.
      exact: leave every operation to JAX, none to NumPy.

    Attributes:
      made: what the step made, see `run`.
      culprit: what the notes of its layers say.
      replay: for path one; None if this JAX's internals have moved.
    """

    def __init__(self, step: Any, *args: Any, exact: bool):
        self.notes: list[Note] = []
        step = replace(step, **_noting(step, self._note))

        def program(*args):
            return dict(zip(STEP, everything(step, *args), strict=True))

        self.replay: Replay | None = None
        try:
            self.replay = Replay(program, *args)
            self._program: Callable = partial(self.replay.run, exact=exact)
            self.made = self.run(*args)
        except MOVED:
            compiled = jax.jit(program, compiler_options=QUICK)
            self.replay = None
            self._program = lambda *args, pick=dict: pick(compiled(*args))
            self.made = self.run(*args)
        self.culprit = first_culprit(self.notes)

    def run(self, *args: Any, **options: Any) -> dict[str, Any]:
        """What the step makes without guard or branch; `pick` as `Replay.run`."""
        self.notes.clear()
        made = jax.block_until_ready(self._program(*args, **options))
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

    def noted(part, function, given):
        def run(*args, **options):
            made = function(*args, **options)
            note(part, "", args[given], (), made)
            return made

        return run

    changed: dict[str, Any] = {"net": observed(step.net, layer)}
    changed["loss"] = noted("loss", step.loss, slice(1))  # of the predictions
    if step.penalty is not None:
        changed["penalty"] = noted("regularizer", step.penalty, slice(1))
    for name, part in PHASES.items():
        if function := getattr(step, name):  # of a key and what it changes
            changed[name] = noted(part, function, slice(1, None))
    return changed


def first_culprit(notes: list[Note]) -> Culprit | None:
    """Of the layers that made something bad of something good, the innermost first.

    A layer that made finite values of bad ones took a mask as it was meant: whoever
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
