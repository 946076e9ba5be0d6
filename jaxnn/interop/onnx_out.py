"""Networks as ONNX graphs, which other programs run, and verifiers reason about.

A layer's form in ONNX is a function in `FORMS`, found by the constructor that made the
layer. ONNX has channels before height and width: a value in the graph says which order
it is in, and is turned only where the next layer needs the other one.
"""

import inspect
import math
import pkgutil
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnn import combine, layers
from jaxnn.combine import chained
from jaxnn.errors import JaxnnError
from jaxnn.layers import Layer
from jaxnn.rules.pool import placed
from jaxnn.rules.shape import pairs_of
from jaxnn.rules.window import Windows, per_axis, windows
from jaxnn.train.inputs import init_shapes

OPSET, IR_VERSION = 17, 8  # what verifiers read


class Value(NamedTuple):
    """An array in the graph: its name and shape without the batch axis.

    The shape is the layers', channels last; `first` says that the graph has them first.
    """

    name: str
    shape: tuple[int, ...]
    first: bool = False


FORMS: dict[Any, Callable[..., Value]] = {}
"""Constructor, or layer without settings -> `(graph, x, y_shape, params, state,
**settings) -> y`."""


def form(*makers: Any) -> Callable:
    """Decorate the form of what these constructors make."""

    def add(function):
        FORMS.update(dict.fromkeys(makers, function))
        return function

    return add


def to_onnx(net: Layer, params: Any, state: Any, in_shape: tuple[int, ...]) -> Any:
    """The network in evaluation mode as an `onnx.ModelProto`, in float32.

    Its input is "images" (N, *in_shape), as the network takes it, its output "logits".

    Raises:
      JaxnnError: a layer that has no form here, or was written by hand.
    """
    from onnx import checker, helper

    graph = Graph()
    y = graph.turned(graph.layer(net, params, state, Value("images", in_shape)), False)
    graph.add("Identity", y.name, outputs=("logits",))
    ends = [
        helper.make_tensor_value_info(name, FLOAT, ["N", *shape])
        for name, shape in (("images", in_shape), ("logits", y.shape))
    ]
    whole = helper.make_graph(graph.nodes, "jaxnn", ends[:1], ends[1:], graph.arrays)
    model = helper.make_model(
        whole, producer_name="jaxnn", ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
    )  # fmt: skip
    checker.check_model(model, full_check=True)
    return model


FLOAT = 1  # onnx.TensorProto.FLOAT


class Graph:
    """Nodes and arrays of a graph under construction."""

    def __init__(self):
        self.nodes, self.arrays, self.count = [], [], 0

    def add(self, op: str, *inputs: Any, outputs: Any = None, **settings: Any) -> str:
        """A node; arrays among its inputs become constants. The name of its output."""
        from onnx import helper

        names = [i if isinstance(i, str) else self.constant(i) for i in inputs]
        outputs = outputs or (self.name(op.lower()),)
        self.nodes.append(helper.make_node(op, names, outputs, **settings))
        return next(filter(None, outputs))

    def name(self, kind: str) -> str:
        """A name that is not taken."""
        self.count += 1
        return f"{kind}_{self.count}"

    def constant(self, array: Any) -> str:
        """The name of an array, floats as float32."""
        from onnx import numpy_helper

        a = np.asarray(array)
        a = a.astype(np.int64 if a.dtype.kind in "iu" else np.float32)
        name = self.name("w")
        self.arrays.append(numpy_helper.from_array(np.ascontiguousarray(a), name))
        return name

    def turned(self, x: Value, first: bool) -> Value:
        """x with its channels first, or last."""
        n = len(x.shape)
        if n < 2 or x.first == first:
            return x._replace(first=first and n > 1)
        order = [0, n, *range(1, n)] if first else [0, *range(2, n + 1), 1]
        return Value(self.add("Transpose", x.name, perm=order), x.shape, first)

    def layer(self, layer: Layer, params: Any, state: Any, x: Value) -> Value:
        """The output of a layer for x."""
        if parts := chained(layer):
            for part, p, s in zip(parts, params, state, strict=True):
                x = self.layer(part, p, s, x)
            return x
        settings, write = settings_of(layer), FORMS.get(layer)
        write = write or FORMS.get(layer.constructor)
        if write is None:
            raise JaxnnError(
                f"onnx: {layer.name} has no form in ONNX here; expected layers among "
                + ", ".join(sorted(getattr(m, "__name__", str(m)) for m in FORMS))
            )
        y = init_shapes(layer, x.shape)[2]
        return write(self, x, y, **settings | {"params": params, "state": state})

    def elementwise(self, op: str, x: Value, *more: Any, **settings: Any) -> Value:
        """An operation that takes any order of axes."""
        return x._replace(name=self.add(op, x.name, *more, **settings))


def settings_of(layer: Layer) -> dict[str, Any]:
    """The arguments that a layer was made with, by name; {} of one without."""
    made = layer.made
    if made is None or made.constructor is pkgutil.resolve_name:
        return {}
    bound = inspect.signature(made.constructor).bind(*made.args, **made.kwargs)
    return bound.arguments


# ---- layers that are one operation; files are read by this table, too


def _same(op, graph, x, y, **_):
    return graph.elementwise(op, x)


def _row(op, graph, x, y, **_):
    return graph.elementwise(op, graph.turned(x, False), axis=-1)


def _pool(op, graph, x, y, *, size, stride, padding, **_):
    size = per_axis("pool", "size", size, len(x.shape) - 1)
    at = placed("pool", x.shape, size, size if stride is None else stride, padding)
    return Value(graph.add(op, graph.turned(x, True).name, **_places(at)), y, True)


def _global_pool(op, graph, x, y, **_):
    name = graph.add(op, graph.turned(x, True).name)
    return Value(graph.add("Flatten", name, axis=1), y)


SINGLE = {
    layers.relu: ("Relu", _same), layers.tanh: ("Tanh", _same),
    layers.sigmoid: ("Sigmoid", _same), layers.softplus: ("Softplus", _same),
    layers.selu: ("Selu", _same), layers.softmax: ("Softmax", _row),
    layers.log_softmax: ("LogSoftmax", _row), layers.max_pool: ("MaxPool", _pool),
    layers.avg_pool: ("AveragePool", _pool),
    layers.global_max_pool: ("GlobalMaxPool", _global_pool),
    layers.global_avg_pool: ("GlobalAveragePool", _global_pool),
}  # fmt: skip
FORMS |= {maker: partial(write, op) for maker, (op, write) in SINGLE.items()}


# ---- elementwise, and what does nothing in evaluation

FORMS |= {
    layers.leaky_relu: lambda graph, x, y, *, slope, **_: graph.elementwise(
        "LeakyRelu", x, alpha=float(slope)
    ),
    layers.elu: lambda graph, x, y, *, alpha, **_: graph.elementwise(
        "Elu", x, alpha=float(alpha)
    ),
    layers.standardize: lambda graph, x, y, *, mean, std, **_: graph.elementwise(
        "Div", graph.elementwise("Sub", x, float(mean)), float(std)
    ),
    **dict.fromkeys(
        (layers.dropout, layers.spatial_dropout, layers.gaussian_noise),
        lambda graph, x, y, **_: x,
    ),
}


@form(layers.swish)
def _swish(graph, x, y, *, beta, **_):
    gate = graph.add("Sigmoid", graph.add("Mul", x.name, np.float32(beta)))
    return graph.elementwise("Mul", x, gate)


@form(layers.gelu)
def _gelu(graph, x, y, *, approximate, **_):
    if approximate:
        cube = graph.add("Mul", graph.add("Pow", x.name, np.float32(3)), 0.044715)
        inner = graph.add("Mul", graph.add("Add", x.name, cube), (2 / np.pi) ** 0.5)
        bent = graph.add("Tanh", inner)
    else:
        bent = graph.add("Erf", graph.add("Mul", x.name, 0.5**0.5))
    half = graph.add("Mul", x.name, 0.5)
    return graph.elementwise("Mul", x._replace(name=half), graph.add("Add", bent, 1.0))


# ---- shapes


@form(layers.flatten)
def _flatten(graph, x, y, **_):
    if min(math.prod(x.shape[:-1]), x.shape[-1]) > 1:  # else the order is the same
        x = graph.turned(x, False)
    return Value(graph.add("Flatten", x.name, axis=1), y)


@form(layers.reshape)
def _reshape(graph, x, y, **_):
    x, gray = graph.turned(x, False), len(y) > 2 and y[-1] == 1
    sizes = (0, *((1, *y[:-1]) if gray else y))  # 0: the batch, as it is
    return Value(graph.add("Reshape", x.name, np.array(sizes)), y, gray)


@form(layers.transpose)
def _transpose(graph, x, y, *, axes=(), **_):
    x, n = graph.turned(x, False), len(y)
    order = [a % n + 1 for a in axes] or [*range(n, 0, -1)]
    return Value(graph.add("Transpose", x.name, perm=[0, *order]), y)


@form(layers.pad)
def _pad(graph, x, y, *, widths, mode, **_):
    widths = [0, *widths] if isinstance(widths, Sequence) else widths
    pairs = pairs_of("pad", widths, len(x.shape) + 1)
    ends = [pair[i] for i in (0, 1) for pair in pairs]
    mode = {"zero": "constant"}.get(mode, mode)
    name = graph.add("Pad", graph.turned(x, False).name, np.array(ends), mode=mode)
    return Value(name, y)


# ---- layers with parameters


@form(layers.dense)
def _dense(graph, x, y, *, params, **_):
    bias = (params["b"],) if "b" in params else ()
    if len(y) == 1:
        return Value(graph.add("Gemm", x.name, params["w"], *bias), y)
    name = graph.add("MatMul", graph.turned(x, False).name, params["w"])
    return Value(graph.add("Add", name, *bias) if bias else name, y)


@form(layers.conv, layers.conv1d, layers.depthwise_conv)
def _conv(
    graph, x, y, *, params, stride, padding, dilation, groups=1, multiplier=0, **_
):
    w = np.asarray(params["w"])  # (KH, KW, C / groups, channels)
    at = windows("conv", x.shape[:-1], w.shape[:-2], stride, padding, dilation)
    name = graph.add(
        "Conv", graph.turned(x, True).name, np.moveaxis(w, (-1, -2), (0, 1)),
        *([params["b"]] if "b" in params else []), **_places(at),
        dilations=at.dilation, group=x.shape[-1] if multiplier else groups,
    )  # fmt: skip
    return Value(name, y, True)


def _places(at: Windows) -> dict[str, Any]:
    pads = [pair[i] for i in (0, 1) for pair in at.pads]
    return {"kernel_shape": at.size, "strides": at.stride, "pads": pads}


@form(layers.batch_norm)
def _batch_norm(graph, x, y, *, params, state, epsilon, **_):
    given = params["gamma"], params["beta"], state["mean"], state["var"]
    x = graph.turned(x, True)
    return graph.elementwise("BatchNormalization", x, *given, epsilon=float(epsilon))


@form(layers.layer_norm)
def _layer_norm(graph, x, y, *, params, epsilon, **_):
    x, given = graph.turned(x, False), (params["gamma"], params["beta"])
    return graph.elementwise("LayerNormalization", x, *given, epsilon=float(epsilon))


GATES = {  # ONNX's gates of ours, which come in PyTorch's order
    "LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,),
}  # fmt: skip


def biases(params: Any) -> tuple[np.ndarray, np.ndarray]:
    """At the inputs, and inside: a GRU's candidate has such, others zeros."""
    b = np.asarray(params["b"], np.float32)
    inner = np.zeros_like(b)
    if "c" in params:
        inner[-len(params["c"]) :] = params["c"]
    return b, inner


def _recurrent(
    kind, graph, x, y, *, params, units, return_sequences, go_backwards, mask_value,
    activation="", **_,
):  # fmt: skip
    if mask_value is not None:
        raise JaxnnError(f"onnx: {kind} with mask_value has no form in ONNX here")

    def gates(a):
        parts = np.split(np.asarray(a), len(GATES[kind]), axis=-1)
        return np.concatenate([parts[i] for i in GATES[kind]], -1).T[None]

    more = {"linear_before_reset": 1} if kind == "GRU" else {}
    more |= {"activations": [activation.capitalize()]} if activation else {}
    turned = graph.add("Transpose", graph.turned(x, False).name, perm=[1, 0, 2])
    every, last = graph.name(kind), graph.name(kind)  # (T, 1, B, H) and (1, B, H)
    graph.add(
        kind, turned, gates(params["w"]), gates(params["u"]),
        np.concatenate([*map(gates, biases(params))], 1), outputs=(every, last),
        hidden_size=units, direction="reverse" if go_backwards else "forward", **more,
    )  # fmt: skip
    if not return_sequences:
        return Value(graph.add("Squeeze", last, np.array([0])), y)
    every = graph.add("Squeeze", every, np.array([1]))
    return Value(graph.add("Transpose", every, perm=[1, 0, 2]), y)


FORMS |= {
    layers.lstm: partial(_recurrent, "LSTM"),
    layers.gru: partial(_recurrent, "GRU"),
    layers.rnn: partial(_recurrent, "RNN"),
}


# ---- networks of networks


MERGES = {
    "sum": "Sum", "multiply": "Mul", "maximum": "Max", "concatenate": "Concat"
}  # fmt: skip


@form(combine.residual)
def _residual(graph, x, y, *, params, state, inner, projection=None, **_):
    if projection is None:
        ends = x, graph.layer(inner, params, state, x)
    else:
        both = zip((inner, projection), params, state, strict=True)
        ends = [graph.layer(*each, x) for each in both]
    return _merged(graph, "Sum", ends, y)


@form(combine.parallel)
def _parallel(graph, x, y, *, params, state, branches, merge, **_):
    if merge not in MERGES or (merge == "multiply" and len(branches) != 2):
        raise JaxnnError(f"onnx: parallel with merge={merge} has no form in ONNX here")
    each = zip(branches, params, state, strict=True)
    ends = [graph.layer(*branch, x) for branch in each]
    more = {"axis": -1} if merge == "concatenate" else {}
    return _merged(graph, MERGES[merge], ends, y, **more)


def _merged(graph, op, ends, shape, **settings):
    first = all(end.first for end in ends) and not settings
    names = [graph.turned(end, first).name for end in ends]
    return Value(graph.add(op, *names, **settings), shape, first)


FORMS |= {
    combine.freeze: lambda graph, x, y, *, state, layer, **_: graph.layer(
        layer, state["params"], state["state"], x
    ),
    combine.remat: lambda graph, x, y, *, params, state, layer, **_: graph.layer(
        layer, params, state, x
    ),
}


@form(combine.stack)
def _stack(graph, x, y, *, params, state, layer, depth, **_):
    for i in range(depth):
        p, s = jax.tree.map(lambda a, i=i: a[i], (params["stacked"], state))
        x = graph.layer(layer, p, s, x)
    return x
