"""Rules that act on each element alone, by constants or a mask."""

import jax.numpy as jnp

from jaxnn.rules.core import Rule


def standardize(mean: float, std: float) -> Rule:
    """y = (x - mean) / std with constants, so dx = dy / std. Keeps nothing."""

    def fwd(x):
        return (x - mean) * (1 / std), ()

    def bwd(_, dy):
        return (dy * (1 / std),)

    return Rule("standardize", fwd, bwd)


def dropout(drop_rate: float = 0.5) -> Rule:
    """y = x / (1 - drop_rate) where `keep`, else 0; dx likewise, none for `keep`.

    x (...), keep bool (...) -> y (...). Keeps the mask. "Inverted" dropout: dividing
    here means that nothing is scaled at evaluation. Source: Srivastava et al. 2014.
    """
    scale = 1 / (1 - drop_rate)

    def fwd(x, keep):
        return jnp.where(keep, x * scale, 0), keep

    def bwd(keep, dy):
        return jnp.where(keep, dy * scale, 0), None

    return Rule("dropout", fwd, bwd)
