"""What `jaxnn train --from` starts from: the network of a run, or arrays in a file."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from jaxnn.app.build import DataFacts, build
from jaxnn.app.checks import check
from jaxnn.app.config import SAVED, TrainConfig
from jaxnn.app.exchange import ending
from jaxnn.app.folder import first_of, open_run
from jaxnn.app.settings import flag, given
from jaxnn.app.streams import note
from jaxnn.combine import chained, freeze, serial
from jaxnn.errors import JaxnnError, need
from jaxnn.files import open_file
from jaxnn.interop.onnx_in import Imported, from_onnx
from jaxnn.interop.weights import load_weights
from jaxnn.layers import Layer, dense
from jaxnn.train.checkpoint import load_params
from jaxnn.train.inputs import init_shapes

OF_NETWORK = ("model", "layers", "standardize", "output", "binarize")


def start_from(
    path: Path, frozen: tuple[int, ...], config: TrainConfig, facts: DataFacts
) -> tuple[TrainConfig, Imported]:
    """The settings for a network that begins as it is there, and that network.

    Where the data have another number of classes its last layer is a new one.

    Args:
      path: a run's folder, an .onnx file or a .safetensors file of ours, whose network
        is taken; or a file of arrays for the network of the settings.
      frozen: numbers of the layers that training leaves alone.
      config: the settings.
      facts: of the data.

    Raises:
      JaxnnError: settings that describe a network where one is taken as it is, images
        of another shape, no such layers.
    """
    found, net = _whole(path, facts), None
    if found is None:
        net = build(config, facts).net
        found = _arrays(path, net, facts)
    if found.net != net:
        for name in set(given(config)) & set(OF_NETWORK):
            raise JaxnnError(
                f"--from {path}: its network is taken as it is, so {flag(name)} has no "
                "effect; leave it out"
            )
        config = replace(config, model=SAVED)
    if found.in_shape != facts.in_shape:
        raise JaxnnError(
            f"--from {path}: its network takes images {found.in_shape}, but those of "
            f"the data are {facts.in_shape}"
        )
    classes = init_shapes(found.net, found.in_shape)[2][-1]
    if classes != facts.classes:
        key, shape = jax.random.key(config.seed), facts.in_shape
        net, params = _relabeled(found.net, found.params, shape, facts.classes, key)
        found = found._replace(net=net, params=params)
        config = replace(config, model=SAVED)
        note(
            f"--from {path}: its network tells {classes} classes apart, the data have "
            f"{facts.classes}: the last layer is a new one, drawn anew"
        )
    if frozen:
        found, config = _frozen(found, frozen), replace(config, model=SAVED)
    if config.model == SAVED:
        config = replace(
            config, layers=(), standardize=False, binarize=None,
            output=ending(found.net),
        )  # fmt: skip
        check(config)
    return config, found


def _whole(path, facts) -> Imported | None:
    """The network of a run or an ONNX file; None of another file."""
    if os.path.isdir(path):
        run = open_run(path)
        return Imported(run.net, *first_of(run), run.facts.in_shape)
    with open_file(path, "a run folder, or a file of arrays"):
        if path.suffix != ".onnx":
            return None
    need("onnx", "onnx")
    return from_onnx(path, facts.in_shape)


def _arrays(path, net, facts) -> Imported:
    if path.suffix != ".npz":
        need("safetensors" if path.suffix == ".safetensors" else "torch")
        return load_weights(path, net, facts.in_shape)
    params, state, _ = init_shapes(net, facts.in_shape)
    found = load_params(path, {"params": params, "state": state})
    return Imported(net, found["params"], found["state"], facts.in_shape)


def _relabeled(net, params, shape, classes, key) -> tuple[Layer, Any]:
    """The network with a new last layer, for so many classes, and its parameters."""
    layers, made = list(chained(net)), net.made
    if layers:
        last = max((i for i, p in enumerate(params) if p), default=-1)
        for layer in layers[:last]:
            shape = init_shapes(layer, shape)[2]
        params = list(params)
        end = layers[last], params[last]
        layers[last], params[last] = _relabeled(*end, shape, classes, key)
        return serial(*layers), tuple(params)
    if made is None or made.constructor is not dense:
        raise JaxnnError(
            f"--from: its network ends in {net.name}, and the data have {classes} "
            "classes; expected a dense layer at the end, in whose place a new one comes"
        )
    net = dense(classes, *made.args[1:], **made.kwargs)
    return net, net.init(key, shape)[0]


def _frozen(network: Imported, numbers: tuple[int, ...]) -> Imported:
    """The network with those layers as constants."""
    net, params, state, in_shape = network
    layers: list[Any] = list(chained(net))
    if not layers or max(numbers) >= len(layers) - 1:
        names = ", ".join(f"{i} {layer.name}" for i, layer in enumerate(layers))
        raise JaxnnError(
            f"--freeze: got {' '.join(map(str, numbers))}, expected layers before the "
            f"last of: {names or net.name}"
        )
    params, state = list(params), list(state)
    for i in set(numbers):
        layers[i] = freeze(layers[i])
        params[i], state[i] = (), {"params": params[i], "state": state[i]}
    return Imported(serial(*layers), tuple(params), tuple(state), in_shape)
