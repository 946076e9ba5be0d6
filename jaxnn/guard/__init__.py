"""NaN guards: found at no cost, survived by policy, and the culprit named."""

from jaxnn.guard.finding import Finding
from jaxnn.guard.function import locate_in
from jaxnn.guard.locate import locate_nonfinite
from jaxnn.train.policy import POLICIES

__all__ = ["POLICIES", "Finding", "locate_in", "locate_nonfinite"]
