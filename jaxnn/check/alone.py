"""What has no place in a network yet has a gradient: losses, penalties, rules, pairs.

Each becomes a layer, so that it is judged in the same way as all the others.
"""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from jaxnn.check.probe import cast
from jaxnn.check.watch import Seen, Watch
from jaxnn.errors import JaxnnError
from jaxnn.layers import Layer
from jaxnn.losses import Loss
from jaxnn.rules import Rule


def watch_layer(
    layer: Layer,
    params: Any,
    state: Any,
    x: Any,
    *,
    dy: Any = None,
    key: Any = None,
    train: bool = True,
) -> list[Seen]:
    """A layer, and the layers it is made of, at work on x with the cotangent dy.

    Args:
      layer: any layer or network.
      params: its parameters.
      state: its state.
      x: its input.
      dy: cotangent of its output; None draws one from N(0, 1).
      key: PRNG key, if it draws.
      train: the mode.
    """
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        given = cast((params, state, x), np.float64)
        if dy is None:
            dy = _normal_like(layer, given, key, train)

        def program(net, _, params, state, x, key, dy):
            cache = net.forward(params, state, x, key=key, train=train)[2]
            net.backward(cache, dy)

        return Watch(layer).compile(program)(*given, key, cast(dy, np.float64))[1]


def _normal_like(layer, given, key, train):
    params, state, x = given
    y = jax.eval_shape(
        lambda p, s, x: layer.forward(p, s, x, key=key, train=train)[0],
        params, state, x,
    )  # fmt: skip
    draw = np.random.default_rng(77)  # not what a caller may have drawn x with
    return jax.tree.map(lambda a: draw.standard_normal(a.shape), y)


def loss_layer(loss: Loss) -> Layer:
    """A loss as a layer from {"pred": ...} to its value; `key` is the target.

    As the key, it is left as it is at other points: a loss may rely on a distribution.
    """

    def forward(params, state, x, *, key=None, train):
        del params, train
        value, dpred = loss(x["pred"], key)
        return value, state, dpred

    def backward(dpred, dy):
        return {"pred": dpred * dy.astype(dpred.dtype)}, ()

    return Layer(_no_init, forward, backward, f"loss {_name(loss)}")


def penalty_layer(penalty: Callable) -> Layer:
    """A penalty as a layer from nothing to its value."""

    def forward(params, state, x, *, key=None, train):
        del x, key, train
        value, dparams = penalty(params)
        return value, state, dparams

    def backward(dparams, dy):
        return (), jax.tree.map(lambda d: d * dy.astype(d.dtype), dparams)

    return Layer(_no_init, forward, backward, "penalty")


def rule_layer(rule: Rule, names: Sequence[str]) -> Layer:
    """A rule as a layer without parameters, from a dict of its arguments."""

    def forward(params, state, x, *, key=None, train):
        del params, key, train
        y, cache = rule.fwd(*(x[name] for name in names))
        return y, state, cache

    def backward(cache, dy):
        cotangents = rule.bwd(cache, dy)
        if not isinstance(cotangents, tuple | list):
            cotangents = (cotangents,)
        if len(cotangents) != len(names):
            raise JaxnnError(
                f"{rule.name}: bwd returned {len(cotangents)} gradients for "
                f"{len(names)} arguments ({', '.join(names)}); return one for each, "
                "None for an argument without a derivative"
            )
        return dict(zip(names, cotangents, strict=True)), ()

    return Layer(_no_init, forward, backward, rule.name)


def watch_rule(rule: Rule, *args: Any, dy: Any = None) -> list[Seen]:
    """A rule at work on `args`; judge it with `audit`.

    >>> from jaxnn.check.audit import audit
    >>> from jaxnn.rules import tanh
    >>> audit(watch_rule(tanh, np.ones((2, 3)))).findings
    ()
    """
    names = argument_names(rule.fwd, len(args))
    x = dict(zip(names, jax.tree.map(_as_array, args), strict=True))
    return watch_layer(rule_layer(rule, names), (), (), x, dy=dy)


def argument_names(function: Callable, count: int) -> list[str]:
    """Names of the first `count` arguments: as in its signature, else "0", "1" ..."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        parameters = ()
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [p.name for p in parameters if p.kind in plain][:count]
    return [*names, *(str(i) for i in range(len(names), count))]


def _as_array(a):
    return a if isinstance(a, jax.Array) else np.asarray(a)


def _name(function) -> str:
    while isinstance(function, partial):
        function = function.func
    return getattr(function, "__name__", type(function).__name__)


def _no_init(key, in_shape):
    raise JaxnnError("this layer wraps a function for the laboratory: it has no init")
