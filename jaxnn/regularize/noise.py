"""Noise on the input and on the weights, and mixing samples."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnn.errors import JaxnnError
from jaxnn.losses import one_hot
from jaxnn.programs import remembered
from jaxnn.tree import Mask, map_weights

Noise = Callable[[Array, Array], Array]


@remembered
def input_noise(std: float, shift: float = 0.0) -> Noise:
    """`(key, x) -> x + std * N(0, 1) + shift`, in pixel units, not clipped.

    x (B, ...) in [0, 1]. Source: Sietsma, Dow 1991; with a shift of 0.3 and std 0.1 it
    is the noise augmentation tested in the robustness experiments.
    """
    return _noise("input_noise", "std", std, shift, jax.random.normal)


@remembered
def uniform_noise(width: float, shift: float = 0.0) -> Noise:
    """`(key, x) -> x + U(-width, width) + shift`, in pixel units, not clipped."""

    def draw(key, shape, dtype):
        return jax.random.uniform(key, shape, dtype, -1, 1)

    return _noise("uniform_noise", "width", width, shift, draw)


@remembered
def sign_noise(size: float, shift: float = 0.0) -> Noise:
    """`(key, x) -> x + size or - size, by chance, + shift`: the corners of a Linf ball.

    With `uniform_noise` the control of Goodfellow et al. 2014: noise of the size of an
    attack does not protect as training on the attack does.
    """
    return _noise("sign_noise", "size", size, shift, jax.random.rademacher)


NOISES: dict[str, Callable[..., Noise]] = {
    "gaussian": input_noise,
    "sign": sign_noise,
    "uniform": uniform_noise,
}
"""Name -> (size, shift) -> noise on the input."""


@remembered
def weight_noise(std: float, mask: Mask = None) -> Callable[[Array, Any], Any]:
    """`(key, params) -> params + std * N(0, 1)` on the weights, for one gradient.

    Loss and gradients are taken at the noisy weights, and move the clean ones: a
    training that looks for weights whose neighbours are good too. Source: Murray,
    Edwards 1994; Graves 2011.
    """
    if not std >= 0:
        raise JaxnnError(f"weight_noise: got std {std:g}, expected >= 0")

    def perturb(key, params):
        def one(w, _, i):
            drawn = jax.random.normal(jax.random.fold_in(key, i), w.shape, w.dtype)
            return w + std * drawn

        return map_weights(one, params, mask)

    return perturb


@remembered
def mixup(alpha: float, classes: int) -> Callable[..., tuple[Array, Array, Any]]:
    """`(key, x, y, weights) -> (x, y, weights)`: each sample is mixed with another.

    x <- m x + (1 - m) x', and so for the rows of y and the weights, with m from
    Beta(alpha, alpha), one for the batch; the partner x' is the batch backwards, which
    is a random one, as batches are in random order.

    Args:
      alpha: > 0; 0.2 leaves most batches nearly as they are, 1 is uniform.
      classes: N; labels (B,) become distributions (B, N), so that the loss must take
        them. y (B, N) stays that.

    x is mixed as floats. With no weights, None is returned for them.

    Source: Zhang et al. 2018.
    """
    if not alpha > 0:
        raise JaxnnError(f"mixup: got alpha {alpha:g}, expected alpha > 0")

    draw_share = _symmetric_beta(alpha)

    def mix(key, x, y, weights=None):
        if y.ndim == 1 and jnp.issubdtype(y.dtype, jnp.integer):
            y = one_hot(y, classes, x.dtype)
        if y.shape[-1] != classes:
            raise JaxnnError(
                f"mixup: got targets {y.shape}, expected labels or (B, {classes})"
            )
        share = draw_share(key, jnp.promote_types(x.dtype, jnp.float32))

        def pair(a):
            m = share.astype(a.dtype)
            return m * a + (1 - m) * a[::-1]

        return pair(x), pair(y), None if weights is None else pair(weights)

    return mix


def _noise(name, setting, size, shift, draw) -> Noise:
    if not size >= 0:
        raise JaxnnError(f"{name}: got {setting} {size:g}, expected {setting} >= 0")

    def add(key, x):
        return x + size * draw(key, x.shape, x.dtype) + shift

    return add


def _symmetric_beta(alpha: float, knots: int = 1025) -> Callable[..., Array]:
    """`(key, dtype) -> ` a draw from Beta(alpha, alpha): its quantile of a uniform one.

    The quantiles are a table, straight in between: `jax.random.beta` takes a loop of
    rejections that costs seconds to compile.
    """
    from scipy.special import betaincinv  # comes with jax; not needed by the others

    table = betaincinv(alpha, alpha, np.linspace(0, 1, knots))

    def draw(key, dtype):
        at = jax.random.uniform(key, (), dtype) * (knots - 1)
        i = jnp.minimum(at.astype(jnp.int32), knots - 2)
        low, high = jnp.asarray(table, dtype)[i], jnp.asarray(table, dtype)[i + 1]
        return low + (at - i) * (high - low)

    return draw
