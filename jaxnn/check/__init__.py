"""Checking gradients: by hand against automatic.

`compare` takes both gradients of a whole network. `recorder` notes what each layer was
given, gave back and should have. `audit` judges each layer alone, also at `points`
where nothing is 0 or 1 by chance, by the `tolerance` of its precision. `diagnose` says
why it is wrong: from the numbers, or since `mutants` of the forward are wrong in the
same way, or `repairs` of the backward make it right. `adapters` make layers of what is
none, `user_code` and `numpy_pair` of what stands in your file. `methods` and
`measurements` fill the rest of the page that `report` writes.
"""

from jaxnn.check.compare import compare_gradients
from jaxnn.check.measurements import PrecisionError, compare_precision
from jaxnn.check.report import Check, Finding, GradientReport
from jaxnn.check.tolerance import LIMITS, LeafComparison

__all__ = [
    "LIMITS", "Check", "Finding", "GradientReport", "LeafComparison", "PrecisionError",
    "compare_gradients", "compare_precision",
]  # fmt: skip
