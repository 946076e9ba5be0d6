"""Pixels made black or white before the network sees them."""

import jax.numpy as jnp

from jaxnn.errors import JaxnnError
from jaxnn.layers import Layer, bounded, constructor, monotone, pointwise
from jaxnn.rules import Rule


@constructor
def binarise(threshold: float = 0.5) -> Layer:
    """y = 1 where x > threshold, else 0: the first layer, in front of `standardize`.

    Its derivative is 0, and so is dx: an attack that follows it stands still, which is
    a masked gradient and not robustness. `jaxnn.robustness` says so (K10, K20) and
    attacks through it as if it were the identity (`swap_backward`). NaN stays NaN.

    Source: Xu, Evans, Qi 2018, arXiv 1704.01155 (feature squeezing).
    """
    if not 0 <= threshold < 1:
        raise JaxnnError(
            f"binarise: got threshold {threshold:g}, expected 0 <= threshold < 1"
        )

    def fwd(x):
        return jnp.where(jnp.isnan(x), x, (x > threshold).astype(x.dtype)), ()

    def bwd(_, dy):
        return (jnp.zeros_like(dy),)

    name = f"binarise({threshold:g})"
    return bounded(pointwise(Rule("binarise", fwd, bwd), name), monotone)
