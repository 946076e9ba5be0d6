"""Vectors looked up in a table, by index or by position."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxnn.rules.core import Rule


class Looked(NamedTuple):
    """What an embedding keeps: which rows were read, and of a table of how many."""

    rows: Array  # x, `count` where nothing may come back
    empty: Array  # (count, 0): carries the number of rows, and no memory


def embedding(padding: int | None = None) -> Rule:
    """y = w[x]: x int (...), w (I, O) -> y (..., O).

    The table's gradient is the sum of dy over the places where each row was read (in
    float32 at least: a bfloat16 sum stalls after 256 ones); x has none. Where x is
    `padding`, y is 0 and nothing comes back. An index outside [0, I) gives a row of
    NaN rather than somebody else's row, -1 too: an error cannot be raised under jit.
    Keeps x. Source: Bengio et al. 2003.
    """

    def fwd(x, w):
        count = w.shape[0]
        x = x.astype(jnp.promote_types(x.dtype, jnp.int32))  # uint8 has no 256
        rows = jnp.where((x < 0) | (x >= count), count, x)
        y = w.at[rows].get(mode="fill", fill_value=jnp.nan)
        if padding is not None:
            rows = jnp.where(x == padding, count, rows)
            y = jnp.where((x == padding)[..., None], 0, y)
        return y, Looked(rows, w[:, :0])

    def bwd(cache, dy):
        rows, empty = cache
        wide = jnp.promote_types(dy.dtype, jnp.float32)
        dw = jnp.zeros((empty.shape[0], dy.shape[-1]), wide)
        dw = dw.at[rows].add(dy.astype(wide), mode="drop")
        return None, dw.astype(dy.dtype)

    return Rule("embedding", fwd, bwd)


def _positions_fwd(x, w):
    return x + w[None, : x.shape[1]], w[:, :0]


def _positions_bwd(empty, dy):
    dw = dy.sum(0)
    unread = empty.shape[0] - dy.shape[1]
    return dy, jnp.pad(dw, ((0, unread), (0, 0)))


add_positions = Rule("add_positions", _positions_fwd, _positions_bwd)
"""y[b, t] = x[b, t] + w[t]: x (B, T, O), w (I, O) with I >= T -> y (B, T, O).

dx = dy, dw = sum of dy over the batch, 0 for rows beyond T. Keeps nothing.
Source: Gehring et al. 2017, learned positions."""
