"""Where the windows of a convolution or a pooling lie: settings, padding, sizes."""

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from jaxnn.arrays import is_whole
from jaxnn.errors import JaxnnError

Padding = str | int | Sequence
"""`"SAME"`, `"VALID"`, pixels on every side, or a (low, high) pair for each axis."""


class Windows(NamedTuple):
    """One entry an axis: window n covers n * stride - low + dilation * (0 ... size)."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]  # (low, high): elements added at either end
    in_sizes: tuple[int, ...]
    out_sizes: tuple[int, ...]

    @property
    def spans(self) -> tuple[int, ...]:
        """Elements from a window's first to its last, dilation's holes included."""
        return tuple(
            (k - 1) * d + 1 for k, d in zip(self.size, self.dilation, strict=True)
        )


def read(a: Array, at: Windows, element: Mapping[int, int], outside=0) -> Array:
    """One element of every window: a on the input's grid -> on that of the output.

    `element` {axis: k} names the axes (0 the first after the batch) to do this on and
    which element of the window to read there; the other axes stay as they are. What
    lies in the padding reads as `outside`. a (B, ..., C).
    """
    config, strides = [(0, 0, 0)] * a.ndim, [1] * a.ndim
    for axis, k in element.items():
        low = at.pads[axis][0] - k * at.dilation[axis]
        reach = (at.out_sizes[axis] - 1) * at.stride[axis] + 1
        config[axis + 1] = (low, reach - at.in_sizes[axis] - low, 0)
        strides[axis + 1] = at.stride[axis]
    shifted = lax.pad(a, jnp.asarray(outside, a.dtype), config)
    if all(s == 1 for s in strides):
        return shifted
    return lax.slice(shifted, [0] * a.ndim, shifted.shape, strides)


def stamp(a: Array, at: Windows, element: Mapping[int, int]) -> Array:
    """The transpose of `read`: a on the output's grid -> on that of the input.

    Each value goes to where `read` would find it, zeros to the rest.
    """
    config = [(0, 0, 0)] * a.ndim
    for axis, k in element.items():
        low = k * at.dilation[axis] - at.pads[axis][0]
        reach = (at.out_sizes[axis] - 1) * at.stride[axis] + 1
        high = at.in_sizes[axis] - reach - low
        config[axis + 1] = (low, high, at.stride[axis] - 1)
    return lax.pad(a, jnp.zeros((), a.dtype), config)


def per_axis(where: str, what: str, value, axes: int) -> tuple[int, ...]:
    """A whole number >= 1 for each axis, from one for all of them or a sequence."""
    values = (value,) * axes if isinstance(value, Integral) else value
    if isinstance(values, Sequence) and not isinstance(values, str):
        values = tuple(values)
        whole = all(map(is_whole, values))
        if len(values) == axes and whole:
            return tuple(int(v) for v in values)
    raise JaxnnError(
        f"{where}: got {what}={value!r}, expected a whole number of at least 1 or "
        f"{axes} of them, one an axis"
    )


def windows(
    where: str,
    in_sizes: Sequence[int],
    size: Sequence[int],
    stride=1,
    padding: Padding = "VALID",
    dilation=1,
) -> Windows:
    """Place windows of `size` over an input of `in_sizes`, settings checked.

    "SAME" makes ceil(in / stride) windows and pads by as little as that takes, the odd
    element at the end; "VALID" pads nothing.
    """
    axes = len(in_sizes)
    size = per_axis(where, "kernel", size, axes)
    stride = per_axis(where, "stride", stride, axes)
    dilation = per_axis(where, "dilation", dilation, axes)
    spans = [(k - 1) * d + 1 for k, d in zip(size, dilation, strict=True)]
    pads = _pads(where, padding, in_sizes, spans, stride)
    padded = [n + low + high for n, (low, high) in zip(in_sizes, pads, strict=True)]
    if any(n < 1 for n in in_sizes) or any(
        s > n for s, n in zip(spans, padded, strict=True)
    ):
        raise JaxnnError(
            f"{where}: the kernel spans {_by(spans)} but the input has {_by(in_sizes)}"
            f" ({_by(padded)} with its padding); choose a smaller kernel or dilation, "
            'or padding="SAME"'
        )
    out = [(n - s) // t + 1 for n, s, t in zip(padded, spans, stride, strict=True)]
    return Windows(size, stride, dilation, pads, tuple(in_sizes), tuple(out))


def transposed_windows(
    where: str,
    in_sizes: Sequence[int],
    size: Sequence[int],
    stride=1,
    padding: Padding = "SAME",
    dilation=1,
) -> Windows:
    """The windows of the convolution that a transposed convolution is the dx of.

    Here `in_sizes` are those of the transposed convolution's input: the `out_sizes` of
    the result, whose `in_sizes` are what the transposed convolution makes. "SAME"
    multiplies sizes by the stride.
    """
    axes = len(in_sizes)
    size = per_axis(where, "kernel", size, axes)
    stride = per_axis(where, "stride", stride, axes)
    dilation = per_axis(where, "dilation", dilation, axes)
    spans = [(k - 1) * d + 1 for k, d in zip(size, dilation, strict=True)]
    sizes = [n * t for n, t in zip(in_sizes, stride, strict=True)]
    pads = _pads(where, padding, sizes, spans, stride)
    if not (isinstance(padding, str) and padding.upper() == "SAME"):
        sizes = [
            (n - 1) * t + s - low - high
            for n, t, s, (low, high) in zip(in_sizes, stride, spans, pads, strict=True)
        ]
    if any(n < 1 for n in (*in_sizes, *sizes)):
        raise JaxnnError(
            f"{where}: padding={padding!r} crops an input of {_by(in_sizes)} to "
            f"{_by(sizes)}; choose less padding"
        )
    return Windows(size, stride, dilation, pads, tuple(sizes), tuple(in_sizes))


def _pads(where, padding, in_sizes, spans, stride):
    axes = len(in_sizes)
    if isinstance(padding, str):
        kind = padding.upper()
        if kind == "VALID":
            return ((0, 0),) * axes
        if kind == "SAME":
            totals = [
                max((-(-n // t) - 1) * t + s - n, 0)
                for n, s, t in zip(in_sizes, spans, stride, strict=True)
            ]
            return tuple((total // 2, total - total // 2) for total in totals)
    elif is_whole(padding, 0):
        return ((int(padding), int(padding)),) * axes
    elif isinstance(padding, Sequence) and len(padding) == axes:
        pairs = [
            tuple(p) if isinstance(p, Sequence) and not isinstance(p, str) else (p, p)
            for p in padding
        ]
        if all(len(p) == 2 and all(is_whole(v, 0) for v in p) for p in pairs):
            return tuple((int(low), int(high)) for low, high in pairs)
    raise JaxnnError(
        f'{where}: got padding={padding!r}, expected "SAME", "VALID", a whole number '
        f"of at least 0, or {axes} pairs (low, high), one an axis"
    )


def _by(sizes) -> str:
    return " x ".join(map(str, sizes))
