"""Through time and back: what every recurrent rule shares, whatever its cell does.

Forward there is one product a step, [x h] times w on top of u. To make x w of all steps
before the loop takes longer on CPU: it is written to memory and read back, four times
the size of the state for an LSTM. Backward there is one product with u a step; the
weight gradients are single large products over all steps, behind the loop.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax


class Cell(NamedTuple):
    """The elementwise part of one step; the state is (h,) or (h, c), each (B, H).

    Attributes:
      step: `(z, state) -> (state, kept)` from z = x w + h u + b (B, G H) for G gates;
        `kept` is what `back` needs besides the old state.
      back: `(kept, state, dstate) -> (dz, dstate)`: the old state, and the cotangent
        of the new one; returns that of z, and of the old state as far as it does not
        come through h u.
      hidden: None where x w and h u are only added; else z is the pair (x w + b,
        h u + b_h), `back` gives the cotangent of the first, and `hidden(kept, dz)`
        makes that of the second, for one step (B, G H) or for all of them (T, B, G H).
    """

    step: Callable
    back: Callable
    hidden: Callable | None = None


class Steps(NamedTuple):
    """What a recurrent rule keeps of all steps, time first as the loops want it."""

    read: tuple[Array, ...]  # [x h] before each step (T, B, I + H), or x and h apart
    w: Array  # (I, G H)
    u: Array  # (H, G H)
    memory: tuple[Array, ...]  # c before each step (T, B, H), if there is one
    kept: Any  # of each step, (T, B, H) each
    mask: Array | None  # (T, B, 1)

    @property
    def h(self) -> Array:
        """h before each step, (T, B, H)."""
        return self.read[-1][..., -self.u.shape[0] :]


def length_mask(lengths: Array, steps: int) -> Array:
    """Mask (B, steps) of sequences that fill only the first `lengths` (B,) steps.

    >>> length_mask(jnp.array([1, 0, 3]), 3).astype(int).tolist()
    [[1, 0, 0], [0, 0, 0], [1, 1, 1]]
    """
    return jnp.arange(steps)[None] < jnp.asarray(lengths)[:, None]


def run(
    cell: Cell,
    x: Array,
    weights: tuple[Array, Array, Array],
    start: tuple[Array, ...],
    mask: Array | None,
    *,
    hidden_bias: Array | None = None,
    every_step: bool,
    backwards: bool,
) -> tuple[Array, Steps]:
    """y (B, T, H) of every step or (B, H) of the last one, and what `run_back` needs.

    Args:
      cell: what a step does.
      x: inputs (B, T, I).
      weights: w (I, G H), u (H, G H), b (G H,).
      start: the state before the first step, (B, H) each.
      mask: bool (B, T) or None; a step whose mask is False is not read, whatever it
        holds: the state stays as it was, and y there is 0.
      hidden_bias: b_h (G H,), added to h u where the cell wants that apart.
      every_step: whether y has all steps, or only the state after the last one.
      backwards: read from the last step to the first; y keeps the order of x.
    """
    w, u, b = weights
    x = x.swapaxes(0, 1)
    if mask is not None:
        mask = mask.T[:, :, None]
        x = jnp.where(mask, x, 0)  # dw = x^T dz must not meet a NaN of the padding
    both = jnp.concatenate([w, u])

    def step(state, inputs):
        x, m = inputs
        h = state[0]
        if hidden_bias is None:
            read = jnp.concatenate([x, h], -1)
            z = read @ both + b[None]
        else:
            read = h
            z = x @ w + b[None], h @ u + hidden_bias[None]
        new, kept = cell.step(z, state)
        return _where(m, new, state), (read, state[1:], kept)

    end, (read, memory, kept) = lax.scan(step, start, (x, mask), reverse=backwards)
    read = (read,) if hidden_bias is None else (x, read)
    cache = Steps(read, w, u, memory, kept, mask)
    if not every_step:
        return end[0], cache
    last = end[0][None]
    if backwards:
        h = jnp.concatenate([last, cache.h])[:-1]
    else:
        h = jnp.concatenate([cache.h, last])[1:]
    y = h if mask is None else jnp.where(mask, h, 0)
    return y.swapaxes(0, 1), cache


def run_back(
    cell: Cell, cache: Steps, dy: Array, *, every_step: bool, backwards: bool
) -> tuple[tuple[Array, ...], tuple[Array, ...], Array]:
    """(dx, dw, du, db), the cotangents of the start, and that of b_h.

    dy (B, T, H) or (B, H), as `run` gave y.
    """
    u, kept, mask = cache.u, cache.kept, cache.mask
    states = (cache.h, *cache.memory)
    hidden = cell.hidden or (lambda kept, dz: dz)
    after = [jnp.zeros(h.shape[1:], h.dtype) for h in states]  # nothing follows the end
    dys = None
    if every_step:
        dys = dy.swapaxes(0, 1)
        dys = dys if mask is None else jnp.where(mask, dys, 0)
    else:
        after[0] = dy

    def step(dstate, inputs):
        dy, state, kept, m = inputs
        if dy is not None:
            dstate = (dstate[0] + dy, *dstate[1:])
        dz, (dh, *dmemory) = cell.back(kept, state, dstate)
        before = (dh + hidden(kept, dz) @ u.T, *dmemory)
        return _where(m, before, dstate), dz if m is None else jnp.where(m, dz, 0)

    # `reverse` once more: whichever way the steps were read, now the other one.
    inputs = (dys, states, kept, mask)
    start, dz = lax.scan(step, tuple(after), inputs, reverse=not backwards)
    dx = (dz @ cache.w.T).swapaxes(0, 1)
    dzh = hidden(kept, dz)
    # One product over all steps: autodiff would add up T small ones in the loop.
    if cell.hidden is None:
        dboth = _rows(cache.read[0]).T @ _rows(dz)
        dw, du = dboth[: -u.shape[0]], dboth[-u.shape[0] :]
    else:
        x, h = cache.read
        dw, du = _rows(x).T @ _rows(dz), _rows(h).T @ _rows(dzh)
    return (dx, dw, du, _rows(dz).sum(0)), start, _rows(dzh).sum(0)


def _where(mask, new, old):
    """The new state where the step counts."""
    if mask is None:
        return tuple(new)
    return tuple(jnp.where(mask, n, o) for n, o in zip(new, old, strict=True))


def _rows(a):
    # (T, B, D) -> (T B, D), the count spelt out: -1 fails when an axis is empty
    return a.reshape(a.shape[0] * a.shape[1], a.shape[2])
