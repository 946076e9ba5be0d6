"""Bounds of a network's margins while every pixel moves within a Linf budget.

The bounds of each layer are `jaxnn.layers.interval`'s; here the last layer, where it is
dense, is joined with the difference of the outputs.

Source: Gowal et al. 2018, arXiv 1810.12715.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnn.attacks.core import Box, clip
from jaxnn.combine import split_last
from jaxnn.layers import Layer, dense, interval
from jaxnn.layers.bounds import coarsest, largest, product_error, widened


class Margins(NamedTuple):
    """Bounds of the margins of a network: how they are made, and their way back.

    Attributes:
      forward: `(params, state, x, y, epsilon, *, key, train) -> (worst, cache)`; worst
        (B, N) is an upper bound of z_j - z_y for each class j, 0 for j = y.
      backward: `(cache, dworst) -> dparams`.
    """

    forward: Any
    backward: Any


def margins(net: Layer, box: Box = (0.0, 1.0)) -> Margins:
    """Upper bounds of z_j - z_y within a Linf budget, for every class j.

    A last layer that is `dense` is joined with the difference: bounds of z_j and z_y
    one by one would let a hidden unit be large for one and small for the other. A
    single output says yes above 0: of it `worst` is the bound on the wrong side.

    Raises:
      JaxnnError: a layer without bounds; lists those that have.
    """
    whole, end = interval(net), split_last(net)
    before, ends_dense = interval(end.before), end.last.constructor is dense

    def forward(params, state, x, y, epsilon, *, key=None, train):
        ends = x - epsilon, x + epsilon
        if not train:  # the sums round: an ulp, and one of whoever made x
            ends = widened(ends, 2, jnp.abs(x) + epsilon)
        if box is not None:
            ends = tuple(clip(a, *box) for a in ends)
        first, last = end.split(params)
        if ends_dense and last["w"].shape[-1] > 1:
            rest = end.split(state)[0]
            ends, _, cache = before.forward(first, rest, ends, key=key, train=train)
            worst, kept = _joined(ends, last, y, train)
        else:
            ends, _, cache = whole.forward(params, state, ends, key=key, train=train)
            worst, kept = _apart(ends, y, train)
        return worst, (cache, kept)

    def backward(caches, dworst):
        cache, kept = caches
        if not isinstance(kept, tuple):  # not joined
            return whole.backward(cache, _apart_backward(kept, dworst))[1]
        dy, dlast = _joined_backward(kept, dworst)
        return end.join(before.backward(cache, dy)[1], dlast)

    return Margins(forward, backward)


def _apart(ends, y, train):
    """worst_j = upper_j - lower_y; of one output the end on the wrong side."""
    lower, upper = ends  # (B, N)
    if lower.shape[-1] == 1:
        yes = jnp.reshape(y, (-1, 1)) > 0
        return jnp.where(yes, lower, upper), yes
    own = jax.nn.one_hot(y, lower.shape[-1], dtype=bool)
    least = jnp.where(own, lower, 0).sum(-1, keepdims=True)  # (B, 1)
    worst = upper - least
    if not train:
        _, worst = widened((worst, worst), 2, jnp.abs(upper) + jnp.abs(least))
    return jnp.where(own, 0 * least, worst), own


def _apart_backward(own, dworst):
    if own.shape[-1] == 1:
        return jnp.where(own, dworst, 0), jnp.where(own, 0, dworst)
    dupper = jnp.where(own, 0, dworst)
    return jnp.where(own, -dupper.sum(-1, keepdims=True), 0), dupper


def _joined(ends, params, y, train):
    """worst_j = sum over h of center (w_j - w_y) + radius |w_j - w_y|, plus biases."""
    lower, upper = ends
    w = params["w"]  # (H, N)
    center, radius = (lower + upper) / 2, (upper - lower) / 2  # (B, H)
    own = jax.nn.one_hot(y, w.shape[1], dtype=w.dtype)  # (B, N)
    z = center @ w
    apart = w[:, None, :] - w[:, :, None]  # (H, y, j)
    spread = jnp.einsum("bh,hkj,bk->bj", radius, jnp.abs(apart), own)
    worst = z - (z * own).sum(-1, keepdims=True) + spread
    if "b" in params:
        b = params["b"]
        worst = worst + b[None, :] - (own @ b)[:, None]
    if not train:
        dtype = coarsest(params, ends)
        sizes = (largest(ends) + float(jnp.finfo(dtype).tiny)) @ jnp.abs(w)
        sizes += jnp.abs(params.get("b", 0 * w[0]))[None]
        both = sizes + (sizes * own).sum(-1, keepdims=True)
        least = w.size * float(jnp.finfo(worst.dtype).tiny)
        lost = product_error(len(w), dtype) * both + least
        worst += jnp.where(own > 0, 0, lost)
    return worst, (center, radius, w, own, "b" in params)


def _joined_backward(kept, dworst):
    center, radius, w, own, biased = kept
    dz = dworst - own * dworst.sum(-1, keepdims=True)
    apart = w[:, None, :] - w[:, :, None]
    dcenter = dz @ w.T
    dradius = jnp.einsum("bj,hkj,bk->bh", dworst, jnp.abs(apart), own)
    dapart = jnp.einsum("bh,bj,bk->hkj", radius, dworst, own) * jnp.sign(apart)
    dparams = {"w": center.T @ dz + dapart.sum(1) - dapart.sum(2)}
    if biased:
        dparams["b"] = dz.sum(0)
    return ((dcenter - dradius) / 2, (dcenter + dradius) / 2), dparams
