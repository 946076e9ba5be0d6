"""Pooling layers: images (B, H, W, C) or sequences (B, T, C), channels last."""

import math
from collections.abc import Sequence

from jaxnn import rules
from jaxnn.errors import JaxnnError
from jaxnn.layers.bounds import averaging, bounded, monotone
from jaxnn.layers.conv import check_image
from jaxnn.layers.core import Layer, constructor, register, shaped, value
from jaxnn.rules.core import Rule
from jaxnn.rules.pool import placed
from jaxnn.rules.window import Padding, per_axis

__all__ = ["avg_pool", "global_avg_pool", "global_max_pool", "max_pool"]


@constructor
def max_pool(
    size: int | Sequence[int] = 2,
    stride: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
) -> Layer:
    """The largest element of each window: x (B, H, W, C) -> y (B, H', W', C).

    Args:
      size: of the window, (height, width) or one number for a square; a tuple of one
        pools sequences (B, T, C).
      stride: from one window to the next, `size` unless given.
      padding: "VALID", "SAME", a number or pairs, as in `conv`; it never wins. "VALID"
        leaves out rows and columns that fill no whole window.

    See `jaxnn.rules.max_pool` for ties and NaN.
    """
    return bounded(_pool("max_pool", rules.max_pool, size, stride, padding), monotone)


@constructor
def avg_pool(
    size: int | Sequence[int] = 2,
    stride: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
) -> Layer:
    """The mean of each window, padding not counted. Arguments as in `max_pool`."""
    layer = _pool("avg_pool", rules.avg_pool, size, stride, padding)
    return bounded(
        layer,
        averaging,
        terms=math.prod(size) if isinstance(size, Sequence) else size**2,
    )


def _global(rule: Rule) -> Layer:
    def out_shape(in_shape):
        if len(in_shape) < 2 or 0 in in_shape:
            raise JaxnnError(
                f"{rule.name}: got in_shape {in_shape}, expected (H, W, C) or (T, C), "
                "channels last, none of them empty"
            )
        return in_shape[-1:]

    return value(f"jaxnn.layers:{rule.name}", shaped(rule, out_shape))


global_avg_pool = bounded(_global(rules.global_avg_pool), averaging)
"""x (B, ..., C) -> y (B, C), the mean over all pixels or steps."""

global_max_pool = bounded(_global(rules.global_max_pool), monotone)
"""x (B, ..., C) -> y (B, C), the largest over all pixels or steps."""


def _pool(kind, make, size, stride, padding) -> Layer:
    axes = len(size) if isinstance(size, Sequence) else 2
    size = per_axis(kind, "size", size, axes)
    name = f"{kind}({'x'.join(map(str, size))})"
    stride = size if stride is None else per_axis(name, "stride", stride, axes)

    def out_shape(in_shape):
        check_image(name, "in_shape", in_shape, axes)
        at = placed(name, in_shape, size, stride, padding)
        return (*at.out_sizes, in_shape[-1])

    layer = shaped(make(size, stride, padding), out_shape, name)

    def forward(params, state, x, *, key=None, train):
        check_image(name, "input without its batch axis", x.shape[1:], axes)
        return layer.forward(params, state, x, key=key, train=train)

    return layer._replace(forward=forward)


register(avg_pool, global_avg_pool, global_max_pool, max_pool)
