"""Bounds: where a layer's outputs can go while each input moves in an interval.

`interval(net)` is the network over pairs (lower, upper), a `Layer` with the parameters
of `net` and a backward pass by hand, so it trains like any other. A constructor states
the bounds of its layer from its settings, by one of the functions here:

    linear     the center goes through w, the radius through |w|
    monotone   both ends go through the layer, changed over where its slope is negative
    averaging  as monotone; sums round more
    unimodal   the turning point, too, where it lies between the ends

In evaluation the bounds are rounded outward, by what float32 or float64 can lose in
numbers of their size: they hold for the outputs as computed. In training they are not,
which would only take time.

Source: Gowal et al. 2018, arXiv 1810.12715; Mirman et al. 2018; rounding of sums:
Higham 2002, section 3.1.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.errors import JaxnnError
from jaxnn.layers.core import Layer
from jaxnn.rules.core import last_axis

BOUNDED = (
    "avg_pool", "batch_norm", "binarize", "conv", "conv1d", "conv_transpose", "crop",
    "dense", "depthwise_conv", "dropout", "elu", "flatten", "freeze",
    "gaussian_noise", "gelu", "global_avg_pool", "global_max_pool", "leaky_relu",
    "max_pool", "mlp", "pad", "parallel (sum, maximum, concatenate)",
    "positional_embedding", "relu", "remat", "repeat", "reshape", "residual", "selu",
    "serial", "share", "sigmoid", "softplus", "spatial_dropout", "stack",
    "standardize", "swish", "tanh", "transpose", "upsample",
)  # fmt: skip
"""What has bounds, for the message of those that have none."""


def interval(net: Layer) -> Layer:
    """`net` over pairs x = (lower, upper), each (B, ...): y is such a pair, too.

    For every input within lower <= x <= upper, forward of `net` with `train=False`
    lies within y. Batch norm is taken with its running averages, in training too.

    Raises:
      JaxnnError: a layer without bounds; lists those that have.
    """
    if net.bounds is None:
        raise JaxnnError(
            f"interval: no bounds for layer {net.name}; those that have: "
            f"{', '.join(BOUNDED)}. State those of your own by `bounded(layer, "
            "monotone)`, see jaxnn.layers.bounds"
        )
    return net.bounds()


def bounded(layer: Layer, kind: Callable[..., Layer], **settings: Any) -> Layer:
    """`layer` with the bounds `kind(layer, **settings)`, made when they are asked for.

    >>> from jaxnn.layers import dense
    >>> layer = bounded(dense(3)._replace(name="mine"), linear)
    """
    return layer._replace(made=layer.made, bounds=lambda: kind(layer, **settings))


def linear(layer: Layer, weight: str = "w") -> Layer:
    """Bounds of a layer that is linear in x with params[weight]; others are added.

    center' = w center + b, radius' = |w| radius.
    """

    def forward(params, state, x, *, key=None, train):
        lower, upper = x
        center, radius = (lower + upper) / 2, (upper - lower) / 2
        w, lost = params[weight], 0
        if not train:
            # Before |w|: what sums of this size can lose costs no product of its own.
            lost = product_error(math.prod(w.shape[:-1]), coarsest(w, center))
            least = float(jnp.finfo(center.dtype).tiny)  # halves below it vanish
            radius += lost * (jnp.abs(center) + radius) + least
        sizes = {
            name: jnp.abs(a) if name == weight else _share(lost, a)
            for name, a in params.items()
        }
        center, _, cache = layer.forward(params, state, center, key=key, train=train)
        radius, _, cache_radius = layer.forward(
            sizes, state, radius, key=key, train=train
        )
        if lost:  # what vanishes below the smallest normal number
            radius += w.size * float(jnp.finfo(radius.dtype).tiny)
        return (center - radius, center + radius), state, (cache, cache_radius, w)

    def backward(kept, dy):
        cache, cache_radius, w = kept
        dlower, dupper = dy
        dcenter, dparams = layer.backward(cache, dlower + dupper)
        dradius, dsizes = layer.backward(cache_radius, dupper - dlower)
        # |w| has slope sign(w), and 0 at 0; the radius has no bias
        dw = dparams[weight] + jnp.sign(w) * dsizes[weight]
        dx = (dcenter - dradius) / 2, (dcenter + dradius) / 2
        return dx, dparams | {weight: dw}

    return Layer(layer.init, forward, backward, f"interval {layer.name}")


def monotone(
    layer: Layer,
    falls: Callable[[Any], Any] | None = None,
    ulps: int = 0,
    size: Callable[[Any, Any, Array], Array] | None = None,
) -> Layer:
    """Bounds of a layer that is monotone in each input.

    Args:
      layer: each of its outputs never falls when an input rises, or never rises.
      falls: `params ->` where it never rises, one bool or one a channel (last axis);
        None: nowhere.
      ulps: how far rounding can take it from a monotone function, in units of the
        last place; 0 where it only picks or rounds once.
      size: `(params, state, most) ->` the size of what is added up in an output while
        |x| <= most; None: the output itself.
    """

    def forward(params, state, x, *, key=None, train):
        down = jnp.asarray(False if falls is None else falls(params))
        first, last = _changed_over(x, down) if falls else x
        ys, caches = [], []
        for end in (first, last):
            y, _, cache = layer.forward(params, state, end, key=key, train=train)
            ys.append(y)
            caches.append(cache)
        ends = ys[0], ys[1]
        if ulps and not train:
            most = None if size is None else size(params, state, largest(x))
            ends = widened(ends, ulps, most, coarsest(params, state, x))
        return ends, state, (*caches, down)

    def backward(kept, dy):
        *caches, down = kept
        (dfirst, dparams), (dlast, more) = map(layer.backward, caches, dy)
        dx = _changed_over((dfirst, dlast), down) if falls else (dfirst, dlast)
        return dx, jax.tree.map(jnp.add, dparams, more)

    return Layer(layer.init, forward, backward, f"interval {layer.name}")


def unimodal(
    layer: Layer, turn: float, peak: bool = False, ulps: int = 0, wide: bool = False
) -> Layer:
    """Bounds of an activation that falls up to `turn` and rises from there.

    With `peak` it rises, then falls. `ulps` as in `monotone`, of the output, and of the
    input, too, if `wide`: where the input's rounding is the larger.
    """

    def forward(params, state, x, *, key=None, train):
        lower, upper = x
        after, before = lower > turn, upper < turn
        at = jnp.where(after, lower, jnp.where(before, upper, turn))
        at = jnp.where(jnp.isnan(lower + upper), jnp.nan, at).astype(lower.dtype)
        (near, cache), (low, cache_low), (high, cache_high) = (
            layer.forward(params, state, a, key=key, train=train)[::2]
            for a in (at, lower, upper)
        )
        at_lower = low < high if peak else low > high
        far = jnp.where(at_lower | jnp.isnan(low), low, high)
        y = (far, near) if peak else (near, far)
        if ulps and not train:
            size = jnp.maximum(jnp.abs(y[0]), jnp.abs(y[1]))
            y = widened(y, ulps, size + largest(x) if wide else size)
        sides = after, before & ~after, at_lower
        return y, state, (cache, cache_low, cache_high, sides)

    def backward(kept, dy):
        cache, cache_low, cache_high, (after, before, at_lower) = kept
        dfar, dnear = dy if peak else dy[::-1]
        dat, _ = layer.backward(cache, dnear)
        dlow, _ = layer.backward(cache_low, jnp.where(at_lower, dfar, 0))
        dhigh, _ = layer.backward(cache_high, jnp.where(at_lower, 0, dfar))
        dx = dlow + jnp.where(after, dat, 0), dhigh + jnp.where(before, dat, 0)
        return dx, ()

    return Layer(layer.init, forward, backward, f"interval {layer.name}")


def averaging(layer: Layer, terms: int | None = None) -> Layer:
    """Bounds of a layer of means with fixed weights, none of them negative.

    `terms` is how many are added up, None: as many as inputs come on an output.
    """

    def size(params, state, most):
        y, _, _ = layer.forward(params, state, most, key=None, train=False)
        return y * ((terms or most.size // y.size) + 8)

    return monotone(layer, ulps=1, size=size)


def _share(lost, a):
    return lost * jnp.abs(a) if lost else jnp.zeros_like(a)


def _changed_over(ends, where):
    """The pair with its two exchanged where that is so."""
    lower, upper = ends
    where = last_axis(where, lower.ndim) if where.ndim else where
    return jnp.where(where, upper, lower), jnp.where(where, lower, upper)


def largest(ends: tuple[Array, Array]) -> Array:
    """The largest size of a number between the ends."""
    return jnp.maximum(jnp.abs(ends[0]), jnp.abs(ends[1]))


def coarsest(*trees: Any) -> Any:
    """Of the types of floats in `trees` the one that rounds most."""
    types = (a.dtype for a in jax.tree.leaves(trees))
    floats = (t for t in types if jnp.issubdtype(t, jnp.floating))
    return max(floats, key=lambda t: jnp.finfo(t).eps)


def widened(
    ends: tuple[Array, Array], ulps: float, size: Array | None = None, dtype: Any = None
) -> tuple[Array, Array]:
    """The pair, further apart by so many units in the last place of `size`, or of its
    own numbers; units of `dtype` where what they come from is coarser."""
    lower, upper = ends
    info = jnp.finfo(lower.dtype if dtype is None else dtype)
    lost, least = ulps * float(info.eps), float(info.tiny)
    below, above = jax.tree.map(jnp.abs, ends) if size is None else (size, size)
    return lower - (lost * below + least), upper + (lost * above + least)


def spacing(dtype: Any) -> float:
    """From 1 to the next number of that type.

    Raises:
      JaxnnError: narrower than float32.
    """
    if jnp.finfo(dtype).bits < 32:
        raise JaxnnError(
            f"interval: bounds in {jnp.dtype(dtype).name} would be too wide to say "
            "anything, since sums round so much; expected float32 or float64 "
            "parameters and inputs, such as tree.map(lambda a: a.astype(float32), "
            "params)"
        )
    return float(jnp.finfo(dtype).eps)


def product_error(terms: int, dtype: Any) -> float:
    """Bound of what a sum of so many products can be off, as a share of their sizes.

    In whatever order it is added up, once in the network and once in its bounds. On
    accelerators float32 operands may be rounded: to 10 bits on GPUs (TF32), 7 on TPUs.
    """
    error = (terms + 8) * spacing(dtype)
    if jnp.dtype(dtype) == jnp.float32 and jax.default_backend() != "cpu":
        error += 2.0**-6 if jax.default_backend() == "tpu" else 2.0**-9
    return error
