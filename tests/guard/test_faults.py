"""Forty faults in all kinds of layers: step, place, operation and sample are named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.fault_cases import BATCH, CASES, HEALTHY, ROWS, dataset
from experiments.guard_faults import expected_step, judge
from jaxnn.guard import locate_nonfinite
from jaxnn.train import batch_order, make_step

KEY = jax.random.key(0)
FEW = {
    "forward: conv, 1 / 0",
    "forward: LSTM, log of 0",
    "forward: attention row all masked",
    "forward: scanned and recomputed, exp",
    "backward: batch norm, rsqrt of 0",
    "backward: a user's rule, 0 / 0",
    "backward: attack in the step, NaN",
    "projection: 0 / 0",
}


def located(case):
    """What is found in the step with the fault, reached step by step."""
    x, y = dataset(case)
    step = make_step(case.net, case.loss, case.optimizer, **case.options)
    ts = jax.jit(lambda key: step.start((BATCH, *x.shape[1:]), key))(KEY)
    epoch, number = expected_step(case)
    batches = batch_order(ROWS, BATCH, epoch)
    if case.row is None:  # else parameters do not matter
        for rows in batches[: number - 1]:
            ts, _ = jax.jit(step)(ts, x[rows], y[rows], KEY)
    rows = batches[number - 1]
    given = ts, jnp.asarray(x[rows]), jnp.asarray(y[rows]), KEY
    return locate_nonfinite(step, *given, epoch=epoch, number=number, rows=rows)


@pytest.mark.parametrize(
    "name",
    [n if n in FEW else pytest.param(n, marks=pytest.mark.slow) for n in CASES],
)
def test_a_fault_is_named(name):
    with jax.numpy_rank_promotion("allow"):  # the faults are a user's own code
        case = CASES[name]()
        verdict = judge(case, located(case))
    assert verdict.step
    assert verdict.place, verdict.told
    assert verdict.op, verdict.told
    assert verdict.sample, verdict.told
    assert verdict.agree


@pytest.mark.slow
@pytest.mark.parametrize("name", HEALTHY)
def test_nothing_is_found_in_a_sound_step(name):
    with jax.numpy_rank_promotion("allow"):
        case = HEALTHY[name]()
        assert located(case) is None


def test_there_are_twenty_forward_fourteen_backward_and_six_others():
    names = list(CASES)
    forward = sum(n.startswith("forward") for n in names)
    backward = sum(n.startswith("backward") for n in names)
    assert (forward, backward, len(names) - forward - backward) == (20, 14, 6)
    assert np.unique(names).size == 40
