"""Projections: `params -> params` after the update, onto weights that are allowed."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from jaxnn.errors import JaxnnError
from jaxnn.programs import remembered
from jaxnn.regularize.spectral import as_matrix, largest_singular
from jaxnn.regularize.stacked import per_layer
from jaxnn.tree import Mask, map_weights

Projection = Callable[[Any], Any]


@remembered
def max_norm(limit: float, mask: Mask = None) -> Projection:
    """Projection: each unit's incoming weights are scaled back to 2-norm <= limit.

    w (..., O): the norm is over all axes but the last. Source: Srivastava et al. 2014.
    """
    if not limit > 0:
        raise JaxnnError(f"max_norm: got limit {limit:g}, expected a positive norm")

    def shrink(w):
        rows = tuple(range(w.ndim - 1))
        # Measured in units of the largest entry: 1e30 squared overflows float32.
        unit = jnp.maximum(jnp.abs(w).max(rows, keepdims=True), 1)
        square = jnp.square(w / unit).sum(rows, keepdims=True)
        too_long = square > jnp.square(limit / unit)
        # where inside as well: a zero column must not reach the square root
        norm = unit * jnp.sqrt(jnp.where(too_long, square, 1))
        return jnp.where(too_long, w * (limit / norm), w)

    return _of_weights(shrink, mask)


@remembered
def max_spectral_norm(limit: float, steps: int = 20, mask: Mask = None) -> Projection:
    """Projection: each weight is scaled back to a largest singular value <= limit.

    w (..., O) as a matrix and `steps` as in `spectral_norm`: the value found may be a
    little too small, so the limit holds to that accuracy. For dense relu networks the
    product of the limits bounds how far a change of the input can grow.

    Source: Miyato et al. 2018, who divide always; only above the limit, Gouk et al.
    2021.
    """
    if not limit > 0:
        raise JaxnnError(
            f"max_spectral_norm: got limit {limit:g}, expected a positive norm"
        )

    def shrink(w):
        s = largest_singular(as_matrix(w), steps)[0]
        scale = jnp.where(s <= limit, 1, limit / s)  # a NaN is not <= anything
        return w * scale.astype(w.dtype)

    return _of_weights(shrink, mask)


@remembered
def in_turn(*projections: Projection) -> Projection:
    """One after the other; the last one holds exactly."""

    def project(params):
        for one in projections:
            params = one(params)
        return params

    return project


def _of_weights(shrink, mask) -> Projection:
    def project(params):
        return map_weights(lambda w, axes, _: per_layer(shrink, axes)(w), params, mask)

    return project
