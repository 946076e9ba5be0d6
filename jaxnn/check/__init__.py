"""Checking gradients: by hand against automatic."""

from jaxnn.check.compare import compare_gradients
from jaxnn.check.findings import Check, Finding
from jaxnn.check.measure import LIMITS, LeafComparison
from jaxnn.check.report import GradientReport

__all__ = [
    "LIMITS",
    "Check",
    "Finding",
    "GradientReport",
    "LeafComparison",
    "compare_gradients",
]
