"""Convolutional layers: images (B, H, W, C) or sequences (B, T, C), channels last."""

from collections.abc import Sequence

import jax.numpy as jnp

from jaxnn import rules
from jaxnn.errors import JaxnnError
from jaxnn.layers.bounds import bounded, linear
from jaxnn.layers.core import (
    Layer,
    check_count,
    check_params,
    constructor,
    of_rule,
    register,
)
from jaxnn.layers.linear import Initializer, weight_and_bias
from jaxnn.rules import Rule
from jaxnn.rules.conv import check_channels
from jaxnn.rules.window import Padding, per_axis, transposed_windows, windows

__all__ = ["conv", "conv1d", "conv_transpose", "depthwise_conv"]


@constructor
def conv(
    channels: int,
    kernel: int | Sequence[int] = (3, 3),
    stride: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    init: str | Initializer = "he",
    bias: bool | str | Initializer = True,
) -> Layer:
    """Convolution of images: x (B, H, W, C) -> y (B, H', W', channels).

    Args:
      channels: channels of the output, at least 1.
      kernel: its height and width; one number for a square. A tuple of one makes a
        convolution of sequences, x (B, T, C): `conv1d` says the same in words.
      stride: pixels from one window to the next.
      padding: "SAME" (H' = H / stride, rounded up), "VALID" (none), a number for
        every side, or pairs ((top, bottom), (left, right)).
      dilation: pixels from one element of the kernel to the next.
      groups: parts of the channels that do not see each other.
      init: initializer of w (KH, KW, C / groups, channels); fan-in is the product of
        all but the last.
      bias: True starts b (channels,) at zero, False leaves it out, "zeros", "normal"
        or a function draws it.

    A depthwise-separable convolution is
    `serial(depthwise_conv(kernel), conv(channels, 1))`. See `jaxnn.rules.conv`.

    >>> import jax
    >>> params, _, out_shape = conv(32, 5).init(jax.random.key(0), (28, 28, 1))
    >>> params["w"].shape, out_shape
    ((5, 5, 1, 32), (28, 28, 32))
    """
    name = _name("conv", channels, kernel)
    kernel = _kernel(name, kernel)
    return _conv(name, channels, kernel, stride, padding, dilation, groups, init, bias)


@constructor
def conv1d(
    channels: int,
    kernel: int | Sequence[int] = 3,
    stride: int = 1,
    padding: Padding = "SAME",
    dilation: int = 1,
    groups: int = 1,
    init: str | Initializer = "he",
    bias: bool | str | Initializer = True,
) -> Layer:
    """Convolution of sequences: x (B, T, C) -> y (B, T', channels). As `conv`."""
    name = _name("conv1d", channels, kernel)
    kernel = per_axis(name, "kernel", kernel, 1)
    return _conv(name, channels, kernel, stride, padding, dilation, groups, init, bias)


@constructor
def depthwise_conv(
    kernel: int | Sequence[int] = (3, 3),
    stride: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    dilation: int | Sequence[int] = 1,
    multiplier: int = 1,
    init: str | Initializer = "he",
    bias: bool | str | Initializer = True,
) -> Layer:
    """A kernel for each channel alone: x (B, H, W, C) -> y (B, H', W', C multiplier).

    `conv` with as many groups as the input has channels, w (KH, KW, 1, C multiplier);
    `multiplier` kernels for each channel. Source: Chollet 2017, arXiv 1610.02357.
    """
    name = _name("depthwise_conv", kernel)
    kernel = _kernel(name, kernel)
    _check(name, kernel, stride, padding, dilation, multiplier=multiplier)

    def conv_of(channels):
        return rules.conv(stride, padding, dilation, channels // multiplier)

    rule = Rule(
        "depthwise_conv",
        lambda x, w: conv_of(w.shape[-1]).fwd(x, w),
        lambda cache, dy: conv_of(dy.shape[-1]).bwd(cache, dy),
    )

    def shapes(in_shape):
        *sizes, c = in_shape
        at = windows(name, sizes, kernel, stride, padding, dilation)
        out = c * multiplier
        return (*kernel, 1, out), (*at.out_sizes, out)

    return _layer(name, rule, shapes, kernel, init, bias)


@constructor
def conv_transpose(
    channels: int,
    kernel: int | Sequence[int] = (3, 3),
    stride: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    dilation: int | Sequence[int] = 1,
    init: str | Initializer = "he",
    bias: bool | str | Initializer = True,
) -> Layer:
    """Upsampling by a learned kernel: x (B, H, W, C) -> y (B, H', W', channels).

    With padding "SAME" H' = H stride, with "VALID" H' = (H - 1) stride + span, where
    span = (KH - 1) dilation + 1; pairs crop as much as they would pad. w is
    (KH, KW, C, channels). See `jaxnn.rules.conv_transpose`, arguments as in `conv`.
    """
    name = _name("conv_transpose", channels, kernel)
    kernel = _kernel(name, kernel)
    _check(name, kernel, stride, padding, dilation, channels=channels)
    rule = rules.conv_transpose(stride, padding, dilation)

    def shapes(in_shape):
        *sizes, c = in_shape
        at = transposed_windows(name, sizes, kernel, stride, padding, dilation)
        return (*kernel, c, channels), (*at.in_sizes, channels)

    return _layer(name, rule, shapes, kernel, init, bias)


def _conv(name, channels, kernel, stride, padding, dilation, groups, init, bias):
    _check(name, kernel, stride, padding, dilation, channels=channels, groups=groups)
    rule = rules.conv(stride, padding, dilation, groups)

    def shapes(in_shape):
        *sizes, c = in_shape
        w_shape = (*kernel, max(c // groups, 1), channels)
        check_channels(name, (1, *in_shape), w_shape, groups)
        at = windows(name, sizes, kernel, stride, padding, dilation)
        return w_shape, (*at.out_sizes, channels)

    return _layer(name, rule, shapes, kernel, init, bias)


def _layer(name, rule, shapes, kernel, init, bias) -> Layer:
    """`rule` of x and w, then a bias."""
    draw = weight_and_bias(name, init, bias)
    names = ("w",) if bias is False else ("w", "b")

    def setup(key, in_shape):
        check_image(name, "in_shape", in_shape, len(kernel))
        w_shape, out_shape = shapes(tuple(in_shape))
        return draw(key, w_shape), (), out_shape

    def check(params, x):
        check_params(name, params, names)
        check_image(name, "input without its batch axis", x.shape[1:], len(kernel))
        w_shape, _ = shapes(x.shape[1:])
        if params["w"].shape != w_shape:
            raise JaxnnError(
                f"{name}: input of shape {x.shape} needs w of shape {w_shape}, got "
                f"{params['w'].shape}. Was init called with in_shape={x.shape[1:]}?"
            )

    def fwd(x, w, *b):
        # XLA's convolutions want one type
        wide = jnp.result_type(x, w, *b)
        y, cache = rule.fwd(x.astype(wide), w.astype(wide))
        return rules.add_bias.fwd(y, *b)[0] if b else y, cache

    def bwd(cache, dy):
        db = rules.add_bias.bwd((), dy)[1:] if "b" in names else ()
        return *rule.bwd(cache, dy), *db

    biased = Rule(rule.name, fwd, bwd)
    return bounded(of_rule(biased, names, setup, check, name), linear)


def check_image(name: str, what: str, shape, axes: int) -> None:
    """`shape`, without batch axis, has `axes` spatial axes and one of channels."""
    if len(shape) == axes + 1:
        return
    letters = {1: "(T, C)", 2: "(H, W, C)"}.get(axes, f"{axes} axes and channels")
    fix = "in_shape leaves out the batch axis only"
    if len(shape) == axes:
        # the usual case: MNIST's (28, 28)
        fix = f"add reshape({', '.join(map(str, (*shape, 1)))}) first"
    raise JaxnnError(
        f"{name}: got {what} {tuple(shape)}, expected {letters}, channels last; {fix}"
    )


def _kernel(name, kernel):
    axes = len(kernel) if isinstance(kernel, Sequence) else 2
    return per_axis(name, "kernel", kernel, axes)


def _check(name, kernel, stride, padding, dilation, **counts):
    for what, value in counts.items():
        check_count(name, what, value)
    # Settings that suit no input are told here, before `init` has one.
    windows(name, (2**30,) * len(kernel), kernel, stride, padding, dilation)


def _name(kind, *settings):
    words = [
        "x".join(map(str, s)) if isinstance(s, Sequence) else str(s) for s in settings
    ]
    return f"{kind}({', '.join(words)})"


register(conv, conv1d, conv_transpose, depthwise_conv)
