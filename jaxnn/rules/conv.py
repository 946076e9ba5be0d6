"""Convolution, its transpose, and the bias that follows them; channels come last.

On GPUs the three directions of a convolution are each one that XLA knows. On CPU only
its first is fast: the other two are slow with a stride, and the gradient of the kernel
is slow whenever it stands in a loop (https://github.com/jax-ml/jax/issues/12868); for
them `conv_cpu` has matrix products.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax import default_backend

from jaxnn.errors import JaxnnError
from jaxnn.rules import conv_cpu
from jaxnn.rules.core import Rule, last_axis, register
from jaxnn.rules.products import convolution
from jaxnn.rules.window import Padding, Windows, transposed_windows, windows

__all__ = ["add_bias", "conv", "conv_transpose"]


class Plan(NamedTuple):
    """The formulation of each direction of a convolution."""

    convolve: Callable  # (x, w, at, groups) -> y
    gradients: Callable  # (x, dy, w, at, groups) -> (dx, dw)


def plan(at: Windows, c: int, o: int, groups: int = 1) -> Plan:
    """The formulation that measured best, by backend and shape.

    Not on CPU: XLA's convolutions. On CPU, with 5 x 5 x 32 -> 64 on 128 images 14 x 14,
    milliseconds in a loop on 2 cores (jax 0.10.2): XLA's own are 27 forward, 27 for dx
    and more than 1,000 for dw; the products of `conv_cpu` 17 and 35 for both gradients.
    XLA's forward is faster where all axes of the kernel stay in front (few channels in,
    or a stride): 2 for 5 x 5 x 1 -> 32 on 28 x 28 images, products 4.
    """
    if default_backend() != "cpu":
        return Plan(xla_convolve, xla_gradients)
    if groups == c > 1:
        return Plan(conv_cpu.depthwise_convolve, conv_cpu.depthwise_gradients)
    products_forward = conv_cpu.sides(at, c // groups, o // groups).behind
    forward = conv_cpu.convolve if products_forward else xla_convolve
    return Plan(forward, conv_cpu.gradients)


def conv(
    stride: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Rule:
    """y[p] = sum over k of x[p stride + k dilation - low] w[k], over any spatial axes.

    x (B, H, W, C), w (KH, KW, C/groups, O) -> y (B, H', W', O), or one axis less:
    x (B, T, C), w (K, C/groups, O) -> y (B, T', O). As everywhere in deep learning w is
    not flipped: a cross-correlation. `groups` splits C and O into as many parts that
    do not see each other; C of them is a depthwise convolution.

    dx stamps dy, times w, on where x was read; dw sums x dy over all windows. How they
    are computed is `plan`'s choice. Keeps x and w. Smooth, no kinks.
    Source: Dumoulin, Visin 2016, arXiv 1603.07285.
    """

    def fwd(x, w):
        at, chosen = placed(x, w)
        return chosen.convolve(x, w, at, groups), (x, w)

    def bwd(cache, dy):
        x, w = cache
        at, chosen = placed(x, w)
        return chosen.gradients(x, dy, w, at, groups)

    def placed(x, w):
        check_channels("conv", x.shape, w.shape, groups)
        at = windows("conv", x.shape[1:-1], w.shape[:-2], stride, padding, dilation)
        return at, plan(at, x.shape[-1], w.shape[-1], groups)

    return Rule("conv", fwd, bwd)


def conv_transpose(
    stride: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    dilation: int | Sequence[int] = 1,
) -> Rule:
    """y[p stride + k dilation - low] += x[p] w[k]: each pixel stamps its kernel.

    x (B, H, W, C), w (KH, KW, C, O) -> y (B, H', W', O), or one axis. It is `conv`'s dx
    read forward, so its own dx is a `conv` and its dw is `conv`'s with x and dy in each
    other's place. `padding` is that of the convolution it transposes, so it crops:
    "SAME" gives H' = H stride, otherwise H' = (H - 1) stride + span - low - high, with
    span = (K - 1) dilation + 1. Keeps x and w. Source: Dumoulin, Visin 2016.
    """

    def fwd(x, w):
        at, chosen = placed(x, w)
        # The values of conv's own input are not needed for its dx.
        stand_in = jnp.zeros((x.shape[0], *at.in_sizes, w.shape[-1]), x.dtype)
        y, _ = chosen.gradients(stand_in, x, w.swapaxes(-1, -2), at, 1)
        return y, (x, w)

    def bwd(cache, dy):
        x, w = cache
        at, chosen = placed(x, w)
        swapped = w.swapaxes(-1, -2)  # of the convolution O -> C
        _, dw = chosen.gradients(dy, x, swapped, at, 1)
        return chosen.convolve(dy, swapped, at, 1), dw.swapaxes(-1, -2)

    def placed(x, w):
        check_channels("conv_transpose", x.shape, w.shape, 1)
        at = transposed_windows(
            "conv_transpose", x.shape[1:-1], w.shape[:-2], stride, padding, dilation
        )
        return at, plan(at, w.shape[-1], x.shape[-1])

    return Rule("conv_transpose", fwd, bwd)


add_bias = Rule(
    "add_bias",
    lambda x, b: (x + last_axis(b, x.ndim), ()),
    lambda _, dy: (dy, dy.sum(tuple(range(dy.ndim - 1)))),
)
"""y = x + b along the last axis; dx = dy, db = sum of dy over all rows. Keeps nothing.

x (..., C), b (C,) -> y (..., C)."""


def check_channels(where: str, x_shape, w_shape, groups: int) -> None:
    """The channels and axes of x and w belong together, or a `JaxnnError`."""
    if len(x_shape) != len(w_shape) or len(x_shape) < 3:
        raise JaxnnError(
            f"{where}: input of shape {tuple(x_shape)} and kernel of shape "
            f"{tuple(w_shape)}, expected (B, H, W, C) and (KH, KW, C, O), or "
            "(B, T, C) and (K, C, O)"
        )
    c, per_group, o = x_shape[-1], w_shape[-2], w_shape[-1]
    if groups < 1 or c % groups or o % groups:
        raise JaxnnError(
            f"{where}: got groups={groups}, expected a divisor of both the {c} "
            f"channels in and the {o} out"
        )
    if per_group * groups != c:
        raise JaxnnError(
            f"{where}: input of shape {tuple(x_shape)} has {c} channels but the "
            f"kernel of shape {tuple(w_shape)} takes {per_group * groups}"
        )


def xla_convolve(x, w, at: Windows, groups: int):
    """y: x (B, ..., C), w (..., C/groups, O) -> (B, ..., O)."""
    return convolution(
        x,
        w,
        at.stride,
        at.pads,
        rhs_dilation=at.dilation,
        dimension_numbers=_layout(x.ndim),
        feature_group_count=groups,
    )


def xla_gradients(x, dy, w, at: Windows, groups: int):
    """(dx, dw): dx by w flipped and dy spaced, dw with the batch as channels."""
    axes, dims = w.ndim - 2, _layout(x.ndim)
    # Within each group the channels change their roles.
    split = w.reshape(*w.shape[:-1], groups, w.shape[-1] // groups)
    swapped = split.swapaxes(-3, -1)  # (..., O/groups, groups, C/groups)
    kernel = swapped.reshape(*swapped.shape[:-2], math.prod(swapped.shape[-2:]))
    pads_dx, pads_dw = [], []
    for n, out, span, stride, (low, _) in zip(
        at.in_sizes, at.out_sizes, at.spans, at.stride, at.pads, strict=True
    ):
        read = (out - 1) * stride  # from the first window's start to the last one's
        pads_dx.append((span - 1 - low, n + low - read - 1))
        pads_dw.append((low, read + span - n - low))
    dx = convolution(
        dy, jnp.flip(kernel, tuple(range(axes))), (1,) * axes, pads_dx,
        lhs_dilation=at.stride, rhs_dilation=at.dilation, dimension_numbers=dims,
        feature_group_count=groups,
    )  # fmt: skip
    letters = dims[0][1:-1]
    dw = convolution(
        x, dy, at.dilation, pads_dw, rhs_dilation=at.stride,
        dimension_numbers=(f"C{letters}N", f"I{letters}O", f"{letters}NC"),
        batch_group_count=groups,
    )  # fmt: skip
    return dx, dw


def _layout(ndim):
    axes = "DHW"[-(ndim - 2) :] if ndim > 3 else "T"
    return f"N{axes}C", f"{axes}IO", f"N{axes}C"


register(add_bias, conv(), conv_transpose())
