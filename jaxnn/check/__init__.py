"""Checking gradients: by hand against automatic."""

from jaxnn.check.compare import (
    LIMITS,
    GradientReport,
    LeafComparison,
    compare_gradients,
)

__all__ = ["LIMITS", "GradientReport", "LeafComparison", "compare_gradients"]
