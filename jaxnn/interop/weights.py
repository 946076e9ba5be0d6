"""Networks as files of arrays: safetensors, and PyTorch's state dicts.

PyTorch has the weights of a dense layer as (out, in), kernels as (out, in, height,
width) and images with their channels first, so that a dense layer behind `flatten` has
its inputs in another order. All of it is turned here, both ways. No code is ever
loaded from a file.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn import layers
from jaxnn.combine import chained
from jaxnn.errors import JaxnnError
from jaxnn.interop.onnx_in import Imported
from jaxnn.interop.onnx_out import settings_of
from jaxnn.layers import Layer, from_plain, to_plain
from jaxnn.rules.pool import placed
from jaxnn.rules.window import per_axis, windows
from jaxnn.train.checkpoint import named
from jaxnn.train.inputs import init_shapes

KEY = "jaxnn"  # under which a file tells its network


# ---- safetensors, as the layers have them


def save_safetensors(path: Path, network: Imported) -> None:
    """Write a network, its layers as JSON beside its arrays, as jaxnn has them."""
    from safetensors.numpy import save_file

    told = {"layers": to_plain(network.net), "in_shape": list(network.in_shape)}
    tree = {"params": network.params, "state": network.state}
    arrays = {name: np.asarray(a) for name, a in named(tree)}
    save_file(arrays, str(path), {KEY: json.dumps(told)})


def load_weights(
    path: Path, net: Layer | None = None, in_shape: tuple[int, ...] | None = None
) -> Imported:
    """Read a network from a .safetensors, .pt or .pth file.

    Args:
      path: the file. What `save_safetensors` wrote says which network it is; any other
        holds arrays named and laid out as PyTorch does.
      net: the network of that other file; its layers take the arrays in the order of
        the file, of safetensors in that of their names.
      in_shape: what `net` takes.

    Raises:
      JaxnnError: no such file, one that holds code, arrays that do not fit.
    """
    arrays, told = _read(path)
    if told is not None:
        try:
            net, in_shape = from_plain(told["layers"]), tuple(told["in_shape"])
            like = _like(net, in_shape)
        except (KeyError, TypeError) as error:
            raise JaxnnError(f"{path} tells of no network ({error!r})") from error
        wanted = {name: leaf.shape for name, leaf in named(like)}
        if wanted != {name: a.shape for name, a in arrays.items()}:
            raise JaxnnError(f"{path}: its arrays are not those of the layers it names")
        leaves = [jnp.asarray(arrays[name]) for name in wanted]
        tree = jax.tree.unflatten(jax.tree.structure(like), leaves)
        return Imported(net, tree["params"], tree["state"], in_shape)
    if net is None or in_shape is None:
        raise JaxnnError(
            f"{path} does not say which network it is of; expected --net FILE.py:name, "
            "a layer such as serial(flatten, dense(30), relu, dense(10))"
        )
    return _from_torch(path, arrays, net, in_shape)


def _like(net, in_shape) -> dict[str, Any]:
    params, state, _ = init_shapes(net, in_shape)
    return {"params": params, "state": state}


def _read(path) -> tuple[dict[str, np.ndarray], dict | None]:
    """Arrays by name, and what a file of ours tells."""
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), "numpy") as file:
                told = (file.metadata() or {}).get(KEY)
                names = sorted(file.keys(), key=_natural)
                arrays = {name: file.get_tensor(name) for name in names}
                return arrays, None if told is None else json.loads(told)
        except (OSError, SafetensorError, ValueError, TypeError) as error:
            raise JaxnnError(f"{path} is not whole safetensors ({error})") from error
    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises almost anything
        raise JaxnnError(
            f"{path} cannot be read as weights ({type(error).__name__}); expected what "
            "torch.save(model.state_dict(), path) wrote: code is never loaded"
        ) from error
    for key in ("state_dict", "model_state_dict", "model"):
        found = found.get(key, found) if isinstance(found, Mapping) else found
    if not isinstance(found, Mapping) or not all(map(torch.is_tensor, found.values())):
        raise JaxnnError(f"{path} holds {type(found).__name__}, expected a state dict")
    return {name: a.float().numpy() for name, a in found.items()}, None


def _natural(name):
    """ "10.weight" after "2.weight"."""
    return [int(p) if p.isdecimal() else p for p in re.split(r"(\d+)", name)]


# ---- PyTorch's arrays


class Place(NamedTuple):
    """A layer with parameters, where it stands in the network.

    `image` is the (H, W, C) that was flattened to its input, or None.
    """

    path: tuple[int, ...]
    layer: Layer
    image: tuple[int, ...] | None


def places(net: Layer, in_shape: tuple[int, ...]) -> Iterator[tuple[Place, Any]]:
    """The layers of a chain one by one, with the shape of their inputs."""

    def walk(layer, path, shape, image):
        for i, part in enumerate(chained(layer)):
            shape, image = yield from walk(part, (*path, i), shape, image)
        if not chained(layer):
            yield Place(path, layer, image), shape
            if layer == layers.flatten:
                image = shape if len(shape) > 2 else None
            elif init_shapes(layer, shape)[0] and layer.name != "batch_norm":
                image = None
            shape = init_shapes(layer, shape)[2]
        return shape, image

    yield from walk(net, (), in_shape, None)


NAMES = {
    "w": "weight", "b": "bias", "gamma": "weight", "beta": "bias",
    "mean": "running_mean", "var": "running_var",
}  # fmt: skip
"""What PyTorch calls the arrays of the layers below."""
KNOWN = layers.dense, layers.conv, layers.depthwise_conv, layers.batch_norm


def _turned(name: str, a: Any, image: tuple[int, ...] | None, out: bool) -> np.ndarray:
    """An array of a layer as PyTorch has it (`out`), or from there."""
    a = np.asarray(a, np.float32)
    if name == "w" and out:
        a = np.moveaxis(a, (-1, -2), (0, 1))
    if image is not None and name != "b":  # the last axis is that of the inputs
        *sizes, c = image
        parts = (math.prod(sizes), c) if out else (c, math.prod(sizes))
        a = np.swapaxes(a.reshape(*a.shape[:-1], *parts), -1, -2).reshape(a.shape)
    return np.moveaxis(a, (0, 1), (-1, -2)) if name == "w" and not out else a


def _from_torch(path, arrays, net, in_shape) -> Imported:
    """The arrays of a state dict, given to the layers of `net` in their order."""
    modules: dict[str, dict[str, np.ndarray]] = {}
    for name, a in arrays.items():
        module, _, kind = name.rpartition(".")
        if kind != "num_batches_tracked":
            modules.setdefault(module, {})[kind] = a
    found = [p for p, shape in places(net, in_shape) if init_shapes(p.layer, shape)[0]]
    if len(found) != len(modules):
        raise JaxnnError(
            f"{path}: got arrays of {len(modules)} layers ({', '.join(modules)}), "
            f"expected {len(found)}: {', '.join(p.layer.name for p in found)}"
        )
    given = {
        place.path: (place, module)
        for place, module in zip(found, modules.items(), strict=True)
    }

    def read(tree, at=()):
        if isinstance(tree, tuple):
            return tuple(read(t, (*at, i)) for i, t in enumerate(tree))
        place, (module, its) = given[at]
        _check_known(place.layer)
        if missing := [NAMES[name] for name in tree if NAMES[name] not in its]:
            raise JaxnnError(f"{path}: {module} has no {missing[0]}")
        return {n: _turned(n, its[NAMES[n]], place.image, False) for n in tree}

    like = _like(net, in_shape)
    made = {name: read(tree) for name, tree in like.items()}
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (made, like)]
    if shapes[0] != shapes[1]:
        raise JaxnnError(f"{path}: got arrays {shapes[0]}, expected {shapes[1]}")
    made = jax.tree.map(jnp.asarray, made)
    return Imported(net, made["params"], made["state"], in_shape)


def _check_known(layer):
    if layer.made is None or layer.made.constructor not in KNOWN:
        raise JaxnnError(
            f"{layer.name}: its arrays are not known in PyTorch's form; expected "
            f"layers among {', '.join(f.__name__ for f in KNOWN)}"
        )


# ---- written for PyTorch

HEAD = '''"""A network of jaxnn in PyTorch; images have their channels first."""

import torch
from torch import nn


class Standardize(nn.Module):
    def __init__(self, mean, std):
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, x):
        return (x - self.mean) / self.std


def load(path="model.pt"):
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


model = nn.Sequential(
'''


def to_torch(network: Imported) -> tuple[str, dict[str, np.ndarray]]:
    """A network as the source of a PyTorch module, `model`, and its state dict.

    Raises:
      JaxnnError: a layer that has no form here.
    """
    lines, arrays = [], {}
    net, params, state, in_shape = network
    for i, (place, shape) in enumerate(places(net, in_shape)):
        p, s = params, state
        for k in place.path:
            p, s = p[k], s[k]
        lines.append(f"    {_line(place.layer, shape)},")
        for name, array in {**(p or {}), **(s or {})}.items():
            _check_known(place.layer)
            arrays[f"{i}.{NAMES[name]}"] = _turned(name, array, place.image, True)
        if s:
            arrays[f"{i}.num_batches_tracked"] = np.int64(0)
    return HEAD + "\n".join(lines) + "\n)\n", arrays


def _line(layer, shape) -> str:
    """The module of a layer whose input is of that shape."""
    constructor = layer.made.constructor if layer.made is not None else None
    if layer in LINES:
        return LINES[layer]
    if constructor not in LINES:
        raise JaxnnError(
            f"torch: {layer.name} has no form in PyTorch here; --to onnx has more"
        )
    y = init_shapes(layer, shape)[2]
    return LINES[constructor](shape, y, **settings_of(layer))


def _conv_line(x, y, *, channels, kernel, stride, padding, dilation, groups, bias, **_):
    axes = len(x) - 1
    kernel = per_axis("conv", "kernel", kernel, axes)
    at = windows("conv", x[:-1], kernel, stride, padding, dilation)
    return (
        f"nn.Conv{axes}d({x[-1]}, {channels}, {at.size}, {at.stride}, "
        f"{_even(at)}, {at.dilation}, {groups}, {bias is not False})"
    )


def _pool_line(kind):
    def line(x, y, *, size, stride, padding):
        axes = len(x) - 1
        size = per_axis("pool", "size", size, axes)
        at = placed("pool", x, size, size if stride is None else stride, padding)
        more = ", count_include_pad=False" if kind == "Avg" else ""
        return f"nn.{kind}Pool{axes}d({at.size}, {at.stride}, {_even(at)}{more})"

    return line


def _even(at) -> tuple[int, ...]:
    if any(low != high for low, high in at.pads):
        raise JaxnnError(
            f"torch: padding {at.pads} is another before than after, for which PyTorch "
            "has no module; --to onnx has"
        )
    return tuple(low for low, _ in at.pads)


def _reshape_line(x, y, *, shape):
    if y[-1:] == (1,) and x in ((math.prod(y),), y[:-1]):
        return f"nn.Unflatten(1, {(1, *y[: 3 - len(x)])})"
    raise JaxnnError(f"torch: reshape from {x} to {y} has no form in PyTorch here")


LINES: dict[Any, Any] = {
    layers.relu: "nn.ReLU()",
    layers.tanh: "nn.Tanh()",
    layers.sigmoid: "nn.Sigmoid()",
    layers.softplus: "nn.Softplus()",
    layers.selu: "nn.SELU()",
    layers.softmax: "nn.Softmax(1)",
    layers.log_softmax: "nn.LogSoftmax(1)",
    layers.flatten: "nn.Flatten()",
    layers.global_avg_pool: "nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())",
    layers.global_max_pool: "nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten())",
    layers.leaky_relu: lambda x, y, *, slope: f"nn.LeakyReLU({slope})",
    layers.elu: lambda x, y, *, alpha: f"nn.ELU({alpha})",
    layers.dropout: lambda x, y, *, drop_rate: f"nn.Dropout({drop_rate})",
    layers.standardize: lambda x, y, *, mean, std: f"Standardize({mean}, {std})",
    layers.dense: lambda x, y, *, width, bias, **_: (
        f"nn.Linear({x[-1]}, {width}, {bias is not False})"
    ),
    layers.conv: _conv_line,
    layers.depthwise_conv: lambda x, y, *, multiplier, **more: _conv_line(
        x, y, channels=y[-1], groups=x[-1], **more
    ),
    layers.max_pool: _pool_line("Max"),
    layers.avg_pool: _pool_line("Avg"),
    layers.batch_norm: lambda x, y, *, epsilon, momentum, **_: (
        f"nn.BatchNorm{max(len(x) - 1, 1)}d({x[-1]}, {epsilon}, {1 - momentum})"
    ),
    layers.reshape: _reshape_line,
}
"""Constructor -> `(x_shape, y_shape, **settings) -> source`; layer -> source."""
