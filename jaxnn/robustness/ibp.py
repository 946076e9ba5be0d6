"""Proof by interval bounds: images that no attack within the budget can break."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.attacks.core import Box
from jaxnn.defences.interval import margins
from jaxnn.errors import JaxnnError
from jaxnn.layers import Layer

SLACK = 1e-4
"""How far below 0 a bound must lie to count: more than float32 rounds in a network."""


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
    monotone: Sequence[str] = (),
) -> np.ndarray:
    """Which images (N,) are proven right for every change of each pixel by `epsilon`.

    True is a proof (up to rounding, see `SLACK`), False says nothing.

    Args:
      net: the network; see `jaxnn.defences.interval` for the layers that have bounds.
      params: its parameters.
      state: its state; evaluation mode is used.
      x: images (N, ...), float in [0, 1].
      y: labels (N,).
      epsilon: Linf budget in pixel units.
      box: limits of a pixel, None for none.
      batch: images a call.
      monotone: names of your own layers that never fall when an input rises.

    Raises:
      JaxnnError: a layer without bounds, lengths that differ, epsilon below 0.
    """
    if len(x) != len(y) or not epsilon >= 0:
        raise JaxnnError(
            f"verify: got {len(x)} images, {len(y)} labels and epsilon {epsilon:g}; "
            "expected as many labels as images and epsilon >= 0"
        )
    proven, batch = [], min(batch, max(1, len(x)))
    for start in range(0, len(x), batch):
        rows = np.minimum(np.arange(start, start + batch), len(x) - 1)
        bound = _worst(
            net, box, tuple(monotone), params, state, jnp.asarray(x[rows]),
            jnp.asarray(y[rows]), epsilon,
        )  # fmt: skip
        proven.append(np.asarray(bound < -SLACK)[: len(x) - start])
    return np.concatenate(proven) if proven else np.zeros(0, bool)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _worst(net, box, monotone, params, state, x, y, epsilon):
    """The largest upper bound of z_j - z_y over the wrong classes j: (B,)."""
    bounds = margins(net, box, monotone)
    epsilon = jnp.asarray(epsilon, x.dtype)
    worst, _ = bounds.forward(params, state, x, y, epsilon, train=False)
    own = jax.nn.one_hot(y, worst.shape[-1], dtype=bool)
    found = jnp.where(own, -jnp.inf, worst).max(-1)
    return jnp.where(jnp.isnan(worst).any(-1), jnp.nan, found)  # NaN proves nothing
