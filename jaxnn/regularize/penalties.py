"""Penalties on the weights, each with its gradient: `params -> (value, dparams)`.

What a weight is says `jaxnn.tree.weights`, by the leaves' names or by a `mask`. A
gradient has its weight's dtype.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.errors import JaxnnError
from jaxnn.programs import remembered
from jaxnn.regularize.spectral import as_matrix, largest_singular
from jaxnn.regularize.stacked import per_layer
from jaxnn.tree import Mask, stacked_axes, weights

Penalty = Callable[[Any], tuple[Array, Any]]


@remembered
def l2(strength: float, mask: Mask = None) -> Penalty:
    """Penalty strength/2 * sum w^2 with gradient strength * w ("weight decay")."""
    _at_least_0("l2", "strength", strength)
    return _penalty(strength, lambda w: (jnp.square(w).sum() / 2, strength * w), mask)


@remembered
def l1(strength: float, mask: Mask = None) -> Penalty:
    """Penalty strength * sum |w| with gradient strength * sign(w), 0 at w = 0."""
    _at_least_0("l1", "strength", strength)

    def term(w):
        return jnp.abs(w).sum(), strength * jnp.sign(w)

    return _penalty(strength, term, mask)


@remembered
def elastic_net(strength: float, l1_share: float = 0.5, mask: Mask = None) -> Penalty:
    """l1(strength * l1_share) + l2(strength * (1 - l1_share)), in one.

    Raises:
      JaxnnError: negative strength, share outside [0, 1].

    Source: Zou, Hastie 2005; parametrised as in scikit-learn's ElasticNet.
    """
    _at_least_0("elastic_net", "strength", strength)
    if not 0 <= l1_share <= 1:
        raise JaxnnError(
            f"elastic_net: got l1_share={l1_share:g}, expected a share in [0, 1]"
        )
    return combined(l1(strength * l1_share, mask), l2(strength * (1 - l1_share), mask))


@remembered
def spectral_norm(strength: float, steps: int = 20, mask: Mask = None) -> Penalty:
    """Penalty strength * sum of each weight's largest singular value s.

    w (..., O) is seen as the matrix (product of the others, O): a convolution's kernel
    as (K K C, O). ds/dw = u v^T with the singular vectors of s. Where s is shared by
    several pairs it has no gradient: some pair's is taken; 0 for a weight of zeros.

    Args:
      strength: at least 0.
      steps: of the Krylov method, each two products of w with a vector. It starts
        afresh every time; s is exact where min(K K C, O) is no more, else never too
        large: by 1e-6 for trained weights (784, 32), 0.5% for random (784, 512) whose
        largest values lie densely.

    Source: Yoshida, Miyato 2017 (there s^2 / 2); Magnus 1985 for the gradient.
    """
    _at_least_0("spectral_norm", "strength", strength)

    def term(w):
        s, u, v = largest_singular(as_matrix(w), steps)
        ds = (u[:, None] * v[None]).reshape(w.shape)
        return s, (strength * ds).astype(w.dtype)

    return _penalty(strength, term, mask)


@remembered
def combined(*penalties: Penalty) -> Penalty:
    """The sum of penalties, e.g. `combined(l1(1e-5), spectral_norm(1e-3))`."""
    if not penalties:
        raise JaxnnError("combined: got no penalties, expected at least one")

    def penalty(params):
        value, grads = penalties[0](params)
        for other in penalties[1:]:
            more, extra = other(params)
            value, grads = value + more, jax.tree.map(jnp.add, grads, extra)
        return value, grads

    return penalty


def _penalty(strength, term, mask) -> Penalty:
    """strength * the sum over weights of values, from `term(w) -> (value, dw)`."""

    def penalty(params):
        leaves, structure = jax.tree.flatten(params)
        values, grads = [], []
        marks = jax.tree.leaves(weights(params, mask))
        for w, axes, mark in zip(leaves, stacked_axes(params), marks, strict=True):
            if not mark:
                grads.append(jnp.zeros_like(w))
                continue
            value, dw = per_layer(term, axes)(w)
            values.append(value.sum())
            grads.append(dw)
        total = strength * sum(values, jnp.zeros(()))
        return total, jax.tree.unflatten(structure, grads)

    return penalty


def _at_least_0(name, setting, value):
    if not value >= 0:
        raise JaxnnError(f"{name}: got {setting} {value:g}, expected >= 0")
