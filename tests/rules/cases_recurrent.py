"""Cases of the recurrent rules; the references are loops over the steps."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn import rules
from tests.rules.common import Case, normal

# Row by row: all steps, none, the first one, a gap.
RAGGED = np.array([[1, 1, 1], [0, 0, 0], [1, 0, 0], [1, 0, 1]], bool)
LAST = {"every_step": False}

# name -> (batch, steps, features, units), mask, settings of the rule
TABLE = {
    "every step": ((2, 3, 2, 4), None, {}),
    "all of size one": ((1, 1, 1, 1), None, {}),
    "one step, masked": ((2, 1, 3, 2), np.array([[True], [False]]), {}),
    "one unit, last": ((3, 2, 2, 1), None, LAST),
    "ragged": ((4, 3, 3, 2), RAGGED, {}),
    "ragged, last": ((4, 3, 3, 2), RAGGED, LAST),
    "ragged, backwards": ((4, 3, 3, 2), RAGGED, {"backwards": True}),
    "backwards, last": ((4, 3, 1, 2), None, LAST | {"backwards": True}),
    "no rows": ((0, 2, 2, 2), None, {}),
    "no steps": ((2, 0, 2, 3), np.ones((2, 0), bool), {}),
    "no steps, last": ((2, 0, 2, 3), None, LAST),
    "one row saturated": ((2, 2, 2, 3), None, {}),
}
FEW = ("every step", "all of size one", "ragged", "ragged, last", "one row saturated")
GATED = {name: TABLE[name] for name in FEW}  # the loop is the same: test it once
RELU = {f"relu, {name}": TABLE[name] for name in ("every step", "ragged")}


def sigmoid(z):
    return (1 + jnp.tanh(z / 2)) / 2


def product(x, w):
    return jnp.einsum("bi,io->bo", x, w)


def plus(y, b):
    return y + jnp.broadcast_to(b, y.shape)


def rnn_cell(f):
    def cell(x, state, w, u, b):
        return (f(plus(product(x, w) + product(state[0], u), b)),)

    return cell


def lstm_cell(x, state, w, u, b):
    h, c = state
    n = h.shape[1]
    z = plus(product(x, w) + product(h, u), b)
    i, f, o = (sigmoid(z[:, k * n : (k + 1) * n]) for k in (0, 1, 3))
    c = f * c + i * jnp.tanh(z[:, 2 * n : 3 * n])
    return o * jnp.tanh(c), c


def gru_cell(x, state, w, u, b, c):
    (h,) = state
    n = h.shape[1]
    zx, zh = plus(product(x, w), b), product(h, u)
    r, z = (sigmoid((zx + zh)[:, k * n : (k + 1) * n]) for k in (0, 1))
    new = jnp.tanh(zx[:, 2 * n :] + r * plus(zh[:, 2 * n :], c))
    return (z * h + (1 - z) * new,)


def loop(cell, weights, states, every_step=True, backwards=False):
    """The rule of this cell, written as a loop over the steps."""

    def reference(x, *rest):
        params, state = rest[:weights], tuple(rest[weights : weights + states])
        batch, steps = x.shape[:2]
        mask = rest[-1] if len(rest) > weights + states else jnp.ones((batch, steps))
        outputs = {}
        for t in reversed(range(steps)) if backwards else range(steps):
            on = mask[:, t, None] * jnp.ones_like(state[0])
            new = cell(x[:, t], state, *params)
            both = zip(new, state, strict=True)
            state = tuple(on * n + (1 - on) * s for n, s in both)
            outputs[t] = on * state[0]
        if not every_step:
            return state[0]
        if not steps:
            return jnp.zeros((batch, 0, state[0].shape[1]))
        return jnp.stack([outputs[t] for t in range(steps)], 1)

    return reference


def arguments(gates, states, shape, mask=None, more=False, scale=1.0):
    """x, w, u, b, (c,) the start and the mask of one case."""
    b, t, i, h = shape
    wide = gates * h
    args = [normal(b, t, i), normal(i, wide, seed=1), normal(h, wide, seed=2) / 2]
    args.append(normal(wide, seed=3))
    args += [normal(h, seed=4)] * more
    args += [normal(b, h, seed=5 + k) for k in range(states)]
    args[0][:1] *= scale
    return (*args, *(() if mask is None else (mask,)))


def cases(make, cell, gates, states, more=False, table=TABLE, **own):
    weights = 4 if more else 3
    found = []
    for name, (shape, mask, settings) in table.items():
        scale = 1e3 if name == "one row saturated" else 1.0
        args = arguments(gates, states, shape, mask, more, scale)
        reference = loop(cell, weights, states, **settings)
        found.append(Case(name, make(**own, **settings), args, reference))
    return found


CASES = {
    "rnn": [
        *cases(rules.rnn, rnn_cell(jnp.tanh), 1, 1),
        *cases(rules.rnn, rnn_cell(jax.nn.relu), 1, 1, table=RELU, activation="relu"),
    ],
    "lstm": cases(rules.lstm, lstm_cell, 4, 2, table=GATED),
    "gru": cases(rules.gru, gru_cell, 3, 1, more=True, table=GATED),
}
