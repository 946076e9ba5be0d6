"""The three directions of a convolution, each as a convolution that XLA knows.

GPUs have kernels for all of them. On CPU only the first is fast: the other two are slow
with a stride, and the gradient of the kernel is slow whenever it stands in a loop
(https://github.com/jax-ml/jax/issues/12868); see `jaxnn.rules.conv_cpu`.
"""

import math

import jax.numpy as jnp
from jax import lax

from jaxnn.rules.window import Windows


def convolve(x, w, at: Windows, groups: int):
    """y: x (B, ..., C), w (..., C/groups, O) -> (B, ..., O)."""
    return lax.conv_general_dilated(
        x,
        w,
        at.stride,
        at.pads,
        rhs_dilation=at.dilation,
        dimension_numbers=_layout(x.ndim),
        feature_group_count=groups,
    )


def spread(dy, w, at: Windows, groups: int):
    """dx: dy (B, ..., O), w (..., C/groups, O) -> (B, ..., C); w flipped, dy spaced."""
    # Within each group the channels change their roles.
    split = w.reshape(*w.shape[:-1], groups, w.shape[-1] // groups)
    turned = split.swapaxes(-3, -1)  # (..., O/groups, groups, C/groups)
    kernel = turned.reshape(*turned.shape[:-2], math.prod(turned.shape[-2:]))
    pads = []
    for n, out, span, stride, (low, _) in zip(
        at.in_sizes, at.out_sizes, at.spans, at.stride, at.pads, strict=True
    ):
        pads.append((span - 1 - low, n + low - (out - 1) * stride - 1))
    return lax.conv_general_dilated(
        dy,
        jnp.flip(kernel, tuple(range(w.ndim - 2))),
        (1,) * len(pads),
        pads,
        lhs_dilation=at.stride,
        rhs_dilation=at.dilation,
        dimension_numbers=_layout(dy.ndim),
        feature_group_count=groups,
    )


def correlate(x, dy, at: Windows, groups: int):
    """dw: x (B, ..., C) by dy (B, ..., O), with the batch in the channels' place."""
    axes = _layout(x.ndim)[0][1:-1]
    pads = []
    for n, out, span, stride, (low, _) in zip(
        at.in_sizes, at.out_sizes, at.spans, at.stride, at.pads, strict=True
    ):
        pads.append((low, (out - 1) * stride + span - n - low))
    return lax.conv_general_dilated(
        x,
        dy,
        at.dilation,
        pads,
        rhs_dilation=at.stride,
        dimension_numbers=(f"C{axes}N", f"I{axes}O", f"{axes}NC"),
        batch_group_count=groups,
    )


def gradients(x, dy, w, at: Windows, groups: int):
    """(dx, dw)."""
    return spread(dy, w, at, groups), correlate(x, dy, at, groups)


def _layout(ndim):
    axes = "DHW"[-(ndim - 2) :] if ndim > 3 else "T"
    return f"N{axes}C", f"{axes}IO", f"N{axes}C"
