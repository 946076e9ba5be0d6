"""What defenses share: budgets that grow, signs of collapse, a layer that masks."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnn.errors import JaxnnError, require
from jaxnn.layers import Layer, bounded, constructor, monotone, pointwise
from jaxnn.programs import remembered
from jaxnn.rules import Rule
from jaxnn.train.step import Defense, standard_training

Epsilon = float | Callable[[Array], Array]
"""A budget in pixel units of [0, 1], or the budget of each step (see `ramp`)."""


@remembered
def ramp(epsilon: float, steps: int, start: float = 0.0) -> Callable[[Array], Array]:
    """A budget that grows evenly from `start` to `epsilon` in so many steps.

    From a large budget a fresh network learns to say one class always: every other
    answer is punished. Growing budgets keep it learning (Gowal et al. 2018).
    """
    if not (steps >= 1 and 0 <= start <= epsilon):
        raise JaxnnError(
            f"ramp: got epsilon={epsilon:g}, steps={steps}, start={start:g}; expected "
            "steps >= 1 and 0 <= start <= epsilon"
        )

    def at(step):
        share = jnp.minimum(step / steps, 1.0)
        return start + share * (epsilon - start)

    return at


def budget_at(epsilon: Epsilon, step: Array, dtype: Any) -> Array:
    """The budget of this step, in the images' type."""
    value = epsilon(step) if callable(epsilon) else epsilon
    return jnp.asarray(value, dtype)


def mixed(share: Any, one: Any, other: Any) -> Any:
    """`share` of one tree, the rest of the other."""
    return jax.tree.map(lambda a, b: share * a + (1 - share) * b, one, other)


def check_settings(name: str, epsilon: Epsilon, **counts: int) -> None:
    """Raise a `JaxnnError` for a budget that no float >= 0 holds, or counts below 1."""
    for what, count in counts.items():
        require(count >= 1, name, what, count, ">= 1")
    if not callable(epsilon):
        least = float(jnp.finfo(jax.dtypes.canonicalize_dtype(float)).tiny)
        fits = epsilon == 0 or epsilon >= least
        require(fits, name, "epsilon", epsilon, f"0 or epsilon >= {least:.2g}")


class Collapse(NamedTuple):
    """What went wrong."""

    kind: str  # "not finite", "one class" or "catastrophic overfitting"
    # share of outputs that are not finite; share of the class said most; or how far
    # one step overstates accuracy
    number: float
    message: str  # what was seen and what to do


def find_collapse(
    outputs: Any, y: Any, *, defense: Defense = standard_training,
    one_step: float | None = None, many_steps: float | None = None,
    names: Sequence[str] = (),
) -> Collapse | None:  # fmt: skip
    """The collapse that outputs (N, classes) for labels y (N,) show, or None.

    Not finite: an output is NaN or infinite. One class: more than half of all answers,
    and twice what the labels have, are one class. Catastrophic overfitting (Wong et
    al. 2020): training on a single step hides the gradient from that step, so accuracy
    under one step is at least 0.3 above that under many, of which less than 0.1 is
    left. In any other network such a gap only says that one step is a weak attack.

    Args:
      outputs: of the network on clean images, or predicted labels (N,); of a single
        output (N, 1) above 0 says yes.
      y: labels.
      defense: what the network was trained with.
      one_step: accuracy under FGSM, within a budget that it was trained for.
      many_steps: accuracy under PGD of the same budget.
      names: of the classes, where they are not their numbers.
    """
    outputs, y = np.asarray(outputs), np.asarray(y)
    if len(outputs) != len(y) or not len(y):
        raise JaxnnError(
            f"find_collapse: got {len(outputs)} outputs and {len(y)} labels, expected "
            "as many, at least one"
        )
    bad = ~np.isfinite(outputs.reshape(len(y), -1)).all(-1)
    if bad.any():
        return Collapse(
            "not finite", float(bad.mean()),
            f"the outputs for {bad.sum():,} of {len(y):,} images are NaN or infinite: "
            "no answer; lower the learning rate, and see jaxnn.guard",
        )  # fmt: skip
    if outputs.ndim > 1 and outputs.shape[-1] == 1:
        answers, y = outputs[:, 0] > 0, y > 0  # no is 0, for hinge also -1
    else:
        answers = outputs.argmax(-1) if outputs.ndim > 1 else outputs
    classes, counts = np.unique(answers, return_counts=True)
    most, share = classes[counts.argmax()], float(counts.max() / len(y))
    expected = float((y == most).mean())
    if share > max(0.5, 2 * expected):
        name = names[int(most)] if names else int(most)
        return Collapse(
            "one class", share,
            f"{100 * share:.0f}% of the answers are class {name}, which "
            f"{100 * expected:.0f}% of the images are: {_why_one(outputs, defense)}",
        )  # fmt: skip
    if defense.attack_steps != 1 or one_step is None or many_steps is None:
        return None
    gap = one_step - many_steps
    if gap < 0.3 or many_steps >= 0.1:
        return None
    return Collapse(
        "catastrophic overfitting", gap,
        f"{100 * one_step:.0f}% stand one step, {100 * many_steps:.0f}% many: the "
        "network hides its gradient from the step it was trained on; use a smaller "
        "step size, fewer epochs or pgd",
    )  # fmt: skip


def _why_one(outputs, defense) -> str:
    """Why a network says one class always, and what to do."""
    if defense.attack_steps is not None:
        return (
            "the budget was too large from the start; let it grow (ramp, "
            "--epsilon-ramp 0.5) or lower the learning rate"
        )
    spread = np.ptp(outputs, axis=0) if outputs.ndim > 1 else np.inf
    if np.all(spread <= 1e-6 * np.abs(outputs).max()):
        return (
            "every image gets the same outputs, so nothing of it reaches them; start "
            "from other weights (units that begin equal, as with zeros, stay so), or "
            "lower the learning rate: all units may have died"
        )
    return "the network has not learned to tell classes; change the learning rate"


@constructor
def binarize(threshold: float = 0.5) -> Layer:
    """y = 1 where x > threshold, else 0: the first layer, in front of `standardize`.

    Its derivative is 0, and so is dx: an attack that follows it stands still, which is
    a masked gradient and not robustness. `jaxnn.robustness` says so (K10, K20) and
    attacks through it as if it were the identity (`swap_backward`). NaN stays NaN.

    Source: Xu, Evans, Qi 2018, arXiv 1704.01155 (feature squeezing).
    """
    inside = 0 <= threshold < 1
    require(inside, "binarize", "threshold", threshold, "0 <= threshold < 1")

    def fwd(x):
        return jnp.where(jnp.isnan(x), x, (x > threshold).astype(x.dtype)), ()

    def bwd(_, dy):
        return (jnp.zeros_like(dy),)

    name = f"binarize({threshold:g})"
    return bounded(pointwise(Rule("binarize", fwd, bwd), name), monotone)
