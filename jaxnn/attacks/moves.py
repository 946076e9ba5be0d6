"""Where a gradient attack starts, and how it takes a step."""

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.attacks.core import Box, ascent_direction, l2_norm, per_image, project


def move(x_adv, x, gradient, size, epsilon, sign, norm, box):
    """One step of length `size` up the gradient (down with sign -1), projected.

    A pixel whose gradient is NaN becomes NaN: min and max would swallow it on a CPU,
    and neither a guard nor `Best` would see the step that made it.
    """
    if norm == "l1" and box is not None:
        gradient = _movable(x_adv, gradient, sign, box)
    moved = x_adv + sign * size * ascent_direction(gradient, norm)
    return jnp.where(jnp.isnan(moved), moved, project(moved, x, epsilon, norm, box))


def random_start(key: Array, x: Array, epsilon: Array, norm: str, box: Box) -> Array:
    """A point drawn evenly from the budget around x, then clipped to the box."""
    if norm == "linf":
        noise = jax.random.uniform(key, x.shape, x.dtype, -1, 1)
        return project(x + epsilon * noise, x, epsilon, norm, box)
    key_direction, key_radius = jax.random.split(key)
    draw = jax.random.normal if norm == "l2" else jax.random.laplace
    noise = draw(key_direction, x.shape, x.dtype)
    size = l2_norm(noise) if norm == "l2" else l1_norm(noise)
    radius = jax.random.uniform(key_radius, x.shape[:1], x.dtype)
    features = max(1, x.size // max(1, len(x)))
    radius = radius ** (1 / features)  # even over the ball, not over the radius
    unit = noise / per_image(size, noise)
    return project(x + epsilon * per_image(radius, x) * unit, x, epsilon, norm, box)


def _movable(x_adv, gradient, sign, box):
    """The gradient without the pixels that would leave the box at once.

    An l1 step goes into a few pixels only; those at the edge of the box would waste it.
    """
    up = sign * gradient > 0
    stuck = (up & (x_adv >= box[1])) | (~up & (x_adv <= box[0]))
    return jnp.where(stuck, 0, gradient)


def l1_norm(delta: Array) -> Array:
    """1-norm of each image's perturbation: (B, ...) -> (B,)."""
    return jnp.abs(delta).sum(tuple(range(1, delta.ndim)))
