"""The network that a configuration describes."""

import inspect
import re
from collections.abc import Callable
from typing import NamedTuple, get_args

from jaxnn.app.config import MODELS, TrainConfig
from jaxnn.combine import activation_layer, dense_block, output_layer, serial
from jaxnn.defenses import binarise
from jaxnn.errors import JaxnnError, lookup
from jaxnn.layers import (
    LAYERS,
    Layer,
    batch_norm,
    conv,
    dense,
    flatten,
    reshape,
    standardize,
)


class DataFacts(NamedTuple):
    """What a network must know of its data; saved with it."""

    in_shape: tuple[int, ...]
    classes: int
    mean: float
    std: float


def build(config: TrainConfig, facts: DataFacts) -> Layer:
    """The network of `config` for data like `facts`.

    Raises:
      JaxnnError: unknown model, layer, activation or initialiser; lists valid names.
    """
    lookup("model", config.model, dict.fromkeys(MODELS))
    layers = [] if config.binarise is None else [binarise(config.binarise)]
    layers += [standardize(facts.mean, facts.std)] if config.standardize else []
    if config.model == "cnn" and len(facts.in_shape) == 2:
        layers.append(reshape(*facts.in_shape, 1))  # grey images get a channel axis
    flat = config.model == "serial"  # there the user says where
    if config.model in ("linear", "mlp"):
        layers.append(flatten)
        flat = True
    for token in () if config.model == "linear" else config.layers:
        if token.isdecimal() and not flat:
            layers.append(flatten)
            flat = True
        layers += _block(token, config)
    if config.model != "serial":
        layers += [] if flat else [flatten]
        layers.append(dense(facts.classes, config.init, config.bias_init))
    if config.output is not None:
        layers.append(output_layer(config.output))
    return serial(*layers)


def _block(token: str, config: TrainConfig) -> list[Layer]:
    """The layers that one word of `--layers` stands for."""
    if token.isdecimal():
        return dense_block(
            int(token),
            config.activation,
            init=config.init,
            bias=config.bias_init,
            normalize=config.batch_norm and _batch_norm(config),
            drop_rate=config.dropout,
        )
    if convolution := re.fullmatch(r"(\d+)x(\d+)", token):
        channels, kernel = map(int, convolution.groups())
        bias = False if config.batch_norm else config.bias_init
        return [
            conv(channels, kernel, init=config.init, bias=bias),
            *([_batch_norm(config)] if config.batch_norm else []),
            activation_layer(config.activation),
        ]
    name, *settings = token.split(":")
    make = lookup("layer", name, LAYERS)
    try:
        return [make(*_settings(make, settings))]
    except TypeError as error:
        raise JaxnnError(
            f"layer {token!r}: wrong number of settings ({error}); expected a form "
            "such as 128, 32x5, relu, dense:128, dropout:0.2"
        ) from None


def _batch_norm(config: TrainConfig) -> Layer:
    ghost = config.batch_stats == "ghost"
    return batch_norm(groups=config.devices or 1) if ghost else batch_norm()


def _settings(make: Callable, texts: list[str]) -> list[int | float | str]:
    """Numbers, or words where `make` takes them: pad:2:reflect, conv:32:5:1:VALID."""
    takes = [p.annotation for p in inspect.signature(make).parameters.values()]
    settings = []
    for i, text in enumerate(texts):
        number = _number(text)
        wordy = i < len(takes) and str in (takes[i], *get_args(takes[i]))
        if number is None and not wordy:
            raise JaxnnError(
                f"layer setting {text!r} is not a number; expected such as dropout:0.2"
            )
        settings.append(text if number is None else number)
    return settings


def _number(text: str) -> int | float | None:
    try:
        return int(text) if text.lstrip("-").isdecimal() else float(text)
    except ValueError:
        return None
