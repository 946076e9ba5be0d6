"""Regularisers: what is added to the loss, done to the weights, or to the input.

A penalty is `params -> (value, dparams)`, a projection `params -> params`, input noise
`(key, x) -> x`. Penalties and max-norm act on weights, the leaves with two axes or
more; biases, gammas and betas are left alone, as is usual.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.errors import JaxnnError

Penalty = Callable[[Any], tuple[Array, Any]]


def l2(strength: float) -> Penalty:
    """Penalty strength/2 * sum w^2 with gradient strength * w ("weight decay")."""
    return _penalty(
        "l2", strength, lambda w: jnp.square(w).sum() / 2, lambda w: strength * w
    )


def l1(strength: float) -> Penalty:
    """Penalty strength * sum |w| with gradient strength * sign(w), 0 at w = 0."""
    return _penalty(
        "l1", strength, lambda w: jnp.abs(w).sum(), lambda w: strength * jnp.sign(w)
    )


def combined(*penalties: Penalty) -> Penalty:
    """The sum of penalties, e.g. `combined(l1(1e-5), l2(1e-4))`, the elastic net."""

    if not penalties:
        raise JaxnnError("combined: got no penalties, expected at least one")

    def penalty(params):
        value, grads = penalties[0](params)
        for other in penalties[1:]:
            more, extra = other(params)
            value, grads = value + more, jax.tree.map(jnp.add, grads, extra)
        return value, grads

    return penalty


def max_norm(limit: float) -> Callable[[Any], Any]:
    """Projection: each unit's incoming weights are scaled back to 2-norm <= limit.

    w (..., O): the norm is over all axes but the last. Source: Srivastava et al. 2014.
    """
    if not limit > 0:
        raise JaxnnError(f"max_norm: got limit {limit:g}, expected a positive norm")

    def project(params):
        def shrink(w):
            if w.ndim < 2:
                return w
            rows = tuple(range(w.ndim - 1))
            # Measured in units of the largest entry: 1e30 squared overflows float32.
            unit = jnp.maximum(jnp.abs(w).max(rows, keepdims=True), 1)
            square = jnp.square(w / unit).sum(rows, keepdims=True)
            too_long = square > jnp.square(limit / unit)
            # where inside as well: a zero column must not reach the square root
            norm = unit * jnp.sqrt(jnp.where(too_long, square, 1))
            return jnp.where(too_long, w * (limit / norm), w)

        return jax.tree.map(shrink, params)

    return project


def input_noise(std: float, shift: float = 0.0) -> Callable[[Array, Array], Array]:
    """`(key, x) -> x + std * N(0, 1) + shift`, in pixel units, not clipped.

    x (B, ...) in [0, 1]. Source: Sietsma, Dow 1991; with a shift of 0.3 and std 0.1 it
    is the noise augmentation tested in the robustness experiments.
    """
    if not std >= 0:
        raise JaxnnError(f"input_noise: got std {std:g}, expected std >= 0")

    def add_noise(key, x):
        return x + std * jax.random.normal(key, x.shape, x.dtype) + shift

    return add_noise


def _penalty(name, strength, value, gradient) -> Penalty:
    if not strength >= 0:
        raise JaxnnError(f"{name}: got strength {strength:g}, expected >= 0")

    def penalty(params):
        weights = [w for w in jax.tree.leaves(params) if w.ndim >= 2]
        total = strength * sum((value(w) for w in weights), jnp.zeros(()))
        return total, jax.tree.map(
            lambda w: gradient(w) if w.ndim >= 2 else jnp.zeros_like(w), params
        )

    return penalty
