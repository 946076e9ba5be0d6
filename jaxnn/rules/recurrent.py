"""Recurrent networks: plain RNN, LSTM and GRU, with backpropagation through time.

All read x (B, T, I) from a start state with weights w (I, G H), u (H, G H), b (G H,)
for G gates side by side, and give y (B, T, H), or (B, H) with `every_step=False`: the
state after the last step read. `backwards=True` reads from the last step to the first
and leaves y in the order of x. A last argument `mask` bool (B, T) may be given: where
it is False the step is not read (x may be anything there, NaN too), the state stays,
y is 0, and no gradient comes back; a row without any step ends where it started.
Make one of lengths with `length_mask`. Gates come in PyTorch's order.

Forward there is one product a step, [x h] times w on top of u. To make x w of all steps
before the loop takes longer on CPU: it is written to memory and read back, four times
the size of the state for an LSTM. Backward there is one product with u a step; the
weight gradients are single large products over all steps, behind the loop.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax, nn

from jaxnn.errors import lookup
from jaxnn.rules.core import Rule, register
from jaxnn.rules.products import operand, product, product_nt, product_tn, rows

__all__ = ["gru", "length_mask", "lstm", "rnn"]


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


def _run(
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
    """y of every step or of the last one, and what `_run_back` needs.

    `hidden_bias` (G H,) is added to h u where the cell wants that apart.
    """
    w, u, b = weights
    x = x.swapaxes(0, 1)
    if mask is not None:
        mask = mask.T[:, :, None]
        x = jnp.where(mask, x, 0)  # dw = x^T dz must not meet a NaN of the padding
    both = operand(jnp.concatenate([w, u]))

    def step(state, inputs):
        x, m = inputs
        h = state[0]
        if hidden_bias is None:
            read = jnp.concatenate([x, h], -1)
            z = product(read, both) + b[None]
        else:
            read = h
            z = product(x, w) + b[None], product(h, u) + hidden_bias[None]
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


def _run_back(
    cell: Cell, cache: Steps, dy: Array, *, every_step: bool, backwards: bool
) -> tuple[tuple[Array, ...], tuple[Array, ...], Array]:
    """(dx, dw, du, db), the cotangents of the start, and that of b_h.

    dy (B, T, H) or (B, H), as `_run` gave y.
    """
    u, kept, mask = operand(cache.u), cache.kept, cache.mask
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
        before = (dh + product_nt(hidden(kept, dz), u), *dmemory)
        return _where(m, before, dstate), dz if m is None else jnp.where(m, dz, 0)

    # `reverse` once more: whichever way the steps were read, now the other one.
    inputs = (dys, states, kept, mask)
    start, dz = lax.scan(step, tuple(after), inputs, reverse=not backwards)
    dx = product_nt(dz, cache.w).swapaxes(0, 1)
    dzh = hidden(kept, dz)
    # One product over all steps: autodiff would add up T small ones in the loop.
    if cell.hidden is None:
        dboth = product_tn(rows(cache.read[0]), rows(dz))
        dw, du = dboth[: -u.shape[0]], dboth[-u.shape[0] :]
    else:
        x, h = cache.read
        dw = product_tn(rows(x), rows(dz))
        du = product_tn(rows(h), rows(dzh))
    return (dx, dw, du, rows(dz).sum(0)), start, rows(dzh).sum(0)


def _where(mask, new, old):
    """The new state where the step counts."""
    if mask is None:
        return tuple(new)
    return tuple(jnp.where(mask, n, o) for n, o in zip(new, old, strict=True))


# The second of each pair is the derivative from y = f(z).
ACTIVATIONS = {
    "tanh": (jnp.tanh, lambda y: 1 - y * y),
    # asked as y <= 0, so that a NaN is no closed gate
    "relu": (lambda z: jnp.where(z <= 0, 0, z), lambda y: jnp.where(y <= 0, 0, 1)),
}


def _rule(name, cell, every_step, backwards, states=1):
    """A rule of x, w, u, b, c if h u has a bias of its own, the start, a mask or none.

    That bias, c (H,), is of the last gate only: the others have theirs in b already.
    """
    more = 0 if cell.hidden is None else 1
    how = {"every_step": every_step, "backwards": backwards}

    def fwd(x, w, u, b, *rest):
        start, mask = rest[more : more + states], rest[more + states :]
        wide = None
        if more:
            c = rest[0]
            wide = jnp.zeros(u.shape[1] - c.shape[0], c.dtype)
            wide = jnp.concatenate([wide, c])
        mask = mask[0] if mask else None
        return _run(cell, x, (w, u, b), start, mask, hidden_bias=wide, **how)

    def bwd(cache, dy):
        weights, start, dwide = _run_back(cell, cache, dy, **how)
        dc = [dwide[-cache.u.shape[0] :]] * more
        return *weights, *dc, *start, *(() if cache.mask is None else (None,))

    return Rule(name, fwd, bwd)


def rnn(
    activation: str = "tanh", every_step: bool = True, backwards: bool = False
) -> Rule:
    """h' = f(x w + b + h u), f = tanh or relu: Elman's network.

    Arguments x (B, T, I), w (I, H), u (H, H), b (H,), h0 (B, H) and, if wanted, mask
    (B, T). With dz = dh' f'(z), and dh' the sum of dy of that step and what the next
    one sends back: dh = dz u^T, dx = dz w^T, du = sum h^T dz, dw = sum x^T dz,
    db = sum dz over all steps and rows. Keeps x and h of every step. For relu the
    derivative at 0 is 0. Source: Elman 1990; Werbos 1990.
    """
    f, slope = lookup("activation of rnn", activation, ACTIVATIONS)

    def step(z, state):
        del state
        h = f(z)
        return (h,), h

    def back(h, state, dstate):
        del state
        (dh,) = dstate
        return dh * slope(h).astype(dh.dtype), (jnp.zeros_like(dh),)

    return _rule("rnn", Cell(step, back), every_step, backwards)


def lstm(every_step: bool = True, backwards: bool = False) -> Rule:
    """Long short-term memory: c' = f c + i g, h' = o tanh c'.

    Arguments x (B, T, I), w (I, 4H), u (H, 4H), b (4H,), h0 (B, H), c0 (B, H) and, if
    wanted, mask (B, T). x w + b + h u holds, side by side, what i, f, g, o are made
    of: sigmoid, sigmoid, tanh, sigmoid. Backward, from dh' and dc' of the next step:
    do = dh' tanh c', dc' += dh' o (1 - tanh^2 c'), di = dc' g, df = dc' c,
    dg = dc' i, dc = dc' f; each gate times its own derivative is dz, and the rest is
    as in `rnn`. Keeps x, h, c and the four gates of every step; c' is made anew from
    them, which costs less than to read it back. Smooth; no gate can overflow.
    Source: Hochreiter, Schmidhuber 1997; forget gate: Gers et al. 2000.
    """

    def step(z, state):
        _, c = state
        i, f, g, o = jnp.split(z, 4, -1)
        i, f, g, o = nn.sigmoid(i), nn.sigmoid(f), jnp.tanh(g), nn.sigmoid(o)
        c = f * c + i * g
        return (o * jnp.tanh(c), c), (i, f, g, o)

    def back(kept, state, dstate):
        i, f, g, o = kept
        _, c = state
        dh, dc = dstate
        tanh_c = jnp.tanh(f * c + i * g)
        dc = dc + dh * o * (1 - tanh_c * tanh_c)
        dz = (
            dc * g * i * (1 - i),
            dc * c * f * (1 - f),
            dc * i * (1 - g * g),
            dh * tanh_c * o * (1 - o),
        )
        return jnp.concatenate(dz, -1), (jnp.zeros_like(dh), dc * f)

    return _rule("lstm", Cell(step, back), every_step, backwards, states=2)


def gru(every_step: bool = True, backwards: bool = False) -> Rule:
    """Gated recurrent unit: h' = z h + (1 - z) n, n = tanh(x w_n + b_n + r m).

    Arguments x (B, T, I), w (I, 3H), u (H, 3H), b (3H,), c (H,), h0 (B, H) and, if
    wanted, mask (B, T). x w + b and h u hold, side by side, what r, z, n are made of;
    r and z are the sigmoids of their sums, m = h u_n + c. The reset gate r acts after
    the product with u, as in cuDNN, PyTorch and Keras (in Cho's first version before
    it), so c is a bias of its own. Backward, from dh': da_n = dh' (1 - z) (1 - n^2),
    da_z = dh' (h - n) z (1 - z), da_r = da_n m r (1 - r), dm = da_n r; dh is dh' z and
    what comes through u; the rest is as in `rnn`. Keeps x, h, r, z, n and m of every
    step. Smooth.
    Source: Cho et al. 2014, arXiv 1406.1078.
    """

    def step(z, state):
        (h,) = state
        (xr, xz, xn), (hr, hz, m) = (jnp.split(part, 3, -1) for part in z)
        r, z = nn.sigmoid(xr + hr), nn.sigmoid(xz + hz)
        n = jnp.tanh(xn + r * m)
        return (n + z * (h - n),), (r, z, n, m)

    def back(kept, state, dstate):
        r, z, n, m = kept
        (h,), (dh,) = state, dstate
        dn = dh * (1 - z) * (1 - n * n)
        dz = (dn * m * r * (1 - r), dh * (h - n) * z * (1 - z), dn)
        return jnp.concatenate(dz, -1), (dh * z,)

    def hidden(kept, dz):
        dr, dz, dn = jnp.split(dz, 3, -1)
        return jnp.concatenate([dr, dz, dn * kept[0]], -1)

    return _rule("gru", Cell(step, back, hidden), every_step, backwards)


register(gru(), lstm(), rnn())
