"""Layers made to be compared: of losses, penalties and rules, and a network's twin.

What has a gradient and no place in a network becomes a layer, so that it is judged
in the same way as all the others; `automatic` has its backward pass made by JAX.
"""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from jaxnn.check.points import cast
from jaxnn.check.recorder import LayerRecord, LayerRecorder, full_precision
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
    with full_precision():
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

    def backward(dpred, dy):
        return {"pred": dpred * dy.astype(dpred.dtype)}, ()

    function = loss
    while isinstance(function, partial):
        function = function.func
    name = getattr(function, "__name__", type(function).__name__)
    return _layer(f"loss {name}", lambda _, x, key: loss(x["pred"], key), backward)


def penalty_layer(penalty: Callable) -> Layer:
    """A penalty as a layer from nothing to its value."""

    def backward(dparams, dy):
        return (), jax.tree.map(lambda d: d * dy.astype(d.dtype), dparams)

    return _layer("penalty", lambda params, *_: penalty(params), backward)


def rule_layer(rule: Rule, names: Sequence[str]) -> Layer:
    """A rule as a layer without parameters, from a dict of its arguments."""

    def forward(params, x, key):
        del params, key
        return rule.fwd(*(x[name] for name in names))

    def backward(cache, dy):
        return by_name(f"{rule.name}: bwd", names, rule.bwd(cache, dy)), ()

    return _layer(rule.name, forward, backward)


def _layer(name, function, backward) -> Layer:
    """A layer without state, of `function(params, x, key) -> (y, cache)`."""

    def init(key, in_shape):
        raise JaxnnError("this layer wraps a function for a comparison: it has no init")

    def forward(params, state, x, *, key=None, train):
        del train
        y, cache = function(params, x, key)
        return y, state, cache

    return Layer(init, forward, backward, name)


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


def automatic(net: Layer) -> Layer:
    """`net` with reverse-mode AD of its forward in place of the hand-written backward.

    The cache is the pull-back JAX makes, so training one step with it computes what
    `jax.grad` of the whole would. It does not pass through `scan` or `remat` as data.
    """

    def forward(params, state, x, *, key=None, train):
        def run(p, x):
            y, new_state, _ = net.forward(p, state, x, key=key, train=train)
            return y, new_state

        y, pull_back, new_state = jax.vjp(run, params, x, has_aux=True)
        return y, new_state, pull_back

    def backward(pull_back, dy):
        dparams, dx = pull_back(dy)
        return dx, dparams

    return Layer(net.init, forward, backward, f"automatic({net.name})", (net,))


def automatic_loss(loss: Loss) -> Loss:
    """`loss` with its gradient made by JAX from its value."""

    def differentiated(pred, target):
        return jax.value_and_grad(lambda p: loss(p, target)[0])(pred)

    return differentiated
