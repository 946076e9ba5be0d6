"""Proof by interval bounds: images that no attack within the budget can break."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.attacks.core import Box
from jaxnn.defences.interval import margins
from jaxnn.errors import JaxnnError
from jaxnn.layers import Layer
from jaxnn.layers.bounds import spacing
from jaxnn.train.state import float_type, to_unit


def verify(
    net: Layer,
    params: Any,
    state: Any,
    x: Any,
    y: Any,
    *,
    epsilon: float,
    box: Box = (0.0, 1.0),
    batch: int = 500,
) -> np.ndarray:
    """Which images (N,) are proven right for every change of each pixel by `epsilon`.

    True is a proof, rounding included: no image within the budget, as float32 or
    float64 numbers, makes the network say otherwise. False says nothing.

    Args:
      net: the network; see `jaxnn.layers.interval` for the layers that have bounds.
      params: its parameters, float32 or float64.
      state: its state; evaluation mode is used.
      x: images (N, ...), float in [0, 1] or uint8.
      y: labels (N,); of a single output yes is 1, no is 0 or -1.
      epsilon: Linf budget in pixel units.
      box: limits of a pixel, None for none.
      batch: images a call.

    Raises:
      JaxnnError: a layer without bounds, lengths that differ, epsilon below 0, pixels
        that are neither floats nor uint8 or lie outside the box, labels that the
        network has no output for, parameters narrower than float32.
    """
    x, y = np.asarray(x), np.asarray(y)
    if len(x) != len(y) or not epsilon >= 0:
        raise JaxnnError(
            f"verify: got {len(x)} images, {len(y)} labels and epsilon {epsilon:g}; "
            "expected as many labels as images and epsilon >= 0"
        )
    if not len(x):
        return np.zeros(0, bool)
    x = _as_floats(x, box, float_type(params))
    _check_labels(net, params, state, x, y)
    proven, batch = [], min(batch, len(x))
    for start in range(0, len(x), batch):
        rows = np.minimum(np.arange(start, start + batch), len(x) - 1)
        found = _proven(
            net, box, params, state, jnp.asarray(x[rows]), jnp.asarray(y[rows]), epsilon
        )
        proven.append(np.asarray(found)[: len(x) - start])
    return np.concatenate(proven)


def _as_floats(x, box, dtype):
    """Pixels in the network's type."""
    spacing(dtype)  # raises for types too narrow
    x = np.asarray(to_unit(jnp.asarray(x), dtype)) if x.dtype == np.uint8 else x
    if not np.issubdtype(x.dtype, np.floating):
        raise JaxnnError(
            f"verify: images are {x.dtype}, expected floats in [0, 1] or uint8 pixels"
        )
    x = x.astype(dtype)
    if box is not None and ((x < box[0]) | (x > box[1])).any():
        raise JaxnnError(
            f"verify: pixels range from {np.nanmin(x):g} to {np.nanmax(x):g}, expected "
            f"within the box {box}; let the network own its normalisation, or pass "
            "box=None"
        )
    return x


def _check_labels(net, params, state, x, y):
    z = jax.eval_shape(
        lambda x: net.forward(params, state, x, train=False)[0],
        jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype),
    )
    low, high = (0, z.shape[-1] - 1) if z.shape[-1] > 1 else (-1, 1)
    whole = y.ndim == 1 and np.issubdtype(y.dtype, np.integer)
    if not whole or y.min() < low or y.max() > high:
        shown = f"{y.min()} to {y.max()}" if whole else f"{y.dtype} of shape {y.shape}"
        raise JaxnnError(
            f"verify: got labels {shown}, expected whole numbers (N,) from {low} to "
            f"{high}: the network has {z.shape[-1]} outputs"
        )


@partial(jax.jit, static_argnums=(0, 1))
def _proven(net, box, params, state, x, y, epsilon):
    """Whether the upper bounds of z_j - z_y are below 0 for all wrong classes j: (B,).

    Of one output, whether its bound is on the side of y; at 0 the network says no.
    """
    bounds = margins(net, box)
    epsilon = jnp.asarray(epsilon, x.dtype)
    worst, _ = bounds.forward(params, state, x, y, epsilon, train=False)
    if worst.shape[-1] == 1:
        return jnp.where(y > 0, worst[:, 0] > 0, worst[:, 0] <= 0)
    own = jax.nn.one_hot(y, worst.shape[-1], dtype=bool)
    # NaN is not below 0: it proves nothing, whichever class it is of
    return ((worst < 0) | (own & ~jnp.isnan(worst))).all(-1)
