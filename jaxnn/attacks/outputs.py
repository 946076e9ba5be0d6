"""The network up to its logits: what cross-entropy and margins are attacked along.

A last layer of softmax, log-softmax or sigmoid changes no decision, but it flattens the
gradient: in float32 a network that is sure has none left behind it. So where an attack
raises a loss of logits, such a network is attacked before that layer, and one output z
stands for two classes with the logits (0, z).
"""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax.numpy as jnp

from jaxnn.attacks.classifier import Classifier
from jaxnn.attacks.objectives import dlr, margin
from jaxnn.combine import chained, serial
from jaxnn.layers import Layer, log_softmax, pointwise, sigmoid, softmax
from jaxnn.layers.core import value
from jaxnn.losses import RegisteredLoss, softmax_cross_entropy
from jaxnn.rules import Rule

OF_LOGITS = (softmax_cross_entropy, margin, dlr)
"""Losses of logits; any other sees the outputs as they are."""


def is_of_logits(loss: Any) -> bool:
    """Whether a loss, whatever its settings, is one of logits."""
    while isinstance(loss, functools.partial):
        loss = loss.func
    return (loss.plain if isinstance(loss, RegisteredLoss) else loss) in OF_LOGITS


def to_logits(model: Classifier, x: Any, y: Any) -> tuple[Classifier, Any]:
    """The network's decisions as logits of two classes or more, and y as their labels.

    The labels of a network of one output, where yes is above 0, become 0 and 1. Drawing
    networks get a key.
    """
    model = model.keyed(x)
    classes = model.facts(x).classes
    return _as_logits(model, classes), (y > 0) * 1 if classes == 1 else y


def _as_logits(model, classes):
    found = _without_last(model.net)
    if found is not None:
        net, without = found
        params, state = without(model.params), without(model.state)
        model = replace(model, net=net, params=params, state=state)
    if classes == 1:
        model = replace(
            model, net=_of_two(model.net),
            params=(model.params, ()), state=(model.state, ()),
        )  # fmt: skip
    return model


@functools.lru_cache(maxsize=256)
def _of_two(net: Layer) -> Layer:
    return serial(net, two_logits)


@functools.lru_cache(maxsize=256)
def _without_last(net: Layer) -> tuple[Layer, Callable[[Any], Any]] | None:
    """The network without a last layer that changes no decision, and what of its trees
    remains; None if it has none.
    """
    if not chained(net):
        return None
    *before, last = chained(net)
    if last in (softmax, log_softmax, sigmoid):
        return serial(*before), lambda tree: tuple(tree)[:-1]
    inner = _without_last(last)
    if inner is None:
        return None
    return serial(*before, inner[0]), lambda tree: (*tree[:-1], inner[1](tree[-1]))


def _two_fwd(z):
    return jnp.concatenate([jnp.zeros_like(z), z], axis=-1), ()


def _two_bwd(cache, dy):
    del cache
    return (dy[..., 1:],)


two_logits = value(
    f"{__name__}:two_logits", pointwise(Rule("two_logits", _two_fwd, _two_bwd))
)
"""One output z as the logits (0, z) of no and yes."""
