"""Checking gradients: by hand against automatic."""

from jaxnn.check.compare import compare_gradients
from jaxnn.check.precision import PrecisionError, compare_precision
from jaxnn.check.report import Check, Finding, GradientReport
from jaxnn.check.tolerance import LIMITS, LeafComparison

__all__ = [
    "LIMITS", "Check", "Finding", "GradientReport", "LeafComparison", "PrecisionError",
    "compare_gradients", "compare_precision",
]  # fmt: skip
