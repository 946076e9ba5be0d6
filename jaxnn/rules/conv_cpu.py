"""The three directions of a convolution as matrix products, for CPUs.

A convolution is a product with patches: x read at every element of the window, (rows,
K C), by w (K C, O). The patches of a 5 x 5 kernel are 25 times as large as x, and to
write and read them takes longer than the product. So only some axes of the kernel make
patches, those "in front"; the others, "behind", shift what comes out:

    P = x read at the elements k in front         (rows, k C)
    y = sum over the elements l behind of P w[l], read at l
    D = dy stamped at the elements l behind       (rows, l O)
    dw = P^T D
    dx = sum over the elements k in front of D w[k]^T, stamped at k

For 5 x 5 x 32 -> 64 one axis on each side makes P and D 5 times as large as x and dy,
and all three products have a shape that matrix libraries like. The batch goes through
in blocks that stay in cache. Zeros stay exact and a NaN stays in its windows, which a
Fourier or Winograd transform could not promise.
"""

import functools
import math
import operator
from itertools import combinations
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnn.rules.products import movable, operand, product, product_tn, rows
from jaxnn.rules.window import Windows, read, stamp

BLOCK = 1_500_000
"""Numbers of P and D together at a time, 6 MB of them. Forward with 5 x 5 x 32 -> 64 on
14 x 14 images, 2 cores: 16 ms with 16 images (1.5 million), 19 with 4, 23 with 128."""

FEW = 4
"""Channels up to which P is built transposed, see `_patches_times`."""

COPY = 40
"""What one number of P or D costs, in multiply-adds: 4e-10 s against 1e-11 s."""


class Sides(NamedTuple):
    """The axes of the kernel in front (patches of x) and behind (shifts of y)."""

    front: tuple[int, ...]
    behind: tuple[int, ...]


def _rows_of(at, split):
    """Rows of P and D that one image makes: what is behind reads all of x."""
    sizes = zip(at.in_sizes, at.out_sizes, strict=True)
    return math.prod(n if a in split.behind else m for a, (n, m) in enumerate(sizes))


@functools.cache
def sides(at: Windows, c: int, o: int) -> Sides:
    """The split of least cost: copying P and D, and their product's multiply-adds."""
    axes = range(len(at.size))
    # With a stride most of what a shift behind takes would be thrown away.
    movable = [a for a in axes if at.stride[a] == 1 and at.size[a] > 1]

    def cost(split):
        rows = _rows_of(at, split)
        p = c * math.prod(at.size[a] for a in split.front)
        d = o * math.prod(at.size[a] for a in split.behind)
        return rows * (COPY * (p + d) + p * d)

    choices = []
    for n in range(len(movable) + 1):
        for behind in combinations(movable, n):
            choices.append(Sides(tuple(a for a in axes if a not in behind), behind))
    return min(choices, key=cost)


def convolve(x, w, at: Windows, groups: int = 1):
    """y: x (B, ..., C), w (..., C/groups, O) -> (B, ..., O)."""
    if groups > 1:
        return _each_group(convolve, at, groups, (x, w))
    split, kind = sides(at, *w.shape[-2:]), x.dtype
    x, w = movable(x), operand(_flat(w, split))

    def block(x):
        z = _rows_times(_patches(x, at, split), w)
        for axis in split.behind:
            z = _sum_of(read, z, at, axis)
        return (), z.astype(kind)

    return _in_blocks(block, (x,), _numbers(at, split, *w.shape))[1]


def gradients(x, dy, w, at: Windows, groups: int = 1):
    """(dx, dw): x (B, ..., C), dy (B, ..., O), w (..., C/groups, O).

    One pass over the blocks makes both; XLA drops the one that is not used.
    """
    if groups > 1:
        return _each_group(gradients, at, groups, (x, dy, w))
    split, kind = sides(at, *w.shape[-2:]), x.dtype
    x, dy, back = movable(x), movable(dy), operand(_flat(w, split)).T

    def block(x, dy):
        d = _stamps(dy, at, split)
        dw = _patches_times(x, d, at, split)
        e = _rows_times(d, back)
        for axis in split.front:
            e = _sum_of(stamp, e, at, axis)
        return dw, e.astype(kind)

    dw, dx = _in_blocks(block, (x, dy), _numbers(at, split, *back.shape))
    return dx, _unflat(dw, w.shape, split).astype(w.dtype)


def _patches(x, at, split):
    """P: x (B, ..., C) -> (B, ..., k C), the last axis of the kernel varying faster."""
    for axis in reversed(split.front):
        x = _join([read(x, at, {axis: k}) for k in range(at.size[axis])], -1)
    return x


def _patches_times(x, d, at, split):
    """P^T d. With few channels each row of P^T is a shifted image, copied in long
    stretches; built as P it would be written C numbers at a time."""
    if x.shape[-1] > FEW:
        patches = rows(_patches(x, at, split))
        return product_tn(patches, rows(d), wide=True)
    c = x.shape[-1]
    images = jnp.moveaxis(x, -1, 0).reshape(
        math.prod(x.shape[:1]) * c, *x.shape[1:-1], 1
    )
    for axis in reversed(split.front):
        images = _join([read(images, at, {axis: k}) for k in range(at.size[axis])], 0)
    images = images.reshape(c * math.prod(at.size[a] for a in split.front), -1)
    return product(images, rows(d), wide=True)


def _stamps(dy, at, split):
    """D: dy (B, ..., O) -> (B, ..., l O)."""
    for axis in reversed(split.behind):
        dy = _join([stamp(dy, at, {axis: k}) for k in range(at.size[axis])], -1)
    return dy


def _sum_of(move, z, at, axis):
    """Sum over the elements k of `axis` of move(z[k]): (..., k n) -> (..., n)."""
    size = at.size[axis]
    width = z.shape[-1] // size
    parts = [
        move(lax.slice_in_dim(z, k * width, (k + 1) * width, axis=-1), at, {axis: k})
        for k in range(size)
    ]
    return functools.reduce(operator.add, parts)


def _flat(w, split):
    """w (..., C, O) -> (k C, l O), k the elements in front and l those behind."""
    n = w.ndim - 2
    ordered = w.transpose(*split.front, n, *split.behind, n + 1)
    rows = math.prod(ordered.shape[: len(split.front) + 1])
    return ordered.reshape(rows, w.size // max(rows, 1))


def _unflat(dw, shape, split):
    """The inverse of `_flat`."""
    n = len(shape) - 2
    order = (*split.front, n, *split.behind, n + 1)
    dw = dw.reshape([shape[a] for a in order])
    return dw.transpose([order.index(a) for a in range(n + 2)])


def _rows_times(a, w):
    return product(rows(a), w, wide=True).reshape(*a.shape[:-1], w.shape[-1])


def _join(parts, axis):
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis)


def _numbers(at, split, *widths):
    """Numbers of P and D that one image makes."""
    return _rows_of(at, split) * sum(widths)


def _in_blocks(block, arrays, each: int):
    """Run `block` on a few images at a time: -> (sum of its first, all of its second).

    `block` takes the same images of all arrays (B, ...) and gives (a sum over them, an
    array of as many images). `each` image takes that many numbers of cache.
    """
    batch = arrays[0].shape[0]
    size = block_size(batch, each)
    count = batch // size if size else 0
    if count < 2:
        return block(*arrays)

    def one(total, few):
        added, made = block(*few)
        return jax.tree.map(operator.add, total, added), made

    whole = [a[: count * size].reshape(count, size, *a.shape[1:]) for a in arrays]
    added, _ = jax.eval_shape(block, *(a[0] for a in whole))
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), added)
    total, made = lax.scan(one, zeros, whole)
    made = made.reshape(count * size, *made.shape[2:])
    if count * size < batch:
        total, rest = one(total, [a[count * size :] for a in arrays])
        made = jnp.concatenate([made, rest])
    return total, made


def block_size(batch: int, each: int) -> int:
    """Images a block: `BLOCK` numbers, and a divisor of the batch if one is near."""
    most = max(round(BLOCK / each), 1)
    near = [n for n in range(most, most // 2, -1) if batch % n == 0]
    return min(near[0] if near else most, batch)


def _each_group(direction, at, groups, arrays):
    """`direction` for every group of channels, side by side: the last axis is split."""
    split = [a.reshape(*a.shape[:-1], groups, a.shape[-1] // groups) for a in arrays]
    made = jax.vmap(lambda *each: direction(*each, at), -2, -2)(*split)
    return jax.tree.map(lambda a: a.reshape(*a.shape[:-2], -1), made)


def depthwise_convolve(x, w, at: Windows, groups: int):
    """y = sum over the elements k of x read at k, times w[k]."""
    parts = [
        read(x, at, k)[..., None] * _row(w[index], x) for index, k in _elements(at)
    ]
    y = functools.reduce(operator.add, parts)
    return y.reshape(*y.shape[:-2], w.shape[-1])


def depthwise_gradients(x, dy, w, at: Windows, groups: int):
    """(dx, dw): dx = sum over k of dy w[k], stamped at k; dw[k] = sum of x at k, dy."""
    dy = dy.reshape(*dy.shape[:-1], groups, dy.shape[-1] // groups)
    stamped, correlated = [], []
    for index, k in _elements(at):
        stamped.append(stamp((dy * _row(w[index], x)).sum(-1), at, k))
        part = read(x, at, k)[..., None]
        correlated.append((part * dy).sum(range(dy.ndim - 2)))
    return functools.reduce(operator.add, stamped), jnp.stack(correlated).reshape(
        w.shape
    )


def _elements(at):
    """Every element of the kernel, as an index and as `read` takes it."""
    return [(index, dict(enumerate(index))) for index in np.ndindex(*at.size)]


def _row(w, x):
    """w (1, C M) -> (1, ..., 1, C, M) with an axis more than x."""
    c = x.shape[-1]
    return w.reshape((1,) * (x.ndim - 1) + (c, w.shape[-1] // c))
