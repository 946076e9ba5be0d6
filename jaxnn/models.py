"""The network that a configuration describes."""

from typing import NamedTuple

from jaxnn.combine import dense_block, output_layer, serial
from jaxnn.config import MODELS, TrainConfig
from jaxnn.errors import JaxnnError, lookup
from jaxnn.layers import LAYERS, Layer, dense, flatten, standardize


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
    layers = [standardize(facts.mean, facts.std)] if config.standardize else []
    if config.model != "serial":
        layers.append(flatten)
    for token in () if config.model == "linear" else config.layers:
        layers += _block(token, config)
    if config.model != "serial":
        layers.append(dense(facts.classes, config.init, config.bias_init))
    if config.output is not None:
        layers.append(output_layer(config.output))
    return serial(*layers)


def _block(token: str, config: TrainConfig) -> list[Layer]:
    """The layers that one word of `--layers` stands for."""
    if token.isdigit():
        return dense_block(
            int(token),
            config.activation,
            init=config.init,
            bias=config.bias_init,
            normalize=config.batch_norm,
            drop_rate=config.dropout,
        )
    name, *settings = token.split(":")
    make = lookup("layer", name, LAYERS)
    try:
        return [make(*map(_number, settings))]
    except TypeError as error:
        raise JaxnnError(
            f"layer {token!r}: wrong number of settings ({error}); expected a form "
            "such as 128, relu, dense:128, dropout:0.2"
        ) from None


def _number(text: str) -> int | float:
    try:
        return int(text) if text.lstrip("-").isdigit() else float(text)
    except ValueError:
        raise JaxnnError(
            f"layer setting {text!r} is not a number; expected such as dropout:0.2"
        ) from None
