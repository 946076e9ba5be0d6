"""A convolution of which every output channel sees one input channel, for CPUs.

There is nothing to multiply as matrices: for each element of the kernel, x shifted is
multiplied by one number a channel. x (B, ..., C), w (..., 1, C M) -> y (B, ..., C M).
"""

import functools
import operator

import jax.numpy as jnp
import numpy as np

from jaxnn.rules.window import Windows, read, stamp


def convolve(x, w, at: Windows, groups: int):
    """y = sum over the elements k of x read at k, times w[k]."""
    parts = [
        read(x, at, k)[..., None] * _row(w[index], x) for index, k in _elements(at)
    ]
    y = functools.reduce(operator.add, parts)
    return y.reshape(*y.shape[:-2], w.shape[-1])


def gradients(x, dy, w, at: Windows, groups: int):
    """(dx, dw): dx = sum over k of dy w[k], stamped at k; dw[k] = sum of x at k, dy."""
    dy = dy.reshape(*dy.shape[:-1], groups, dy.shape[-1] // groups)
    spread, correlated = [], []
    for index, k in _elements(at):
        spread.append(stamp((dy * _row(w[index], x)).sum(-1), at, k))
        part = read(x, at, k)[..., None]
        correlated.append((part * dy).sum(range(dy.ndim - 2)))
    return functools.reduce(operator.add, spread), jnp.stack(correlated).reshape(
        w.shape
    )


def _elements(at):
    """Every element of the kernel, as an index and as `read` takes it."""
    return [(index, dict(enumerate(index))) for index in np.ndindex(*at.size)]


def _row(w, x):
    """w (1, C M) -> (1, ..., 1, C, M) with an axis more than x."""
    c = x.shape[-1]
    return w.reshape((1,) * (x.ndim - 1) + (c, w.shape[-1] // c))
