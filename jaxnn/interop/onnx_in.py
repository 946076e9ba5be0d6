"""ONNX graphs as networks: a chain of layers, as competitions of verifiers write it.

ONNX has channels before height and width, the layers have them last. The value that
is followed through the graph knows how its axes lie in both; kernels are turned, and
an array that is flattened is first brought into the order that the file means.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn import layers
from jaxnn.combine import serial
from jaxnn.errors import JaxnnError
from jaxnn.interop.onnx_out import FLOAT, settings_of
from jaxnn.layers import Layer
from jaxnn.train.inputs import init_shapes


class Imported(NamedTuple):
    """A network read from a file, and what its input is, without the batch axis."""

    net: Layer
    params: Any
    state: Any
    in_shape: tuple[int, ...]


READERS: dict[str, Callable[..., None]] = {}
"""Operation -> `(chain, settings, *constants)`, which adds layers to the chain."""


def reads(*ops: str) -> Callable:
    """Decorate what reads these operations of a graph."""

    def add(function):
        READERS.update(dict.fromkeys(ops, function))
        return function

    return add


def from_onnx(path: str | Path, in_shape: Sequence[int] | None = None) -> Imported:
    """Read a network from an ONNX file; nothing in it is run as code.

    Args:
      path: the file.
      in_shape: what the network shall take, channels last, such as (28, 28) where the
        file takes (1, 28, 28) or (784,); None: as the file, its channels last.

    Raises:
      JaxnnError: no such file, operations that are not known, branches.
    """
    import onnx

    try:
        graph = onnx.load(path, load_external_data=False).graph
        known: dict[str, Any] = {
            a.name: onnx.numpy_helper.to_array(a) for a in graph.initializer
        }
    except Exception as error:  # protobuf has exceptions of its own
        raise JaxnnError(f"{path} cannot be read as ONNX ({error})") from error
    inputs = [i for i in graph.input if i.name not in known]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise JaxnnError(
            f"{path}: got {len(inputs)} inputs and {len(graph.output)} outputs, "
            "expected one of each"
        )
    sizes = [d.dim_value for d in inputs[0].type.tensor_type.shape.dim]
    chain = Chain(tuple(sizes[1:]), in_shape, str(path))
    live = inputs[0].name
    for node in graph.node:
        live = _read(chain, node, known, live)
    if live != graph.output[0].name:
        raise JaxnnError(f"{path}: its output is not what its last operation makes")
    chain.flat()
    made, *trees = zip(*chain.steps, strict=True)
    params, state = jax.tree.map(lambda a: jnp.asarray(a, float), trees)
    return Imported(serial(*made), params, state, chain.in_shape)


def _read(chain, node, known, live) -> str:
    """Take a node to the chain, or to what is `known`; the name of the value since."""
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    where = f"{chain.where}: {node.op_type} {node.name or node.output[0]}"
    given = [name for name in node.input if name]
    if node.op_type == "Shape" and given == [live]:
        known[node.output[0]] = np.array([1, *chain.shape])
        return live
    if live not in given:
        missing = [name for name in given if name not in known]
        if missing:
            raise JaxnnError(
                f"{where} takes {missing[0]} from earlier in the graph; expected a "
                "chain, each operation on the result of the one before"
            )
        evaluated = ReferenceEvaluator(node).run(None, {n: known[n] for n in given})
        known.update(zip(node.output, evaluated, strict=True))
        return live
    if node.op_type not in READERS:
        raise JaxnnError(
            f"{where}: this operation is not known here; known are "
            + ", ".join(sorted(READERS))
        )
    settings = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    others = [None if name == live else known.get(name) for name in node.input if name]
    if given.count(live) > 1 or sum(o is None for o in others) > 1:
        raise JaxnnError(f"{where}: takes two values of the graph, expected constants")
    try:
        READERS[node.op_type](chain, settings | {"op": node.op_type}, *others)
    except (ValueError, TypeError, IndexError, ArithmeticError) as error:
        raise JaxnnError(f"{where}: {error}") from error
    return node.output[0]


class Chain:
    """The layers so far, and the value that they make.

    Attributes:
      steps: (layer, params, state) each.
      shape: of the value in ONNX, without the batch axis.
      last: whether the layers have its channels last, and ONNX first; else both have
        the elements in the same order, the layers as `here`.
      here: the layers' shape.
    """

    def __init__(self, shape, in_shape, where):
        turned = (*shape[1:], *shape[:1]) if len(shape) == 3 else ()
        in_shape = turned or shape if in_shape is None else in_shape
        self.steps: list[tuple[Layer, Any, Any]] = []
        self.shape, self.where = shape, where
        self.in_shape = self.here = tuple(in_shape)
        self.last = self.here == turned
        fits = math.prod(shape) == math.prod(self.here)
        same = len(self.here) < 3 or self.here == shape
        if not (self.last or (fits and same)):
            raise JaxnnError(
                f"{where}: takes inputs {shape}, expected as many numbers as in "
                f"{self.here}, or channels before height and width"
            )

    def add(self, layer: Layer, params: Any = (), state: Any = ()) -> None:
        """One layer more."""
        self.steps.append((layer, params, state))
        self.here = init_shapes(layer, self.here)[2]

    def images(self) -> None:
        """Channels last, whatever it was."""
        if self.last:
            return
        channels, *sizes = self.shape
        if channels == 1:
            self.add(layers.reshape(*sizes, 1))
        else:
            if self.here != self.shape:
                self.add(layers.reshape(*self.shape))
            self.add(layers.transpose(*range(1, len(self.shape)), 0))
        self.last = True

    def as_written(self) -> None:
        """The elements in ONNX's order."""
        if self.last and min(self.shape[0], math.prod(self.shape[1:])) > 1:
            n = len(self.shape)
            self.add(layers.transpose(n - 1, *range(n - 1)))
        self.last = False

    def flat(self) -> None:
        """One axis, in ONNX's order."""
        self.as_written()
        if len(self.here) != 1:
            self.add(layers.flatten)

    def moved(self, layer: Layer, params: Any = (), state: Any = ()) -> None:
        """A layer on images, channels last, that makes such."""
        self.images()
        self.add(layer, params, state)
        self.shape = (self.here[-1], *self.here[:-1])

    def reshaped(self, shape: Sequence[int]) -> None:
        """Another shape in ONNX, of the same elements in the same order."""
        if tuple(shape) != self.shape:
            self.as_written()
            self.shape = tuple(shape)


# ---- elementwise

VALUES = {
    "Relu": layers.relu, "Sigmoid": layers.sigmoid, "Tanh": layers.tanh,
    "Selu": layers.selu, "Softplus": layers.softplus,
}  # fmt: skip


@reads(*VALUES)
def _value(chain, settings, x):
    chain.add(VALUES[settings["op"]])


@reads("Identity", "Dropout", "Cast")
def _nothing(chain, settings, x, *_):
    if settings.get("to", FLOAT) not in (FLOAT, 10, 11):  # and half, and double
        raise JaxnnError("to numbers that are not floating-point")


READERS |= {
    "LeakyRelu": lambda chain, settings, x: chain.add(
        layers.leaky_relu(settings.get("alpha", 0.01))
    ),
    "Elu": lambda chain, settings, x: chain.add(layers.elu(settings.get("alpha", 1.0))),
}


@reads("Softmax", "LogSoftmax")
def _softmax(chain, settings, x):
    if len(chain.shape) != 1 or settings.get("axis", -1) not in (-1, 1):
        raise JaxnnError(f"over {chain.shape}, expected over a row of numbers")
    chain.flat()
    op = settings["op"]
    chain.add(layers.softmax if op == "Softmax" else layers.log_softmax)


@reads("Add", "Sub", "Mul", "Div")
def _arithmetic(chain, settings, a, b):
    op, c = settings["op"], b if a is None else a
    if a is not None and op in ("Sub", "Div"):
        raise JaxnnError("a constant minus or over a value of the graph")
    c = np.asarray(c, np.float64)
    if c.size == 1:
        number = float(c.reshape(()))
        mean = {"Add": -number, "Sub": number}.get(op, 0.0)
        std = number if op == "Div" else 1 / number if op == "Mul" else 1.0
        before = settings_of(chain.steps[-1][0]) if chain.steps else {}
        if op == "Div" and before.get("std") == 1.0:  # (x - mean) / std is one layer
            mean = before["mean"]
            chain.steps.pop()
        chain.add(layers.standardize(mean, std))
        return
    c = c.reshape(c.shape[1:]) if c.ndim > len(chain.shape) and c.shape[0] == 1 else c
    if c.ndim == len(chain.shape) > 1 and c.size == c.shape[0] == chain.shape[0]:
        chain.images()  # a number for each channel
    elif c.size == math.prod(chain.shape):
        chain.flat()
    else:
        raise JaxnnError(f"a constant {c.shape} on {chain.shape}")
    c = c.reshape(-1)
    if op == "Add" and chain.steps and _take_bias(chain.steps, c):
        return
    gamma = c if op == "Mul" else 1 / c if op == "Div" else np.ones(c.size)
    params = {"gamma": gamma, "beta": {"Add": c, "Sub": -c}.get(op, 0 * c)}
    state = {"mean": 0 * c, "var": np.ones(c.size)}
    chain.add(layers.batch_norm(epsilon=0.0), params, state)


@reads("BatchNormalization")
def _batch_norm(chain, settings, x, gamma, beta, mean, var):
    (chain.images if len(chain.shape) > 1 else chain.flat)()
    norm = layers.batch_norm(epsilon=float(settings.get("epsilon", 1e-5)))
    chain.add(norm, {"gamma": gamma, "beta": beta}, {"mean": mean, "var": var})


def _take_bias(steps, c) -> bool:
    """Make `c` the bias of the last layer, if that is one without; whether it was."""
    layer, params, state = steps[-1]
    if not isinstance(params, dict) or set(params) != {"w"}:
        return False
    if params["w"].shape[-1] != c.size:
        return False
    made = layer.made
    again = made.constructor(*made.args[:-1], True)  # `bias` is their last argument
    steps[-1] = (again, params | {"b": c}, state)
    return True


# ---- layers with parameters


@reads("MatMul")
def _matmul(chain, settings, a, b):
    # a column of numbers may have its matrix on the left
    _dense(chain, b if a is None else np.swapaxes(a, -1, -2), None)


@reads("Gemm")
def _gemm(chain, settings, a, b, c=None):
    if a is not None or settings.get("transA"):
        raise JaxnnError("expected the value of the graph first, and not transposed")
    w = settings.get("alpha", 1.0) * (b.T if settings.get("transB") else b)
    beta = settings.get("beta", 1.0) * np.ones(w.shape[1])
    _dense(chain, w, None if c is None else beta * np.ravel(c))


def _dense(chain, w, bias):
    w = w.reshape(w.shape[-2:])
    if len(w) != math.prod(chain.shape):
        raise JaxnnError(f"weights of shape {w.shape} on values {chain.shape}")
    chain.flat()
    params = {"w": w} if bias is None else {"w": w, "b": bias}
    chain.add(layers.dense(w.shape[1], bias=bias is not None), params)
    chain.shape = chain.here


@reads("Conv")
def _conv(chain, settings, x, w, bias=None):
    axes, channels = w.ndim - 2, w.shape[0]
    layer = layers.conv(
        channels, tuple(w.shape[2:]), tuple(settings.get("strides", (1,) * axes)),
        _padding(settings, axes), tuple(settings.get("dilations", (1,) * axes)),
        settings.get("group", 1), bias=bias is not None,
    )  # fmt: skip
    params = {"w": np.moveaxis(w, (0, 1), (-1, -2))}
    chain.moved(layer, params if bias is None else params | {"b": bias})


def _padding(settings, axes):
    auto = settings.get("auto_pad", b"NOTSET").decode()
    if auto in ("SAME_UPPER", "VALID"):
        return auto.removesuffix("_UPPER")
    if auto != "NOTSET":
        raise JaxnnError(f"auto_pad {auto}")
    pads = settings.get("pads", (0,) * 2 * axes)
    return tuple(zip(pads[:axes], pads[axes:], strict=True))


@reads("MaxPool", "AveragePool")
def _pool(chain, settings, x):
    size = tuple(settings["kernel_shape"])
    padding = _padding(settings, len(size))
    counted = settings.get("count_include_pad") and padding not in ("SAME", "VALID")
    if settings.get("ceil_mode") or (counted and np.any(padding)):
        raise JaxnnError("ceil_mode, or a mean that counts the padding")
    if any(d != 1 for d in settings.get("dilations", ())):
        raise JaxnnError("dilations other than 1")
    make = layers.max_pool if settings["op"] == "MaxPool" else layers.avg_pool
    chain.moved(make(size, tuple(settings.get("strides", (1,) * len(size))), padding))


@reads("GlobalAveragePool", "GlobalMaxPool")
def _global_pool(chain, settings, x):
    average = settings["op"] == "GlobalAveragePool"
    channels, *sizes = chain.shape
    chain.images()
    chain.add(layers.global_avg_pool if average else layers.global_max_pool)
    chain.shape, chain.last = (channels, *[1] * len(sizes)), False


@reads("ReduceMean")
def _mean(chain, settings, x, axes=None):
    axes = sorted(np.ravel(settings["axes"] if axes is None else axes).tolist())
    n = len(chain.shape)
    if [a % (n + 1) for a in axes] != list(range(2, n + 1)):
        raise JaxnnError(f"over axes {axes}, expected over height and width")
    _global_pool(chain, {"op": "GlobalAveragePool"}, x)
    chain.shape = chain.shape if settings.get("keepdims", 1) else chain.shape[:1]


# ---- shapes


@reads("Flatten")
def _flatten(chain, settings, x):
    if settings.get("axis", 1) != 1:
        raise JaxnnError(f"axis {settings['axis']}, expected 1: all but the batch")
    chain.flat()
    chain.shape = chain.here


@reads("Reshape")
def _reshape(chain, settings, x, sizes):
    sizes = np.ravel(sizes).tolist()
    whole = [1, *chain.shape]
    sizes = [whole[i] if s == 0 else s for i, s in enumerate(sizes)]
    # the batch is 1 here: -1 in its place stands for it, elsewhere for what is left
    sizes = np.zeros(whole).reshape(sizes).shape
    if sizes[0] != 1:
        raise JaxnnError(f"to {sizes}, expected the batch as the first axis")
    chain.reshaped(sizes[1:])


@reads("Squeeze", "Unsqueeze")
def _squeeze(chain, settings, x, axes=None):
    axes = settings.get("axes") if axes is None else np.ravel(axes).tolist()
    a = np.zeros([1, *chain.shape])
    change = np.expand_dims if settings["op"] == "Unsqueeze" else np.squeeze
    a = change(a, tuple(axes))
    if not a.ndim or a.shape[0] != 1:
        raise JaxnnError("of the batch axis")
    chain.reshaped(a.shape[1:])


@reads("Transpose")
def _transpose(chain, settings, x):
    n = len(chain.shape) + 1
    order = settings.get("perm", list(range(n))[::-1])
    if order[0] != 0:
        raise JaxnnError(f"perm {order}, expected the batch to stay first")
    shape = tuple(chain.shape[a - 1] for a in order[1:])
    if chain.last and order == [0, *range(2, n), 1]:
        chain.last = False  # the file turns to what is here already
    elif (
        not chain.last
        and chain.here == chain.shape
        and order == [0, n - 1, *range(1, n - 1)]
    ):
        chain.last = True
    else:
        chain.as_written()
        if chain.here != chain.shape:
            chain.add(layers.reshape(*chain.shape))
        chain.add(layers.transpose(*(a - 1 for a in order[1:])))
    chain.shape = shape
