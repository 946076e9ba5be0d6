"""Robustness measured honestly: worst case per image, with the attack's own checks."""

from jaxnn.attacks.classifier import Classifier
from jaxnn.robustness import certify, smoothing
from jaxnn.robustness.context import Check
from jaxnn.robustness.evaluate import Evaluation, evaluate
from jaxnn.robustness.masking import layer_gradients, swap_backward
from jaxnn.robustness.threat import Proportion, Threat
from jaxnn.robustness.transfer import Transfer, transfer_matrix
from jaxnn.robustness.worst import WorstCase, under, worst_case

__all__ = [
    "Check", "Classifier", "Evaluation", "Proportion", "Threat", "Transfer",
    "WorstCase", "certify", "evaluate", "layer_gradients", "smoothing", "swap_backward",
    "transfer_matrix", "under", "worst_case",
]  # fmt: skip
