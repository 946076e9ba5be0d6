"""Bad steps: found, survived by policy, and the culprit named."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnn import mlp, serial
from jaxnn.errors import JaxnnError
from jaxnn.guard import POLICIES, locate_nonfinite
from jaxnn.guard.locate import scope_place
from jaxnn.layers import (
    Layer,
    batch_norm,
    dense,
    log_softmax,
    pointwise,
    relu,
    softplus,
)
from jaxnn.losses import nll, softmax_cross_entropy
from jaxnn.rules import Rule
from jaxnn.train import Snapshots, TrainingError, fit, make_step
from jaxnn.train.engine import batch_order, scan_steps
from jaxnn.train.policy import Guard
from jaxnn.train.state import init_state
from tests.train.problem import blobs

KEY = jax.random.key(0)
OPTIMIZER = optax.sgd(0.1)


def faulty(name, fwd=None, bwd=None):
    """The identity, but for what `fwd` does to x or `bwd` to dy."""
    return pointwise(
        Rule(
            name,
            lambda x: (x if fwd is None else fwd(x), ()),
            lambda _, dy: (dy if bwd is None else bwd(dy),),
        )
    )


NAIVE_LOG = pointwise(
    Rule("naive_log", lambda x: (jnp.log(x), x), lambda x, dy: (dy / x,))
)


def batch():
    x, y = blobs(16, 6, 3)
    return jnp.asarray(x), jnp.asarray(y)


def located(net, loss=softmax_cross_entropy, x=None, optimizer=OPTIMIZER, **options):
    a, y = batch()
    x = a if x is None else x
    step = make_step(net, loss, optimizer, **options)
    ts = init_state(net, optimizer, x.shape[1:], KEY)
    return locate_nonfinite(step, ts, x, y, KEY, rows=np.arange(100, 100 + len(x)))


def test_a_fault_is_named_with_its_place_operation_line_and_kind():
    inner = serial(dense(4), relu, faulty("fault", lambda x: jnp.log(x * 0)))
    found = located(serial(dense(5), inner, dense(3)))
    assert (found.part, found.layer) == ("forward", "1 serial(3 layers) > 2 fault")
    assert (found.op, found.minus_inf, found.nan) == ("log", 16 * 4, 0)
    assert "test_guard.py" in found.line
    assert found.agree
    assert "log of 0" in found.cause


def test_a_bad_sample_is_named_by_its_row_in_the_data():
    x, _ = batch()
    found = located(serial(dense(4), relu, dense(3)), x=x.at[5, 2].set(jnp.nan))
    assert found.part == "data"
    assert found.samples == [105]
    assert found.index == (5, 2)


def test_the_sample_that_leaves_a_functions_domain_is_named():
    x, _ = batch()
    x = jnp.abs(x).at[3].set(0.0).at[9].set(0.0)
    found = located(serial(NAIVE_LOG, dense(3)), x=x)
    assert (found.layer, found.op) == ("0 naive_log", "log")
    assert found.samples == [103, 109]


def test_a_sound_step_has_no_finding():
    net = serial(dense(5), batch_norm(), softplus, dense(3), log_softmax)
    assert located(net, nll) is None


def test_an_intended_mask_is_not_blamed_for_a_later_fault():
    def masked(x):
        return jax.nn.softmax(jnp.where(jnp.arange(5)[None] == 0, -jnp.inf, x))

    net = serial(dense(5), faulty("mask", masked, lambda dy: dy), NAIVE_LOG, dense(3))
    found = located(net)
    assert found.layer == "2 naive_log"


def test_scopes_are_read_as_places():
    scope = "fwd/1_mlp([4, 3])/fwd/3_dense(10)"
    assert scope_place(scope) == ("forward", "1 mlp([4, 3]) > 3 dense(10)")
    assert scope_place("bwd/0_relu/mul") == ("backward", "0 relu")
    assert scope_place("update") == ("update", "")
    assert scope_place("") == ("", "")


def data(bad=()):
    x, y = blobs(256, 6, 3)
    x = np.abs(x) + 0.1
    for row in bad:
        x[row] = 0.0
    return x, y


NET = serial(dense(6), relu, dense(3))
LOGS = serial(NAIVE_LOG, dense(3))
FIT = {"epochs": 2, "batch": 32, "optimizer": optax.adam(0.01)}


def test_skip_goes_on_and_says_what_it_left_out():
    found = fit(LOGS, data(bad=[17]), guard="skip", **FIT)
    assert found.stopped == "finished"
    assert sum(row["skipped"] for row in found.epochs) == 2
    assert found.findings[0].samples == [17]
    assert found.findings[0].op == "log"
    assert all(np.isfinite(a).all() for a in jax.tree.leaves(found.params))


def test_raise_ends_at_the_first_bad_step_with_the_report():
    with pytest.raises(TrainingError, match="naive_log") as caught:
        fit(LOGS, data(bad=[17]), guard="raise", **FIT)
    history = caught.value.history
    # what is kept is the state before that step: a run that skips from there on agrees
    skipped = fit(LOGS, data(bad=[17]), guard="skip", **FIT)
    assert history.findings[0].step == skipped.findings[0].step
    assert all(np.isfinite(a).all() for a in jax.tree.leaves(history.last.params))


def test_stop_ends_without_an_error():
    found = fit(LOGS, data(bad=[17]), guard="stop", **FIT)
    assert found.stopped == "guard"
    assert found.findings[0].samples == [17]


def test_off_takes_the_step():
    found = fit(LOGS, data(bad=[17]), guard="off", **FIT)
    assert any(np.isnan(a).any() for a in jax.tree.leaves(found.params))
    assert not found.findings


def test_halting_keeps_the_state_before_the_bad_step_bit_for_bit():
    x, y = data(bad=[40])  # in the second of eight batches, in order
    order = np.arange(256).reshape(8, 32)
    optimizer = optax.adam(0.01)
    halting, plain = (
        make_step(LOGS, softmax_cross_entropy, optimizer, guard=g)
        for g in ("halt", "skip")
    )

    @jax.jit
    def both(x, y):
        ts = init_state(LOGS, optimizer, (6,), KEY)
        return (scan_steps(halting, ts, x, y, order, KEY),
                scan_steps(plain, ts, x, y, order[:1], KEY))  # fmt: skip

    (after, metrics), (first, _) = both(jnp.asarray(x), jnp.asarray(y))
    assert metrics["ok"].tolist() == [True] + [False] * 7
    assert int(after.limit) == 1
    for a, b in zip(
        jax.tree.leaves((after.params, after.opt)),
        jax.tree.leaves((first.params, first.opt)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_a_bad_update_found_afterwards_is_undone_bit_for_bit():
    """The program of a run does not look at updates; one that does takes over.

    The schedule goes wrong at step 3: loss and gradient never see it.
    """
    optimizer = optax.sgd(lambda count: jnp.where(count == 3, jnp.nan, 0.1))
    x, y = data()
    found = fit(NET, (x, y), epochs=1, batch=32, optimizer=optimizer, max_bad_steps=9)
    step = make_step(NET, softmax_cross_entropy, optimizer)
    ts = init_state(NET, optimizer, (6,), KEY)
    for rows in batch_order(len(x), 32, 1):
        ts, _ = jax.jit(step)(ts, jnp.asarray(x)[rows], jnp.asarray(y)[rows], KEY)
    assert found.epochs[0]["skipped"] == int(ts.skipped) == 5
    same = jax.tree.map(np.array_equal, found.last.params, ts.params)
    assert jax.tree.all(same)
    assert all(np.isfinite(a).all() for a in jax.tree.leaves(found.params))
    assert (found.findings[0].part, found.findings[0].step) == ("update", 4)


def test_infinity_held_on_purpose_is_no_bad_update(monkeypatch):
    def first_unit_off(key, shape, dtype):
        return jnp.zeros(shape, dtype).at[0].set(-jnp.inf)

    seen, needs_rerun = [], Guard.needs_rerun
    monkeypatch.setattr(
        Guard, "needs_rerun", lambda *args: seen.append(needs_rerun(*args)) or seen[-1]
    )
    net = serial(dense(6, bias=first_unit_off), relu, dense(3))
    found = fit(net, data(), epochs=2, batch=32)
    assert seen == [False, False]
    assert found.epochs[-1]["skipped"] == 0
    assert np.isneginf(found.params[0]["b"][0])


def test_rollback_halves_the_rate_until_it_trains():
    found = fit(
        mlp([6, 16, 3]), blobs(256, 6, 3), guard="rollback", epochs=4, batch=32,
        optimizer=optax.sgd(3e3),
    )  # fmt: skip
    assert found.stopped == "finished"
    assert found.epochs[-1]["loss"] < 0.7
    assert float(found.last.opt.scale) < 1e-2


def test_rollback_gives_up_where_the_rate_is_not_to_blame():
    with pytest.raises(TrainingError, match="20 rollbacks"):
        fit(LOGS, data(bad=[17]), guard="rollback", **FIT)


def test_one_bad_seed_beside_sound_ones_is_named():
    spoilt = jax.random.key_data(jax.random.fold_in(jax.random.key(2), 0))

    def draw(key, shape, dtype):
        w = jax.random.normal(key, shape, dtype)
        return jnp.where((jax.random.key_data(key) == spoilt).all(), w * 1e200, w)

    net = serial(dense(4, draw), relu, dense(3), softplus)
    data = blobs(128, 6, 3)
    with pytest.raises(TrainingError, match="seed 2") as caught:
        fit(net, data, seeds=[0, 1, 2, 3], epochs=3, batch=32, guard="skip")
    finding = caught.value.history.findings[0]
    assert (finding.seed, finding.epoch, finding.step) == (2, 1, 1)
    # nothing is infinite yet, but the squares of these gradients are
    assert finding.nan == finding.plus_inf == 0
    assert "smaller lr" in finding.cause


def test_unknown_policy_is_an_error_that_lists_them():
    with pytest.raises(JaxnnError, match="rollback"):
        fit(NET, data(), guard="ignore", **FIT)
    assert set(POLICIES) == {"skip", "raise", "rollback", "stop", "off"}


def careless(f):
    """The identity in training, `f` in evaluation."""

    def forward(params, state, x, *, key=None, train):
        return (x if train else f(x)), state, ()

    return Layer(
        lambda key, shape: ((), (), tuple(shape)),
        forward,
        lambda cache, dy: (dy, ()),
        "careless",
    )


def one_row(x):
    sound = jnp.arange(len(x)).reshape(-1, 1) != 3
    return x + jnp.log(jnp.where(sound, x * 0 + 1, -1.0))


OPTIONS = {"epochs": 2, "batch": 32, "optimizer": optax.sgd(0.1)}


@pytest.mark.parametrize(
    ("function", "rows"), [(lambda x: jnp.log(x - x - 1), []), (one_row, [3])]
)
def test_nan_in_evaluation_only_is_said(function, rows):
    net = serial(careless(function), dense(3))
    with pytest.raises(TrainingError, match="not finite after any epoch") as caught:
        fit(net, blobs(64), validation=blobs(32, seed=1), **OPTIONS)
    (found,) = caught.value.history.findings
    assert (found.part, found.layer, found.op) == ("evaluation", "0 careless", "log")
    assert found.samples == rows
    assert (found.epoch, found.step) == (1, 0)
    assert "epoch 1, in its evaluation" in "\n".join(found.lines())
    assert "in evaluation mode only" in found.cause


def test_nan_in_evaluation_is_never_the_best_epoch_and_ends_raise_and_stop():
    net = serial(careless(lambda x: jnp.log(x - x - 1)), dense(3))
    data = {"data": blobs(64), "validation": blobs(32, seed=1)}
    with pytest.raises(TrainingError, match="epoch 1, seed 0 is not finite"):
        fit(net, guard="raise", **data, **OPTIONS)
    assert fit(net, guard="stop", **data, **OPTIONS).stopped == "guard"
    assert fit(net, guard="off", **data, **OPTIONS).best_epoch == 0


def test_a_run_of_few_steps_that_are_all_bad_is_an_error():
    net = serial(faulty("same"), dense(3))

    def loss(pred, target):
        value, dpred = softmax_cross_entropy(pred, target)
        return value / 0, dpred

    with pytest.raises(TrainingError, match="each of the 4 steps was bad") as caught:
        fit(net, blobs(64), loss=loss, **OPTIONS)
    assert caught.value.history.findings[0].part == "loss"


@pytest.mark.parametrize(("size", "rate"), [(1, 30.0), (3, 300.0), (None, 300.0)])
def test_rollback_finds_a_sound_state_though_the_loss_tells_one_step_late(size, rate):
    history = fit(
        mlp([6, 8, 3]), blobs(256), epochs=3, batch=32, guard="rollback",
        optimizer=optax.sgd(rate), steps_per_call=size, seeds=list(range(12)),
    )  # fmt: skip
    assert history.stopped == "finished"
    assert np.max(history.epochs[-1]["loss"]) < 1


def test_a_rollback_resumes_to_the_same_bits(tmp_path):
    def train(epochs, folder, resume=False):
        return fit(
            mlp([6, 8, 3]), blobs(160), epochs=epochs, batch=32, guard="rollback",
            optimizer=optax.sgd(30.0), steps_per_call=1,
            snapshots=Snapshots(folder, resume=resume),
        )  # fmt: skip

    train(1, tmp_path / "a")
    resumed, whole = train(3, tmp_path / "a", True), train(3, tmp_path / "b")
    pairs = zip(*map(jax.tree.leaves, (resumed.last, whole.last)), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)
