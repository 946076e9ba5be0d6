"""Normalising layers."""

import math

import jax.numpy as jnp

from jaxnn import rules
from jaxnn.errors import JaxnnError
from jaxnn.layers.core import Layer
from jaxnn.rules import BatchStats


def batch_norm(momentum: float = 0.9, epsilon: float = 1e-5) -> Layer:
    """Normalise each channel (last axis) by the batch in training, by averages after.

    x (B, ..., C) -> y (B, ..., C). State: running `mean` (from 0) and `var` (from 1),
    new = momentum * old + (1 - momentum) * batch, the variance with n / (n - 1).

    Raises:
      JaxnnError: training on one row (its variance is 0 and y would be beta), or an
        input whose channels differ from the parameters'.
    """
    live, fixed = rules.batch_norm(epsilon), rules.batch_norm_fixed(epsilon)

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
        if x.ndim < 2 or x.shape[-1] != gamma.shape[0]:
            raise JaxnnError(
                f"batch_norm: input of shape {x.shape}, expected (batch, ..., "
                f"{gamma.shape[0]}). Was init called with in_shape={x.shape[1:]}?"
            )
        if not train:
            y, cache = fixed.fwd(x, gamma, beta, state["mean"], state["var"])
            return y, state, cache
        n = math.prod(x.shape[:-1])
        if n < 2:
            raise JaxnnError(
                f"batch_norm: input of shape {x.shape} has {n} row to take statistics "
                "over, expected at least 2 in training; use a larger batch or "
                "train=False"
            )
        y, cache = live.fwd(x, gamma, beta)

        def mix(old, new):
            return (momentum * old + (1 - momentum) * new).astype(old.dtype)

        unbiased = cache.var * (n / (n - 1))
        new_state = {
            "mean": mix(state["mean"], cache.mean),
            "var": mix(state["var"], unbiased),
        }
        return y, new_state, cache

    def backward(cache, dy):
        rule = live if isinstance(cache, BatchStats) else fixed
        dx, dgamma, dbeta, *_ = rule.bwd(cache, dy)
        return dx, {"gamma": dgamma, "beta": dbeta}

    return Layer(init, forward, backward, "batch_norm")
