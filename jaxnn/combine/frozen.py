"""Layers that training leaves as they are."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxnn.combine.parts import Parts
from jaxnn.errors import JaxnnError
from jaxnn.layers import Layer, constructor, interval


@constructor
def freeze(layer: Layer, params: Any = None, state: Any = None) -> Layer:
    """`layer` as a constant: nothing that training does can move its parameters.

    They are kept in the state, as `{"params": ..., "state": ...}`, and its own params
    are `()`. So there is no gradient to compute, no penalty, weight decay, projection
    or weight noise that reaches them, and no optimizer keeps moments for them. The
    cotangent of x passes through as ever.

    The layer runs with `train=False` always: batch norm uses its averages and leaves
    them, as a frozen batch norm in Keras does, and dropout inside is off (put dropout
    that should act outside). To train it later, take its params and state out of the
    state and hand them to the network without `freeze`.

    Args:
      layer: any layer or network.
      params: the values it keeps, trained before; None draws them.
      state: the state that goes with `params`; needed if the layer has any.

    >>> from jaxnn.layers import dense
    >>> trunk = dense(3)
    >>> params, state, _ = trunk.init(jax.random.key(0), (4,))
    >>> net = freeze(trunk, params, state)
    >>> net.init(jax.random.key(1), (4,))[0]
    ()

    Raises:
      JaxnnError: `params` or `state` of another network, or one without the other.
    """
    parts = Parts("freeze", (layer,), frozen=True)
    name = f"freeze({layer.name})"

    def init(key, in_shape):
        if params is None and state is None:
            p, s, out_shape = parts.init(0, key, in_shape)
            return (), {"params": p, "state": s}, out_shape
        shapes = []

        def traced(key):
            *trees, out_shape = parts.init(0, key, in_shape)
            shapes.append(out_shape)
            return trees

        want = jax.eval_shape(traced, key)
        given = [() if tree is None else tree for tree in (params, state)]
        for what, got, expected in zip(("params", "state"), given, want, strict=True):
            _check_alike(name, what, got, expected)
        p, s = jax.tree.map(jnp.array, given)  # copies: training donates its state
        return (), {"params": p, "state": s}, shapes[0]

    def forward(params, state, x, *, key=None, train):
        del key, train
        if params != () or not isinstance(state, dict) or set(state) != _KEPT:
            raise JaxnnError(
                f"{name}: expected params () and a state of params and state; were "
                "they made by another network, or by this one before it was frozen?"
            )
        y, _, cache = parts.forward(
            0, state["params"], state["state"], x, key=None, train=False
        )
        return y, state, cache

    def backward(cache, dy):
        dx, _ = parts.backward(0, cache, dy)
        return dx, ()

    def bounds():
        return freeze(interval(layer), params, state)

    return Layer(init, forward, backward, name, (layer,), bounds=bounds)


_KEPT = {"params", "state"}


def _check_alike(name, what, got, expected):
    def shapes(tree):
        return jax.tree.map(jnp.shape, tree)

    if jax.tree.structure(got) != jax.tree.structure(expected) or (
        jax.tree.leaves(shapes(got)) != jax.tree.leaves(shapes(expected))
    ):
        raise JaxnnError(
            f"{name}: got {what} of shapes {shapes(got)}, expected {shapes(expected)}; "
            "give the params and the state that the layer was trained to"
        )
