"""Nodes beyond the operators: every rule and loss by name, and layers."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from jaxnn import rules
from jaxnn.errors import JaxnnError, lookup
from jaxnn.graph.node import Node, apply, call, check_settings
from jaxnn.layers import Layer
from jaxnn.losses import LOSSES, Loss
from jaxnn.rules import RULES, Rule

# `None` for an argument says that it has no derivative.
STOP = Rule("stop_gradient", lambda x: (x, ()), lambda _, dy: (None,))


def stop_gradient(x: Any, *, name: str | None = None) -> Node:
    """y = x, and nothing flows back: what is behind it counts as fixed."""
    return apply(STOP, x, name=name)


def loss(
    function: str | Loss, pred: Any, target: Any, *, name: str | None = None,
    **settings: Any,
) -> Node:  # fmt: skip
    """A loss as one node: `loss("mse", pred, target)`, or `jaxnn.graph.mse(...)`.

    Args:
      function: a name in `jaxnn.losses.LOSSES`, or any function
        `(pred, target) -> (value, dpred)`.
      pred: node (B, N).
      target: labels or rows, as in `jaxnn.losses`. No derivative is defined with
        regard to it: if it depends on `wrt`, write `stop_gradient(target)`.
      name: what to call the node.
      settings: passed to the loss, such as `label_smoothing=0.1`.
    """
    if isinstance(function, str):
        label, function = function, lookup("loss", function, LOSSES)
    elif callable(function):
        label = getattr(function, "__name__", "loss")
    else:
        raise JaxnnError(
            f"loss: got {type(function).__name__}, expected a loss or the name of one"
        )
    check_settings(name or label, settings)
    compute = functools.partial(function, **settings)

    def fwd(pred, target):
        return compute(pred, target)  # dpred is kept: it comes with the value

    def bwd(dpred, dy):
        # dy () for the mean, (B,) for one value a sample
        dy = dy.reshape(dy.shape + (1,) * (dpred.ndim - dy.ndim))
        return (dpred * dy).astype(dpred.dtype), None

    return apply(Rule(label, fwd, bwd), pred, target, name=name)


def from_layer(
    layer: Layer, x: Any, params: Any, *, state: Any = (), name: str | None = None
) -> Node:
    """A layer, or a whole network, as one node, in evaluation mode (`train=False`).

    Args:
      layer: any `Layer`.
      x: its input.
      params: its parameters, a tree of nodes (`jax.tree.map(parameter, params)`).
      state: what its `init` gave; fixed in the node.
      name: what to call the node.
    """
    if not isinstance(layer, Layer):
        raise JaxnnError(
            f"from_layer: got {type(layer).__name__}, expected a layer; dense(10) "
            "rather than dense"
        )
    leaves, structure = jax.tree.flatten(params)
    if any(isinstance(a, jax.core.Tracer) for a in jax.tree.leaves(state)):
        raise JaxnnError(f"{name or layer.name}: state is being traced; fix it outside")

    def fwd(x, *leaves):
        params = structure.unflatten(leaves)
        y, _, cache = layer.forward(params, state, x, key=None, train=False)
        return y, cache

    def bwd(cache, dy):
        dx, dparams = layer.backward(cache, dy)
        return dx, *jax.tree.leaves(dparams)

    return apply(Rule(layer.name, fwd, bwd), x, *leaves, name=name)


def op_names() -> list[str]:
    """Every op: the rules and the losses."""
    return sorted({*RULES, *LOSSES})


@functools.cache
def op(op_name: str) -> Callable[..., Node]:
    """The function that makes nodes of that rule or loss."""
    lookup("op", op_name, dict.fromkeys(op_names()))
    if op_name in RULES:
        make, kind = getattr(rules, op_name, None), call
    else:
        make, kind = LOSSES[op_name], loss

    def make_node(*inputs: Any, name: str | None = None, **settings: Any) -> Node:
        return kind(op_name, *inputs, name=name, **settings)

    make_node.__name__ = make_node.__qualname__ = op_name
    make_node.__doc__ = (
        make.__doc__ if callable(make) else f"A node of the rule `{op_name}`."
    )
    return make_node
