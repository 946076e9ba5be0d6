"""Layers: rules bound to parameters, state and randomness.

A layer without settings is a value (`relu`), one with settings a call (`dense(128)`).
"""

from collections.abc import Callable

from jaxnn import rules
from jaxnn.layers.activations import (
    ACTIVATIONS,
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
from jaxnn.layers.attention import multi_head_attention
from jaxnn.layers.bounds import bounded, interval, monotone
from jaxnn.layers.conv import conv, conv1d, conv_transpose, depthwise_conv
from jaxnn.layers.core import Layer, constructor, pointwise, shaped
from jaxnn.layers.embedding import embedding, positional_embedding
from jaxnn.layers.initializers import INITIALIZERS, initializer
from jaxnn.layers.linear import dense
from jaxnn.layers.noise import dropout, gaussian_noise, spatial_dropout
from jaxnn.layers.norm import batch_norm, group_norm, layer_norm
from jaxnn.layers.pool import avg_pool, global_avg_pool, global_max_pool, max_pool
from jaxnn.layers.recurrent import gru, lstm, rnn
from jaxnn.layers.shape import crop, flatten, pad, reshape, transpose, upsample


@constructor
def standardize(mean: float, std: float) -> Layer:
    """y = (x - mean) / std by constants: lets a network own its normalisation.

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


LAYERS: dict[str, Callable[..., Layer]] = {
    **ACTIVATIONS,
    "avg_pool": avg_pool,
    "batch_norm": batch_norm,
    "conv": conv,
    "conv1d": conv1d,
    "conv_transpose": conv_transpose,
    "crop": crop,
    "dense": dense,
    "depthwise_conv": depthwise_conv,
    "dropout": dropout,
    "embedding": embedding,
    "flatten": lambda: flatten,
    "gaussian_noise": gaussian_noise,
    "global_avg_pool": lambda: global_avg_pool,
    "global_max_pool": lambda: global_max_pool,
    "group_norm": group_norm,
    "gru": gru,
    "layer_norm": layer_norm,
    "log_softmax": lambda: log_softmax,
    "lstm": lstm,
    "max_pool": max_pool,
    "multi_head_attention": multi_head_attention,
    "pad": pad,
    "positional_embedding": positional_embedding,
    "reshape": reshape,
    "rnn": rnn,
    "softmax": lambda: softmax,
    "spatial_dropout": spatial_dropout,
    "standardize": standardize,
    "transpose": transpose,
    "upsample": upsample,
}
"""Name -> maker of a layer, for the command line (`dense:128`)."""

__all__ = [
    "ACTIVATIONS",
    "INITIALIZERS",
    "LAYERS",
    "Layer",
    "avg_pool",
    "batch_norm",
    "bounded",
    "constructor",
    "conv",
    "conv1d",
    "conv_transpose",
    "crop",
    "dense",
    "depthwise_conv",
    "dropout",
    "elu",
    "embedding",
    "flatten",
    "gaussian_noise",
    "gelu",
    "global_avg_pool",
    "global_max_pool",
    "group_norm",
    "gru",
    "initializer",
    "interval",
    "layer_norm",
    "leaky_relu",
    "log_softmax",
    "lstm",
    "max_pool",
    "monotone",
    "multi_head_attention",
    "pad",
    "pointwise",
    "positional_embedding",
    "relu",
    "reshape",
    "rnn",
    "selu",
    "shaped",
    "sigmoid",
    "softmax",
    "softplus",
    "spatial_dropout",
    "standardize",
    "swish",
    "tanh",
    "transpose",
    "upsample",
]
