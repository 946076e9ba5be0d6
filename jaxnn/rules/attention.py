"""Attention: each query takes a weighted mean of the values, weights from the keys."""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxnn.rules.core import Rule, register
from jaxnn.rules.products import product, product_nt, product_tn

__all__ = ["attention"]


class Attended(NamedTuple):
    """What attention keeps: the softmax's derivative needs only what it gave."""

    q: Array  # (..., T, D)
    k: Array  # (..., S, D)
    v: Array  # (..., S, E)
    weights: Array  # (..., T, S), each row sums to 1, or is 0
    masked: tuple[None, ...]  # the cotangent of the mask, if there was one


def attention(causal: bool = False) -> Rule:
    """y = softmax(q k^T / sqrt D) v, for T queries and S keys with their values.

    q (..., T, D), k (..., S, D), v (..., S, E) -> y (..., T, E). A last argument
    mask bool (..., T, S), axes of size 1 allowed, says which keys a query sees; with
    `causal` query t sees the keys up to t only. What is not seen has weight exactly 0,
    and a query that sees nothing gives y = 0 and no gradients: no infinity is ever
    subtracted from another. Values and keys that are not seen must be finite all the
    same, as they are multiplied by that 0.

    With P the weights: dv = P^T dy, dP = dy v^T, dS = P (dP - sum_s dP P),
    dq = dS k / sqrt D, dk = dS^T q / sqrt D. Keeps q, k, v and P. Smooth. The softmax
    is taken in float32 at least. Source: Vaswani et al. 2017, section 3.2.1.
    """

    def fwd(q, k, v, mask=None):
        # (..., T, S), wide from the start: rounded to bfloat16 or not as XLA likes, a
        # score could lie far above the maximum that is subtracted from it
        scores = product_nt(q, k, wide=True)
        scores = scores * (1 / math.sqrt(max(q.shape[-1], 1)))
        seen = _seen(scores.shape, mask, causal)
        p = _softmax(scores, seen).astype(v.dtype)
        masked = () if mask is None else (None,)
        return product(p, v), Attended(q, k, v, p, masked)

    def bwd(cache, dy):
        q, k, v, p, masked = cache
        scale = 1 / math.sqrt(max(q.shape[-1], 1))
        dp = product_nt(dy, v)
        ds = p * (dp - (dp * p).sum(-1, keepdims=True)) * scale
        dv = product_tn(p, dy)
        return product(ds, k), product_tn(ds, q), dv, *masked

    return Rule("attention", fwd, bwd)


def _seen(shape, mask, causal):
    """Bool mask of rank len(shape), or None where every query sees all keys."""
    if not causal:
        return mask
    t, s = shape[-2:]
    past = jnp.arange(s)[None] <= jnp.arange(t)[:, None]
    past = past.reshape((1,) * (len(shape) - 2) + (t, s))
    return past if mask is None else past & mask


def _softmax(scores, seen):
    """Over the last axis and what is seen; a row that sees nothing is 0, not NaN."""
    lowest = jnp.finfo(scores.dtype).min
    if seen is not None:
        scores = jnp.where(seen, scores, lowest)
    e = jnp.exp(scores - scores.max(-1, keepdims=True, initial=lowest))
    if seen is not None:
        e = jnp.where(seen, e, 0)
    total = e.sum(-1, keepdims=True)
    return e / jnp.where(total == 0, 1, total)


register(attention())
