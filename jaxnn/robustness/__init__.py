"""Robustness measured honestly: worst case per image, with the attack's own checks."""

from jaxnn.robustness.evaluate import Evaluation, evaluate
from jaxnn.robustness.evidence import Check
from jaxnn.robustness.masking import layer_gradients, swap_backward
from jaxnn.robustness.threat import Share, Threat

__all__ = [
    "Check",
    "Evaluation",
    "Share",
    "Threat",
    "evaluate",
    "layer_gradients",
    "swap_backward",
]
