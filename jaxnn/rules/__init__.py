"""All of the calculus: each derivative is written once, here, by hand.

Letters in the shape comments: B batch, I inputs, O outputs, C channels, H W image,
K kernel, N classes, T time, D features of a flattened sample, `...` any axes.
"""

from jaxnn.rules.core import Rule
from jaxnn.rules.elementwise import (
    add,
    dropout,
    leaky_relu,
    log_softmax,
    relu,
    sigmoid,
    softplus,
    standardize,
    tanh,
)
from jaxnn.rules.linear import affine, matmul
from jaxnn.rules.norm import BatchStats, FixedStats, batch_norm, batch_norm_fixed
from jaxnn.rules.shape import flatten

RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        add,
        affine,
        batch_norm(),
        batch_norm_fixed(),
        dropout(),
        flatten,
        leaky_relu(),
        log_softmax,
        matmul,
        relu,
        sigmoid,
        softplus,
        standardize(0.5, 0.25),
        tanh,
    )
}
"""Every rule by name, those with settings at their defaults."""

__all__ = [
    "RULES",
    "BatchStats",
    "FixedStats",
    "Rule",
    "add",
    "affine",
    "batch_norm",
    "batch_norm_fixed",
    "dropout",
    "flatten",
    "leaky_relu",
    "log_softmax",
    "matmul",
    "relu",
    "sigmoid",
    "softplus",
    "standardize",
    "tanh",
]
