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

from jaxnn.train.state import GradientResult, TrainState, cast_floats

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
    """Return the scale that training begins with."""
    return LossScale(jnp.full((), FIRST, jnp.float32), jnp.zeros((), jnp.int32))


def in_half(gradients: Callable, scale: Array) -> Callable:
    """`Defense.gradients` computed in float16, of a loss times `scale`.

    The loss is taken in float32, its gradient times the scale in the type of pred.
    """

    def scaled(net, loss, params, state, x, y, **given):
        def larger(pred, target, **options):
            wide = pred.astype(jnp.promote_types(pred.dtype, jnp.float32))
            value, dpred = loss(wide, target, **options)
            return value, (dpred * scale.astype(dpred.dtype)).astype(pred.dtype)

        with jax.named_scope("data"):
            half, x = cast_floats((params, x), jnp.float16)
        value, grads, state, memory = gradients(net, larger, half, state, x, y, **given)

        def unscaled(g, p):
            return g.astype(p.dtype) / scale.astype(p.dtype)

        return value, jax.tree.map(unscaled, grads, params), state, memory

    return scaled


def rescaled(ts: TrainState, found: GradientResult) -> tuple[LossScale, Array]:
    """(scale of the next step, whether this one overflowed): then it is no bad step.

    It has if a smaller scale may help: a finite loss, gradients that are not.
    """
    now, limit = ts.scaling, ts.limit
    over = jnp.isfinite(found.loss) & ~jnp.isfinite(found.norm) & (now.scale > LEAST)
    over = over & (ts.step < limit)
    return adjusted(now, over), over


def adjusted(now: LossScale, overflow: Array) -> LossScale:
    """Halve the scale after an overflow, double it after `EVERY` steps without."""
    held = jnp.where(overflow, 0, now.held + 1)
    grow = held >= EVERY
    scale = jnp.where(
        overflow, now.scale / 2, jnp.where(grow, now.scale * 2, now.scale)
    )
    held = jnp.where(grow, 0, held).astype(now.held.dtype)
    return LossScale(jnp.clip(scale, LEAST, MOST), held)
