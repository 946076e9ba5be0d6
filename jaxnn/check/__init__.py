"""Checking gradients: by hand against automatic."""

from jaxnn.check.compare import compare_gradients
from jaxnn.check.measure import LIMITS, LeafComparison
from jaxnn.check.report import Check, Finding, GradientReport

__all__ = [
    "LIMITS",
    "Check",
    "Finding",
    "GradientReport",
    "LeafComparison",
    "compare_gradients",
]
