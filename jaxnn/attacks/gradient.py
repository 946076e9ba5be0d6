"""Attacks that follow the input gradient."""

from typing import Any, NamedTuple

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
    is_finite,
    l1_norm,
    per_image,
)
from jaxnn.attacks.driver import attack
from jaxnn.attacks.early_stop import pgd_until_fooled
from jaxnn.errors import JaxnnError
from jaxnn.losses import Loss, softmax_cross_entropy


@attack()
def fgsm(
    model: Classifier, x: Any, y: Any, *, epsilon: Any, norm: str = "linf",
    loss: Loss = softmax_cross_entropy, targeted: bool = False, box: Box = (0.0, 1.0),
) -> Array:  # fmt: skip
    """Fast gradient sign method: one step of size `epsilon` up the loss, one program.

    Args:
      model: the network; its first layer does any normalization.
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
      JaxnnError: unknown norm or setting, no images, uint8 images, pixels outside the
        box, labels that are none, lengths that differ, epsilon below 0, lost in a float
        or wider than the box, a model without gradients.

    Source: Goodfellow, Shlens, Szegedy 2015, arXiv 1412.6572.
    """
    ball = Ball.around(x, epsilon, norm, box)
    _, dx, _ = Goal(model, y, loss, targeted).value_and_gradient(x)
    x_adv = ball.move(x, dx, ball.epsilon)
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
    model: Classifier, x: Any, y: Any, *, epsilon: Any, steps: int = 40,
    step_size: Any = None, norm: str = "linf", key: Array | None = None,
    restarts: int = 1, loss: Loss = softmax_cross_entropy, targeted: bool = False,
    box: Box = (0.0, 1.0), early_stop: bool = False, lanes: int = 256,
) -> Array:  # fmt: skip
    """Projected gradient descent: `steps` small steps, projected after each one.

    Of all points seen (x itself, the FGSM point, every iterate of every restart) each
    image keeps its best: one that fools the network before one that does not, then the
    higher loss. So it is never weaker than `fgsm` of the same budget and loss.

    Args:
      model, x, y, epsilon, norm, loss, targeted, box: as in `fgsm`.
      steps: gradient steps of each restart.
      step_size: length of a step; None is 2.5 * epsilon / steps, in l1 at least
        epsilon / 5.
      key: random starts within the budget are drawn from it; None starts at x.
      restarts: number of starts; more than one needs a key.
      early_stop: leave an image alone at the first point that fools, and take up the
        next one: the same images are fooled in a fraction of the steps, if many are.
        Give it all images in one call. Images never fooled end at their last point.
      lanes: with `early_stop`, images under way at once; large nets on a GPU like more.

    Returns:
      Attacked images like x, within `epsilon` and the box; x itself if epsilon is 0.

    Raises:
      JaxnnError: as `fgsm`; steps, restarts or lanes below 1, restarts without a key.

    Source: Madry et al. 2018, arXiv 1706.06083.
    """
    if step_size is None:
        # an l1 step moves 1% of the pixels: it must be long to use them all
        share = max(2.5 / steps, 0.2) if norm == "l1" else 2.5 / steps
        step_size = share * jnp.asarray(epsilon)
    goal, ball = Goal(model, y, loss, targeted), Ball.around(x, epsilon, norm, box)
    keys = None if key is None else jax.random.split(key, restarts)
    if early_stop:
        return pgd_until_fooled(goal, ball, step_size, steps, keys, lanes)
    return _iterate(goal, ball, step_size, steps, keys, restarts)


@attack()
def bim(
    model: Classifier, x: Any, y: Any, *, epsilon: Any, steps: int = 10,
    step_size: Any = None, norm: str = "linf", loss: Loss = softmax_cross_entropy,
    targeted: bool = False, box: Box = (0.0, 1.0),
) -> Array:  # fmt: skip
    """Basic iterative method: `pgd` from x itself, without randomness.

    Arguments as in `pgd`; None as `step_size` is 2 * epsilon / steps.

    Source: Kurakin, Goodfellow, Bengio 2017, arXiv 1607.02533.
    """
    if step_size is None:
        step_size = 2 * jnp.asarray(epsilon) / steps
    goal, ball = Goal(model, y, loss, targeted), Ball.around(x, epsilon, norm, box)
    return _iterate(goal, ball, step_size, steps)


@attack()
def mifgsm(
    model: Classifier, x: Any, y: Any, *, epsilon: Any, steps: int = 10,
    step_size: Any = None, decay: float = 1.0, norm: str = "linf",
    loss: Loss = softmax_cross_entropy, targeted: bool = False, box: Box = (0.0, 1.0),
) -> Array:  # fmt: skip
    """Momentum iterative FGSM: steps along a running sum of normalized gradients.

    g <- decay * g + gradient / |gradient|_1; the other arguments as in `pgd`; None as
    `step_size` is epsilon / steps. Its examples transfer better than those of `bim`.

    Source: Dong et al. 2018, arXiv 1710.06081.
    """
    if step_size is None:
        step_size = jnp.asarray(epsilon) / steps
    goal, ball = Goal(model, y, loss, targeted), Ball.around(x, epsilon, norm, box)
    return _iterate(goal, ball, step_size, steps, decay=decay)


def _iterate(goal, ball, step_size, steps, keys=None, restarts=1, decay=None):
    """The best of x, FGSM's point and `restarts` walks of so many steps."""
    x, step_size = ball.x, budget(step_size, ball.x)

    def step(carry, _):
        x_adv, momentum, best = carry
        _, dx, best = goal.climb(x_adv, best)
        if decay is not None:
            size = per_image(l1_norm(dx), dx)
            unit = jnp.where(size > 0, dx / jnp.where(size > 0, size, 1), 0)
            dx = momentum = decay * momentum + unit
        return (ball.move(x_adv, dx, step_size), momentum, best), None

    def walk(best, key):
        x_adv = x if key is None else ball.draw(key)
        momentum = None if decay is None else jnp.zeros_like(x)
        (x_adv, _, best), _ = lax.scan(step, (x_adv, momentum, best), length=steps)
        return goal.climb(x_adv, best)[2], None

    _, dx, best = goal.climb(x, Best.of_nothing(x))
    best = goal.climb(ball.move(x, dx, ball.epsilon), best)[2]
    return lax.scan(walk, best, keys, length=restarts)[0].x


MOMENTUM, SHARE = 0.75, 0.75  # the paper's alpha and rho of APGD


class _Point(NamedTuple):
    """Where the walk of APGD stood: each image's pixels, gradient and loss."""

    x: Array
    dx: Array
    value: Array


class _Walk(NamedTuple):
    """What APGD keeps from step to step."""

    now: _Point
    before: Array  # the pixels one step ago
    size: Array  # of a step, in units of epsilon (B,)
    top: _Point  # where this walk's loss was highest
    rises: Array  # steps that raised the loss since the last checkpoint (B,)
    last: tuple[Array, Array]  # step size and highest loss at that checkpoint


@attack(norms=("linf", "l2"))
def apgd(
    model: Classifier, x: Any, y: Any, *, epsilon: Any, key: Array,
    steps: int = 100, restarts: int = 1, norm: str = "linf",
    loss: Loss = softmax_cross_entropy, targeted: bool = False, box: Box = (0.0, 1.0),
) -> Array:  # fmt: skip
    """Auto-PGD: momentum, and a step halved for each image when it stops helping.

    Starts with steps of 2 * epsilon. At checkpoints that come closer and closer, an
    image whose loss rose in fewer than 75% of the steps, or whose best loss and step
    have not changed since the last checkpoint, goes back to its best point with half
    the step. `loss` is softmax cross-entropy or `jaxnn.attacks.dlr`. Arguments as in
    `pgd`, in linf or l2; the start is always random.

    Returns:
      Of all points seen, x and FGSM's among them, each image's best, as `pgd`.

    Source: Croce, Hein 2020, arXiv 2003.01690, algorithm 1.
    """
    goal, ball = Goal(model, y, loss, targeted), Ball.around(x, epsilon, norm, box)
    since = jnp.zeros(steps + 1, jnp.int32)
    for at, length in _checkpoints(steps):
        since = since.at[at].set(length)

    def look(x_adv, best):
        value, dx, best = goal.climb(x_adv, best)
        return _Point(x_adv, dx, value), best

    def step(carry, t):
        w, best = carry
        length = per_image(w.size, x) * ball.epsilon
        z = ball.project(w.now.x + length * ascent_direction(w.now.dx, norm))
        x_now = w.now.x
        ahead = x_now + MOMENTUM * (z - x_now) + (1 - MOMENTUM) * (x_now - w.before)
        # the first step has no direction to keep
        new, best = look(ball.project(jnp.where(t == 1, z, ahead)), best)
        w = w._replace(
            now=new, before=x_now, rises=w.rises + (new.value > w.now.value),
            top=_choose(new.value > w.top.value, new, w.top),
        )  # fmt: skip
        return (_halved_if_stuck(w, since[t]), best), None

    def walk(best, start_key):
        start, best = look(ball.draw(start_key), best)
        size = jnp.full(len(x), 2.0, x.dtype)
        none = jnp.zeros(len(x), jnp.int32)
        w = _Walk(start, start.x, size, start, none, (size, start.value))
        return lax.scan(step, (w, best), jnp.arange(1, steps + 1))[0][1], None

    first, best = look(x, Best.of_nothing(x))
    at = ball.project(x + ball.epsilon * ascent_direction(first.dx, norm))
    best = look(at, best)[1]
    return lax.scan(walk, best, jax.random.split(key, restarts))[0].x


def _halved_if_stuck(w: _Walk, since: Array) -> _Walk:
    """At a checkpoint, `since` > 0 steps after the last: back to the top, if stuck."""
    check = since > 0
    stuck = (w.last[0] == w.size) & (w.last[1] == w.top.value)
    back = check & ((w.rises < SHARE * since) | stuck)
    every = jnp.full(len(back), check)
    now = _choose(back, w.top, w.now)
    return w._replace(
        now=now,
        before=jnp.where(per_image(back, now.x), now.x, w.before),
        size=jnp.where(back, w.size / 2, w.size),
        rises=jnp.where(check, 0, w.rises),
        last=_choose(every, (w.size, w.top.value), w.last),
    )


def _choose(mask: Array, yes: Any, no: Any) -> Any:
    """`yes` for the images of `mask` (B,), `no` for the others, array by array."""
    return jax.tree.map(lambda a, b: jnp.where(per_image(mask, a), a, b), yes, no)


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
