"""Proof by interval bounds: images that no attack within the budget can break."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn import programs
from jaxnn.attacks import Classifier
from jaxnn.attacks.arguments import as_images, check_epsilon, checked_images
from jaxnn.attacks.classifier import exact
from jaxnn.attacks.core import Box
from jaxnn.defenses.interval import margins
from jaxnn.layers.bounds import spacing
from jaxnn.losses import yes_above
from jaxnn.train.state import float_type, to_unit
from jaxnn.tree import map_batches


def verify(
    model: Classifier, x: Any, y: Any, *, epsilon: float, box: Box = (0.0, 1.0),
    batch: int | None = None,
) -> np.ndarray:  # fmt: skip
    """Which images (N,) are proven right for every change of each pixel by `epsilon`.

    True is a proof, rounding included: no image within the budget, as float32 or
    float64 numbers, makes the network say otherwise. False says nothing.

    Args:
      model: the network, of float32 or float64 parameters; see
        `jaxnn.layers.interval` for the layers that have bounds.
      x: images (N, ...), float in [0, 1] or uint8.
      y: labels (N,); of a single output yes is 1, no is 0 or -1.
      epsilon: Linf budget in pixel units.
      box: limits of a pixel, None for none.
      batch: images a call, see `jaxnn.tree.map_batches`.

    Raises:
      JaxnnError: a layer without bounds, no images, lengths that differ, no budget,
        pixels that are neither floats nor uint8 or lie outside the box, labels that
        the network has no output for, parameters narrower than float32.
    """
    dtype = float_type(model.params)
    spacing(dtype)  # raises for types too narrow
    x = to_unit(jnp.asarray(x), dtype) if np.asarray(x).dtype == np.uint8 else x
    x = np.asarray(as_images("verify", x), dtype)
    x, y = checked_images("verify", model, x, y, box, finite=False)
    x, y = np.asarray(x), np.asarray(y)
    check_epsilon("verify", epsilon, x, "linf", box)
    return map_batches(partial(_proven, box, model, epsilon), x, y, batch=batch)


@partial(programs.jit, static_argnums=0)
def _proven(box, model, epsilon, x, y):
    """Whether the upper bounds of z_j - z_y are below 0 for all wrong classes j: (B,).

    Of one output, whether its bound is on the side of y; from where it says yes, such
    as one half behind a sigmoid, `yes_above` knows.
    """
    bounds = margins(model.net, box)
    epsilon = jnp.asarray(epsilon, x.dtype)
    with exact():
        worst, _ = bounds.forward(model.params, model.state, x, y, epsilon, train=False)
    if worst.shape[-1] == 1:
        most = yes_above(model.net)
        return jnp.where(y > 0, worst[:, 0] > most, worst[:, 0] <= most)
    own = jax.nn.one_hot(y, worst.shape[-1], dtype=bool)
    # NaN is not below 0: it proves nothing, whichever class it is of
    return ((worst < 0) | (own & ~jnp.isnan(worst))).all(-1)
