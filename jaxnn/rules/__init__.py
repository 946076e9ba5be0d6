"""All of the calculus: each derivative is written once, here, by hand.

Letters in the shape comments: B batch, I inputs, O outputs, C channels, H W image,
K kernel, N classes, T time, D features of a flattened sample, `...` any axes.
"""

from jaxnn.rules.activations import (
    elu,
    gelu,
    leaky_relu,
    log_softmax,
    relu,
    selu,
    sigmoid,
    softmax,
    softplus,
    swish,
    tanh,
)
from jaxnn.rules.arithmetic import add, div, maximum, minimum, mul, power, sub, where
from jaxnn.rules.attention import attention
from jaxnn.rules.conv import add_bias, conv, conv_transpose
from jaxnn.rules.core import Rule
from jaxnn.rules.einsum import einsum
from jaxnn.rules.elementwise import dropout, standardize
from jaxnn.rules.embedding import add_positions, embedding
from jaxnn.rules.functions import abs, exp, log, sqrt, square
from jaxnn.rules.linear import affine, matmul
from jaxnn.rules.norm import (
    BatchStats,
    FixedStats,
    batch_norm,
    batch_norm_fixed,
    group_norm,
    layer_norm,
)
from jaxnn.rules.padding import pad
from jaxnn.rules.pool import avg_pool, global_avg_pool, global_max_pool, max_pool
from jaxnn.rules.recurrence import length_mask
from jaxnn.rules.recurrent import gru, lstm, rnn
from jaxnn.rules.reduce import logsumexp, max, mean, sum
from jaxnn.rules.shape import broadcast_to, concatenate, flatten, reshape, transpose
from jaxnn.rules.slicing import slice
from jaxnn.rules.upsampling import upsample

RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        abs,
        add,
        add_bias,
        add_positions,
        affine,
        attention(),
        avg_pool(),
        batch_norm(),
        batch_norm_fixed(),
        broadcast_to((2, 3, 4)),
        concatenate(),
        conv(),
        conv_transpose(),
        div,
        dropout(),
        einsum(),
        elu(),
        embedding(),
        exp,
        flatten,
        gelu(),
        global_avg_pool,
        global_max_pool,
        group_norm(),
        gru(),
        layer_norm(),
        leaky_relu(),
        log,
        log_softmax,
        logsumexp(),
        lstm(),
        matmul,
        max(),
        max_pool(),
        maximum,
        mean(),
        minimum,
        mul,
        pad(),
        power,
        relu,
        reshape(),
        rnn(),
        selu,
        sigmoid,
        slice(),
        softmax,
        softplus,
        sqrt,
        square,
        standardize(0.5, 0.25),
        sub,
        sum(),
        swish(),
        tanh,
        transpose(),
        upsample(),
        where,
    )
}
"""Every rule by name, those with settings at their defaults."""

__all__ = [
    "RULES",
    "BatchStats",
    "FixedStats",
    "Rule",
    "abs",
    "add",
    "add_bias",
    "add_positions",
    "affine",
    "attention",
    "avg_pool",
    "batch_norm",
    "batch_norm_fixed",
    "broadcast_to",
    "concatenate",
    "conv",
    "conv_transpose",
    "div",
    "dropout",
    "einsum",
    "elu",
    "embedding",
    "exp",
    "flatten",
    "gelu",
    "global_avg_pool",
    "global_max_pool",
    "group_norm",
    "gru",
    "layer_norm",
    "leaky_relu",
    "length_mask",
    "log",
    "log_softmax",
    "logsumexp",
    "lstm",
    "matmul",
    "max",
    "max_pool",
    "maximum",
    "mean",
    "minimum",
    "mul",
    "pad",
    "power",
    "relu",
    "reshape",
    "rnn",
    "selu",
    "sigmoid",
    "slice",
    "softmax",
    "softplus",
    "sqrt",
    "square",
    "standardize",
    "sub",
    "sum",
    "swish",
    "tanh",
    "transpose",
    "upsample",
    "where",
]
