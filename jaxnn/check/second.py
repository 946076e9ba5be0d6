"""Second derivatives, from the first ones written by hand.

The hand-written backward is an ordinary function of the parameters, so `jax.jvp` goes
through it: forward mode over a manual reverse mode gives H v at about twice the cost of
a gradient, and the Hessian itself is never built.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxnn.check.methods import inner
from jaxnn.layers import Layer
from jaxnn.losses import Loss

Gradient = Callable[[Any], Any]  # params -> dparams


def manual_gradient(
    net: Layer,
    loss: Loss,
    state: Any,
    x: Any,
    y: Any,
    *,
    key: Any = None,
    train: bool = False,
    penalty: Callable | None = None,
) -> Gradient:
    """`params -> dparams` by the hand-written backward, all else fixed."""

    def gradient(params):
        pred, _, cache = net.forward(params, state, x, key=key, train=train)
        _, grads = net.backward(cache, loss(pred, y)[1])
        if penalty is None:
            return grads
        return jax.tree.map(jnp.add, grads, penalty(params)[1])

    return gradient


def automatic_gradient(
    net: Layer,
    loss: Loss,
    state: Any,
    x: Any,
    y: Any,
    *,
    key: Any = None,
    train: bool = False,
    penalty: Callable | None = None,
) -> Gradient:
    """The same by `jax.grad` of the forward pass."""

    def total(params):
        pred, _, _ = net.forward(params, state, x, key=key, train=train)
        value = loss(pred, y)[0]
        return value if penalty is None else value + penalty(params)[0]

    return jax.grad(total)


def hessian_vector(gradient: Gradient, params: Any, v: Any) -> Any:
    """H v, H the Hessian at `params` of whatever `gradient` is the gradient of.

    With a network of relus, H is that of the piece the parameters lie in: kinks count
    for nothing. Source: Pearlmutter 1994, "Fast exact multiplication by the Hessian".
    """
    return jax.jvp(gradient, (params,), (v,))[1]


class Curvature(NamedTuple):
    """The sharpest direction.

    Attributes:
      value: the eigenvalue of the Hessian of largest size, negative at a saddle.
      vector: its direction, of length 1, a tree as params.
      residual: |H v - value v| / |value|: how far from an eigenvector it is still.
      steps: products with H that were made.
    """

    value: Array
    vector: Any
    residual: Array
    steps: Array


def largest_eigenvalue(
    gradient: Gradient,
    params: Any,
    key: Array,
    *,
    steps: int = 100,
    tolerance: float = 1e-3,
) -> Curvature:
    """Largest eigenvalue of the Hessian by power iteration on H v.

    Gradient descent with a step above 2 / value climbs along `vector`.

    Args:
      gradient: `params -> dparams`.
      params: where.
      key: for the direction to start from.
      steps: products with H at most.
      tolerance: residual to stop at; the error of the value is about its square.
    """
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    drawn = [
        jax.random.normal(k, a.shape, a.dtype)
        for k, a in zip(keys, leaves, strict=True)
    ]

    def more(c):
        return (c.steps < steps) & (c.residual > tolerance)

    def step(c):
        hv = hessian_vector(gradient, params, c.vector)
        value = inner(c.vector, hv)
        off = _length(jax.tree.map(lambda h, v: h - value * v, hv, c.vector))
        # a Hessian of zeros has no direction: the residual is 0 and this the last step
        residual = jnp.where(value == 0, 0, off / jnp.abs(value))
        return Curvature(value, _unit(hv), residual, c.steps + 1)

    start = _unit(structure.unflatten(drawn))
    zero = jnp.zeros_like(inner(start, start))
    first = Curvature(zero, start, zero + jnp.inf, jnp.zeros((), jnp.int32))
    return lax.while_loop(more, step, first)


def _length(tree):
    return jnp.sqrt(inner(tree, tree))


def _unit(tree):
    length = _length(tree)
    return jax.tree.map(lambda a: a / jnp.where(length == 0, 1, length), tree)
