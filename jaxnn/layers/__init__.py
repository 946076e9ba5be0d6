"""Layers: rules bound to parameters, state and randomness.

A layer without settings is a value (`relu`), one with settings a call (`dense(128)`).
"""

import math
from collections.abc import Callable

from jaxnn import rules
from jaxnn.layers.core import Layer, pointwise, shaped
from jaxnn.layers.initializers import INITIALIZERS, initializer
from jaxnn.layers.linear import dense
from jaxnn.layers.noise import dropout
from jaxnn.layers.norm import batch_norm

relu = pointwise(rules.relu)
tanh = pointwise(rules.tanh)
sigmoid = pointwise(rules.sigmoid)
softplus = pointwise(rules.softplus)
log_softmax = pointwise(rules.log_softmax)
flatten = shaped(rules.flatten, lambda shape: (math.prod(shape),))
"""x (B, ...) -> y (B, D), D the product of all axes but the batch's."""


def leaky_relu(slope: float = 0.01) -> Layer:
    """y = x where x >= 0, slope * x below. See `jaxnn.rules.leaky_relu`."""
    return pointwise(rules.leaky_relu(slope), f"leaky_relu({slope:g})")


def standardize(mean: float, std: float) -> Layer:
    """y = (x - mean) / std by constants: lets a network own its normalisation.

    Inputs, and so attacks, stay in pixel units [0, 1]. See `jaxnn.rules.standardize`.
    """
    return pointwise(
        rules.standardize(mean, std), f"standardize({mean:.4g}, {std:.4g})"
    )


ACTIVATIONS: dict[str, Callable[[], Layer]] = {
    "relu": lambda: relu,
    "leaky_relu": leaky_relu,
    "tanh": lambda: tanh,
    "sigmoid": lambda: sigmoid,
    "softplus": lambda: softplus,
}
"""Name -> maker of an activation, for `mlp` and the command line."""

LAYERS: dict[str, Callable[..., Layer]] = {
    **ACTIVATIONS,
    "batch_norm": batch_norm,
    "dense": dense,
    "dropout": dropout,
    "flatten": lambda: flatten,
    "log_softmax": lambda: log_softmax,
    "standardize": standardize,
}
"""Name -> maker of a layer, for the command line (`dense:128`)."""

__all__ = [
    "ACTIVATIONS",
    "INITIALIZERS",
    "LAYERS",
    "Layer",
    "batch_norm",
    "dense",
    "dropout",
    "flatten",
    "initializer",
    "leaky_relu",
    "log_softmax",
    "pointwise",
    "relu",
    "shaped",
    "sigmoid",
    "softplus",
    "standardize",
    "tanh",
]
