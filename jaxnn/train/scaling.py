"""Training in float16: the loss is scaled up so that small gradients do not vanish.

float16 ends at 65,504 and below 6e-8, where many gradients of a network lie. So the
gradient of the loss is multiplied by a scale before the backward pass and the
parameters' gradients are divided by it after. Parameters, optimizer and statistics stay
float32. A step whose gradients overflow is left out and the scale halved; after
`EVERY` steps without one it is doubled. Source: Micikevicius et al. 2018.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

FIRST, LEAST, MOST = 2.0**15, 1.0, 2.0**24
EVERY = 1000  # steps without overflow after which a larger scale is tried


class LossScale(NamedTuple):
    """The scale (), float32, and how many steps it has held, int32."""

    scale: Array
    held: Array


def is_half(dtype: Any) -> bool:
    """Whether training in that type needs a loss scale."""
    return dtype is not None and jnp.dtype(dtype) == jnp.float16


def first_scale() -> LossScale:
    """The scale that training begins with."""
    return LossScale(jnp.full((), FIRST, jnp.float32), jnp.zeros((), jnp.int32))


def scaled(loss: Callable, scale: Array) -> Callable:
    """`loss` taken in float32, its gradient times `scale` in the type of pred."""

    def larger(pred, target, **options):
        wide = pred.astype(jnp.promote_types(pred.dtype, jnp.float32))
        value, dpred = loss(wide, target, **options)
        return value, (dpred * scale.astype(dpred.dtype)).astype(pred.dtype)

    return larger


def unscaled(grads: Any, scale: Array, like: Any) -> Any:
    """Gradients of the loss itself, in the types of `like`."""

    def one(g, p):
        return g.astype(p.dtype) / scale.astype(p.dtype)

    return jax.tree.map(one, grads, like)


def overflowed(now: LossScale, value: Array, norm: Array) -> Array:
    """Whether a smaller scale may help: a sound loss, gradients that are not."""
    return jnp.isfinite(value) & ~jnp.isfinite(norm) & (now.scale > LEAST)


def adjusted(now: LossScale, overflow: Array) -> LossScale:
    """The scale of the next step."""
    held = jnp.where(overflow, 0, now.held + 1)
    grow = held >= EVERY
    scale = jnp.where(
        overflow, now.scale / 2, jnp.where(grow, now.scale * 2, now.scale)
    )
    held = jnp.where(grow, 0, held).astype(now.held.dtype)
    return LossScale(jnp.clip(scale, LEAST, MOST), held)
