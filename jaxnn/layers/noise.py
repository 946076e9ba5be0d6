"""Layers that draw random numbers in training."""

import math
from collections.abc import Callable
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxnn import rules
from jaxnn.arrays import is_traced
from jaxnn.errors import JaxnnError
from jaxnn.layers.bounds import bounded, monotone
from jaxnn.layers.core import Layer, checked_key, constructor, register
from jaxnn.rules.core import Rule

__all__ = ["dropout", "gaussian_noise", "spatial_dropout"]


def keep_mask(key: Array, shape: tuple[int, ...], drop_rate: float) -> Array:
    """Bool mask of `shape`, False with probability `drop_rate` to within 2^-17.

    Two elements share the halves of one random word: on CPU the draw is most of what
    dropout costs, and sixteen bits are plenty to decide one unit.
    """
    size = math.prod(shape)
    words = jax.random.bits(key, ((size + 1) // 2,), jnp.uint32)
    halves = lax.bitcast_convert_type(words, jnp.uint16).reshape(-1)[:size]
    least = _threshold(drop_rate)
    least = least.astype(jnp.uint16) if is_traced(drop_rate) else least
    return (halves >= least).reshape(shape)


def _threshold(drop_rate: float) -> Any:
    """Of 2^16 equally likely halves, how many mean "drop"; at least one keeps."""
    if is_traced(drop_rate):
        return jnp.minimum(jnp.round(drop_rate * 2**16), 2**16 - 1)
    return min(round(drop_rate * 2**16), 2**16 - 1)


@constructor
def dropout(drop_rate: float) -> Layer:
    """Set a random fraction `drop_rate` of the units to zero in training.

    x (B, ...) -> y (B, ...); the others are divided by 1 - drop_rate, so nothing is
    scaled at evaluation, where the layer does nothing. See `jaxnn.rules.dropout`.
    """
    return _dropout("dropout", drop_rate, lambda shape: shape)


@constructor
def spatial_dropout(drop_rate: float) -> Layer:
    """Dropout of whole channels: one draw for each sample and channel (last axis).

    x (B, ..., C) -> y (B, ..., C). Neighboring pixels say nearly the same, so single
    ones are not missed; a channel is. Otherwise as `dropout`, with which it agrees on
    x (B, C). Source: Tompson et al. 2015.
    """

    def one_a_channel(shape):
        if len(shape) < 2:
            raise JaxnnError(
                f"spatial_dropout({drop_rate:g}): input of shape {shape}, expected "
                "(batch, ..., channels)"
            )
        return (shape[0], *(1,) * (len(shape) - 2), shape[-1])

    return _dropout("spatial_dropout", drop_rate, one_a_channel)


@constructor
def gaussian_noise(std: float) -> Layer:
    """Add N(0, std^2) to each unit in training: x (B, ...) -> y (B, ...).

    `std` is in the units of x where the layer stands: pixel units [0, 1] in front of
    `standardize`. Nothing is clipped; at evaluation the layer does nothing.
    Source: Bishop 1995 (noise as regularization).
    """
    name = f"gaussian_noise({_shown(std)})"
    if not (_is_number(std) and 0 <= std < math.inf):
        raise JaxnnError(f"{name}: std is a standard deviation, expected 0 <= std")

    def noisy(key, x):
        return rules.add.fwd(x, std * jax.random.normal(key, x.shape, x.dtype))

    return _in_training(name, noisy, rules.add, idle=std == 0)


def _dropout(kind: str, drop_rate: float, mask_shape: Callable) -> Layer:
    """Dropout with a mask of `mask_shape(x.shape)`."""
    given = not is_traced(drop_rate)
    name = f"{kind}({_shown(drop_rate)})" if given else kind
    if given and not (_is_number(drop_rate) and 0 <= drop_rate < 1):
        raise JaxnnError(
            f"{name}: drop_rate is the fraction set to zero, expected 0 <= rate < 1"
        )
    # Scaled by the rate that is drawn, so that the expectation is exact.
    rule = rules.dropout(_threshold(drop_rate) / 2**16)

    def dropped(key, x):
        return rule.fwd(x, keep_mask(key, mask_shape(x.shape), drop_rate))

    return _in_training(name, dropped, rule, idle=given and drop_rate == 0)


def _is_number(setting) -> bool:
    return isinstance(setting, Real) or getattr(setting, "shape", None) == ()


def _shown(setting) -> str:
    return f"{setting:g}" if _is_number(setting) else repr(setting)


def _in_training(name: str, draw: Callable, rule: Rule, idle: bool) -> Layer:
    """The layer of `draw(key, x) -> rule.fwd(x, ...)` in training, else of nothing."""

    def init(key, in_shape):
        del key
        return (), (), tuple(in_shape)

    def forward(params, state, x, *, key=None, train):
        del params
        if not train or idle:
            return x, state, None
        if key is None:
            raise JaxnnError(
                f"{name}: got key=None, expected a PRNG key in training; pass "
                "key=jax.random.key(seed) or train=False"
            )
        y, cache = draw(checked_key(name, key), x)
        return y, state, cache

    def backward(cache, dy):
        if cache is None:
            return dy, ()
        return rule.bwd(cache, dy)[0], ()

    # of equal keys both ends get the same mask or noise
    return bounded(Layer(init, forward, backward, name), monotone)


register(dropout, gaussian_noise, spatial_dropout)
