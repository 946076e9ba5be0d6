"""Networks as files of arrays: safetensors, and PyTorch's state dicts.

PyTorch has the weights of a dense layer as (out, in), kernels as (out, in, height,
width) and images with their channels first, so that a dense layer behind `flatten` has
its inputs in another order. All of it is turned here, both ways. No code is ever
loaded from a file.
"""

import json
import math
import re
import textwrap
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn import combine, layers
from jaxnn.combine import chained
from jaxnn.errors import JaxnnError, first_line
from jaxnn.interop.onnx_in import Imported
from jaxnn.interop.onnx_out import biases
from jaxnn.interop.torch_source import HEAD, RECURRENT, line_of
from jaxnn.layers import Layer, from_plain, to_plain
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
        the file, of safetensors in that of their names, as far as they fit.
      in_shape: what `net` takes.

    Raises:
      JaxnnError: no such file, one that holds code, arrays that do not fit.
    """
    arrays, told = _read(path)
    for name, a in arrays.items():
        if not jnp.issubdtype(a.dtype, jnp.floating) and not name.endswith(COUNT):
            raise JaxnnError(f"{path}: {name} holds {a.dtype}, expected floats")
        if not np.isfinite(a).all():
            raise JaxnnError(f"{path}: {name} holds numbers that are not finite")
    if told is not None:
        try:
            net, in_shape = from_plain(told["layers"]), tuple(told["in_shape"])
            params, state, _ = init_shapes(net, in_shape)
        except (KeyError, TypeError) as error:
            raise JaxnnError(f"{path} tells of no network ({error!r})") from error
        like = {"params": params, "state": state}
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
        size, held = path.stat().st_size, 0
        if zipfile.is_zipfile(path):  # as torch.save writes it, nothing is compressed
            with zipfile.ZipFile(path) as records:
                held = sum(record.file_size for record in records.infolist())
        if held > size:
            raise JaxnnError(f"its {size:,} bytes claim to hold {held:,}")
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises almost anything
        raise JaxnnError(
            f"{path} cannot be read as weights ({type(error).__name__}: "
            f"{first_line(error)}); expected what torch.save(model.state_dict(), path) "
            "wrote: code is never loaded"
        ) from error
    for key in ("state_dict", "model_state_dict", "model"):
        found = found.get(key, found) if isinstance(found, Mapping) else found
    if not isinstance(found, Mapping) or not all(map(torch.is_tensor, found.values())):
        raise JaxnnError(f"{path} holds {type(found).__name__}, expected a state dict")
    if any(a.numel() * a.element_size() > size for a in found.values()):
        raise JaxnnError(f"{path}: a tensor in it is larger than the file")
    return {
        n: (a.float() if a.is_floating_point() else a).numpy() for n, a in found.items()
    }, None


def _natural(name):
    """ "10.weight" after "2.weight"."""
    return [int(p) if p.isdecimal() else p for p in re.split(r"(\d+)", name)]


# ---- PyTorch's arrays

NAMES = {
    "w": "weight", "b": "bias", "gamma": "weight", "beta": "bias",
    "mean": "running_mean", "var": "running_var",
}  # fmt: skip
"""What PyTorch calls the arrays of the layers below."""
KNOWN = layers.dense, layers.conv, layers.depthwise_conv, layers.batch_norm
PATHS = "inner", "projection"  # of a residual block
COUNT = "num_batches_tracked"  # of a batch norm, which has no use for it here


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


def _out(layer, params, state, image) -> dict[str, np.ndarray]:
    """The arrays of a layer by PyTorch's names."""
    if layer.constructor in RECURRENT:
        w, u = (np.asarray(params[name], np.float32).T for name in "wu")
        b, inner = biases(params)
        return {
            "weight_ih_l0": w, "weight_hh_l0": u, "bias_ih_l0": b, "bias_hh_l0": inner
        }  # fmt: skip
    if layer.constructor not in KNOWN:
        raise JaxnnError(
            f"{layer.name}: its arrays are not known in PyTorch's form; expected "
            f"layers among {', '.join(f.__name__ for f in (*KNOWN, *RECURRENT))}"
        )
    its = {**(params or {}), **(state or {})}
    return {NAMES[n]: _turned(n, a, image, True) for n, a in its.items()}


def _back(layer, its, params, state, image) -> tuple[Any, Any]:
    """Params and state of a layer, of the arrays by PyTorch's names."""
    if layer.constructor in RECURRENT:
        inner = its["bias_hh_l0"].copy()
        made = {"w": its["weight_ih_l0"].T, "u": its["weight_hh_l0"].T}
        if "c" in params:
            units = len(params["c"])
            made["c"], inner[-units:] = inner[-units:].copy(), 0
        return made | {"b": its["bias_ih_l0"] + inner}, state

    def read(tree):
        return {n: _turned(n, its[NAMES[n]], image, False) for n in tree} or ()

    return read(params), read(state)


def _walk(take: Callable, at: str, layer: Layer, params, state, shape, image):
    """Go through a network as PyTorch would hold it.

    Args:
      take: `(at, layer, params, state, shape, image) -> (source, params, state)` of a
        single layer.
      at: the name of the module, with a dot behind.
      shape: of its input.
      image: the (H, W, C) that was flattened to its input, or None.

    Returns:
      The module's source, params and state as `take` gives them, the image since.
    """
    walk: Callable = partial(_walk, take)
    made = layer.constructor
    if parts := chained(layer):
        lines, trees = [], []
        for i, part in enumerate(parts):
            line, *tree, image = walk(
                f"{at}{i}.", part, params[i], state[i], shape, image
            )
            shape = init_shapes(part, shape)[2]
            lines.append(textwrap.indent(line, "    ") + ",\n")
            trees.append(tree)
        return f"nn.Sequential(\n{''.join(lines)})", *zip(*trees, strict=True), image
    if made is combine.residual:
        both = len(layer.parts) == 2
        trees = zip(params, state, strict=True) if both else [(params, state)]
        found = [
            walk(f"{at}{name}.", part, *tree, shape, image)
            for name, part, tree in zip(PATHS, layer.parts, trees, strict=False)
        ]
        lines, params, state, images = zip(*found, strict=True)
        if len({*images} if both else {*images, image}) > 1:
            raise JaxnnError(f"torch: {layer.name} adds arrays in different orders")
        trees = (params, state) if both else (params[0], state[0])
        return f"Residual({', '.join(lines)})", *trees, images[0]
    if made is combine.freeze:
        its = state["params"], state["state"]
        line, p, s, image = walk(at, layer.parts[0], *its, shape, image)
        return line, (), {"params": p, "state": s}, image
    if made is combine.remat:
        return walk(at, layer.parts[0], params, state, shape, image)
    line, *after = take(at, layer, params, state, shape, image)
    if (params or state) and made is not layers.batch_norm:
        image = None
    if layer == layers.flatten:
        image = shape if len(shape) > 2 else None
    return line, *after, image


def _from_torch(path, arrays, net, in_shape) -> Imported:
    """The arrays of a state dict, given to the layers of `net` in their order.

    Each takes the first that fit it: files list their arrays in the order in which they
    were made, or of their names, and both may be another.
    """
    modules: dict[str, dict[str, np.ndarray]] = {}
    for name, a in arrays.items():
        module, _, kind = name.rpartition(".")
        if kind != COUNT:
            modules.setdefault(module, {})[kind] = np.asarray(a, np.float32)

    def take(at, layer, params, state, shape, image):
        if not (params or state):
            return "", params, state
        p, s = jax.tree.map(lambda a: np.zeros(a.shape, np.float32), (params, state))
        want = jax.tree.map(np.shape, _out(layer, p, s, image))
        for name, its in modules.items():
            if jax.tree.map(np.shape, its) == want:
                its = modules.pop(name)
                return "", *_back(layer, its, params, state, image)
        rest = {
            f"{m}.{k}": a.shape for m, its in modules.items() for k, a in its.items()
        }
        raise JaxnnError(
            f"{path}: no arrays for {layer.name}, expected {want}, among {rest}"
        )

    params, state, _ = init_shapes(net, in_shape)
    _, params, state, _ = _walk(take, "", net, params, state, in_shape, None)
    if modules:
        raise JaxnnError(f"{path}: --net has no layers for {', '.join(modules)}")
    params, state = jax.tree.map(jnp.asarray, (params, state))
    return Imported(net, params, state, in_shape)


# ---- written for PyTorch


def to_torch(network: Imported) -> tuple[str, dict[str, np.ndarray]]:
    """A network as the source of a PyTorch module, `model`, and its state dict.

    Raises:
      JaxnnError: a layer that has no form here.
    """
    arrays = {}

    def take(at, layer, params, state, shape, image):
        line = line_of(layer, shape)
        at += "rnn." if layer.constructor in RECURRENT else ""
        if params or state:
            found = _out(layer, params, state, image) | ({COUNT: 0} if state else {})
            arrays.update({at + n: np.array(a, order="C") for n, a in found.items()})
        return line, params, state

    net, params, state, in_shape = network
    source, *_ = _walk(take, "", net, params, state, in_shape, None)
    return f"{HEAD}{source}\n", arrays
