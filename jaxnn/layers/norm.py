"""Normalizing layers."""

import math

import jax.numpy as jnp
from jax import lax

from jaxnn import rules
from jaxnn.errors import JaxnnError
from jaxnn.layers.bounds import bounded, monotone
from jaxnn.layers.core import (
    Layer,
    check_count,
    check_input,
    check_params,
    constructor,
    register,
)
from jaxnn.rules import BatchStats
from jaxnn.rules.core import Rule

__all__ = ["batch_norm", "group_norm", "layer_norm"]


@constructor
def batch_norm(
    momentum: float = 0.9,
    epsilon: float = 1e-5,
    axis_name: str | None = None,
    groups: int = 1,
) -> Layer:
    """Normalize each channel (last axis) by the batch in training, by averages after.

    x (B, ..., C) -> y (B, ..., C). State: running `mean` (from 0) and `var` (from 1),
    new = momentum * old + (1 - momentum) * batch, the variance with n / (n - 1).

    Under `jit` the statistics are those of the whole batch, also where it is divided
    among devices (`fit(mesh=...)`).

    Args:
      momentum: share of the old running average.
      epsilon: added to the variance.
      axis_name: in a `shard_map` or `vmap` of your own: the axis whose parts of the
        batch share their statistics ("sync"). The gradients of gamma and beta are this
        part's, to be summed over that axis like all others.
      groups: so many parts of the batch have statistics of their own ("ghost"), such
        as one a device, which need not talk then; the running averages are of their
        means.

    Raises:
      JaxnnError: training on one row (its variance is 0 and y would be beta), a batch
        that `groups` does not divide, or an input whose channels differ from the
        parameters'.
    """
    live = rules.batch_norm(epsilon, axis_name, groups)
    fixed = rules.batch_norm_fixed(epsilon)

    def init(key, in_shape):
        del key
        if not in_shape:
            raise JaxnnError("batch_norm: got in_shape=(), expected a channel axis")
        c = in_shape[-1]
        params = {"gamma": jnp.ones(c), "beta": jnp.zeros(c)}
        return params, {"mean": jnp.zeros(c), "var": jnp.ones(c)}, tuple(in_shape)

    def forward(params, state, x, *, key=None, train):
        del key
        if set(params) != {"gamma", "beta"} or set(state) != {"mean", "var"}:
            raise JaxnnError(
                f"batch_norm: got params {sorted(params)} and state {sorted(state)}, "
                "expected gamma, beta and mean, var; were they made by another network?"
            )
        gamma, beta = params["gamma"], params["beta"]
        check_input("batch_norm", x, gamma.shape[0])
        if not train:
            y, cache = fixed.fwd(x, gamma, beta, state["mean"], state["var"])
            return y, state, cache
        n = math.prod(x.shape[:-1]) // groups
        n *= 1 if axis_name is None else lax.axis_size(axis_name)
        if n < 2:
            raise JaxnnError(
                f"batch_norm: input of shape {x.shape} has {n} row to take statistics "
                "over, expected at least 2 in training; use a larger batch or "
                "train=False"
            )
        y, cache = live.fwd(x, gamma, beta)

        def mix(old, new):
            return (momentum * old + (1 - momentum) * new).astype(old.dtype)

        mean, var = cache.mean, cache.var
        if groups > 1:
            mean, var = mean.mean(0), var.mean(0)
        unbiased = var * (n / (n - 1))
        new_state = {
            "mean": mix(state["mean"], mean),
            "var": mix(state["var"], unbiased),
        }
        return y, new_state, cache

    def backward(cache, dy):
        rule = live if isinstance(cache, BatchStats) else fixed
        dx, dgamma, dbeta, *_ = rule.bwd(cache, dy)
        return dx, {"gamma": dgamma, "beta": dbeta}

    def by_averages(params, state, x, *, key=None, train):
        del train
        return forward(params, state, x, key=key, train=False)

    def sizes(params, state, most):
        scale = jnp.abs(params["gamma"]) * lax.rsqrt(state["var"] + epsilon)
        most = (most + _last(jnp.abs(state["mean"]), most)) * _last(scale, most)
        return most + _last(jnp.abs(params["beta"]), most)

    def bounds(layer):
        layer = layer._replace(forward=by_averages)
        return monotone(layer, lambda p: p["gamma"] < 0, ulps=8, size=sizes)

    return bounded(Layer(init, forward, backward, "batch_norm"), bounds)


def _last(v, like):
    return rules.core.last_axis(v, like.ndim)


@constructor
def layer_norm(epsilon: float = 1e-5) -> Layer:
    """Normalize the features (last axis) of each sample and position alone.

    x (B, ..., C) -> y (B, ..., C), the same in training and after: no batch statistics,
    no state, and a batch of one will do. See `jaxnn.rules.layer_norm`.

    Raises:
      JaxnnError: an input whose features differ from the parameters'.
    """
    return _per_sample(rules.layer_norm(epsilon), "layer_norm", 1)


@constructor
def group_norm(groups: int = 1, epsilon: float = 1e-5) -> Layer:
    """Normalize each sample over all positions and the channels of a group.

    x (B, ..., C) -> y (B, ..., C); 1 group takes all channels together, C groups each
    alone (instance norm). See `jaxnn.rules.group_norm`.

    Raises:
      JaxnnError: groups < 1, channels not divisible by `groups`, or an input whose
        channels differ from the parameters'.
    """
    name = f"group_norm({groups})"
    check_count(name, "groups", groups)
    return _per_sample(rules.group_norm(groups, epsilon), name, groups)


def _per_sample(rule: Rule, name: str, groups: int) -> Layer:
    """The layer of a rule (x, gamma, beta) without statistics of the batch."""

    def init(key, in_shape):
        del key
        if not in_shape or in_shape[-1] % groups:
            raise JaxnnError(
                f"{name}: got in_shape={tuple(in_shape)}, expected a last axis of "
                f"channels{f' divisible by {groups}' if groups > 1 else ''}"
            )
        c = in_shape[-1]
        return {"gamma": jnp.ones(c), "beta": jnp.zeros(c)}, (), tuple(in_shape)

    def forward(params, state, x, *, key=None, train):
        del key, train
        check_params(name, params, ("gamma", "beta"))
        check_input(name, x, params["gamma"].shape[0])
        y, cache = rule.fwd(x, params["gamma"], params["beta"])
        return y, state, cache

    def backward(cache, dy):
        dx, dgamma, dbeta = rule.bwd(cache, dy)
        return dx, {"gamma": dgamma, "beta": dbeta}

    return Layer(init, forward, backward, name)


register(batch_norm, group_norm, layer_norm)
