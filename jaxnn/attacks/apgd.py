"""Auto-PGD: projected gradient descent that chooses its own step size."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxnn.attacks.classifier import Classifier
from jaxnn.attacks.core import (
    Best,
    Box,
    ascent_direction,
    budget,
    is_fooled,
    per_image,
    project,
)
from jaxnn.attacks.driver import attack
from jaxnn.attacks.moves import random_start
from jaxnn.losses import Loss, softmax_cross_entropy

MOMENTUM, SHARE = 0.75, 0.75  # the paper's alpha and rho


@attack(norms=("linf", "l2"))
def apgd(
    model: Classifier,
    x: Array,
    y: Array,
    *,
    epsilon: Any,
    key: Array,
    steps: int = 100,
    restarts: int = 1,
    norm: str = "linf",
    loss: Loss = softmax_cross_entropy,
    targeted: bool = False,
    box: Box = (0.0, 1.0),
) -> Array:
    """Auto-PGD: momentum, and a step halved for each image when it stops helping.

    Starts with steps of 2 * epsilon. At checkpoints that come closer and closer, an
    image whose loss rose in fewer than 75% of the steps, or whose best loss and step
    have not changed since the last checkpoint, goes back to its best point with half
    the step. `loss` is softmax cross-entropy or `jaxnn.attacks.dlr`.

    Args:
      model: the network; its first layer does any normalisation.
      x: images (B, ...), float in [0, 1].
      y: true labels (B,); with `targeted` the labels to reach.
      epsilon: budget in pixel units of [0, 1], one number or one an image (B,).
      key: random starts are drawn from it.
      steps: gradient steps of each restart.
      restarts: number of random starts.
      norm: "linf" or "l2".
      loss: with `reduction="none"`; raised, or lowered if `targeted`.
      targeted: whether y is the class to reach.
      box: limits of a pixel, None for none.

    Returns:
      Of all points seen, x and FGSM's among them, each image's best, as `pgd`.

    Raises:
      JaxnnError: as `pgd`.

    Source: Croce, Hein 2020, arXiv 2003.01690, algorithm 1.
    """
    epsilon, sign = budget(epsilon, x), -1 if targeted else 1
    since = jnp.zeros(steps + 1, jnp.int32)
    for at, length in _checkpoints(steps):
        since = since.at[at].set(length)

    def look(x_adv, best):
        values, dx, pred = model.value_and_gradient(x_adv, y, loss)
        fooled = is_fooled(pred, y, targeted)
        best = best.with_point(x_adv, fooled, sign * values)
        return sign * values, sign * dx, best

    def within(x_adv):
        return project(x_adv, x, epsilon, norm, box)

    def walk(best, start_key):
        begin = random_start(start_key, x, epsilon, norm, box)
        value, dx, best = look(begin, best)
        size = jnp.full(len(x), 2.0, x.dtype)  # in units of epsilon
        zero = jnp.zeros(len(x), jnp.int32)
        top = (begin, dx, value)  # where this walk's loss was highest
        carry = (begin, begin, dx, value, size, top, zero, (size, value), best)

        def body(carry, t):
            x_now, x_old, dx, value, size, top, rises, last, best = carry
            step = per_image(size, x) * epsilon
            z = within(x_now + step * ascent_direction(dx, norm))
            ahead = x_now + MOMENTUM * (z - x_now) + (1 - MOMENTUM) * (x_now - x_old)
            # the first step has no direction to keep
            x_new = within(jnp.where(t == 1, z, ahead))
            new_value, new_dx, best = look(x_new, best)
            rises = rises + (new_value > value)
            higher = new_value > top[2]
            top = _choose(higher, (x_new, new_dx, new_value), top)

            check = since[t] > 0
            few = rises < SHARE * since[t]
            stuck = (last[0] == size) & (last[1] == top[2])
            back = check & (few | stuck)
            last = _choose(jnp.full(len(x), check), (size, top[2]), last)
            size = jnp.where(back, size / 2, size)
            rises = jnp.where(check, 0, rises)
            x_new, new_dx, new_value = _choose(back, top, (x_new, new_dx, new_value))
            x_old = jnp.where(per_image(back, x), x_new, x_now)
            carry = (x_new, x_old, new_dx, new_value, size, top, rises, last, best)
            return carry, None

        carry, _ = lax.scan(body, carry, jnp.arange(1, steps + 1))
        return carry[-1], None

    _, dx, best = look(x, Best.of_nothing(x))
    best = look(within(x + epsilon * ascent_direction(dx, norm)), best)[2]
    best, _ = lax.scan(walk, best, jax.random.split(key, restarts))
    return best.x


def _checkpoints(steps: int) -> list[tuple[int, int]]:
    """(step, steps since the last one): 22% first, then each 3% less, at least 6%."""
    found, part, gap = [], 0.0, 0.22
    while part + gap < 1:
        at = int(-(-(part + gap) * steps // 1))
        last = found[-1][0] if found else 0
        if at > last:
            found.append((at, at - last))
        part, gap = part + gap, max(gap - 0.03, 0.06)
    return found


def _choose(mask: Array, yes: tuple, no: tuple) -> tuple:
    """`yes` for the images of `mask` (B,), `no` for the others, array by array."""
    return tuple(
        jnp.where(per_image(mask, a), a, b) for a, b in zip(yes, no, strict=True)
    )
