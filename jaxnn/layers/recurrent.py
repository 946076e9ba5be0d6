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

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

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
    params = _Params(units, 1, init, recurrent_init)
    return _recurrent(rule, params, 1, return_sequences, mask_value)


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

    Raises:
      JaxnnError: units < 1, unknown initializer, x not (B, T, I) or of another I.
    """

    def start_bias(dtype):
        return jnp.zeros((4, units), dtype).at[1].set(forget_bias).reshape(-1)

    rule = rules.lstm(return_sequences, go_backwards)
    params = _Params(units, 4, init, recurrent_init, start_bias)
    return _recurrent(rule, params, 2, return_sequences, mask_value)


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
    params = _Params(units, 3, init, recurrent_init, more=("c",))
    return _recurrent(rule, params, 1, return_sequences, mask_value)


class _Params:
    """The weights of one recurrent layer: w (I, G H), u (H, G H), b (G H,) and more."""

    def __init__(
        self,
        units: int,
        gates: int,
        init: str | Initializer,
        recurrent_init: str | Initializer,
        bias: Callable[..., Array] | None = None,
        more: tuple[str, ...] = (),
    ):
        self.units, self.gates, self.more = units, gates, more
        self.draw_w, self.draw_u = initializer(init), initializer(recurrent_init)
        self.bias = bias or (lambda dtype: jnp.zeros(gates * units, dtype))
        self.names = ("w", "u", "b", *more)

    def draw(self, key: Array, width: int) -> dict[str, Array]:
        """Each gate on its own: side by side, another fan-out would scale them."""
        dtype = jnp.result_type(float)

        def gates(draw, n, rows):
            keys = jax.random.split(jax.random.fold_in(key, n), self.gates)
            drawn = [draw(k, (rows, self.units), dtype) for k in keys]
            return jnp.concatenate(drawn, 1)

        found = {"w": gates(self.draw_w, 0, width)}
        found |= {"u": gates(self.draw_u, 1, self.units), "b": self.bias(dtype)}
        return found | {name: jnp.zeros(self.units, dtype) for name in self.more}

    def fit(self, params) -> bool:
        """Whether params are of such a layer."""
        if not isinstance(params, dict) or set(params) != set(self.names):
            return False
        ends = dict.fromkeys(self.more, self.units)
        wide = self.gates * self.units
        return all(a.shape[-1:] == (ends.get(k, wide),) for k, a in params.items())


def _recurrent(
    rule: Rule, weights: _Params, states: int, every_step: bool, mask_value
) -> Layer:
    """The layer of a rule whose state starts from `states` arrays of zeros."""
    units, names = weights.units, weights.names
    name = f"{rule.name}({units})"
    check_count(name, "units", units)

    def init(key, in_shape):
        check_sequence(name, in_shape)
        steps, width = in_shape
        out_shape = (steps, units) if every_step else (units,)
        return weights.draw(key, width), (), out_shape

    def forward(params, state, x, *, key=None, train):
        del key, train
        check_params(name, params, names, f" for {units} units", weights.fit(params))
        args = [params[k] for k in names]
        check_input(name, x, args[0].shape[0], "batch, steps")
        zero = jnp.zeros((x.shape[0], units), jnp.result_type(x, args[0]))
        mask = () if mask_value is None else ((x != mask_value).any(-1),)
        y, cache = rule.fwd(x, *args, *[zero] * states, *mask)
        return y, state, cache

    def backward(cache, dy):
        dx, *cotangents = rule.bwd(cache, dy)
        return dx, dict(zip(names, cotangents, strict=False))

    return Layer(init, forward, backward, name)


register(gru, lstm, rnn)
