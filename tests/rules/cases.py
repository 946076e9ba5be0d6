"""The table of what every rule is checked on, with references written another way.

The first case of each rule has default settings, and no cotangent of zeros.
"""

from tests.rules import (
    cases_attention,
    cases_conv,
    cases_elementwise,
    cases_linear,
    cases_norm,
    cases_recurrent,
    cases_reduce,
    cases_shape,
)
from tests.rules.common import Case

FAMILIES = (
    cases_elementwise, cases_linear, cases_conv, cases_reduce, cases_shape, cases_norm,
    cases_recurrent, cases_attention,
)  # fmt: skip
CASES: dict[str, list[Case]] = {k: v for f in FAMILIES for k, v in f.CASES.items()}
