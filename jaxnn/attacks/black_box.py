"""Attacks that see the network's outputs only: no gradient can be masked from them."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxnn.attacks.classifier import Classifier
from jaxnn.attacks.core import (
    Ball,
    Best,
    Box,
    Goal,
    ascent_direction,
    budget,
    in_box,
    margin,
    per_image,
)
from jaxnn.attacks.driver import attack
from jaxnn.losses import Loss


@attack(norms=("linf",), gradients=False, limits={"first_share": (0.0, 1.0)})
def square(
    model: Classifier, x: Any, y: Any, *, epsilon: Any, key: Array,
    queries: int = 1000, first_share: float = 0.8, targeted: bool = False,
    box: Box = (0.0, 1.0),
) -> Array:  # fmt: skip
    """Square attack (linf): random squares of +-epsilon, kept where they help.

    Starts with vertical stripes of +-epsilon; each query recolors one square an image,
    large ones first, and keeps it where the margin rises.

    Args:
      model, y, epsilon, targeted, box: as in `fgsm`; a black box will do.
      x: images (B, H, W), (B, H, W, C), or flat (B, D): a square if D is one, else a
        row of D pixels.
      key: all randomness comes from it.
      queries: forward passes an image.
      first_share: share of the pixels in the first squares.

    Source: Andriushchenko et al. 2020, arXiv 1912.00049.
    """
    h, w, c = _image_shape(x.shape[1:])
    images = x.reshape(len(x), h, w, c)
    ball = Ball.around(images, epsilon, "linf", box)
    epsilon, goal = ball.epsilon, Goal(model, y, margin, targeted)
    rows = jnp.arange(h)[None, :, None, None]
    columns = jnp.arange(w)[None, None, :, None]

    def rate(candidate, best):
        score, pred = goal.score(candidate.reshape(x.shape))
        return best.with_point(candidate, goal.fooled(pred), score)

    def signs(k, shape):
        return jax.random.rademacher(k, shape, x.dtype)

    def query(best, inputs):
        k, side = inputs
        key_row, key_column, key_sign = jax.random.split(k, 3)
        top = _below(key_row, len(x), jnp.maximum(h - side, 0) + 1)
        left = _below(key_column, len(x), jnp.maximum(w - side, 0) + 1)
        inside = ((rows >= top) & (rows < top + side)) & (
            (columns >= left) & (columns < left + side)
        )
        color = images + epsilon * signs(key_sign, (len(x), 1, 1, c))
        return rate(in_box(jnp.where(inside, color, best.x), box), best), None

    key_stripes, key_squares = jax.random.split(key)
    stripes = images + epsilon * signs(key_stripes, (len(x), 1, w, c))
    best = rate(in_box(stripes, box), rate(images, Best.of_nothing(images)))
    sides = jnp.asarray(_side_lengths(queries, first_share, h, w))
    best, _ = lax.scan(query, best, (jax.random.split(key_squares, queries), sides))
    return ball.project(best.x).reshape(x.shape)


def _image_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(H, W, C) of one image: a flat one is taken for a square where it can be."""
    if len(shape) >= 3:
        return shape[0], shape[1], math.prod(shape[2:])
    if len(shape) == 2:
        return shape[0], shape[1], 1
    size = math.prod(shape)
    side = math.isqrt(size)
    return (side, side, 1) if side * side == size else (1, size, 1)


def _side_lengths(queries: int, share: float, h: int, w: int) -> list[int]:
    """Side of each query's square: its share of the pixels is halved on schedule."""
    halvings = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of 10,000 queries
    longest = min(h, w) if min(h, w) > 1 else max(h, w)
    sides = []
    for i in range(queries):
        at = i * 10000 // queries
        part = share / 2 ** sum(at > limit for limit in halvings)
        sides.append(min(max(1, round(math.sqrt(part * h * w))), longest))
    return sides


def _below(key, count, limit):
    """An integer of [0, limit) for each image, (B, 1, 1, 1); limit may be traced."""
    return jax.random.randint(key, (count, 1, 1, 1), 0, limit)


@attack(gradients=False, traced=("width",), limits={"width": (1e-6, 1.0)})
def spsa(
    model: Classifier, x: Any, y: Any, *, epsilon: Any, key: Array, steps: int = 40,
    directions: int = 32, width: Any = 0.01, step_size: Any = None, norm: str = "linf",
    loss: Loss = margin, targeted: bool = False, box: Box = (0.0, 1.0),
) -> Array:  # fmt: skip
    """PGD on a gradient that is estimated from outputs: SPSA.

    Along random directions v of +-1, the loss's central difference
    (f(x + width v) - f(x - width v)) / (2 width) times v is averaged.

    Args:
      model, x, y, epsilon, norm, loss, targeted, box: as in `fgsm`; a black box will
        do.
      key: all randomness comes from it.
      steps: steps of the descent.
      directions: of each estimate; costs two forward passes each.
      width: of the difference, in pixel units.
      step_size: None is 2.5 * epsilon / steps.

    Returns:
      Of all iterates each image's best, as `pgd`.

    Source: Uesato et al. 2018, arXiv 1802.05666.
    """
    if step_size is None:
        step_size = 2.5 * jnp.asarray(epsilon) / steps
    ball, step_size = Ball.around(x, epsilon, norm, box), budget(step_size, x)
    width, goal = jnp.asarray(width, x.dtype), Goal(model, y, loss, targeted)

    def estimate(x_adv, k):
        def one(total, k):
            v = jax.random.rademacher(k, x.shape, x.dtype)
            slope = goal.score(x_adv + width * v)[0] - goal.score(x_adv - width * v)[0]
            return total + per_image(slope, x) * v, None

        return lax.scan(one, jnp.zeros_like(x), jax.random.split(k, directions))[0]

    def step(carry, k):
        x_adv, best = carry
        best = goal.rate(x_adv, best)
        direction = ascent_direction(estimate(x_adv, k), norm)
        return (ball.project(x_adv + step_size * direction), best), None

    start = (x, Best.of_nothing(x))
    (x_adv, best), _ = lax.scan(step, start, jax.random.split(key, steps))
    return goal.rate(x_adv, best).x
