"""Correct networks raise no alarm, whatever they are made of and wherever they are."""

import hypothesis
import jax
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from jaxnn import compare_gradients
from tests.check.random_networks import cases, describe

CHUNKS, EACH = 20, 10  # 200 networks
QUIET = [
    HealthCheck.too_slow,
    HealthCheck.data_too_large,
    HealthCheck.large_base_example,
]


def assert_quiet(case):
    report = compare_gradients(
        case.net, case.loss, case.params, case.state, case.x, case.y,
        key=jax.random.key(5), train=case.train, penalty=case.penalty,
        dtypes=case.dtypes,
    )  # fmt: skip
    # too large for the precision: then neither right nor wrong, and said so
    quiet = report.passed or (report.not_finite and not report.findings)
    assert quiet, f"{describe(case)}\n{report.table()}"
    jax.clear_caches()  # every network is compiled once only


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_correct_networks_raise_no_alarm(chunk):
    @hypothesis.seed(chunk)
    @settings(
        max_examples=EACH, database=None, phases=[Phase.generate],
        suppress_health_check=QUIET,
    )  # fmt: skip
    @given(cases())
    def check(case):
        assert_quiet(case)

    check()
