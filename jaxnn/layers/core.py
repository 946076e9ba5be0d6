"""The record that every layer, and so every network, is written as."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxnn.rules.core import Rule


class Layer(NamedTuple):
    """Rules bound to parameters, state and randomness. A network is a Layer too.

    Attributes:
      init: `(key, in_shape) -> (params, state, out_shape)`; shapes without batch axis.
      forward: `(params, state, x, *, key=None, train) -> (y, state, cache)`; x has the
        batch axis first, `train` is a Python bool, `key` is needed by random layers
        in training only.
      backward: `(cache, dy) -> (dx, dparams)`; dparams has the structure of params.
      name: what errors, `summary` and profiles call it, with its settings.
      parts: the layers a combinator is made of, `()` for a single layer.

    Params, state and cache hold arrays only; settings live in the closures. So `jit`,
    `vmap` over seeds, `scan` and optax need no special code.
    """

    init: Callable[..., tuple[Any, Any, tuple[int, ...]]]
    forward: Callable[..., tuple[Any, Any, Any]]
    backward: Callable[..., tuple[Any, Any]]
    name: str = "layer"
    parts: tuple["Layer", ...] = ()


def pointwise(rule: Rule, name: str | None = None) -> Layer:
    """A layer without parameters or state from a rule of one argument, shape kept."""
    return shaped(rule, lambda shape: shape, name)


def shaped(rule: Rule, out_shape: Callable, name: str | None = None) -> Layer:
    """A layer without parameters from a rule of one argument that changes the shape.

    `out_shape(in_shape)` gives the shape it makes, or raises.
    """

    def init(key, in_shape):
        del key
        return (), (), tuple(out_shape(tuple(in_shape)))

    def forward(params, state, x, *, key=None, train):
        del params, key, train
        y, cache = rule.fwd(x)
        return y, state, cache

    def backward(cache, dy):
        (dx,) = rule.bwd(cache, dy)
        return dx, ()

    return Layer(init, forward, backward, name or rule.name)
