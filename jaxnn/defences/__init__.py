"""Defences in training, each with its gradients by hand: `fit(..., defense=pgd(0.1))`.

    core         budgets that grow; `jaxnn.train.defense` has what a defense is
    adversarial  fgsm_mix, fgsm_rs, pgd, trades, free: training on attacked images
    interval     bounds of the outputs over boxes of inputs
    certified    ibp: training for those bounds
    binarise     a layer that makes pixels black or white
    collapse     has it gone wrong?

Noise on the images is an augmentation: `jaxnn.regularize.input_noise` (Gaussian, with a
shift of the mean if wanted), `uniform_noise`, `sign_noise`. Certificates are measured
by `jaxnn.robustness.smoothing` and `jaxnn.robustness.ibp`.
"""

from jaxnn.defences.adversarial import fgsm_mix, fgsm_rs, free, pgd, trades
from jaxnn.defences.binarise import binarise
from jaxnn.defences.certified import ibp
from jaxnn.defences.collapse import Collapse, find_collapse
from jaxnn.defences.core import ramp

__all__ = [
    "Collapse",
    "binarise",
    "fgsm_mix",
    "fgsm_rs",
    "find_collapse",
    "free",
    "ibp",
    "pgd",
    "ramp",
    "trades",
]
