"""The worst case over the first attacks: one function for every command and report."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnn.attacks.classifier import Classifier, to_logits
from jaxnn.robustness.battery import first_three
from jaxnn.robustness.lab import Lab
from jaxnn.robustness.threat import Threat


class WorstCase(NamedTuple):
    """What some attacks leave of a network, each of them tried on all images.

    Attributes:
      clean: which images (N,) are classified right without an attack.
      right: attack -> which images it leaves right.
      x_adv: attack -> the images after it.
      not_attacked: right images whose gradient is NaN at the image itself, so that no
        attack could follow it.
    """

    clean: np.ndarray
    right: dict[str, np.ndarray]
    x_adv: dict[str, np.ndarray]
    not_attacked: np.ndarray

    @property
    def stands(self) -> np.ndarray:
        """Which images every attack leaves right; not attacked is not robust."""
        return np.all([*self.right.values(), self.clean, ~self.not_attacked], axis=0)


def worst_case(
    model: Classifier,
    x: Any,
    y: Any,
    *,
    threat: Threat,
    key: jax.Array,
    steps: int = 40,
    say: Callable[[str], None] | None = None,
) -> WorstCase:
    """Attack all images by FGSM, PGD on cross-entropy and PGD on the margin.

    Plain cross-entropy and margin, whatever the network was trained with. The commands
    `train`, `attack` and `robustness` and the experiments call this, or what it calls,
    with batches of one shape: the same attack, key and images give the same bits.

    Args:
      model: the network.
      x: images (N, ...), floats in the threat model's box.
      y: labels (N,).
      threat: what the attacker may do.
      key: of the random starts.
      steps: of PGD.
      say: called with a line after each attack.
    """
    x = np.asarray(x)
    model, y = to_logits(model, x, np.asarray(y))
    lab = Lab(model, threat, key)
    clean = lab.correct(x, y)
    dx = lab.gradient(x, y)[1].reshape(len(y), -1)
    right, x_adv = {}, {}
    for weapon in first_three(steps):
        found = lab.attack(weapon.attack, x, y, **weapon.options)
        right[weapon.name], x_adv[weapon.name] = lab.correct(found, y), found
        if say is not None:
            say(f"{weapon.name}: {right[weapon.name].sum():,} of {len(y):,} right")
    return WorstCase(clean, right, x_adv, clean & np.isnan(dx).any(-1))
