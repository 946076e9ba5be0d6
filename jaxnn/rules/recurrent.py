"""Recurrent networks: plain RNN, LSTM and GRU, with backpropagation through time.

All read x (B, T, I) from a start state with weights w (I, G H), u (H, G H), b (G H,)
for G gates side by side, and give y (B, T, H), or (B, H) with `every_step=False`: the
state after the last step read. `backwards=True` reads from the last step to the first
and leaves y in the order of x. A last argument `mask` bool (B, T) may be given: where
it is False the step is not read (x may be anything there, NaN too), the state stays,
y is 0, and no gradient comes back; a row without any step ends where it started.
Make one of lengths with `length_mask`. Gates come in PyTorch's order.
"""

from functools import partial

import jax.numpy as jnp
from jax import nn

from jaxnn.errors import lookup
from jaxnn.rules.core import Rule
from jaxnn.rules.recurrence import Cell, run, run_back

# The second of each pair is the derivative from y = f(z).
ACTIVATIONS = {
    "tanh": (jnp.tanh, lambda y: 1 - y * y),
    # asked as y <= 0, so that a NaN is no closed gate
    "relu": (lambda z: jnp.where(z <= 0, 0, z), lambda y: jnp.where(y <= 0, 0, 1)),
}


def rnn(
    activation: str = "tanh", every_step: bool = True, backwards: bool = False
) -> Rule:
    """h' = f(x w + b + h u), f = tanh or relu: Elman's network.

    Arguments x (B, T, I), w (I, H), u (H, H), b (H,), h0 (B, H) and, if wanted, mask
    (B, T). With dz = dh' f'(z), and dh' the sum of dy of that step and what the next
    one sends back: dh = dz u^T, dx = dz w^T, du = sum h^T dz, dw = sum x^T dz,
    db = sum dz over all steps and rows. Keeps x and h of every step. For relu the
    derivative at 0 is 0. Source: Elman 1990; Werbos 1990.

    Raises:
      JaxnnError: unknown activation.
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

    cell = Cell(step, back, hidden)
    run_cell, run_cell_back = _runs(cell, every_step, backwards)

    def fwd(x, w, u, b, c, h0, mask=None):
        # r and z have their bias in b already
        wide = jnp.concatenate([jnp.zeros((2 * c.shape[0],), c.dtype), c])
        return run_cell(x, (w, u, b), (h0,), mask, hidden_bias=wide)

    def bwd(cache, dy):
        weights, start, dwide = run_cell_back(cache, dy)
        dc = dwide[-cache.u.shape[0] :]
        return *weights, dc, *start, *_no_cotangent(cache)

    return Rule("gru", fwd, bwd)


def _rule(name, cell, every_step, backwards, states=1):
    """A rule with the arguments x, w, u, b, the start, and the mask or none."""
    run_cell, run_cell_back = _runs(cell, every_step, backwards)

    def fwd(x, w, u, b, *rest):
        start, mask = rest[:states], rest[states:]
        return run_cell(x, (w, u, b), start, mask[0] if mask else None)

    def bwd(cache, dy):
        weights, start, _ = run_cell_back(cache, dy)
        return *weights, *start, *_no_cotangent(cache)

    return Rule(name, fwd, bwd)


def _runs(cell, every_step, backwards):
    """Forward and backward of that cell and those settings."""
    return (
        partial(run, cell, every_step=every_step, backwards=backwards),
        partial(run_back, cell, every_step=every_step, backwards=backwards),
    )


def _no_cotangent(cache):
    """One None for the mask, if there was one."""
    return () if cache.mask is None else (None,)
