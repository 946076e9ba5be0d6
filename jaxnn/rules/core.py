"""The record that every derivative in jaxnn is written as."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jax import Array


class Rule(NamedTuple):
    """One differentiable operation, forward and backward side by side.

    Attributes:
      name: what `RULES` and error messages call it.
      fwd: `(*args) -> (y, cache)`; the cache holds what `bwd` needs, no more.
      bwd: `(cache, dy) -> cotangents`, a tuple with one entry per argument of `fwd`,
        `None` for an argument without a derivative (a mask, labels).

    Arguments of one floating type give y and cotangents of that type; sums that would
    lose digits in it are made in float32. Whole numbers are indices or masks, never
    values.

    A rule knows nothing of parameters, state or randomness: `jaxnn.layers` binds it
    to those, `jaxnn.interop` hands it to other libraries.

    >>> from jaxnn.rules import relu
    >>> import jax.numpy as jnp
    >>> y, cache = relu.fwd(jnp.array([-1.0, 0.0, 2.0]))
    >>> relu.bwd(cache, jnp.ones(3))[0].tolist()
    [0.0, 0.0, 1.0]
    """

    name: str
    fwd: Callable[..., tuple[Array, Any]]
    bwd: Callable[[Any, Array], tuple[Array | None, ...]]


def last_axis(v: Array, ndim: int) -> Array:
    """View v (C,) as (1, ..., 1, C) with `ndim` axes: broadcasting written out."""
    return v.reshape((1,) * (ndim - 1) + v.shape)
