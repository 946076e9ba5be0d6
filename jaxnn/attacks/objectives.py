"""What attacks raise besides the cross-entropy: margins of logits, by hand.

Like every loss: `(pred, target) -> (value, dpred)`; only `reduction="none"` is needed.
"""

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.errors import JaxnnError
from jaxnn.losses import Reduction


def margin(
    logits: Array, y: Array, *, reduction: Reduction = "none"
) -> tuple[Array, Array]:
    """Largest other logit minus y's: above 0 exactly where the network is fooled.

    logits (B, N), y (B,) -> (B,) and (B, N). The gradient is +1 at the largest other
    class (the first of equals), -1 at y. Unlike cross-entropy it does not vanish when
    the network is sure. Source: Carlini, Wagner 2017, arXiv 1608.04644.
    """
    classes = logits.shape[-1]
    own = jax.nn.one_hot(y, classes, dtype=logits.dtype)
    others = jnp.where(own > 0, -jnp.inf, logits)
    best = jax.nn.one_hot(others.argmax(-1), classes, dtype=logits.dtype)
    values = others.max(-1) - _at(logits, y)
    return _reduced("margin", values, best - own, reduction)


def dlr(
    logits: Array, y: Array, *, reduction: Reduction = "none"
) -> tuple[Array, Array]:
    """Difference of logits ratio: margin / (first - third largest logit).

    logits (B, N), N >= 3, y (B,) -> (B,) and (B, N). Multiplying all logits by a number
    changes nothing, so scaling them cannot hide the gradient. Where the first and third
    logit are equal, value and gradient are 0.

    Source: Croce, Hein 2020, arXiv 2003.01690.
    """
    classes = logits.shape[-1]
    if classes < 3:
        raise JaxnnError(f"dlr: got {classes} classes, expected at least 3; use margin")
    order = jnp.argsort(-logits, axis=-1)
    first = jax.nn.one_hot(order[:, 0], classes, dtype=logits.dtype)
    third = jax.nn.one_hot(order[:, 2], classes, dtype=logits.dtype)
    difference, d_difference = margin(logits, y)
    scale = _at(logits, order[:, 0]) - _at(logits, order[:, 2])
    level = scale > 0
    safe = jnp.where(level, scale, 1)
    values = jnp.where(level, difference / safe, 0)
    # quotient rule: (m / s)' = m' / s - (m / s) s' / s
    dlogits = (d_difference - values[:, None] * (first - third)) / safe[:, None]
    return _reduced("dlr", values, jnp.where(level[:, None], dlogits, 0), reduction)


def _at(logits: Array, labels: Array) -> Array:
    return jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]


def _reduced(name, values, dlogits, reduction):
    if reduction == "none":
        return values, dlogits
    if reduction == "mean":
        return values.mean(), dlogits / len(values)
    raise JaxnnError(f"{name}: reduction {reduction!r} is unknown; valid: mean, none")
