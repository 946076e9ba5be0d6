"""What layers the operations of an ONNX graph are: one function each, in `READERS`.

A function adds to the `chain` of `jaxnn.interop.onnx_in`, which knows how the axes of
its value lie in the file.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxnn import layers
from jaxnn.errors import JaxnnError
from jaxnn.interop.onnx_out import FLOAT, SINGLE, settings_of

FLOATS = FLOAT, 10, 11  # and half, and double

READERS: dict[str, Callable[..., None]] = {}
"""Operation -> `(chain, settings, *constants)`, which adds layers to the chain; what
it takes of the graph's values is None among the constants."""


def reads(*ops: str) -> Callable:
    """Decorate what reads these operations of a graph."""

    def add(function):
        READERS.update(dict.fromkeys(ops, function))
        return function

    return add


# ---- elementwise

MAKERS = {op: maker for maker, (op, _) in SINGLE.items()}
"""Operation -> the layer that it is alone, or its constructor."""


@reads("Relu", "Sigmoid", "Tanh", "Selu", "Softplus")
def _same(chain, settings, x):
    chain.add(MAKERS[settings["op"]])


@reads("Identity", "Dropout", "Cast")
def _nothing(chain, settings, x, *_):
    if settings.get("to", FLOAT) not in FLOATS:
        raise JaxnnError("to numbers that are not floating-point")


READERS |= {
    "LeakyRelu": lambda chain, settings, x: chain.add(
        layers.leaky_relu(settings.get("alpha", 0.01))
    ),
    "Elu": lambda chain, settings, x: chain.add(layers.elu(settings.get("alpha", 1.0))),
}


@reads("Softmax", "LogSoftmax")
def _row(chain, settings, x):
    axis = settings.get("axis", -1)
    if chain.whole[axis] != math.prod(chain.shape):
        raise JaxnnError(f"axis {axis} of {chain.whole}, expected a row of numbers")
    chain.flat()
    chain.add(MAKERS[settings["op"]])


@reads("Add", "Sub", "Mul", "Div")
def _arithmetic(chain, settings, a, b):
    op, c = settings["op"], np.asarray(b if a is None else a, np.float64)
    if op == "Div" and a is not None:
        raise JaxnnError("a constant over a value of the graph")
    if op == "Sub" and a is not None:  # c - x = (x - c) / -1
        _arithmetic(chain, settings, None, c)
        op, c = "Div", np.array(-1.0)
    if c.size == 1 and c.all():
        number = c.item()
        mean = {"Add": -number, "Sub": number}.get(op, 0.0)
        std = number if op == "Div" else 1 / number if op == "Mul" else 1.0
        before = settings_of(chain.steps[-1].layer) if chain.steps else {}
        if op == "Div" and before.get("std") == 1.0:  # (x - mean) / std is one layer
            mean = before["mean"]
            chain.steps = chain.steps[:-1]
        chain.add(layers.standardize(mean, std))
        return
    c = c[(None,) * (len(chain.whole) - c.ndim)]
    if np.broadcast_shapes(c.shape, chain.whole) != chain.whole:
        raise JaxnnError(f"a constant {c.shape} on {chain.whole}")
    if len(chain.shape) > 1 and c.size == c.shape[len(chain.lead)]:
        chain.images()  # a number for each channel
        c = np.broadcast_to(c.ravel(), chain.shape[:1])
    else:
        chain.flat()
        c = np.broadcast_to(c[0] if chain.lead else c, chain.shape).ravel()
    if op == "Add" and chain.steps and _take_bias(chain, c):
        return
    gamma = c if op == "Mul" else 1 / c if op == "Div" else np.ones(c.size)
    params = {"gamma": gamma, "beta": {"Add": c, "Sub": -c}.get(op, 0 * c)}
    state = {"mean": 0 * c, "var": np.ones(c.size)}
    chain.add(layers.batch_norm(epsilon=0.0), params, state)


@reads("BatchNormalization")
def _batch_norm(chain, settings, x, gamma, beta, mean, var):
    chain.settled()
    norm = layers.batch_norm(epsilon=float(settings.get("epsilon", 1e-5)))
    chain.add(norm, {"gamma": gamma, "beta": beta}, {"mean": mean, "var": var})


def _take_bias(chain, c) -> bool:
    """Make `c` the bias of the last layer, if that is one without; whether it was."""
    step = chain.steps[-1]
    if not isinstance(step.params, dict) or set(step.params) != {"w"}:
        return False
    if step.params["w"].shape[-1] != c.size:
        return False
    made = step.layer.made
    again = made.constructor(*made.args[:-1], True)  # `bias` is their last argument
    params = step.params | {"b": c}
    chain.steps = [*chain.steps[:-1], step._replace(layer=again, params=params)]
    return True


# ---- layers with parameters


@reads("MatMul")
def _matmul(chain, settings, a, b):
    if a is None:
        _dense(chain, b, None, (*chain.whole[:-1], b.shape[-1]))
    else:  # a column of numbers may have its matrix on the left
        after = (
            (a.shape[-2], *chain.whole[-1:]) if len(chain.whole) > 1 else a.shape[-2:-1]
        )
        _dense(chain, np.swapaxes(a, -1, -2), None, (*chain.whole[:-2], *after))


@reads("Gemm")
def _gemm(chain, settings, a, b, c=None):
    left, right = settings.get("transA", 0), settings.get("transB", 0)
    mine, w = (left, b.T if right else b) if a is None else (right, a if left else a.T)
    rows, columns = chain.whole[::-1] if mine else chain.whole
    if (rows if a is None else columns) != (chain.batch or 1):
        raise JaxnnError("the batch is the axis that is summed over")
    if a is not None and chain.batch != 1:
        raise JaxnnError("the batch becomes the last axis")
    bias = None if c is None else settings.get("beta", 1.0) * np.ravel(c)
    after = (rows, w.shape[1]) if a is None else (w.shape[1], columns)
    _dense(chain, settings.get("alpha", 1.0) * w, bias, after)


def _dense(chain, w, bias, after):
    """Numbers times w (I, O), plus a bias; `after` is the whole shape that it makes."""
    w = w.reshape(w.shape[-2:])
    if len(w) != math.prod(chain.shape):
        raise JaxnnError(f"weights of shape {w.shape} on values {chain.shape}")
    chain.flat()
    params = {"w": w}
    if bias is not None:
        params["b"] = np.broadcast_to(bias, w.shape[1:])
    chain.add(layers.dense(w.shape[1], bias=bias is not None), params)
    chain.shape = chain.here
    chain.reshaped(after)


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


def _padding(settings, axes) -> Any:
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
    if settings.get("ceil_mode") or any(d != 1 for d in settings.get("dilations", ())):
        raise JaxnnError("ceil_mode, or dilations other than 1")
    counted = settings.get("count_include_pad") and padding not in ("SAME", "VALID")
    if counted and np.any(padding):
        chain.moved(layers.pad([*padding, 0]))
        padding = "VALID"
    stride = tuple(settings.get("strides", (1,) * len(size)))
    chain.moved(MAKERS[settings["op"]](size, stride, padding))


@reads("GlobalAveragePool", "GlobalMaxPool")
def _global_pool(chain, settings, x):
    channels, *sizes = chain.shape
    chain.images()
    chain.add(MAKERS[settings["op"]])
    chain.shape, chain.last = (channels, *[1] * len(sizes)), False


@reads("ReduceMean")
def _mean(chain, settings, x, axes=None):
    axes = sorted(np.ravel(settings["axes"] if axes is None else axes).tolist())
    n = len(chain.whole)
    if [a % n for a in axes] != list(range(2, n)):
        raise JaxnnError(f"over axes {axes}, expected over height and width")
    _global_pool(chain, {"op": "GlobalAveragePool"}, x)
    chain.shape = chain.shape if settings.get("keepdims", 1) else chain.shape[:1]


# ---- shapes


@reads("Flatten")
def _flatten(chain, settings, x):
    axis = settings.get("axis", 1)
    parts = chain.whole[:axis], chain.whole[axis:]
    chain.reshaped([math.prod(part) for part in parts])


@reads("Reshape")
def _reshape(chain, settings, x, sizes):
    whole = chain.whole
    sizes = [whole[i] if s == 0 else s for i, s in enumerate(np.ravel(sizes).tolist())]
    chain.reshaped(np.zeros(whole).reshape(sizes).shape)


@reads("Squeeze", "Unsqueeze")
def _squeeze(chain, settings, x, axes=None):
    axes = settings.get("axes") if axes is None else np.ravel(axes).tolist()
    change: Any = np.expand_dims if settings["op"] == "Unsqueeze" else np.squeeze
    axes = None if axes is None else tuple(axes)
    chain.reshaped(change(np.zeros(chain.whole), axes).shape)


@reads("Transpose")
def _transpose(chain, settings, x):
    whole, n = chain.whole, len(chain.whole)
    order = list(settings.get("perm", range(n)[::-1]))
    moved = [a for a in order if whole[a] != 1]
    if moved == sorted(moved) and (chain.batch or order[0] == 0):
        chain.reshaped([whole[a] for a in order])
        return
    if not chain.lead or order[0] != 0:
        raise JaxnnError(f"perm {order}, expected the batch to stay first")
    shape = tuple(whole[a] for a in order[1:])
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
