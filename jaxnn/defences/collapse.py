"""Has adversarial training collapsed? Two ways it does, both easily overlooked."""

from typing import Any, NamedTuple

import numpy as np

from jaxnn.errors import JaxnnError


class Collapse(NamedTuple):
    """What went wrong.

    Attributes:
      kind: "one class" or "catastrophic overfitting".
      number: share of the class said most; or how far one step overstates accuracy.
      words: what was seen and what to do.
    """

    kind: str
    number: float
    words: str


def find_collapse(
    outputs: Any,
    y: Any,
    *,
    one_step: float | None = None,
    many_steps: float | None = None,
) -> Collapse | None:
    """The collapse that outputs (N, classes) for labels y (N,) show, or None.

    One class: more than half of all answers, and twice what the labels have, are one
    class. Catastrophic overfitting (Wong et al. 2020): accuracy under one step is at
    least 0.3 above that under many, of which less than 0.1 is left; it needs both.

    Args:
      outputs: of the network on clean images, or predicted labels (N,).
      y: labels.
      one_step: accuracy under FGSM.
      many_steps: accuracy under PGD of the same budget.
    """
    outputs, y = np.asarray(outputs), np.asarray(y)
    if len(outputs) != len(y) or not len(y):
        raise JaxnnError(
            f"find_collapse: got {len(outputs)} outputs and {len(y)} labels, expected "
            "as many, at least one"
        )
    said = outputs.argmax(-1) if outputs.ndim > 1 else outputs
    classes, counts = np.unique(said, return_counts=True)
    most, share = classes[counts.argmax()], float(counts.max() / len(y))
    due = float((y == most).mean())
    if share > max(0.5, 2 * due):
        return Collapse(
            "one class", share,
            f"{100 * share:.0f}% of the answers are class {most}, which "
            f"{100 * due:.0f}% of the images are: the budget was too large from the "
            "start; let it grow (ramp, --epsilon-ramp 0.5) or lower the learning rate",
        )  # fmt: skip
    if one_step is None or many_steps is None:
        return None
    gap = one_step - many_steps
    if gap >= 0.3 and many_steps < 0.1:
        return Collapse(
            "catastrophic overfitting", gap,
            f"{100 * one_step:.0f}% stand one step, {100 * many_steps:.0f}% many: the "
            "network hides its gradient from the step it was trained on; use a smaller "
            "step size, fewer epochs or pgd",
        )  # fmt: skip
    return None
