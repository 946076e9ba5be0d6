"""Every loss and its gradient against `jax.vjp` of a reference, and at its edges."""

import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import fit, mlp, serial
from jaxnn.errors import JaxnnError
from jaxnn.losses import LOSSES, is_correct, loss_by_name, yes_above
from tests.losses.cases import CASES, KINDS, LABELS, REFERENCES, rows
from tests.rules.common import assert_close, normal


def by_vjp(case, pred, reduction):
    def value(pred):
        values = case.reference(pred, rows(case))
        return values.mean() if reduction == "mean" else values

    value, pull_back = jax.vjp(value, pred)
    return value, pull_back(jnp.ones_like(value))[0]


MEANS = [f"{name}: {kind}" for name in KINDS for kind in ("labels", "sequence")]
PAIRS = [
    (name, reduction)
    for name in CASES
    # the mean differs from none in its last line only
    for reduction in ("none", "mean")[: 1 + (name in MEANS)]
]


@functools.cache
def compiled():
    """(case name, reduction) -> (value and dpred of the loss, the same by vjp)."""

    # One program for all: compiling is what takes the time.
    @jax.jit
    def program(preds):
        return [
            (
                CASES[name].loss(
                    preds[name], jnp.asarray(CASES[name].target), reduction=reduction
                ),
                by_vjp(CASES[name], preds[name], reduction),
            )
            for name, reduction in PAIRS
        ]

    results = program({name: jnp.asarray(case.pred) for name, case in CASES.items()})
    return dict(zip(PAIRS, results, strict=True))


PRED = jnp.asarray(normal(5, 4))


def check(got, want):
    for g, w in zip(got, want, strict=True):
        assert_close(g, w)


@pytest.mark.parametrize(("name", "reduction"), PAIRS)
def test_loss_equals_vjp_of_its_reference(name, reduction):
    check(*compiled()[name, reduction])


def test_every_loss_has_cases():
    assert set(REFERENCES) == set(LOSSES)


@pytest.mark.parametrize("factor", [-1, 1.01, 0])
@pytest.mark.parametrize("name", LOSSES)
def test_checker_fails_a_mutant_of_each_gradient(name, factor):
    (value, dpred), want = compiled()[f"{name}: distribution", "none"]
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check((value, factor * dpred), want)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check((factor * value, dpred), want)


@pytest.mark.parametrize("name", KINDS)
def test_mean_and_none_differ_by_the_batch(name):
    value, dpred = compiled()[f"{name}: labels", "mean"][0]
    values, rows = compiled()[f"{name}: labels", "none"][0]
    assert values.shape == (5,)
    check((value, dpred), (values.mean(), rows / 5))


def test_every_loss_of_a_sequence_is_that_of_its_steps():
    labels = np.array([[0, 1, 3], [2, 2, 0]])

    @jax.jit
    def both(pred):
        each = [loss.having(reduction="none") for loss in LOSSES.values()]
        steps = pred.reshape(6, 4), labels.reshape(6)
        return [(loss(pred, labels), loss(*steps)) for loss in each]

    for (values, dpred), of_steps in both(jnp.asarray(normal(2, 3, 4))):
        check((values.reshape(6), dpred.reshape(6, 4)), of_steps)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", LOSSES)
def test_value_is_float32_and_gradient_as_narrow_as_pred(name, dtype):
    for batch in ((3,), (1,), (2, 3)):
        weights = {"weights": np.ones(batch), "class_weights": [1] * 4}
        for reduction, shape in (("mean", ()), ("none", batch)):
            loss = LOSSES[name].having(reduction=reduction)
            value, dpred = jax.eval_shape(
                lambda *args, loss=loss, more=weights: loss(*args, **more),
                jnp.zeros((*batch, 4), dtype), jnp.zeros(batch, int),
            )  # fmt: skip
            assert (value.dtype, value.shape) == (jnp.float32, shape)
            assert (dpred.dtype, dpred.shape) == (dtype, (*batch, 4))


@pytest.mark.parametrize("name", LOSSES)
def test_nan_in_pred_reaches_value_and_gradient(name):
    pred = jnp.asarray(normal(5, 4)).at[1, 0].set(jnp.nan)
    # label 0 of sample 1, so that nll looks at the NaN
    loss = functools.partial(LOSSES[name], reduction="none")
    values, dpred = jax.jit(loss)(pred, jnp.asarray(LABELS))
    assert np.isnan(values).tolist() == [False, True, False, False, False]
    if name != "nll":  # -target, whatever pred is
        assert np.isnan(dpred[1, 0])


ERRORS = {  # shape of pred, target, options -> message
    "fewer targets": ((3, 2), np.zeros(2, int), {},
        r": got predictions \(3, 2\) and targets \(2,\); expected labels \(3,\) or "
        r"rows \(3, 2\)"),
    "other classes": ((3, 2), np.ones((3, 5)), {},
        r": got predictions \(3, 2\) and targets \(3, 5\)"),
    "column of labels": ((3, 2), np.ones((3, 1), int), {},
        r": got predictions \(3, 2\) and targets \(3, 1\)"),
    "real labels": ((3, 2), np.ones(3), {},
        r": labels of shape \(3,\) must be integers, got float64"),
    "scalar": ((), np.zeros(3, int), {}, r": got predictions \(\) and targets \(3,\)"),
    "unknown reduction": ((3, 2), np.zeros(3, int), {"reduction": "sum"},
        r"reduction 'sum' is unknown; valid: mean, none"),
    "no samples": ((0, 2), np.zeros(0, int), {},
        r"the mean loss of no samples: predictions \(0, 2\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
@pytest.mark.parametrize("name", KINDS)
def test_error_says_got_and_expected(name, case):
    shape, target, options, message = ERRORS[case]
    message = name + message if message.startswith(":") else message
    with pytest.raises(JaxnnError, match=f"^{message}"):
        jax.eval_shape(LOSSES[name].having(**options), jnp.ones(shape), target)


def test_no_samples_have_no_losses():
    values, dpred = jax.eval_shape(
        lambda: LOSSES["mse"](jnp.ones((0, 2)), jnp.zeros(0, int), reduction="none")
    )
    assert (values.shape, dpred.shape) == ((0,), (0, 2))


@pytest.mark.parametrize("name", LOSSES)
def test_loss_is_found_by_its_name(name):
    assert loss_by_name(name) is LOSSES[name]
    assert loss_by_name(LOSSES[name]) is LOSSES[name]


def test_unknown_loss_lists_the_valid_ones():
    with pytest.raises(JaxnnError, match=r"unknown loss 'mes'.*'mse'.*mse, nll, quad"):
        loss_by_name("mes")


def test_label_smoothing_needs_softmax_cross_entropy():
    with pytest.raises(JaxnnError, match=r"label_smoothing=0\.1 needs .* got mse"):
        loss_by_name("mse", 0.1)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_outside_the_classes_is_never_a_loss_of_zero(name, label):
    value, _ = LOSSES[name](jnp.zeros((2, 3)) - 1.0, jnp.array([0, label]))
    assert jnp.isnan(value)


ROWS = {
    "negative": ("softmax_cross_entropy", [0.5, 0.7, -0.2], "shares of the classes"),
    "doubled": ("kl", [0, 2, 0], "at least 0 and 1 together"),
    "answers": ("sigmoid_cross_entropy", [0, 1.5, 0], "answers between 0 and 1"),
    "signs": ("hinge", [1, -2, 0], "answers between 0 and 1"),
}


@pytest.mark.parametrize(("name", "row", "words"), ROWS.values(), ids=ROWS)
def test_rows_that_cannot_be_meant_are_refused_before_training(name, row, words):
    y, loss = np.array([[0, 1, 0], row], np.float32), LOSSES[name]
    wrong = rf"the row .* at index 1, but rows of {name} are .*{words}"
    for call in (
        lambda: fit(mlp([2, 3]), (np.ones((2, 2)), y), loss=loss, batch=2),
        lambda: loss.having(reduction="none").check_rows("fit: data", y),
    ):
        with pytest.raises(JaxnnError, match=wrong):
            call()
    loss.check_rows("fit: data", y[:1])
    LOSSES["mse"].check_rows("fit: data", y)


def test_which_outputs_are_correct():
    one = np.array([[0.2], [0.7], [-1.0], [0.0]])
    assert is_correct(one, np.array([1, 1, 0, 1])).tolist() == [True, True, True, False]
    assert is_correct(one, np.array([1, 1, -1, 0]), 0.5).tolist() == [
        False, True, True, True,
    ]  # fmt: skip
    three = np.array([[[0.0, 2, 1], [3, 2, 1]]])
    assert is_correct(three, np.array([[1, 2]])).tolist() == [[True, False]]
    sigmoid = mlp([3, 1], output="sigmoid")
    assert [yes_above(net) for net in (mlp([3, 1]), sigmoid, serial(sigmoid))] == [
        0.0, 0.5, 0.5,
    ]  # fmt: skip


def test_equal_losses_share_a_program_and_others_do_not():
    traces = []

    @functools.partial(jax.jit, static_argnums=0)
    def value(loss, pred):
        traces.append(loss)
        return loss(pred, jnp.zeros(2, int))[0]

    for loss in (LOSSES["huber"], LOSSES["huber"].having(delta=0.5)):
        for _ in range(2):
            value(loss, jnp.ones((2, 3)))
    value(LOSSES["huber"].having(delta=0.5), jnp.ones((2, 3)))
    assert traces == [LOSSES["huber"], LOSSES["huber"].having(delta=0.5)]
    for other in (1, True, 1.0):  # jit tells them apart
        value(LOSSES["huber"].having(delta=other), jnp.ones((2, 3)))
    assert len(traces) == 5
    weighted = [
        LOSSES["mse"].having(class_weights=w) for w in ([1, 2], np.array([1, 2]))
    ]
    assert weighted[0] == weighted[1]
    assert repr(weighted[0]) == "mse(class_weights=(1.0, 2.0))"


def test_a_loss_can_be_pickled_and_traced_settings_are_taken():
    smooth = LOSSES["softmax_cross_entropy"].having(label_smoothing=0.1)
    assert pickle.loads(pickle.dumps(smooth)) == smooth
    assert pickle.loads(pickle.dumps(smooth.plain)) is LOSSES["softmax_cross_entropy"]

    @jax.jit
    def traced(share):
        return smooth.having(label_smoothing=share)(PRED, LABELS)

    for got, want in zip(traced(0.1), smooth(PRED, LABELS), strict=True):
        assert_close(got, want)
