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
    of_rule,
    register,
)
from jaxnn.rules import BatchStats
from jaxnn.rules.core import Rule, last_axis

__all__ = ["batch_norm", "group_norm", "layer_norm"]

NAMES = ("gamma", "beta")


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
        params, c = _scale_and_shift("batch_norm", in_shape), in_shape[-1]
        return params, {"mean": jnp.zeros(c), "var": jnp.ones(c)}, tuple(in_shape)

    def forward(params, state, x, *, key=None, train):
        del key
        check_params("batch_norm", params, NAMES)
        check_params("batch_norm", state, ("mean", "var"), what="state")
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
        new = {"mean": mean, "var": var * (n / (n - 1))}
        return y, {k: mix(state[k], new[k]) for k in new}, cache

    def backward(cache, dy):
        rule = live if isinstance(cache, BatchStats) else fixed
        dx, dgamma, dbeta, *_ = rule.bwd(cache, dy)
        return dx, {"gamma": dgamma, "beta": dbeta}

    layer = Layer(init, forward, backward, "batch_norm")
    return bounded(layer, _by_averages, epsilon=epsilon)


def _by_averages(layer: Layer, epsilon: float) -> Layer:
    """Bounds of batch norm, which takes its averages then, in training too."""

    def forward(params, state, x, *, key=None, train):
        del train
        return layer.forward(params, state, x, key=key, train=False)

    def sizes(params, state, most):
        def last(v):
            return last_axis(v, most.ndim)

        scale = jnp.abs(params["gamma"]) * lax.rsqrt(state["var"] + epsilon)
        most = (most + last(jnp.abs(state["mean"]))) * last(scale)
        return most + last(jnp.abs(params["beta"]))

    def falls(params):
        return params["gamma"] < 0

    return monotone(layer._replace(forward=forward), falls, ulps=8, size=sizes)


@constructor
def layer_norm(epsilon: float = 1e-5) -> Layer:
    """Normalize the features (last axis) of each sample and position alone.

    x (B, ..., C) -> y (B, ..., C), the same in training and after: no batch statistics,
    no state, and a batch of one will do. See `jaxnn.rules.layer_norm`.
    """
    return _per_sample(rules.layer_norm(epsilon), "layer_norm", 1)


@constructor
def group_norm(groups: int = 1, epsilon: float = 1e-5) -> Layer:
    """Normalize each sample over all positions and the channels of a group.

    x (B, ..., C) -> y (B, ..., C); 1 group takes all channels together, C groups each
    alone (instance norm). See `jaxnn.rules.group_norm`.
    """
    name = f"group_norm({groups})"
    check_count(name, "groups", groups)
    return _per_sample(rules.group_norm(groups, epsilon), name, groups)


def _per_sample(rule: Rule, name: str, groups: int) -> Layer:
    """The layer of a rule (x, gamma, beta) without statistics of the batch."""

    def init(key, in_shape):
        del key
        return _scale_and_shift(name, in_shape, groups), (), tuple(in_shape)

    def check(params, x):
        check_params(name, params, NAMES)
        check_input(name, x, params["gamma"].shape[0])

    return of_rule(rule, NAMES, init, check, name)


def _scale_and_shift(name, in_shape, groups=1):
    if not in_shape or in_shape[-1] % groups:
        raise JaxnnError(
            f"{name}: got in_shape={tuple(in_shape)}, expected a last axis of "
            f"channels{f' divisible by {groups}' if groups > 1 else ''}"
        )
    return {"gamma": jnp.ones(in_shape[-1]), "beta": jnp.zeros(in_shape[-1])}


register(batch_norm, group_norm, layer_norm)
