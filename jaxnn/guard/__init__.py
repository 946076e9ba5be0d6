"""NaN guards: found at no cost, survived by policy, and the culprit named."""

from jaxnn.guard.locate import locate_in, locate_nonfinite
from jaxnn.guard.report import Finding
from jaxnn.train.policy import POLICIES

__all__ = ["POLICIES", "Finding", "locate_in", "locate_nonfinite"]
