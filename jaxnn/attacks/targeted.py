"""What is made of attacks: every target, every budget, the worst; and plain descent."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from jaxnn import programs
from jaxnn.attacks.arguments import as_images
from jaxnn.attacks.classifier import Classifier
from jaxnn.attacks.core import Best, Box, Goal, in_box, is_finite, margin, per_image
from jaxnn.errors import JaxnnError, require
from jaxnn.losses import Loss, quadratic


@partial(programs.jit, static_argnames=("loss", "steps", "box"))
def targeted_descent(
    model: Classifier, x: Array, goal: Array, *, reference: Array | None = None,
    proximity: float = 0.05, step_size: float = 1.0, steps: int = 100,
    loss: Loss = quadratic, box: Box = None,
) -> Array:  # fmt: skip
    """Plain gradient descent on the input until the network says `goal`.

    Minimizes loss(f(x), goal) + proximity / 2 * |x - reference|^2; no budget. From
    noise it makes pictures that the network takes for a digit; with `reference` the
    picture stays near a given image.

    Args:
      model: the network.
      x: where to start (B, ...), for example 0.5 + 0.3 * N(0, 1).
      goal: labels (B,) or outputs (B, N) to reach.
      reference: images to stay near, like x; None leaves that term out.
      proximity: weight of that term.
      step_size: learning rate of the descent.
      steps: how many.
      loss: with `reduction="none"`; `quadratic` as in the original, of a network that
        ends in a sigmoid.
      box: limits of a pixel; None as in the original.

    Returns:
      Of each path, like x, the last point that the network took for the goal; where
      there is none, its end.

    Raises:
      JaxnnError: shapes that differ, steps below 1.

    Source: "Tricking Neural Networks", ml.berkeley.edu/blog, 2018.
    """
    if len(x) != len(goal) or (reference is not None and reference.shape != x.shape):
        shape = None if reference is None else reference.shape
        raise JaxnnError(
            f"targeted_descent: got x {x.shape}, goal {goal.shape} and reference "
            f"{shape}, expected one goal an image and a reference of the shape of x"
        )
    require(steps >= 1, "targeted_descent", "steps", steps, ">= 1")
    near, size = (jnp.asarray(v, x.dtype) for v in (proximity, step_size))
    label = goal if goal.ndim == 1 else goal.argmax(-1)

    def last_reached(x_adv, kept, pred):
        reached = pred.argmax(-1) == label
        return jnp.where(per_image(reached, x), x_adv, kept[0]), kept[1] | reached

    def step(carry, _):
        x_adv, kept = carry
        _, dx, pred = model.value_and_gradient(x_adv, goal, loss)
        kept = last_reached(x_adv, kept, pred)
        if reference is not None:
            dx = dx + near * (x_adv - reference)
        moved = x_adv - size * dx
        moved = jnp.where(per_image(is_finite(moved), x), moved, x_adv)
        return (in_box(moved, box), kept), None

    start = (x, (x, jnp.zeros(len(x), bool)))
    (x_adv, kept), _ = lax.scan(step, start, length=steps)
    kept, reached = last_reached(x_adv, kept, model.logits(x_adv))
    return jnp.where(per_image(reached, x), kept, x_adv)


@programs.jit
def least_likely(model: Classifier, x: Array) -> Array:
    """The class (B,) that the network gives the smallest output: the hardest target.

    Use it as y with `targeted=True`. Source: Kurakin et al. 2017, arXiv 1607.02533.
    """
    return model.logits(x).argmin(-1).astype(jnp.int32)


def every_target(
    attack: Callable[..., Array], model: Classifier, x: Any, y: Any, *,
    classes: int, **options: Any,
) -> Array:  # fmt: skip
    """The worst of a targeted attack on each wrong class, image by image.

    Args:
      attack: one that takes `targeted`, such as `pgd`.
      model: the network.
      x: images (B, ...).
      y: true labels (B,).
      classes: how many classes there are.
      options: handed to the attack, epsilon and key among them.

    Returns:
      Attacked images like x; the attack's program is compiled once for all targets.
    """
    require(classes >= 2, "every_target", "classes", classes, "at least 2")
    x = as_images("every_target", x)
    goals = ((y + offset) % classes for offset in range(1, classes))
    found = (attack(model, x, goal, targeted=True, **options) for goal in goals)
    return _worst(model, y, x, found)


def worst_of(model: Classifier, y: Array, *candidates: Array) -> Array:
    """Of several attacks' images (B, ...) the worst for each image, never a mean.

    One that fools goes before one that does not, then the larger margin.
    """
    return _worst(model, y, candidates[0], candidates[1:])


def _worst(model, y, x, more):
    best = _keep_worst(model, Best.of_nothing(x), x, y)
    for x_adv in more:
        best = _keep_worst(model, best, x_adv, y)
    return best.x


@programs.jit
def _keep_worst(model, best, x_adv, y):
    return Goal(model, y, margin, False).rate(x_adv, best)


def sweep(
    attack: Callable[..., Array], model: Classifier, x: Any, y: Any, *,
    epsilons: Any, **options: Any,
) -> Array:  # fmt: skip
    """A fixed-budget attack at every budget of `epsilons` (E,): images (E, B, ...).

    The budget is an argument of the compiled program, so all budgets run the same one,
    one after another without waiting: entry e equals a single call, bit for bit.
    """
    return jnp.stack(
        [attack(model, x, y, epsilon=epsilon, **options) for epsilon in epsilons]
    )
