"""A network as the source of a PyTorch module: its head, and a line for each layer."""

import math
from functools import partial
from typing import Any

from jaxnn import layers
from jaxnn.errors import JaxnnError
from jaxnn.interop.onnx_out import settings_of
from jaxnn.layers import Layer
from jaxnn.rules.pool import placed
from jaxnn.rules.window import per_axis, windows
from jaxnn.train.inputs import init_shapes

RECURRENT = {layers.lstm: "LSTM", layers.gru: "GRU", layers.rnn: "RNN"}

HEAD = '''"""A network of jaxnn in PyTorch; images have their channels first."""

import torch
from torch import nn


class Standardize(nn.Module):
    def __init__(self, mean, std):
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, x):
        return (x - self.mean) / self.std


class Residual(nn.Module):
    def __init__(self, inner, projection=None):
        super().__init__()
        self.inner, self.projection = inner, projection or nn.Identity()

    def forward(self, x):
        return self.inner(x) + self.projection(x)


class Recurrent(nn.Module):
    def __init__(self, rnn, every_step, backwards):
        super().__init__()
        self.rnn, self.every_step, self.backwards = rnn, every_step, backwards

    def forward(self, x):
        y, _ = self.rnn(x.flip(1) if self.backwards else x)
        if not self.every_step:
            return y[:, -1]
        return y.flip(1) if self.backwards else y


def load(path="model.pt"):
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


model = '''


def line_of(layer: Layer, shape: tuple[int, ...]) -> str:
    """The module of a layer whose input is of that shape."""
    if layer in LINES:
        return LINES[layer]
    if layer.constructor not in LINES:
        raise JaxnnError(
            f"torch: {layer.name} has no form in PyTorch here; --to onnx has more"
        )
    y = init_shapes(layer, shape)[2]
    return LINES[layer.constructor](shape, y, **settings_of(layer))


def _conv_line(x, y, *, channels, kernel, stride, padding, dilation, groups, bias, **_):
    axes = len(x) - 1
    kernel = per_axis("conv", "kernel", kernel, axes)
    at = windows("conv", x[:-1], kernel, stride, padding, dilation)
    return (
        f"nn.Conv{axes}d({x[-1]}, {channels}, {at.size}, {at.stride}, "
        f"{_even(at)}, {at.dilation}, {groups}, {bias is not False})"
    )


def _pool_line(kind, x, y, *, size, stride, padding):
    axes = len(x) - 1
    size = per_axis("pool", "size", size, axes)
    at = placed("pool", x, size, size if stride is None else stride, padding)
    more = ", count_include_pad=False" if kind == "Avg" else ""
    return f"nn.{kind}Pool{axes}d({at.size}, {at.stride}, {_even(at)}{more})"


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


def _recurrent_line(
    kind, x, y, *, units, return_sequences, go_backwards, mask_value, activation="", **_
):
    if mask_value is not None:
        raise JaxnnError(f"torch: {kind} with mask_value has no form here")
    more = f", nonlinearity={activation!r}" if activation else ""
    rnn = f"nn.{kind}({x[-1]}, {units}, batch_first=True{more})"
    return f"Recurrent({rnn}, {return_sequences}, {go_backwards})"


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
    layers.max_pool: partial(_pool_line, "Max"),
    layers.avg_pool: partial(_pool_line, "Avg"),
    layers.batch_norm: lambda x, y, *, epsilon, momentum, **_: (
        f"nn.BatchNorm{max(len(x) - 1, 1)}d({x[-1]}, {epsilon}, {1 - momentum})"
    ),
    layers.reshape: _reshape_line,
    layers.gelu: lambda x, y, *, approximate: (
        f"nn.GELU({'tanh' if approximate else 'none'!r})"
    ),
    **{maker: partial(_recurrent_line, kind) for maker, kind in RECURRENT.items()},
}
"""Constructor -> `(x_shape, y_shape, **settings) -> source`; layer -> source."""
