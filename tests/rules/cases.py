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

CASES: dict[str, list[Case]] = {
    **cases_elementwise.CASES,
    **cases_linear.CASES,
    **cases_conv.CASES,
    **cases_reduce.CASES,
    **cases_shape.CASES,
    **cases_norm.CASES,
    **cases_recurrent.CASES,
    **cases_attention.CASES,
}
