"""Adversarial attacks, each one compiled program over hand-written input gradients."""

from jaxnn.attacks.core import in_batches
from jaxnn.attacks.gradient import fgsm, pgd

__all__ = ["fgsm", "in_batches", "pgd"]
