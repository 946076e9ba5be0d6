"""Attacks that look for the smallest perturbation that fools: no budget is given.

An image for which none was found comes back as it was, so its distance is 0 and the
network is not fooled: look at both.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from jaxnn.attacks.classifier import Classifier
from jaxnn.attacks.core import (
    Best,
    Box,
    Goal,
    ascent_direction,
    distance,
    in_box,
    is_finite,
    l2_norm,
    margin,
    per_image,
    scaled,
)
from jaxnn.attacks.driver import attack
from jaxnn.losses import softmax_cross_entropy


@attack(norms=("l2", "linf"))
def deepfool(
    model: Classifier, x: Any, y: Any, *, norm: str = "l2", steps: int = 50,
    overshoot: float = 0.02, box: Box = (0.0, 1.0),
) -> Array:  # fmt: skip
    """DeepFool: walk to the nearest class boundary as if the network were linear there.

    Args:
      model, x, y: as in `fgsm`; an image already wrong comes back as it is.
      norm: "l2" or "linf", the norm kept small.
      steps: most linearizations an image; the loop ends when all are fooled.
      overshoot: part by which the sum of steps is lengthened to cross the boundary.
      box: limits of a pixel; None as in the paper.

    Returns:
      Attacked images like x; x itself where no class boundary was crossed.

    Source: Moosavi-Dezfooli et al. 2016, arXiv 1511.04599.
    """
    goal = Goal(model, y, margin, False)

    def shown(total):
        return in_box(x + (1 + overshoot) * total, box)

    def unfinished(carry):
        step, _, done = carry
        return (step < steps) & ~done.all()

    def body(carry):
        step, total, done = carry
        z, pull = model.vjp(shown(total))
        each = jnp.broadcast_to(
            jnp.eye(z.shape[-1], dtype=z.dtype)[:, None], (z.shape[-1], *z.shape)
        )
        r = _to_nearest_boundary(z, jax.vmap(pull)(each), y, norm)
        total = jnp.where(per_image(done, x), total, total + r)
        fooled = goal.fooled(model.logits(shown(total)))
        return step + 1, total, done | fooled

    start = (0, jnp.zeros_like(x), goal.fooled(model.logits(x)))
    _, total, done = lax.while_loop(unfinished, body, start)
    moved = done & (distance(total, jnp.zeros_like(x), "linf") > 0)
    moved &= is_finite(shown(total))
    return jnp.where(per_image(moved, x), shown(total), x)


def _to_nearest_boundary(z: Array, gradients: Array, y: Array, norm: str) -> Array:
    """The step to it, by logits z (B, N) and the gradient of each (N, B, ...)."""
    rows = jnp.arange(len(z))
    w = gradients - gradients[y, rows][None]  # (N, B, ...)
    gap = jnp.abs(z - z[rows, y][:, None]).T  # (N, B)
    flat = w.reshape(*w.shape[:2], -1)
    # the dual norm: linf steps move every pixel, so |w|_1 is what they gain
    dual = "l1" if norm == "linf" else "l2"
    size = jax.vmap(lambda a: distance(a, jnp.zeros_like(a), dual))(flat)
    open_way = (size > 0) & (jnp.arange(len(w))[:, None] != y[None])
    away = jnp.where(open_way, gap / jnp.where(open_way, size, 1), jnp.inf)
    k = away.argmin(0)
    found, chosen = jnp.isfinite(away[k, rows]), w[k, rows]
    # 1e-4: a step onto the boundary itself need not cross it
    length = jnp.where(found, (gap[k, rows] + 1e-4) / size[k, rows], 0)
    if norm == "linf":
        return per_image(length, chosen) * jnp.sign(chosen)
    # divided first: 1 / size^2 may be too large for a float
    unit = chosen / per_image(jnp.where(found, size[k, rows], 1), chosen)
    return per_image(length, chosen) * jnp.where(per_image(found, chosen), unit, 0)


@attack(norms=("l2",), limits={"gamma": (0.0, 1.0), "first_norm": (1e-6, math.inf)})
def ddn(
    model: Classifier, x: Any, y: Any, *, steps: int = 100, gamma: float = 0.05,
    first_norm: float = 1.0, targeted: bool = False, box: Box = (0.0, 1.0),
) -> Array:  # fmt: skip
    """Decoupled direction and norm: the cheap strong L2 attack.

    Each step follows the cross-entropy's gradient, then the perturbation's norm is set
    gamma smaller where the network is fooled, gamma larger where it is not.

    Args:
      model, x, y, targeted: as in `fgsm`.
      steps: gradient steps; the step size falls from 1 to 0.01 as a cosine.
      gamma: relative change of the norm a step.
      first_norm: norm of the first try, in pixel units.
      box: limits of a pixel, None for none.

    Returns:
      Of all points that fooled the network, each image's nearest; x where none did.

    Source: Rony et al. 2019, arXiv 1811.09600.
    """
    goal = Goal(model, y, softmax_cross_entropy, targeted)

    def body(carry, step):
        x_adv, norm, best = carry
        _, dx, fooled = goal.value_and_gradient(x_adv)
        best = best.with_point(x_adv, fooled, -l2_norm(x_adv - x))
        direction = ascent_direction(dx, "l2")
        rate = 0.01 + 0.99 * (1 + jnp.cos(jnp.pi * step / steps)) / 2
        delta = x_adv - x + rate.astype(x.dtype) * direction
        norm = norm * jnp.where(fooled, 1 - gamma, 1 + gamma).astype(x.dtype)
        length = per_image(l2_norm(delta), x)
        delta = delta * (per_image(norm, x) / jnp.where(length > 0, length, 1))
        return (in_box(x + delta, box), norm, best), None

    start = (x, jnp.full(len(x), first_norm, x.dtype), Best.of_nothing(x))
    (x_adv, _, best), _ = lax.scan(body, start, jnp.arange(steps))
    fooled = goal.fooled(model.logits(x_adv))
    best = best.with_point(x_adv, fooled, -l2_norm(x_adv - x))
    return jnp.where(per_image(best.fooled, x), best.x, x)


@attack(norms=("l2",), limits={"lr": (1e-6, math.inf), "first_constant": (1e-30, 1e10)})
def carlini_wagner(
    model: Classifier, x: Any, y: Any, *, steps: int = 200, searches: int = 6,
    first_constant: float = 1e-2, confidence: float = 0.0, lr: float = 0.05,
    targeted: bool = False, box: tuple[float, float] = (0.0, 1.0),
) -> Array:  # fmt: skip
    """Carlini and Wagner's L2 attack: Adam on |delta|^2 + c * max(margin, -confidence).

    x = low + (high - low) (1 + tanh w) / 2 keeps every pixel in the box. The constant c
    is found for each image by `searches` steps: times ten until it fools, then halving.

    Args:
      model, x, y, targeted: as in `fgsm`.
      steps: Adam steps for each constant.
      searches: constants tried.
      first_constant: the first one.
      confidence: margin in logits by which to fool.
      lr: Adam's learning rate, in w.
      box: limits of a pixel.

    Returns:
      Of all points that fooled the network, each image's nearest; x where none did.

    Source: Carlini, Wagner 2017, arXiv 1608.04644.
    """
    low, width = box[0], box[1] - box[0]
    optimizer, goal = optax.adam(lr), Goal(model, y, margin, targeted)
    # Just inside the box: at a pixel of exactly 0 or 1 atanh is infinite.
    w_start = jnp.arctanh((2 * (x - low) / width - 1) * 0.999999)

    def pixels(w):
        return low + width * (1 + jnp.tanh(w)) / 2

    def descend(constant, best):
        def body(carry, _):
            w, opt, best, ever = carry
            x_adv = pixels(w)
            values, dx, fooled = goal.value_and_gradient(x_adv)
            fooled = fooled & (values >= confidence)
            best = best.with_point(x_adv, fooled, -l2_norm(x_adv - x))
            active = values < confidence
            pull = per_image(jnp.where(active, constant, 0), x) * -1 * dx
            dw = (2 * (x_adv - x) + pull) * width * (1 - jnp.tanh(w) ** 2) / 2
            updates, opt = optimizer.update(dw, opt, w)
            return (w + updates, opt, best, ever | fooled), None

        start = (w_start, optimizer.init(w_start), best, jnp.zeros(len(x), bool))
        (_, _, best, ever), _ = lax.scan(body, start, length=steps)
        return best, ever

    def search(carry, _):
        constant, low_c, high_c, best = carry
        best, fooled = descend(constant, best)
        return (*_next_constant(fooled, constant, low_c, high_c), best), None

    # The constant weighs the margin's gradient. Where that is far from 1, the constant
    # is so much larger or smaller: else the gradient is not seen beside |delta|^2, or
    # Adam's square of it is infinite.
    weight = scaled(goal.value_and_gradient(x)[1])[1].reshape(-1)
    ordinary = (weight > 2.0**-30) & (weight < 2.0**30)
    each = first_constant / jnp.where(ordinary, 1, weight).astype(x.dtype)
    start = (each, jnp.zeros_like(each), jnp.full_like(each, jnp.inf))
    fooled = goal.fooled(model.logits(x))
    nothing = Best.of_nothing(x).with_point(x, fooled, jnp.zeros(len(x), x.dtype))
    (*_, best), _ = lax.scan(search, (*start, nothing), length=searches)
    # clip: rounding of tanh must not leave the box
    return jnp.where(per_image(best.fooled, x), jnp.clip(best.x, *box), x)


def _next_constant(fooled, constant, low, high):
    """Times ten until it fools, then the middle; and the ends it lies between."""
    high = jnp.where(fooled, jnp.minimum(high, constant), high)
    low = jnp.where(fooled, low, jnp.maximum(low, constant))
    middle = (low + high) / 2
    return jnp.where(jnp.isfinite(high), middle, constant * 10), low, high
