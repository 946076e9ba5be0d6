"""Layers that read a sequence step by step.

x (B, T, I) -> the state after the last step (B, units), or with
`return_sequences=True` the state after every step (B, T, units), for the next
recurrent layer. T may differ from one call to the next. An image (28, 28) is a
sequence of 28 rows. Both directions at once:
`parallel(lstm(64), lstm(64, go_backwards=True), merge="concatenate")`.

Sequences of different lengths are padded to one T and `mask_value` says with what: a
step all of whose features equal it is not read. The state stays as it was and the
step's output is 0, so a recurrent layer on top takes `mask_value=0`. A row without any
step ends in the zero state it began in. With an embedding in front, its `padding`
makes the zeros: `serial(embedding(n, 32, padding=0), lstm(64, mask_value=0), ...)`.
A layer between that moves zeros (a dense layer's bias, layer norm's beta) hides the
mask from those behind it; the rules (`jaxnn.rules.lstm`) take any mask, and one of
lengths by `jaxnn.rules.length_mask`.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxnn import rules
from jaxnn.layers.core import (
    Layer,
    check_count,
    check_input,
    check_params,
    check_sequence,
    constructor,
    register,
)
from jaxnn.layers.linear import Initializer, initializer
from jaxnn.rules.core import Rule

__all__ = ["gru", "lstm", "rnn"]


@constructor
def rnn(
    units: int,
    return_sequences: bool = False,
    *,
    activation: str = "tanh",
    go_backwards: bool = False,
    mask_value: float | None = None,
    init: str | Initializer = "xavier_uniform",
    recurrent_init: str | Initializer = "orthogonal",
) -> Layer:
    """Plain recurrent network h' = f(x w + b + h u); arguments as in `lstm`.

    `activation` is tanh or relu. See `jaxnn.rules.rnn`.
    """
    rule = rules.rnn(activation, return_sequences, go_backwards)
    inits = init, recurrent_init
    return _recurrent(rule, units, (0,), return_sequences, mask_value, inits)


@constructor
def lstm(
    units: int,
    return_sequences: bool = False,
    *,
    go_backwards: bool = False,
    mask_value: float | None = None,
    init: str | Initializer = "xavier_uniform",
    recurrent_init: str | Initializer = "orthogonal",
    forget_bias: float = 1.0,
) -> Layer:
    """Long short-term memory, starting from zero. See `jaxnn.rules.lstm`.

    Args:
      units: width of the state, at least 1.
      return_sequences: give the state after every step rather than after the last.
      go_backwards: read from the last step to the first; outputs keep the order of x.
      mask_value: what padded steps are filled with, None if there are none.
      init: initializer of w (I, 4 units), for each gate alone.
      recurrent_init: initializer of u (units, 4 units), for each gate alone.
      forget_bias: what the forget gate's bias starts from: 1 keeps the memory open
        until there is a reason to forget (Jozefowicz et al. 2015).
    """

    rule = rules.lstm(return_sequences, go_backwards)
    start, inits = (0, forget_bias, 0, 0), (init, recurrent_init)
    return _recurrent(rule, units, start, return_sequences, mask_value, inits, 2)


@constructor
def gru(
    units: int,
    return_sequences: bool = False,
    *,
    go_backwards: bool = False,
    mask_value: float | None = None,
    init: str | Initializer = "xavier_uniform",
    recurrent_init: str | Initializer = "orthogonal",
) -> Layer:
    """Gated recurrent unit, reset after the product; arguments as in `lstm`.

    Its candidate has a second bias `c` (units,) inside the reset gate. See
    `jaxnn.rules.gru`.
    """
    rule = rules.gru(return_sequences, go_backwards)
    start, inits = (0, 0, 0), (init, recurrent_init)
    return _recurrent(
        rule, units, start, return_sequences, mask_value, inits, more=("c",)
    )


def _recurrent(
    rule: Rule, units: int, start: Sequence[float], every_step: bool,
    mask_value: float | None, inits: Sequence[str | Initializer], states: int = 1,
    more: tuple[str, ...] = (),
) -> Layer:  # fmt: skip
    """The layer of a rule, whose `states` arrays are zeros before the first step.

    Params are w (I, G units), u (units, G units) and b (G units,) for G gates, whose
    biases begin at `start`, and `more` (units,), which begin at 0; `inits` are of w, u.
    """
    name, names = f"{rule.name}({units})", ("w", "u", "b", *more)
    check_count(name, "units", units)
    widths = dict.fromkeys(names, len(start) * units) | dict.fromkeys(more, units)
    draws = [*map(initializer, inits)]

    def setup(key, in_shape):
        check_sequence(name, in_shape)
        steps, width = in_shape
        dtype = jnp.result_type(float)

        def gates(n, rows):
            # each gate on its own: side by side, another fan-out would scale them
            keys = jax.random.split(jax.random.fold_in(key, n), len(start))
            return jnp.concatenate([draws[n](k, (rows, units), dtype) for k in keys], 1)

        params = {"w": gates(0, width), "u": gates(1, units)}
        params["b"] = jnp.repeat(jnp.array(start, dtype), units)
        params |= {k: jnp.zeros(units, dtype) for k in more}
        return params, (), (steps, units) if every_step else (units,)

    def forward(params, state, x, *, key=None, train):
        del key, train
        items = params.items() if isinstance(params, dict) else ()
        ends = [a.shape[-1:] == (widths.get(k),) for k, a in items]
        check_params(name, params, names, f" for {units} units", all(ends))
        args = [params[k] for k in names]
        check_input(name, x, args[0].shape[0], "batch, steps")
        zero = jnp.zeros((x.shape[0], units), jnp.result_type(x, args[0]))
        mask = () if mask_value is None else ((x != mask_value).any(-1),)
        y, cache = rule.fwd(x, *args, *[zero] * states, *mask)
        return y, state, cache

    def backward(cache, dy):
        dx, *cotangents = rule.bwd(cache, dy)
        return dx, dict(zip(names, cotangents, strict=False))

    return Layer(setup, forward, backward, name)


register(gru, lstm, rnn)
