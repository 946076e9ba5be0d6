"""How much arithmetic a function does, counted without compiling or running it."""

from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun


def count_flops(function: Callable, *args: Any) -> float:
    """Floating-point operations of `function(*args)`, as XLA counts them.

    Args:
      function: anything that `jax.jit` takes.
      args: arrays or `jax.ShapeDtypeStruct`s.

    A product of (m, k) and (k, n) is 2 m k n, an elementwise operation 1 an element,
    exp and tanh too.
    XLA counts the body of a loop once; here a `scan` counts as often as it runs (a
    `while` still once, its length being unknown). What is computed but not returned is
    left out.

    >>> import jax.numpy as jnp
    >>> count_flops(jnp.dot, jnp.ones((2, 3)), jnp.ones((3, 4)))
    48.0
    """
    traced = jax.jit(function).trace(*args)
    return _counted_once(traced) + _further_rounds(traced.jaxpr)


def _counted_once(traced) -> float:
    found = traced.lower().cost_analysis() or {}
    return found.get("flops", 0.0) + found.get("transcendentals", 0.0)


def _further_rounds(jaxpr) -> float:
    """What the loops in `jaxpr` do beyond the one round that XLA counts."""
    total = 0.0
    for eqn in jaxpr.eqns:
        for inner in _jaxprs_in(eqn.params):
            more = _further_rounds(inner)
            if eqn.primitive.name == "scan" and (more or eqn.params["length"] != 1):
                length = eqn.params["length"]
                body = jax.jit(jaxpr_as_fun(inner)).trace(*inner.in_avals)
                more = length * more + (length - 1) * _counted_once(body)
            total += more
    return total


def _jaxprs_in(params):
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, ClosedJaxpr):
                yield item
