"""NaN guards: found at no cost, survived by policy, and the culprit named.

`jaxnn.train.policy` decides what becomes of a bad step. `repro` runs a call up to that
step again, `locate` looks into it in two ways: `backtrace` for the operation, `layers`
for the layer and direction. `causes` and `report` put it into words.
"""

from jaxnn.guard.locate import locate_in, locate_nonfinite
from jaxnn.guard.report import Finding
from jaxnn.train.policy import POLICIES

__all__ = ["POLICIES", "Finding", "locate_in", "locate_nonfinite"]
