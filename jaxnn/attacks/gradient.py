"""Attacks with a fixed budget that follow the input gradient."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxnn.attacks.core import (
    ascent_direction,
    check_arguments,
    l2_norm,
    loss_and_gradient,
    per_image,
    project,
)
from jaxnn.errors import JaxnnError
from jaxnn.layers import Layer
from jaxnn.losses import Loss, softmax_cross_entropy

Box = tuple[float, float] | None


def fgsm(
    net: Layer,
    params: Any,
    state: Any,
    x: Array,
    y: Array,
    *,
    epsilon: Any,
    norm: str = "linf",
    loss: Loss = softmax_cross_entropy,
    targeted: bool = False,
    box: Box = (0.0, 1.0),
) -> Array:
    """Fast gradient sign method: one step of size `epsilon` up the loss, one program.

    Args:
      net: the network; its first layer does any normalisation.
      params: its parameters.
      state: its state; evaluation mode is used.
      x: images (B, ...), float in [0, 1].
      y: true labels (B,); with `targeted` the labels to reach.
      epsilon: budget in pixel units of [0, 1]; traced, so a sweep compiles once.
      norm: "linf" (sign of the gradient) or "l2" (gradient over its 2-norm).
      loss: with `reduction="none"`; raised, or lowered if `targeted`.
      targeted: whether y is the class to reach.
      box: limits of a pixel; None does not clip (Goodfellow's original).

    Returns:
      Attacked images like x, within `epsilon` and the box; x itself if epsilon is 0.

    Raises:
      JaxnnError: unknown norm, uint8 images, lengths that differ, negative epsilon.

    Source: Goodfellow, Shlens, Szegedy 2015, arXiv 1412.6572.
    """
    check_arguments("fgsm", x, y, norm, box)
    _check_epsilon("fgsm", epsilon)
    return _fgsm(net, loss, norm, targeted, box, params, state, x, y, epsilon)


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _fgsm(net, loss, norm, targeted, box, params, state, x, y, epsilon):
    epsilon = jnp.asarray(epsilon, x.dtype)
    _, dx, _ = loss_and_gradient(net, loss, params, state, x, y)
    sign = -1 if targeted else 1
    x_adv = x + sign * epsilon * ascent_direction(dx, norm)
    return project(x_adv, x, epsilon, norm, box)


def pgd(
    net: Layer,
    params: Any,
    state: Any,
    x: Array,
    y: Array,
    *,
    epsilon: Any,
    steps: int = 40,
    step_size: Any = None,
    norm: str = "linf",
    key: Array | None = None,
    restarts: int = 1,
    loss: Loss = softmax_cross_entropy,
    targeted: bool = False,
    box: Box = (0.0, 1.0),
) -> Array:
    """Projected gradient descent: `steps` small steps, projected after each one.

    Of all points seen (x itself, every iterate of every restart) each image keeps its
    best: one that fools the network before one that does not, then the higher loss.

    Args:
      net: the network; its first layer does any normalisation.
      params: its parameters.
      state: its state; evaluation mode is used.
      x: images (B, ...), float in [0, 1].
      y: true labels (B,); with `targeted` the labels to reach.
      epsilon: budget in pixel units of [0, 1]; traced, so a sweep compiles once.
      steps: gradient steps of each restart.
      step_size: length of a step; None is 2.5 * epsilon / steps.
      norm: "linf" or "l2".
      key: random starts within the budget are drawn from it; None starts at x.
      restarts: number of starts; more than one needs a key.
      loss: with `reduction="none"`; raised, or lowered if `targeted`.
      targeted: whether y is the class to reach.
      box: limits of a pixel, None for none.

    Returns:
      Attacked images like x, within `epsilon` and the box; x itself if epsilon is 0.

    Raises:
      JaxnnError: unknown norm, uint8 images, lengths that differ, negative epsilon,
        steps or restarts below 1, restarts without a key.

    Source: Madry et al. 2018, arXiv 1706.06083.
    """
    check_arguments("pgd", x, y, norm, box)
    _check_epsilon("pgd", epsilon)
    if steps < 1 or restarts < 1:
        raise JaxnnError(f"pgd: got steps={steps}, restarts={restarts}, expected >= 1")
    if restarts > 1 and key is None:
        raise JaxnnError(
            f"pgd: {restarts} restarts from the same point are one; pass key="
        )
    if step_size is None:
        step_size = 2.5 * epsilon / steps
    options = (net, loss, norm, targeted, box, steps, restarts)
    return _pgd(*options, params, state, x, y, epsilon, step_size, key)


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4, 5, 6))
def _pgd(
    net, loss, norm, targeted, box, steps, restarts,
    params, state, x, y, epsilon, step_size, key,
):  # fmt: skip
    epsilon, step_size = jnp.asarray(epsilon, x.dtype), jnp.asarray(step_size, x.dtype)
    sign = -1 if targeted else 1

    def look(x_adv, best):
        """Rate x_adv, keep it where it beats `best`; return its gradient too."""
        values, dx, pred = loss_and_gradient(net, loss, params, state, x_adv, y)
        hit = pred.argmax(-1) == y
        fooled, score = hit if targeted else ~hit, sign * values
        best_x, best_fooled, best_score = best
        better = (fooled & ~best_fooled) | (
            (fooled == best_fooled) & (score > best_score)
        )
        return dx, (
            jnp.where(per_image(better, x), x_adv, best_x),
            best_fooled | fooled,
            jnp.where(better, score, best_score),
        )

    def walk(best, start_key):
        x_adv = x if key is None else _random_start(start_key, x, epsilon, norm, box)

        def body(carry, _):
            x_adv, best = carry
            dx, best = look(x_adv, best)
            x_adv = x_adv + sign * step_size * ascent_direction(dx, norm)
            return (project(x_adv, x, epsilon, norm, box), best), None

        (x_adv, best), _ = lax.scan(body, (x_adv, best), length=steps)
        _, best = look(x_adv, best)
        return best, None

    nothing = jnp.zeros(len(x), bool), jnp.full(len(x), -jnp.inf)
    _, best = look(x, (x, *nothing))
    keys = None if key is None else jax.random.split(key, restarts)
    (best_x, _, _), _ = lax.scan(walk, best, keys, length=restarts)
    return best_x


def _random_start(key, x, epsilon, norm, box):
    """A point drawn evenly from the budget around x, then clipped to the box."""
    if norm == "linf":
        noise = jax.random.uniform(key, x.shape, x.dtype, -1, 1)
        return project(x + epsilon * noise, x, epsilon, norm, box)
    key_direction, key_radius = jax.random.split(key)
    noise = jax.random.normal(key_direction, x.shape, x.dtype)
    radius = jax.random.uniform(key_radius, x.shape[:1], x.dtype)
    radius = radius ** (1 / (x.size // len(x)))  # even over the ball, not the radius
    unit = noise / per_image(l2_norm(noise), noise)
    return project(x + epsilon * per_image(radius, x) * unit, x, epsilon, norm, box)


def _check_epsilon(attack, epsilon):
    if not isinstance(epsilon, jax.core.Tracer) and epsilon < 0:
        raise JaxnnError(f"{attack}: got epsilon {epsilon}, expected >= 0")
