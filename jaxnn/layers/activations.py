"""Layers that act on each element alone, or (softmax) on the last axis."""

from collections.abc import Callable

from jaxnn import rules
from jaxnn.layers.core import Layer, pointwise

relu = pointwise(rules.relu)
tanh = pointwise(rules.tanh)
sigmoid = pointwise(rules.sigmoid)
softplus = pointwise(rules.softplus)
selu = pointwise(rules.selu)
softmax = pointwise(rules.softmax)
log_softmax = pointwise(rules.log_softmax)


def leaky_relu(slope: float = 0.01) -> Layer:
    """y = x where x >= 0, slope * x below. See `jaxnn.rules.leaky_relu`."""
    return pointwise(rules.leaky_relu(slope), f"leaky_relu({slope:g})")


def elu(alpha: float = 1.0) -> Layer:
    """y = x where x > 0, alpha (e^x - 1) below. See `jaxnn.rules.elu`."""
    return pointwise(rules.elu(alpha), f"elu({alpha:g})")


def gelu(approximate: bool = False) -> Layer:
    """y = x P(z <= x), z standard normal; `approximate` takes the tanh formula.

    See `jaxnn.rules.gelu`.
    """
    name = "gelu(approximate)" if approximate else "gelu"
    return pointwise(rules.gelu(bool(approximate)), name)


def swish(beta: float = 1.0) -> Layer:
    """y = x sigmoid(beta x), SiLU for beta = 1. See `jaxnn.rules.swish`."""
    return pointwise(rules.swish(beta), f"swish({beta:g})")


ACTIVATIONS: dict[str, Callable[[], Layer]] = {
    "relu": lambda: relu,
    "leaky_relu": leaky_relu,
    "elu": elu,
    "selu": lambda: selu,
    "gelu": gelu,
    "swish": swish,
    "tanh": lambda: tanh,
    "sigmoid": lambda: sigmoid,
    "softplus": lambda: softplus,
}
"""Name -> maker of an activation, for `mlp` and the command line."""
