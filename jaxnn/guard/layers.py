"""Path two to a NaN's origin: what each layer was given and gave back, in order.

No part of JAX but its documented functions is used: the layers hand over their own
intermediates. It names the layer and the direction; `jaxnn.guard.trace` the operation.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnn.check.parts import with_parts
from jaxnn.guard.trace import is_bad
from jaxnn.layers import Layer
from jaxnn.losses import Loss


class Spot(NamedTuple):
    """The first layer, or other part of a step, that made something not finite.

    Attributes:
      part: "data", "forward", "loss", "backward", "regulariser" or "update".
      layer: its place and name, "" outside the network.
      value: what it made: the array with the first bad values.
      given: what it was given, "" -> array.
    """

    part: str
    layer: str
    value: np.ndarray
    given: tuple[np.ndarray, ...]


def watched(net: Layer, notes: list) -> Layer:
    """`net`, whose layers write (direction, label, given, made) into `notes`."""

    def keep(direction, label, given, made):
        notes.append((direction, label, *jax.tree.map(np.asarray, (given, made))))

    def note(direction, label, given, made):
        arrays = [jax.tree.leaves(tree) for tree in (given, made)]
        floats = [
            [a for a in found if jax.numpy.issubdtype(a.dtype, np.floating)]
            for found in arrays
        ]
        jax.debug.callback(partial(keep, direction, label), *floats, ordered=True)

    def wrap(layer, label):
        inner = layer
        if layer.parts:
            inner = with_parts(
                layer,
                [
                    wrap(part, f"{label} > {i} {part.name}".strip(" >"))
                    for i, part in enumerate(layer.parts)
                ],
            )
        name = label or layer.name

        def forward(params, state, x, *, key=None, train):
            y, new, cache = inner.forward(params, state, x, key=key, train=train)
            note("forward", name, (x, params, state), (y, new))
            return y, new, cache

        def backward(cache, dy):
            dx, dparams = inner.backward(cache, dy)
            note("backward", name, dy, (dx, dparams))
            return dx, dparams

        return layer._replace(forward=forward, backward=backward)

    return wrap(net, "")


def layer_spot(
    net: Layer, loss: Loss, params: Any, state: Any, x: Any, y: Any, key: Any
) -> Spot | None:
    """The first layer whose output, or gradient, is bad though what it got was not.

    Args:
      net: the network.
      loss: `(pred, target) -> (value, dpred)`.
      params: parameters before the step.
      state: state before the step.
      x: the batch as the network sees it (after augmentation).
      y: its targets, as the loss takes them.
      key: the network's key of that step.
    """
    if is_bad(x):
        return Spot("data", "", np.asarray(x), ())
    notes: list = []
    pred, _, cache = watched(net, notes).forward(params, state, x, key=key, train=True)
    jax.effects_barrier()
    found = _first(notes, "forward")
    if found is not None:
        return found
    value, dpred = loss(pred, y)
    if is_bad(value) or is_bad(dpred):
        bad = value if is_bad(value) else dpred
        return Spot("loss", "", np.asarray(bad), (np.asarray(pred),))
    # the caches come from the same forward, so backward is the step's own
    watched_cache = cache
    notes.clear()
    watched(net, notes).backward(watched_cache, dpred)
    jax.effects_barrier()
    return _first(notes, "backward")


def _first(notes, direction) -> Spot | None:
    """Of the layers that made something bad of something good, the innermost first."""
    for said, label, given, made in notes:
        bad = [a for a in made if is_bad(a)]
        if said == direction and bad and not any(map(is_bad, given)):
            return Spot(direction, label, bad[0], tuple(given))
    return None
