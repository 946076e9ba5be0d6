"""Adversarial attacks, each one compiled program over hand-written input gradients.

Fixed budget (`epsilon`, in pixel units): fgsm, bim, pgd, mifgsm, apgd; square and spsa
see outputs only, and take a `black_box`; noise and corruptions are what any attack must
beat. Smallest perturbation (no budget): deepfool, ddn, carlini_wagner. Towards a goal:
targeted_descent, or `targeted=True`.

All take `(model, x, y, *, ...)`, model = `Classifier(net, params, state)`, and return
attacked images like x; `ATTACKS` has them by name, `@attack` makes one of a function.
"""

from jaxnn.attacks.baselines import corruptions, noise
from jaxnn.attacks.black_box import spsa, square
from jaxnn.attacks.classifier import Classifier, black_box
from jaxnn.attacks.core import distance, dlr, margin
from jaxnn.attacks.driver import ATTACKS, Attack, attack
from jaxnn.attacks.gradient import apgd, bim, fgsm, mifgsm, pgd
from jaxnn.attacks.minimal import carlini_wagner, ddn, deepfool
from jaxnn.attacks.targeted import (
    every_target,
    least_likely,
    sweep,
    targeted_descent,
    worst_of,
)

__all__ = [
    "ATTACKS", "Attack", "Classifier", "apgd", "attack", "bim", "black_box",
    "carlini_wagner", "corruptions", "ddn", "deepfool", "distance", "dlr",
    "every_target", "fgsm", "least_likely", "margin", "mifgsm", "noise", "pgd", "spsa",
    "square", "sweep", "targeted_descent", "worst_of",
]  # fmt: skip
