"""What has no place in a network yet has a gradient: losses, penalties, rules, pairs.

Each becomes a layer, so that it is judged in the same way as all the others.
"""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from jaxnn.check.points import cast
from jaxnn.check.recorder import LayerRecord, LayerRecorder
from jaxnn.errors import JaxnnError
from jaxnn.layers import Layer
from jaxnn.losses import Loss
from jaxnn.rules import Rule


def record_layer(
    layer: Layer,
    params: Any,
    state: Any,
    x: Any,
    *,
    dy: Any = None,
    key: Any = None,
    train: bool = True,
) -> list[LayerRecord]:
    """A layer, and the layers it is made of, at work on x with the cotangent dy.

    Without dy one is drawn from N(0, 1).
    """
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        given = cast((params, state, x), np.float64)
        if dy is None:
            y = jax.eval_shape(partial(layer.forward, key=key, train=train), *given)[0]
            draw = np.random.default_rng(77)  # not what a caller may have drawn x with
            dy = jax.tree.map(lambda a: draw.standard_normal(a.shape), y)

        def program(net, _, params, state, x, key, dy):
            cache = net.forward(params, state, x, key=key, train=train)[2]
            net.backward(cache, dy)

        return LayerRecorder(program, layer)(*given, key, cast(dy, np.float64))


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

    function = loss
    while isinstance(function, partial):
        function = function.func
    name = getattr(function, "__name__", type(function).__name__)
    return Layer(_no_init, forward, backward, f"loss {name}")


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
        return by_name(f"{rule.name}: bwd", names, rule.bwd(cache, dy)), ()

    return Layer(_no_init, forward, backward, rule.name)


def by_name(who: str, names: Sequence[str], cotangents: Any) -> dict[str, Any]:
    """What a backward returned, by argument.

    Raises:
      JaxnnError: not one gradient for each.
    """
    if not isinstance(cotangents, tuple | list):
        cotangents = (cotangents,)
    if len(cotangents) != len(names):
        raise JaxnnError(
            f"{who} returned {len(cotangents)} gradients for {len(names)} arguments "
            f"({', '.join(names)}); return one for each, None for an argument without "
            "a derivative"
        )
    return dict(zip(names, cotangents, strict=True))


def record_rule(rule: Rule, *args: Any, dy: Any = None) -> list[LayerRecord]:
    """A rule at work on `args`; judge it with `audit`.

    >>> from jaxnn.check.audit import audit
    >>> from jaxnn.rules import tanh
    >>> audit(record_rule(tanh, np.ones((2, 3)))).findings
    ()
    """
    names = argument_names(rule.fwd, len(args))
    args = jax.tree.map(
        lambda a: a if isinstance(a, jax.Array) else np.asarray(a), args
    )
    x = dict(zip(names, args, strict=True))
    return record_layer(rule_layer(rule, names), (), (), x, dy=dy)


def argument_names(function: Callable, count: int) -> list[str]:
    """Names of the first `count` arguments: as in its signature, else "0", "1" ..."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        parameters = ()
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [p.name for p in parameters if p.kind in plain][:count]
    return [*names, *(str(i) for i in range(len(names), count))]


def _no_init(key, in_shape):
    raise JaxnnError("this layer wraps a function for a comparison: it has no init")
