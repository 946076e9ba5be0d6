"""Normalization by statistics of the batch or of each sample, or by fixed ones."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxnn.errors import JaxnnError
from jaxnn.rules.core import Rule, last_axis, register

__all__ = [
    "BatchStats", "FixedStats", "batch_norm", "batch_norm_fixed", "group_norm",
    "layer_norm",
]  # fmt: skip


class BatchStats(NamedTuple):
    """What training keeps: the statistics depend on x, so dx has three terms."""

    mean: Array  # (C,)
    var: Array  # (C,), biased (divided by n)
    x_hat: Array  # (..., C)
    inv_std: Array  # (C,)
    gamma: Array  # (C,)


class FixedStats(NamedTuple):
    """What evaluation keeps: the statistics are constants, so dx has one term."""

    x_hat: Array  # (..., C)
    inv_std: Array  # (C,)
    gamma: Array  # (C,)


def batch_norm(
    epsilon: float = 1e-5, axis_name: str | None = None, groups: int = 1
) -> Rule:
    """y = gamma (x - mean) / sqrt(var + epsilon) + beta, statistics over all rows.

    x (..., C), gamma (C,), beta (C,) -> y (..., C): a dense batch (B, C) and an image
    batch (B, H, W, C) alike. With n rows, g = dy gamma and mean_ over the rows:
    dx = (g - mean_(g) - x_hat mean_(g x_hat)) / std, dgamma = sum dy x_hat,
    dbeta = sum dy. Keeps `BatchStats`. Smooth, as epsilon > 0.
    Source: Ioffe, Szegedy 2015, section 3.

    With `axis_name` (of `shard_map` or `vmap`) x is a device's part of the batch, all
    of one size, and statistics and mean_ are over all parts: two means of (C,) each
    way. dgamma and dbeta are of this part, to be summed with all other gradients.

    With `groups` the batch is seen as so many parts in a row, each with statistics of
    its own: every array of the cache has a leading axis of groups.
    Source: Hoffer, Hubara, Soudry 2017 ("ghost" batch norm).
    """
    if groups > 1:
        return _ghost(batch_norm(epsilon, axis_name), groups)

    def over_parts(a):
        return a if axis_name is None else lax.pmean(a, axis_name)

    def fwd(x, gamma, beta):
        rows = tuple(range(x.ndim - 1))
        # Statistics in float32 at least: a bfloat16 sum stalls after 256 ones.
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        mean = over_parts(wide.mean(rows))
        centered = wide - last_axis(mean, x.ndim)
        # Two passes: E[x^2] - E[x]^2 loses all digits when the mean is large.
        var = over_parts(jnp.square(centered).mean(rows))
        inv_std = _inverse_std(var, epsilon)
        x_hat = (centered * last_axis(inv_std, x.ndim)).astype(x.dtype)
        return _scale_shift(x_hat, gamma, beta), BatchStats(
            mean, var, x_hat, inv_std, gamma
        )

    def bwd(cache, dy):
        rows = tuple(range(dy.ndim - 1))
        n = math.prod(dy.shape[:-1])
        dgamma, dbeta = (dy * cache.x_hat).sum(rows), dy.sum(rows)
        scale = (cache.gamma * cache.inv_std).astype(dy.dtype)
        dx = last_axis(scale, dy.ndim) * (
            dy
            - last_axis(over_parts(dbeta / n), dy.ndim)
            - cache.x_hat * last_axis(over_parts(dgamma / n), dy.ndim)
        )
        return dx, dgamma, dbeta

    return Rule("batch_norm", fwd, bwd)


def _ghost(rule: Rule, groups: int) -> Rule:
    """`rule` on each of so many parts of the batch, one after the other."""

    def parts(a):  # (B, ..., C) -> (groups, B / groups, ..., C)
        return a.reshape(groups, a.shape[0] // groups, *a.shape[1:])

    def fwd(x, gamma, beta):
        if x.shape[0] % groups:
            raise JaxnnError(
                f"batch_norm(groups={groups}): got a batch of {x.shape[0]}, expected a "
                f"multiple of {groups}"
            )
        y, cache = jax.vmap(rule.fwd, (0, None, None))(parts(x), gamma, beta)
        return y.reshape(x.shape), cache

    def bwd(cache, dy):
        grads: Any = jax.vmap(rule.bwd)(cache, parts(dy))
        dx, dgamma, dbeta = grads
        return dx.reshape(dy.shape), dgamma.sum(0), dbeta.sum(0)

    return Rule("batch_norm", fwd, bwd)


def batch_norm_fixed(epsilon: float = 1e-5) -> Rule:
    """Batch norm with given statistics: an affine map, channel by channel.

    x (..., C), gamma (C,), beta (C,), mean (C,), var (C,) -> y (..., C); mean and var
    are running averages and get no gradient. Keeps `FixedStats`.
    """

    def fwd(x, gamma, beta, mean, var):
        inv_std = _inverse_std(var, epsilon)
        x_hat = (x - last_axis(mean, x.ndim)) * last_axis(inv_std, x.ndim)
        x_hat = x_hat.astype(x.dtype)
        return _scale_shift(x_hat, gamma, beta), FixedStats(x_hat, inv_std, gamma)

    def bwd(cache, dy):
        rows = tuple(range(dy.ndim - 1))
        scale = (cache.gamma * cache.inv_std).astype(dy.dtype)
        dx = dy * last_axis(scale, dy.ndim)
        return dx, (dy * cache.x_hat).sum(rows), dy.sum(rows), None, None

    return Rule("batch_norm_fixed", fwd, bwd)


class SampleStats(NamedTuple):
    """What layer and group norm keep."""

    x_hat: Array  # (..., C), normalized
    inv_std: Array  # 1 where x_hat has the axes that were averaged over
    gamma: Array  # (C,)


def layer_norm(epsilon: float = 1e-5) -> Rule:
    """y = gamma (x - mean) / sqrt(var + epsilon) + beta, statistics of each row alone.

    x (..., C), gamma (C,), beta (C,) -> y (..., C). With g = dy gamma and mean_ over
    the last axis: dx = (g - mean_(g) - x_hat mean_(g x_hat)) / std, dgamma =
    sum dy x_hat, dbeta = sum dy. Keeps `SampleStats`. Smooth, as epsilon > 0; one
    channel alone is its own mean: y = beta, dx = 0. Source: Ba, Kiros, Hinton 2016.
    """

    return _of_samples("layer_norm", lambda a: a, (-1,), epsilon)


def group_norm(groups: int = 1, epsilon: float = 1e-5) -> Rule:
    """Layer norm over the positions and the channels of a group: of one sample still.

    x (B, ..., C), gamma (C,), beta (C,) -> y (B, ..., C); C must be divisible by
    `groups`, neighboring channels share one. Formulas as in `layer_norm`, mean_ over
    all positions and C / groups channels. Keeps `SampleStats`.
    Source: Wu, He 2018.
    """

    def grouped(a):  # (B, ..., C) -> (B, positions, groups, C / groups)
        c = a.shape[-1]
        return a.reshape(a.shape[0], math.prod(a.shape[1:-1]), groups, c // groups)

    return _of_samples("group_norm", grouped, (1, 3), epsilon)


def _of_samples(name, grouped, axes, epsilon):
    """Each sample normalized by its own statistics, over `axes` of grouped(x)."""

    def fwd(x, gamma, beta):
        wide = grouped(x.astype(jnp.promote_types(x.dtype, jnp.float32)))
        centered = wide - wide.mean(axes, keepdims=True)
        # Two passes, see `batch_norm`.
        var = jnp.square(centered).mean(axes, keepdims=True)
        inv_std = _inverse_std(var, epsilon)
        x_hat = (centered * inv_std).astype(x.dtype).reshape(x.shape)
        return _scale_shift(x_hat, gamma, beta), SampleStats(x_hat, inv_std, gamma)

    def bwd(cache, dy):
        rows = tuple(range(dy.ndim - 1))
        dx_hat = grouped(dy * last_axis(cache.gamma, dy.ndim))
        x_hat = grouped(cache.x_hat)
        along = (dx_hat * x_hat).mean(axes, keepdims=True)
        across = dx_hat - dx_hat.mean(axes, keepdims=True) - x_hat * along
        dx = (across * cache.inv_std).astype(dx_hat.dtype).reshape(dy.shape)
        return dx, (dy * cache.x_hat).sum(rows), dy.sum(rows)

    return Rule(name, fwd, bwd)


def _inverse_std(var, epsilon):
    # the square of finite numbers may overflow: 1 / inf would make y a finite beta
    return jnp.where(var == jnp.inf, jnp.nan, lax.rsqrt(var + epsilon))


def _scale_shift(x_hat, gamma, beta):
    return x_hat * last_axis(gamma, x_hat.ndim) + last_axis(beta, x_hat.ndim)


register(batch_norm(), batch_norm_fixed(), group_norm(), layer_norm())
