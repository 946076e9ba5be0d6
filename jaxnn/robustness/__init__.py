"""Robustness measured honestly: worst case per image, with the attack's own checks."""

from jaxnn.attacks.classifier import Classifier
from jaxnn.robustness import ibp, smoothing
from jaxnn.robustness.evaluate import Evaluation, evaluate
from jaxnn.robustness.evidence import Check
from jaxnn.robustness.lab import under
from jaxnn.robustness.masking import layer_gradients, swap_backward
from jaxnn.robustness.threat import Share, Threat
from jaxnn.robustness.transfer import Transfer, transfer_matrix
from jaxnn.robustness.worst import WorstCase, worst_case

__all__ = [
    "Check",
    "Classifier",
    "Evaluation",
    "Share",
    "Threat",
    "Transfer",
    "WorstCase",
    "evaluate",
    "ibp",
    "layer_gradients",
    "smoothing",
    "swap_backward",
    "transfer_matrix",
    "under",
    "worst_case",
]
