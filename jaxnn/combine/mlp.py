"""Multilayer perceptrons, ready made."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from jaxnn.arrays import is_traced, is_whole
from jaxnn.combine.parts import serial
from jaxnn.errors import JaxnnError, lookup
from jaxnn.layers import (
    ACTIVATIONS,
    Layer,
    batch_norm,
    constructor,
    dense,
    dropout,
    flatten,
    log_softmax,
    softmax,
)
from jaxnn.layers.linear import Initializer


@constructor
def mlp(
    widths: Sequence[int],
    activation: str | Layer = "relu",
    *,
    init: str | Initializer = "he",
    bias: bool | str | Initializer = True,
    normalize: bool = False,
    drop_rate: float = 0.0,
    output: str | Layer | None = None,
) -> Layer:
    """A multilayer perceptron: dense layers of `widths[1:]` with `activation` between.

    Args:
      widths: features in, hidden widths, outputs: `[784, 30, 30, 10]`.
      activation: name or layer after each hidden dense layer.
      init: initializer of the weights, a name or a function.
      bias: as in `dense`; a hidden layer before batch norm has none (beta is one).
      normalize: batch norm between dense and activation.
      drop_rate: dropout after each activation.
      output: name or layer after the last dense layer; None leaves logits.

    The input is flattened first, so (B, 28, 28) images may come as they are.
    """
    widths = tuple(widths)
    if len(widths) < 2 or not all(map(is_whole, widths)):
        raise JaxnnError(
            f"mlp: got widths {list(widths)}, expected [inputs, hidden..., outputs], "
            "whole numbers of at least 1"
        )
    layers = [flatten]
    for width in widths[1:-1]:
        layers += dense_block(
            width,
            activation,
            init=init,
            bias=bias,
            normalize=normalize,
            drop_rate=drop_rate,
        )
    layers.append(dense(widths[-1], init, bias))
    if output is not None:
        layers.append(output_layer(output))
    net = serial(*layers)

    def checked_init(key, in_shape):
        params, state, out_shape = net.init(key, in_shape)
        features = params[1]["w"].shape[0]
        if features != widths[0]:
            raise JaxnnError(
                f"mlp({list(widths)}): in_shape {tuple(in_shape)} has {features} "
                f"features, expected widths[0] = {widths[0]}"
            )
        return params, state, out_shape

    name = f"mlp({list(widths)})"
    return net._replace(init=checked_init, name=name, bounds=net.bounds)


def chained(net: Layer) -> tuple[Layer, ...]:
    """The layers that `net` is a series of: of `serial` and `mlp`, else ()."""
    return net.parts if net.constructor in (serial, mlp) else ()


class SplitNetwork(NamedTuple):
    """A network as what comes before its last layer, and that layer."""

    before: Layer
    last: Layer
    split: Callable[[Any], tuple[Any, Any]]  # a tree of the network -> of either
    join: Callable[[Any, Any], Any]  # and back


@lru_cache(maxsize=256)
def split_last(net: Layer) -> SplitNetwork:
    """Take the last layer from a network, out of series within series.

    >>> from jaxnn.layers import relu
    >>> split_last(serial(relu, mlp([3, 2]))).last.name
    'dense(2)'
    """
    if not chained(net):
        return SplitNetwork(serial(), net, lambda tree: ((), tree), lambda _, end: end)
    *layers, last = chained(net)
    if not chained(last):
        return SplitNetwork(
            serial(*layers), last,
            lambda tree: (tuple(tree[:-1]), tree[-1]), lambda tree, end: (*tree, end),
        )  # fmt: skip
    inner = split_last(last)

    def split(tree):
        rest, end = inner.split(tree[-1])
        return (*tree[:-1], rest), end

    def join(tree, end):
        return *tree[:-1], inner.join(tree[-1], end)

    return SplitNetwork(serial(*layers, inner.before), inner.last, split, join)


def dense_block(
    width: int,
    activation: str | Layer,
    *,
    init: str | Initializer = "he",
    bias: bool | str | Initializer = True,
    normalize: bool | Layer = False,
    drop_rate: float = 0.0,
) -> list[Layer]:
    """The layers of one hidden layer: dense, batch norm, activation, dropout.

    Arguments as in `mlp`; `normalize` may be a layer, instead of batch norm.
    """
    layers = [dense(width, init, False if normalize else bias)]
    if normalize:
        layers.append(batch_norm() if isinstance(normalize, bool) else normalize)
    layers.append(activation_layer(activation))
    if is_traced(drop_rate) or drop_rate:
        layers.append(dropout(drop_rate))
    return layers


def output_layer(output: str | Layer) -> Layer:
    """What may end a network: an activation, `softmax`, or `log_softmax` for `nll`."""
    if isinstance(output, Layer):
        return output
    ends = {"softmax": lambda: softmax, "log_softmax": lambda: log_softmax}
    return lookup("output", output, {**ACTIVATIONS, **ends})()


def activation_layer(activation: str | Layer) -> Layer:
    """The activation of that name, or `activation` itself if it is a layer."""
    if isinstance(activation, Layer):
        return activation
    return lookup("activation", activation, ACTIVATIONS)()
