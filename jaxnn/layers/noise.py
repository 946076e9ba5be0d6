"""Layers that draw random numbers in training."""

import math

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxnn import rules
from jaxnn.errors import JaxnnError
from jaxnn.layers.core import Layer


def keep_mask(key: Array, shape: tuple[int, ...], drop_rate: float) -> Array:
    """Bool mask of `shape`, False with probability `drop_rate` to within 2^-17.

    Two elements share the halves of one random word: on CPU the draw is most of what
    dropout costs, and sixteen bits are plenty to decide one unit.
    """
    size = math.prod(shape)
    words = jax.random.bits(key, ((size + 1) // 2,), jnp.uint32)
    halves = lax.bitcast_convert_type(words, jnp.uint16).reshape(-1)[:size]
    return (halves >= _threshold(drop_rate)).reshape(shape)


def _threshold(drop_rate: float) -> int:
    """Of 2^16 equally likely halves, how many mean "drop"; at least one keeps."""
    return min(round(drop_rate * 2**16), 2**16 - 1)


def dropout(drop_rate: float) -> Layer:
    """Set a random fraction `drop_rate` of the units to zero in training.

    x (B, ...) -> y (B, ...); the others are divided by 1 - drop_rate, so nothing is
    scaled at evaluation, where the layer does nothing. See `jaxnn.rules.dropout`.

    Raises:
      JaxnnError: drop_rate outside [0, 1), or training without a key.
    """
    name = f"dropout({drop_rate:g})"
    if not 0 <= drop_rate < 1:
        raise JaxnnError(
            f"{name}: drop_rate is the fraction set to zero, expected 0 <= rate < 1"
        )
    # Scaled by the rate that is drawn, so that the expectation is exact.
    rule = rules.dropout(_threshold(drop_rate) / 2**16)

    def init(key, in_shape):
        del key
        return (), (), tuple(in_shape)

    def forward(params, state, x, *, key=None, train):
        del params
        if not train or drop_rate == 0:
            return x, state, None
        if key is None:
            raise JaxnnError(
                f"{name}: got key=None, expected a PRNG key in training; pass "
                "key=jax.random.key(seed) or train=False"
            )
        y, cache = rule.fwd(x, keep_mask(key, x.shape, drop_rate))
        return y, state, cache

    def backward(cache, dy):
        if cache is None:
            return dy, ()
        return rule.bwd(cache, dy)[0], ()

    return Layer(init, forward, backward, name)
