"""Defenses in training, each with its gradients by hand: `fit(..., defense=pgd(0.1))`.

    core         budgets that grow, signs of collapse; `train.Defense` says what one is
    adversarial  fgsm_mix, fgsm_rs, pgd, trades, free: training on attacked images
    interval     bounds of the outputs over boxes of inputs
    ibp          training for those bounds

Noise on the images is an augmentation: `jaxnn.regularize.input_noise`, `uniform_noise`,
`sign_noise`. `jaxnn.robustness` measures certificates.
"""

from jaxnn.defenses.adversarial import fgsm_mix, fgsm_rs, free, pgd, trades
from jaxnn.defenses.core import Collapse, binarize, find_collapse, ramp
from jaxnn.defenses.ibp import ibp

__all__ = [
    "Collapse", "binarize", "fgsm_mix", "fgsm_rs", "find_collapse", "free", "ibp",
    "pgd", "ramp", "trades",
]  # fmt: skip
