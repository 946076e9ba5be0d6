"""What every attack stands on: the loss of each image and its gradient, by hand.

Threat model: x in [0, 1] as the network's input, `epsilon` in the same pixel units;
a network owns its normalisation (`standardize` as its first layer). Attacks run in
evaluation mode and never touch parameters or state.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnn.errors import JaxnnError
from jaxnn.layers import Layer
from jaxnn.losses import Loss

NORMS = ("linf", "l2")


def loss_and_gradient(
    net: Layer, loss: Loss, params: Any, state: Any, x: Array, y: Array
) -> tuple[Array, Array, Array]:
    """Loss of each image (B,), its gradient for x (as x), and the outputs (B, N).

    The gradient comes from the hand-written backward passes; row i is the gradient of
    image i's own loss.
    """
    pred, _, cache = net.forward(params, state, x, train=False)
    values, dpred = loss(pred, y, reduction="none")
    dx, _ = net.backward(cache, dpred)  # dparams is not used: XLA drops it
    return values, dx, pred


def per_image(v: Array, like: Array) -> Array:
    """View v (B,) as (B, 1, ..., 1) with the axes of `like`: one number an image."""
    return v.reshape(v.shape + (1,) * (like.ndim - 1))


def l2_norm(delta: Array) -> Array:
    """2-norm of each image's perturbation: (B, ...) -> (B,)."""
    return jnp.sqrt(jnp.square(delta).sum(tuple(range(1, delta.ndim))))


def ascent_direction(gradient: Array, norm: str) -> Array:
    """The step of norm 1 that raises the loss most: sign (linf) or g / |g| (l2).

    An image without gradient gets no direction instead of NaN.
    """
    if norm == "linf":
        return jnp.sign(gradient)
    length = per_image(l2_norm(gradient), gradient)
    return jnp.where(length > 0, gradient / jnp.where(length > 0, length, 1), 0)


def project(x_adv: Array, x: Array, epsilon: Array, norm: str, box) -> Array:
    """The nearest point to x_adv within `epsilon` of x, then within the box.

    With epsilon 0 this is x, bit for bit.
    """
    if norm == "linf":
        x_adv = jnp.clip(x_adv, x - epsilon, x + epsilon)
    else:
        delta = x_adv - x
        length = per_image(l2_norm(delta), delta)
        over = length > epsilon
        x_adv = jnp.where(
            over, x + delta * (epsilon / jnp.where(over, length, 1)), x_adv
        )
    # x lies in the box, so clipping can only shorten the perturbation.
    return x_adv if box is None else jnp.clip(x_adv, *box)


def check_arguments(attack: str, x: Any, y: Any, norm: str, box: Any) -> None:
    """Raise a `JaxnnError` for arguments an attack cannot work with."""
    if norm not in NORMS:
        raise JaxnnError(
            f"{attack}: unknown norm {norm!r}; valid names: {', '.join(NORMS)}"
        )
    if len(x) != len(y):
        raise JaxnnError(f"{attack}: got {len(x)} images and {len(y)} labels")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise JaxnnError(
            f"{attack}: images are {x.dtype}, expected floats in [0, 1]; divide uint8 "
            "pixels by 255"
        )
    if box is not None and not (box[0] < box[1]):
        raise JaxnnError(f"{attack}: got box {box}, expected (low, high), low < high")


def in_batches(
    attack: Callable[[Array, Array], Array], x: Any, y: Any, batch: int = 500
) -> np.ndarray:
    """`attack(x, y)` batch by batch, every call of one shape, the last one padded.

    Args:
      attack: for example `lambda x, y: fgsm(net, params, state, x, y, epsilon=.1)`.
      x: images (N, ...) in [0, 1].
      y: labels (N,).
      batch: images a call.

    Returns:
      The attacked images, (N, ...).
    """
    batch, found = min(batch, len(x)), []
    for start in range(0, len(x), batch):
        rows = np.minimum(np.arange(start, start + batch), len(x) - 1)
        attacked = np.asarray(attack(jnp.asarray(x[rows]), jnp.asarray(y[rows])))
        found.append(attacked[: len(x) - start])
    return np.concatenate(found)
