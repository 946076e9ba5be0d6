"""Which layer, or the loss, hides the gradient: the deltas of every backward pass.

Only a network with hand-written backward passes can say what each of them was given and
gave back. And any one of them can be exchanged for another.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn import programs
from jaxnn.arrays import call_back
from jaxnn.attacks import Classifier, margin
from jaxnn.attacks.classifier import exact
from jaxnn.combine.parts import Call, observed
from jaxnn.errors import JaxnnError
from jaxnn.layers import Layer
from jaxnn.losses import softmax_cross_entropy

BLOCKED = 0.5  # share of images without gradient from which a layer counts as blocking
SATURATED = 0.5  # share of elements without gradient from which a layer is looked into


class LayerGradient(NamedTuple):
    """What one layer's backward was given (dy) and gave back (dx), over many images."""

    path: tuple[int, ...]  # its number in each combinator, from the outside in
    label: str  # its place and name
    ratio: float  # mean |dx| / mean |dy|, both as 2-norms over an image
    zero_in: float  # share of images whose dy is all zero
    zero_out: float  # share of the other images whose dx is all zero, or not finite
    saturated: float | None  # share of |dx| < 1e-3 |dy|, None if the shape changes
    same_shape: bool  # whether x and y have one shape
    constant: bool = False  # one output for every image: nothing passes or is hidden


class Masking(NamedTuple):
    """The report on the gradients of all layers, and the attack through blocking ones.

    `saturated` is, where nothing blocks, the layer that lets the least through, if that
    is less than half of the elements. A relu may well be one, and hide nothing: what an
    attack through it gains decides.
    """

    layers: list[LayerGradient]  # from the output back to the input
    blocking: list[LayerGradient]  # get a gradient, pass none, and are not constant
    saturated: LayerGradient | None
    # images left right by PGD through those layers as if they were the identity
    attacked_through: np.ndarray | None


def layer_gradients(
    model: Classifier, x: Any, y: Any, loss: Any = None
) -> list[LayerGradient]:
    """The deltas at every layer, by hand, of the loss of each image.

    Args:
      model: the network; combinators that name their parts are looked into.
      x: images (B, ...), float in [0, 1].
      y: labels (B,).
      loss: with `reduction="none"`; None is softmax cross-entropy.
    """

    def is_constant(again, x, y):
        del again, x
        return (y == y[:1]).all()

    twin, ahead, back = note_layers(model, x, is_constant, lambda dy, dx: (dy, dx))
    objective = softmax_cross_entropy if loss is None else loss
    jax.block_until_ready(_run(objective, twin, jnp.asarray(x), jnp.asarray(y)))
    jax.effects_barrier()
    constant: dict[tuple, bool] = {}
    for call, same in ahead:
        constant[call.path] = constant.get(call.path, True) and bool(same)
    return [_summary(call, dy, dx, constant[call.path]) for call, (dy, dx) in back]


@partial(programs.jit, static_argnums=0)
def _run(loss, model, x, y):
    with exact():
        return model.value_and_gradient(x, y, loss)


def _summary(call, dy, dx, constant):
    def sizes(a):
        return np.sqrt(np.square(a.reshape(len(a), -1).astype(np.float64)).sum(-1))

    given, back = sizes(dy), sizes(dx)
    alive = given > 0
    same = dy.shape == dx.shape
    saturated = None
    if same:
        live = dy != 0
        faint = np.abs(dx) < 1e-3 * np.abs(dy)
        saturated = float(faint[live].mean()) if live.any() else 0.0
    ratio = float(back.mean() / given.mean()) if alive.any() else 0.0
    passed = (back[alive] > 0) & (back[alive] < np.inf)
    blocked = float((~passed).mean()) if alive.any() else 0.0
    return LayerGradient(
        call.path, call.label, ratio, float((~alive).mean()), blocked, saturated, same,
        constant,
    )  # fmt: skip


def note_layers(
    model: Classifier, x: Any, forward: Callable, backward: Callable | None = None
) -> tuple[Classifier, list[tuple[Call, Any]], list[tuple[Call, Any]]]:
    """`model` whose layers, those that call no other, note what they do as it runs.

    Args:
      model: the network.
      x: images like those it will run on.
      forward: `(again, x, y) -> ` arrays to note, or None; `again(x) -> (y, pull)` runs
        the layer once more.
      backward: `(dy, dx) -> ` arrays to note; None notes nothing.

    Returns:
      The network, and two lists of (call, arrays) that grow by its ways forward and
      back, complete after `jax.effects_barrier()`.
    """
    single: set[tuple[int, ...]] = set()
    ahead, back = [], []

    def find(call: Call, inner: Layer) -> Layer:
        single.discard(call.path[:-1])
        single.add(call.path)
        return inner

    def keep(notes, call, arrays):
        if arrays is not None:
            call_back(lambda found: notes.append((call, found)), arrays)

    def note(call: Call, layer: Layer) -> Layer:
        if call.path not in single:
            return layer

        def run(params, state, x, *, key=None, train):
            def again(x):
                y, _, cache = layer.forward(params, state, x, key=key, train=train)
                return y, lambda dy: layer.backward(cache, dy)[0]

            y, after, cache = layer.forward(params, state, x, key=key, train=train)
            keep(ahead, call, forward(again, x, y))
            return y, after, cache

        def way_back(cache, dy):
            dx, dparams = layer.backward(cache, dy)
            if dx is not None and backward is not None:
                keep(back, call, backward(dy, dx))
            return dx, dparams

        return layer._replace(forward=run, backward=way_back)

    jax.eval_shape(replace(model, net=observed(model.net, find)).logits, x)
    return replace(model, net=observed(model.net, note)), ahead, back


def swap_backward(
    net: Layer, path: Sequence[int], backward: Callable | None = None
) -> Layer:
    """The network with one layer's backward pass exchanged (BPDA), forward as it was.

    >>> from jaxnn.combine import serial
    >>> from jaxnn.layers import dense, relu
    >>> attacked = swap_backward(serial(dense(3), relu, dense(2)), [1])

    Args:
      net: the network.
      path: the layer's number in each combinator, from the outside in.
      backward: `(cache, dy) -> (dx, dparams)`; None takes the layer for the identity.

    Raises:
      JaxnnError: there is no such layer.

    Source: Athalye, Carlini, Wagner 2018, arXiv 1802.00420.
    """
    path, layer = tuple(path), net
    for i in path:
        if not 0 <= i < len(layer.parts):
            count = len(layer.parts)
            raise JaxnnError(
                f"swap_backward: {layer.name} has {count} parts, got number {i}"
            )
        layer = layer.parts[i]
    found: list[Call] = []

    def identity(cache, dy):
        del cache
        return dy, ()

    def swapped(call: Call, inner: Layer) -> Layer:
        if call.path != path:
            return inner
        found.append(call)
        return inner._replace(backward=backward or identity)

    twin = observed(net, swapped)

    def checked(cache, dy):
        gradients = twin.backward(cache, dy)
        if not found:
            raise JaxnnError(
                f"swap_backward: {net.name} has not called {layer.name} by its Parts, "
                "expected a network of combinators that do; see jaxnn.combine.parts"
            )
        return gradients

    return twin._replace(backward=checked)


def masking_report(
    model: Classifier, x: np.ndarray, y: np.ndarray, attacked: Callable
) -> Masking:
    """Every layer's gradients, and an attack through those that pass none or few.

    `attacked(model)` says which images stay right after PGD on the model it is given.
    """
    layers = layer_gradients(model, x, y, margin)
    blocking = [a for a in layers if a.zero_out >= BLOCKED and not a.constant]
    faint = [layer for layer in layers if (layer.saturated or 0) >= SATURATED]
    least = max(faint, key=lambda layer: layer.saturated or 0, default=None)
    least = None if blocking else least
    through, suspects = None, blocking or ([least] if least else [])
    if suspects and all(layer.same_shape for layer in suspects):
        net = model.net
        for layer in suspects:
            net = swap_backward(net, layer.path)
        through = attacked(replace(model, net=net))
    return Masking(layers, blocking, least, through)
