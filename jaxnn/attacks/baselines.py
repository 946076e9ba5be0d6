"""What every attack must beat: random noise, and the corruptions of a camera.

Each is the worst case over several tries, kept image by image.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.scipy.ndimage import map_coordinates

from jaxnn.attacks.classifier import Classifier
from jaxnn.attacks.core import Best, Box, Goal, budget, in_box, margin
from jaxnn.attacks.driver import attack
from jaxnn.errors import JaxnnError, lookup


def _salt_and_pepper(key, x, epsilon):
    draw = jax.random.uniform(key, x.shape, x.dtype)
    return jnp.where(draw < epsilon / 2, 0, jnp.where(draw < epsilon, 1, x))


NOISES: dict[str, Callable] = {
    "gaussian": lambda key, x, e: x + e * jax.random.normal(key, x.shape, x.dtype),
    "uniform": lambda key, x, e: x + e * jax.random.uniform(
        key, x.shape, x.dtype, -1, 1
    ),
    "signs": lambda key, x, e: x + e * jax.random.rademacher(key, x.shape, x.dtype),
    "salt_and_pepper": _salt_and_pepper,
}  # fmt: skip
"""Kinds of noise; epsilon is the standard deviation, the half width, the size of every
pixel's change, and the share of pixels set to 0 or 1."""


@attack(
    norms=("linf",), gradients=False,
    check=lambda settings, x: lookup("noise", settings["kind"], NOISES),
)  # fmt: skip
def noise(
    model: Classifier, x: Any, y: Any, *, epsilon: Any, key: Array,
    kind: str = "uniform", draws: int = 1, targeted: bool = False,
    box: Box = (0.0, 1.0),
) -> Array:  # fmt: skip
    """The worst of `draws` random perturbations: the floor of any attack.

    Args:
      model, x, y, targeted, box: as in `fgsm`; a black box will do.
      epsilon: amount of noise, see `NOISES`; "uniform" and "signs" stay within
        epsilon in linf, the others do not.
      key: all randomness comes from it.
      kind: "gaussian", "uniform", "signs" or "salt_and_pepper".
      draws: tries an image.

    Returns:
      For each image the draw that fooled it, else the one of largest margin, else x.

    Raises:
      JaxnnError: unknown kind, and as `fgsm`.
    """
    epsilon = budget(epsilon, x)

    def noisy(k):
        return in_box(NOISES[kind](k, x, epsilon), box)

    return _worst(model, x, y, targeted, noisy, jax.random.split(key, draws))


def _worst(model, x, y, targeted, change, settings):
    """The best of x and of `change(setting)` for each of the settings."""
    goal = Goal(model, y, margin, targeted)

    def step(best, setting):
        return goal.rate(change(setting), best), None

    return lax.scan(step, goal.rate(x, Best.of_nothing(x)), settings)[0].x


def _contrast(images, amount):
    mean = images.mean((1, 2, 3), keepdims=True)
    return mean + (1 - amount) * (images - mean)


def _blur(images, amount):
    """Gaussian blur by two one-dimensional passes; amount is sigma in pixels."""
    reach = jnp.arange(-10, 11, dtype=images.dtype)
    weights = jnp.exp(-(reach**2) / (2 * jnp.maximum(amount, 1e-3) ** 2))
    weights = weights / weights.sum()
    for axis in (1, 2):
        size = images.shape[axis]
        wide = jnp.pad(images, [(10, 10) if i == axis else (0, 0) for i in range(4)])
        shifted = [
            weights[i] * lax.slice_in_dim(wide, i, i + size, axis=axis)
            for i in range(21)
        ]
        images = sum(shifted, jnp.zeros_like(images))
    return images


def _moved(images, rows, columns):
    """Each image (H, W, C) read at real (rows, columns), bilinear, 0 outside."""
    read = partial(map_coordinates, coordinates=[rows, columns], order=1)
    each_channel = jax.vmap(read, in_axes=-1, out_axes=-1)
    return jax.vmap(each_channel)(images)


def _grid(images):
    h, w = (jnp.arange(size, dtype=images.dtype) for size in images.shape[1:3])
    return jnp.meshgrid(h, w, indexing="ij")


def _rotation(images, degrees):
    rows, columns = _grid(images)
    h, w = images.shape[1:3]
    r, c = rows - (h - 1) / 2, columns - (w - 1) / 2
    cos, sin = jnp.cos(jnp.deg2rad(degrees)), jnp.sin(jnp.deg2rad(degrees))
    return _moved(
        images, cos * r - sin * c + (h - 1) / 2, sin * r + cos * c + (w - 1) / 2
    )


def _translation(images, offset):
    rows, columns = _grid(images)
    return _moved(images, rows - offset[0], columns - offset[1])


CORRUPTIONS: dict[str, Callable] = {
    "contrast": _contrast,
    "blur": _blur,
    "rotation": _rotation,
    "translation": _translation,
}
"""Kinds of corruption; the amount is the share of contrast lost, blur's sigma in
pixels, degrees, and pixels in every direction."""


def largest_amount(kind: str, shape: tuple[int, ...]) -> float:
    """The largest change of that kind that still shows an image of (H, W, ...)."""
    most = {"contrast": 1.0, "blur": 10.0, "rotation": 180.0}
    return most.get(kind, float(max(shape[:2])))


def _known_corruption(settings, x):
    kind, amount = settings["kind"], settings["amount"]
    lookup("corruption", kind, CORRUPTIONS)
    if x.ndim not in (3, 4):
        raise JaxnnError(
            f"corruptions: got images of shape {x.shape}, expected (B, H, W) or "
            "(B, H, W, C)"
        )
    most = largest_amount(kind, x.shape[1:])
    if amount > most:
        raise JaxnnError(
            f"corruptions: got amount={amount:g}, expected 0 to {most:g} for {kind} of "
            f"images {x.shape[1:]}"
        )


@attack(
    norms=(), gradients=False, traced=("amount",), limits={"amount": (0.0, math.inf)},
    check=_known_corruption,
)  # fmt: skip
def corruptions(
    model: Classifier, x: Any, y: Any, *, kind: str, amount: float, tries: int = 11,
    targeted: bool = False,
) -> Array:  # fmt: skip
    """The worst contrast, blur, rotation or translation up to `amount`, by a grid.

    Args:
      model, y, targeted: as in `fgsm`; a black box will do.
      x: images (B, H, W) or (B, H, W, C), float in [0, 1].
      kind: "contrast" (amount: share lost, 1 leaves gray), "blur" (sigma, pixels, up
        to 10), "rotation" (degrees either way) or "translation" (pixels either way).
      amount: the largest change.
      tries: points of the grid, each way for "translation" (so tries^2 in all).

    Returns:
      For each image the change that fooled it, else the one of largest margin, else x.

    Raises:
      JaxnnError: unknown kind, flat images, tries below 1, more than there is to lose.
    """
    amounts = jnp.linspace(-amount, amount, tries, dtype=x.dtype)
    if kind in ("contrast", "blur"):
        amounts = jnp.linspace(0, amount, tries, dtype=x.dtype)
    if kind == "translation":
        down, right = jnp.meshgrid(amounts, amounts, indexing="ij")
        amounts = jnp.stack([down.ravel(), right.ravel()], axis=-1)
    images = x.reshape((*x.shape, 1)) if x.ndim == 3 else x

    def change(amount):
        return CORRUPTIONS[kind](images, amount).reshape(x.shape)

    return _worst(model, x, y, targeted, change, amounts)
