"""Attacks with a fixed budget that follow the input gradient."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxnn.attacks.classifier import Classifier
from jaxnn.attacks.core import (
    Best,
    Box,
    budget,
    is_finite,
    is_fooled,
    per_image,
)
from jaxnn.attacks.driver import attack
from jaxnn.attacks.early import pgd_until_fooled
from jaxnn.attacks.moves import l1_norm, move, random_start
from jaxnn.errors import JaxnnError
from jaxnn.losses import Loss, softmax_cross_entropy


@attack()
def fgsm(
    model: Classifier,
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
      model: the network; its first layer does any normalisation.
      x: images (B, ...), float in [0, 1].
      y: true labels (B,); with `targeted` the labels to reach.
      epsilon: budget in pixel units of [0, 1], one number or one an image (B,);
        traced, so a sweep compiles once.
      norm: "linf" (sign of the gradient), "l2" (gradient over its 2-norm) or "l1".
      loss: with `reduction="none"`; raised, or lowered if `targeted`.
      targeted: whether y is the class to reach.
      box: limits of a pixel; None does not clip (Goodfellow's original).

    Returns:
      Attacked images like x, within `epsilon` and the box; x itself if epsilon is 0,
      or where the gradient is NaN.

    Raises:
      JaxnnError: unknown norm or setting, uint8 images, pixels outside the box, labels
        that are none, lengths that differ, epsilon below 0 or wider than the box.

    Source: Goodfellow, Shlens, Szegedy 2015, arXiv 1412.6572.
    """
    epsilon = budget(epsilon, x)
    _, dx, _ = model.value_and_gradient(x, y, loss)
    sign = -1 if targeted else 1
    x_adv = move(x, x, dx, epsilon, epsilon, sign, norm, box)
    return jnp.where(per_image(is_finite(x_adv), x), x_adv, x)


def _one_start_needs_no_key(settings, x):
    del x
    if settings["restarts"] > 1 and settings["key"] is None:
        raise JaxnnError(
            f"pgd: {settings['restarts']} restarts from the same point are one; pass "
            "key="
        )


@attack(check=_one_start_needs_no_key)
def pgd(
    model: Classifier,
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
    early_stop: bool = False,
    slots: int = 256,
) -> Array:
    """Projected gradient descent: `steps` small steps, projected after each one.

    Of all points seen (x itself, the FGSM point, every iterate of every restart) each
    image keeps its best: one that fools the network before one that does not, then the
    higher loss. So it is never weaker than `fgsm` of the same budget and loss.

    Args:
      model: the network; its first layer does any normalisation.
      x: images (B, ...), float in [0, 1].
      y: true labels (B,); with `targeted` the labels to reach.
      epsilon: budget in pixel units of [0, 1], one number or one an image (B,);
        traced, so a sweep compiles once.
      steps: gradient steps of each restart.
      step_size: length of a step; None is 2.5 * epsilon / steps, in l1 at least
        epsilon / 5.
      norm: "linf", "l2" or "l1".
      key: random starts within the budget are drawn from it; None starts at x.
      restarts: number of starts; more than one needs a key.
      loss: with `reduction="none"`; raised, or lowered if `targeted`.
      targeted: whether y is the class to reach.
      box: limits of a pixel, None for none.
      early_stop: leave an image alone at the first point that fools, and take up the
        next one: the same images are fooled in a fraction of the steps, if many are.
        Give it all images in one call. Images never fooled end at their last point.
      slots: with `early_stop`, images under way at once; large nets on a GPU like more.

    Returns:
      Attacked images like x, within `epsilon` and the box; x itself if epsilon is 0.

    Raises:
      JaxnnError: as `fgsm`; steps, restarts or slots below 1, restarts without a key.

    Source: Madry et al. 2018, arXiv 1706.06083.
    """
    if step_size is None:
        # an l1 step moves 1% of the pixels: it must be long to use them all
        share = max(2.5 / steps, 0.2) if norm == "l1" else 2.5 / steps
        step_size = share * jnp.asarray(epsilon)
    if early_stop:
        keys = None if key is None else jax.random.split(key, restarts)
        options = (loss, norm, targeted, box, steps, slots)
        return pgd_until_fooled(model, x, y, *options, epsilon, step_size, keys)
    options = (loss, norm, targeted, box, steps, restarts, None)
    return _iterate(model, x, y, *options, epsilon, step_size, key)


@attack()
def bim(
    model: Classifier,
    x: Array,
    y: Array,
    *,
    epsilon: Any,
    steps: int = 10,
    step_size: Any = None,
    norm: str = "linf",
    loss: Loss = softmax_cross_entropy,
    targeted: bool = False,
    box: Box = (0.0, 1.0),
) -> Array:
    """Basic iterative method: `pgd` from x itself, without randomness.

    Arguments as in `pgd`; None as `step_size` is 2 * epsilon / steps.

    Source: Kurakin, Goodfellow, Bengio 2017, arXiv 1607.02533.
    """
    if step_size is None:
        step_size = 2 * jnp.asarray(epsilon) / steps
    options = (loss, norm, targeted, box, steps, 1, None)
    return _iterate(model, x, y, *options, epsilon, step_size, None)


@attack()
def mifgsm(
    model: Classifier,
    x: Array,
    y: Array,
    *,
    epsilon: Any,
    steps: int = 10,
    step_size: Any = None,
    decay: float = 1.0,
    norm: str = "linf",
    loss: Loss = softmax_cross_entropy,
    targeted: bool = False,
    box: Box = (0.0, 1.0),
) -> Array:
    """Momentum iterative FGSM: steps along a running sum of normalised gradients.

    g <- decay * g + gradient / |gradient|_1; the other arguments as in `pgd`; None as
    `step_size` is epsilon / steps. Its examples transfer better than those of `bim`.

    Source: Dong et al. 2018, arXiv 1710.06081.
    """
    if step_size is None:
        step_size = jnp.asarray(epsilon) / steps
    options = (loss, norm, targeted, box, steps, 1, decay)
    return _iterate(model, x, y, *options, epsilon, step_size, None)


def _iterate(
    model, x, y, loss, norm, targeted, box, steps, restarts, decay,
    epsilon, step_size, key,
):  # fmt: skip
    epsilon, step_size = budget(epsilon, x), budget(step_size, x)
    sign = -1 if targeted else 1

    def look(x_adv, best):
        """Rate x_adv and keep it where it is the best; return its gradient too."""
        values, dx, pred = model.value_and_gradient(x_adv, y, loss)
        return dx, best.with_point(x_adv, is_fooled(pred, y, targeted), sign * values)

    def step(x_adv, gradient, size):
        return move(x_adv, x, gradient, size, epsilon, sign, norm, box)

    def walk(best, start_key):
        x_adv = x if key is None else random_start(start_key, x, epsilon, norm, box)

        def body(carry, _):
            x_adv, momentum, best = carry
            dx, best = look(x_adv, best)
            if decay is not None:
                dx = momentum = decay * momentum + _unit_l1(dx)
            x_adv = step(x_adv, dx, step_size)
            return (x_adv, momentum, best), None

        momentum = None if decay is None else jnp.zeros_like(x)
        (x_adv, _, best), _ = lax.scan(body, (x_adv, momentum, best), length=steps)
        return look(x_adv, best)[1], None

    dx, best = look(x, Best.of_nothing(x))
    best = look(step(x, dx, epsilon), best)[1]  # FGSM's point
    keys = None if key is None else jax.random.split(key, restarts)
    best, _ = lax.scan(walk, best, keys, length=restarts)
    return best.x


def _unit_l1(gradient):
    size = per_image(l1_norm(gradient), gradient)
    return jnp.where(size > 0, gradient / jnp.where(size > 0, size, 1), 0)
