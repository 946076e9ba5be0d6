"""Faults in all kinds of layers: step, place, operation and sample are named."""

import re

import jax
import jax.numpy as jnp
import pytest

from experiments.fault_cases import BATCH, CASES, HEALTHY, ROWS, dataset
from experiments.guard_faults import expected_step, judge
from jaxnn.guard import locate_nonfinite
from jaxnn.train import batch_order, make_step
from tests.guard.cases import FRESH, SOUND, WORDS, of_noise, sometimes

KEY = jax.random.key(0)
FAULTS = CASES | FRESH
FEW = {
    "forward: conv, 1 / 0",
    "forward: LSTM, log of 0",
    "forward: attention row all masked",
    "forward: scanned and recomputed, exp",
    "backward: batch norm, rsqrt of 0",
    "backward: a user's rule, 0 / 0",
    "backward: attack in the step, NaN",
    "projection: 0 / 0",
    "custom_vjp in a stack",
    "where of a root",
    "arccos at 1",
    "augmentation: a constant row",
    "mixup: log of 0",
    "weight noise: inf",
    "product that overflows",
    "residual within remat, back",
    "loss: power of 0",
    "regularizer: root of 0",
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
    [n if n in FEW else pytest.param(n, marks=pytest.mark.slow) for n in FAULTS],
)
def test_a_fault_is_named(name):
    with jax.numpy_rank_promotion("allow"):  # the faults are a user's own code
        case = FAULTS[name]()
        found = located(case)
    verdict = judge(case, found)
    assert verdict.step
    assert verdict.place, verdict.told
    assert verdict.op, verdict.told
    assert verdict.sample, verdict.told
    assert verdict.agree
    assert re.search(WORDS.get(name, ""), found.cause)


@pytest.mark.slow
@pytest.mark.parametrize("name", HEALTHY | SOUND)
def test_nothing_is_found_in_a_sound_step(name):
    with jax.numpy_rank_promotion("allow"):
        assert located((HEALTHY | SOUND)[name]()) is None


def test_a_layers_own_noise_accuses_no_row_and_says_what_the_experiment_told():
    found = located(of_noise(sometimes))
    assert (found.samples, found.experiment) == ([], "chance")
    assert "with other random numbers the step is sound" in "\n".join(found.lines())
    found = located(FRESH["a place in the batch"]())
    assert (found.samples, found.experiment) == ([], "bad")
    words = "\n".join(found.lines())
    assert "the step is bad without those that look bad too" in words
    assert "sound without" not in words
