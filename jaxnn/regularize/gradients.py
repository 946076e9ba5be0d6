"""Gradient clipping: by the norm of the whole gradient, or entry by entry."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxnn.errors import JaxnnError


def clip_gradient(
    norm: float | None = None, value: float | None = None
) -> Callable[[Any, Any], Any] | None:
    """`(grads, their 2-norm) -> grads`, or None if nothing is to be clipped.

    Args:
      norm: longest gradient: g * min(1, norm / |g|), the direction is kept. The norm
        is over all leaves together, as in `optax.clip_by_global_norm`.
      value: largest entry: each is cut to [-value, value], as by `optax.clip`; the
        direction may change.

    Raises:
      JaxnnError: both, or a bound that is not positive.

    Source: Pascanu, Mikolov, Bengio 2013.
    """
    for name, bound in (("clip_norm", norm), ("clip_value", value)):
        if bound is not None and not bound > 0:
            raise JaxnnError(f"got {name}={bound:g}, expected a positive bound")
    if norm is not None and value is not None:
        raise JaxnnError(
            f"got clip_norm={norm:g} and clip_value={value:g}, expected one of them"
        )
    if norm is not None:
        return partial(_by_norm, norm)
    return partial(_by_value, value) if value is not None else None


def _by_norm(bound, grads, length):
    scale = bound / jnp.maximum(length, bound)
    return jax.tree.map(lambda g: g * scale.astype(g.dtype), grads)


def _by_value(bound, grads, length):
    del length
    return jax.tree.map(lambda g: jnp.clip(g, -bound, bound), grads)
