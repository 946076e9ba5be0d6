"""Interval bounds: where the outputs can go while every pixel moves in an interval.

`interval(net)` is the network over pairs (lower, upper), a `Layer` with the parameters
of `net` and a backward pass by hand, so it trains like any other. Two kinds of layers
have bounds. Linear ones send the centre through w and the radius through |w|; those
that are monotone in each pixel send both ends through themselves. Either way the
layer's own forward and backward are used.

Source: Gowal et al. 2018, arXiv 1810.12715; Mirman et al. 2018.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.attacks.core import Box
from jaxnn.combine.parts import Parts, child_key
from jaxnn.errors import JaxnnError
from jaxnn.layers import Layer

LINEAR = ("dense", "conv", "conv1d", "depthwise_conv")
MONOTONE = (
    "avg_pool", "binarise", "elu", "flatten", "global_avg_pool", "global_max_pool",
    "leaky_relu", "max_pool", "pad", "relu", "reshape", "selu", "sigmoid", "softplus",
    "standardize", "tanh", "transpose",
)  # fmt: skip
"""Layers that never fall when an input rises, by the first word of their name."""


def interval(net: Layer, monotone: Sequence[str] = ()) -> Layer:
    """`net` over pairs x = (lower, upper), each (B, ...): y is such a pair, too.

    For every input within lower <= x <= upper, forward of `net` lies within y (up to
    rounding). Serial networks of dense, convolution, pooling, reshaping and monotone
    activations in evaluation form have bounds.

    Args:
      net: the network.
      monotone: names of your own layers that are monotone in each input.

    Raises:
      JaxnnError: a layer without bounds; lists those that have.
    """
    if net.parts and net.name.startswith(("serial", "mlp")):
        return _chain(net, tuple(interval(part, monotone) for part in net.parts))
    kind = net.name.split("(")[0]
    if kind in LINEAR:
        return _linear(net)
    if kind in (*MONOTONE, *monotone):
        return _monotone(net)
    raise JaxnnError(
        f"interval: no bounds for layer {net.name}; valid: serial networks of "
        f"{', '.join(sorted(LINEAR + MONOTONE))}. If yours never falls when an input "
        "rises, pass monotone=[its name]"
    )


def _chain(net, layers):
    parts = Parts("interval", layers)

    def forward(params, state, x, *, key=None, train):
        caches = []
        for i in range(len(layers)):
            x, _, cache = parts.forward(
                i, params[i], state[i], x, key=child_key(key, i), train=train
            )
            caches.append(cache)
        return x, state, tuple(caches)

    def backward(caches, dy):
        grads = []
        for i in reversed(range(len(layers))):
            dy, g = parts.backward(i, caches[i], dy)
            grads.append(g)
        return dy, tuple(reversed(grads))

    return Layer(net.init, forward, backward, f"interval {net.name}", layers)


def _linear(layer):
    """centre' = w centre + b, radius' = |w| radius."""

    def forward(params, state, x, *, key=None, train):
        lower, upper = x
        sizes = {
            name: jnp.abs(a) if name == "w" else jnp.zeros_like(a)
            for name, a in params.items()
        }
        centre, _, cache = layer.forward(
            params, state, (lower + upper) / 2, key=key, train=train
        )
        radius, _, cache_radius = layer.forward(
            sizes, state, (upper - lower) / 2, key=key, train=train
        )
        kept = cache, cache_radius, params["w"]
        return (centre - radius, centre + radius), state, kept

    def backward(kept, dy):
        cache, cache_radius, w = kept
        dlower, dupper = dy
        dcentre, dparams = layer.backward(cache, dlower + dupper)
        dradius, dsizes = layer.backward(cache_radius, dupper - dlower)
        # |w| has slope sign(w), and 0 at 0; the radius has no bias
        dparams = dparams | {"w": dparams["w"] + jnp.sign(w) * dsizes["w"]}
        return ((dcentre - dradius) / 2, (dcentre + dradius) / 2), dparams

    return Layer(layer.init, forward, backward, f"interval {layer.name}")


def _monotone(layer):
    def forward(params, state, x, *, key=None, train):
        lower, _, cache_lower = layer.forward(params, state, x[0], key=key, train=train)
        upper, _, cache_upper = layer.forward(params, state, x[1], key=key, train=train)
        return (lower, upper), state, (cache_lower, cache_upper)

    def backward(caches, dy):
        dlower, dparams = layer.backward(caches[0], dy[0])
        dupper, more = layer.backward(caches[1], dy[1])
        return (dlower, dupper), jax.tree.map(jnp.add, dparams, more)

    return Layer(layer.init, forward, backward, f"interval {layer.name}")


class Margins(NamedTuple):
    """Bounds of the margins of a network: how they are made, and their way back.

    Attributes:
      forward: `(params, state, x, y, epsilon, *, key, train) -> (worst, cache)`; worst
        (B, N) is an upper bound of z_j - z_y for each class j, 0 for j = y.
      backward: `(cache, dworst) -> dparams`.
    """

    forward: Any
    backward: Any


def margins(net: Layer, box: Box = (0.0, 1.0), monotone: Sequence[str] = ()) -> Margins:
    """Upper bounds of z_j - z_y within a Linf budget, for every class j.

    The last layer, which must be `dense`, is joined with the difference: bounds of
    z_j and z_y one by one would let a hidden unit be large for one and small for the
    other.

    Raises:
      JaxnnError: a layer without bounds, or another last layer than `dense`.
    """
    *body, last = _flat(net)
    if not last.name.startswith("dense"):
        raise JaxnnError(
            f"margins: the last layer is {last.name}, expected dense: logits"
        )
    inside = [interval(layer, monotone) for layer in body]

    def forward(params, state, x, y, epsilon, *, key=None, train):
        weights, rest = _flat_tree(net, params), _flat_tree(net, state)
        ends = x - epsilon, x + epsilon
        if box is not None:
            ends = tuple(_clipped(a, box) for a in ends)
        caches = []
        for i, layer in enumerate(inside):
            ends, _, cache = layer.forward(
                weights[i], rest[i], ends, key=child_key(key, i), train=train
            )
            caches.append(cache)
        worst, kept = _joined(ends, weights[-1], y)
        return worst, (tuple(caches), kept)

    def backward(cache, dworst):
        caches, kept = cache
        dy, dlast = _joined_backward(kept, dworst)
        grads = [dlast]
        for layer, one in zip(reversed(inside), reversed(caches), strict=True):
            dy, g = layer.backward(one, dy)
            grads.append(g)
        return _unflat_tree(net, iter(reversed(grads)))

    return Margins(forward, backward)


def _joined(ends, params, y):
    """worst_j = sum over h of centre (w_j - w_y) + radius |w_j - w_y|, plus biases."""
    lower, upper = ends
    w = params["w"]  # (H, N)
    centre, radius = (lower + upper) / 2, (upper - lower) / 2  # (B, H)
    own = jax.nn.one_hot(y, w.shape[1], dtype=w.dtype)  # (B, N)
    z = centre @ w
    apart = w[:, None, :] - w[:, :, None]  # (H, y, j)
    spread = jnp.einsum("bh,hkj,bk->bj", radius, jnp.abs(apart), own)
    worst = z - (z * own).sum(-1, keepdims=True) + spread
    if "b" in params:
        b = params["b"]
        worst = worst + b[None, :] - (own @ b)[:, None]
    return worst, (centre, radius, w, own, "b" in params)


def _joined_backward(kept, dworst):
    centre, radius, w, own, biased = kept
    dz = dworst - own * dworst.sum(-1, keepdims=True)
    apart = w[:, None, :] - w[:, :, None]
    dcentre = dz @ w.T
    dradius = jnp.einsum("bj,hkj,bk->bh", dworst, jnp.abs(apart), own)
    dapart = jnp.einsum("bh,bj,bk->hkj", radius, dworst, own) * jnp.sign(apart)
    dparams = {"w": centre.T @ dz + dapart.sum(1) - dapart.sum(2)}
    if biased:
        dparams["b"] = dz.sum(0)
    return ((dcentre - dradius) / 2, (dcentre + dradius) / 2), dparams


def _clipped(a: Array, box) -> Array:
    return jnp.where(jnp.isnan(a), a, jnp.clip(a, *box))  # clip may swallow a NaN


def _nested(net):
    return bool(net.parts) and net.name.startswith(("serial", "mlp"))


def _flat(net):
    """The layers of serial networks inside of each other, in order."""
    if not _nested(net):
        return [net]
    return [leaf for part in net.parts for leaf in _flat(part)]


def _flat_tree(net, tree):
    if not _nested(net):
        return [tree]
    pairs = zip(net.parts, tree, strict=True)
    return [leaf for part, t in pairs for leaf in _flat_tree(part, t)]


def _unflat_tree(net, leaves):
    if not _nested(net):
        return next(leaves)
    return tuple(_unflat_tree(part, leaves) for part in net.parts)
