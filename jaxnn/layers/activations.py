"""Layers that act on each element alone, or (softmax) on the last axis."""

from jaxnn import rules
from jaxnn.layers.bounds import bounded, monotone, unimodal
from jaxnn.layers.core import Layer, constructor, pointwise, register, value
from jaxnn.rules.core import Rule

__all__ = [
    "elu", "gelu", "leaky_relu", "log_softmax", "relu", "selu", "sigmoid", "softmax",
    "softplus", "standardize", "swish", "tanh",
]  # fmt: skip

ULPS = 8
"""What an exponential and what is made of it may be off, in units of the last place."""


def _value(rule: Rule) -> Layer:
    return value(f"jaxnn.layers:{rule.name}", pointwise(rule))


relu = bounded(_value(rules.relu), monotone)
tanh = bounded(_value(rules.tanh), monotone, ulps=ULPS)
sigmoid = bounded(_value(rules.sigmoid), monotone, ulps=ULPS)
softplus = bounded(_value(rules.softplus), monotone, ulps=ULPS)
selu = bounded(_value(rules.selu), monotone, ulps=ULPS)
softmax = _value(rules.softmax)
log_softmax = _value(rules.log_softmax)


@constructor
def leaky_relu(slope: float = 0.01) -> Layer:
    """y = x where x >= 0, slope * x below. See `jaxnn.rules.leaky_relu`."""
    layer = pointwise(rules.leaky_relu(slope), f"leaky_relu({slope:g})")
    return _bent_at_0(layer, slope, ulps=0)


@constructor
def elu(alpha: float = 1.0) -> Layer:
    """y = x where x > 0, alpha (e^x - 1) below. See `jaxnn.rules.elu`."""
    layer = pointwise(rules.elu(alpha), f"elu({alpha:g})")
    return _bent_at_0(layer, alpha, ulps=ULPS)


def _bent_at_0(layer: Layer, slope: float, ulps: int) -> Layer:
    """An activation that rises above 0; below, its slope has the sign of `slope`."""

    def bounds(layer):
        if slope >= 0:
            return monotone(layer, ulps=ulps)
        return unimodal(layer, turn=0.0, ulps=ulps)

    return bounded(layer, bounds)


@constructor
def gelu(approximate: bool = False) -> Layer:
    """y = x P(z <= x), z standard normal; `approximate` takes the tanh formula.

    See `jaxnn.rules.gelu`.
    """
    name = "gelu(approximate)" if approximate else "gelu"
    layer = pointwise(rules.gelu(bool(approximate)), name)
    turn = GELU_TANH_TURN if approximate else GELU_TURN
    return bounded(layer, unimodal, turn=turn, ulps=ULPS, wide=True)


@constructor
def swish(beta: float = 1.0) -> Layer:
    """y = x sigmoid(beta x), SiLU for beta = 1. See `jaxnn.rules.swish`."""
    layer = pointwise(rules.swish(beta), f"swish({beta:g})")

    def bounds(layer):
        if beta == 0:  # x / 2
            return monotone(layer)
        # for beta < 0 it is -swish(-beta)(-x): it rises, then falls
        turn, peak = SWISH_TURN / beta, beta < 0
        return unimodal(layer, turn=turn, peak=peak, ulps=ULPS, wide=True)

    return bounded(layer, bounds)


GELU_TURN, GELU_TANH_TURN = -0.7517915246935645, -0.7524614220710162
SWISH_TURN = -1.278464542761074
"""Where gelu and swish are smallest: the roots of their derivatives."""


@constructor
def standardize(mean: float, std: float) -> Layer:
    """y = (x - mean) / std by constants: lets a network own its normalization.

    Inputs, and so attacks, stay in pixel units [0, 1]. See `jaxnn.rules.standardize`.
    """
    name = f"standardize({mean:.4g}, {std:.4g})"

    def size(params, state, most):
        del params, state
        return (most + abs(mean)) * abs(1 / std)

    return bounded(
        pointwise(rules.standardize(mean, std), name),
        monotone,
        falls=(lambda params: True) if std < 0 else None,
        ulps=4,
        size=size,
    )


register(
    relu, leaky_relu, elu, selu, gelu, swish, tanh, sigmoid, softplus, activations=True
)
register(softmax, log_softmax, standardize)
