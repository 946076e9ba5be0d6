"""Has training collapsed? What can go wrong unseen, by the kind of training."""

from typing import Any, NamedTuple

import numpy as np

from jaxnn.errors import JaxnnError
from jaxnn.train.defense import Defense, standard_training


class Collapse(NamedTuple):
    """What went wrong.

    Attributes:
      kind: "not finite", "one class" or "catastrophic overfitting".
      number: share of outputs that are not finite; share of the class said most; or
        how far one step overstates accuracy.
      words: what was seen and what to do.
    """

    kind: str
    number: float
    words: str


def find_collapse(
    outputs: Any,
    y: Any,
    *,
    defense: Defense = standard_training,
    one_step: float | None = None,
    many_steps: float | None = None,
) -> Collapse | None:
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
    found = _one_class(*_answers(outputs, y), defense)
    single = defense.attack_steps == 1
    if found or not single or one_step is None or many_steps is None:
        return found
    gap = one_step - many_steps
    if gap >= 0.3 and many_steps < 0.1:
        return Collapse(
            "catastrophic overfitting", gap,
            f"{100 * one_step:.0f}% stand one step, {100 * many_steps:.0f}% many: the "
            "network hides its gradient from the step it was trained on; use a smaller "
            "step size, fewer epochs or pgd",
        )  # fmt: skip
    return None


def _answers(outputs, y):
    """What was said and what is right, as labels of one kind."""
    if outputs.ndim > 1 and outputs.shape[-1] == 1:
        return outputs[:, 0] > 0, y > 0  # no is 0, for hinge also -1
    return outputs.argmax(-1) if outputs.ndim > 1 else outputs, y


def _one_class(said, y, defense):
    classes, counts = np.unique(said, return_counts=True)
    most, share = classes[counts.argmax()], float(counts.max() / len(y))
    due = float((y == most).mean())
    if share <= max(0.5, 2 * due):
        return None
    why = (
        "the budget was too large from the start; let it grow (ramp, --epsilon-ramp "
        "0.5) or lower the learning rate"
    )
    if defense.attack_steps is None:
        why = "the network has not learnt to tell classes; change the learning rate"
    return Collapse(
        "one class", share,
        f"{100 * share:.0f}% of the answers are class {int(most)}, which "
        f"{100 * due:.0f}% of the images are: {why}",
    )  # fmt: skip
