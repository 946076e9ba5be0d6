import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnn.errors import JaxnnError
from jaxnn.losses import LOSSES, Loss, loss_by_name, softmax_cross_entropy
from tests.rules.cases import assert_close, normal, softplus


class Case(NamedTuple):
    name: str
    loss: Loss
    pred: np.ndarray
    target: np.ndarray
    reference: Callable  # (pred, rows of targets) -> values (B,)


def cross_entropy(pred, t):
    return -(t * jax.nn.log_softmax(pred)).sum(-1)


def smoothed(share):
    def reference(pred, t):
        return cross_entropy(pred, (1 - share) * t + share / t.shape[-1])

    return reference


def nll(pred, t):
    return -(t * pred).sum(-1)


def mse(pred, t):
    return ((pred - t) ** 2).mean(-1)


def quadratic(pred, t):
    return 0.5 * ((pred - t) ** 2).sum(-1)


def sigmoid_cross_entropy(pred, t):
    return (t * softplus(-pred) + (1 - t) * softplus(pred)).sum(-1)


REFERENCES = {
    "mse": mse,
    "nll": nll,
    "quadratic": quadratic,
    "sigmoid_cross_entropy": sigmoid_cross_entropy,
    "softmax_cross_entropy": cross_entropy,
}
LABELS = np.array([2, 0, 3, 1, 2])
DISTRIBUTION = np.random.default_rng(0).dirichlet(np.ones(4), 5)
HUGE = np.array([[800.0, -800, 0, 0], [1e4, 1e4, -1e4, 0], [0, 0, 0, 0]])
# Masked classes (logit -inf) have no weight in the target.
MASKED = np.array([[0.5, -np.inf, 1, -np.inf], [2, -np.inf, -1, -np.inf]])
MASKED_LABELS = np.array([2, 0])


def unmasked(reference):
    """The same loss without the masked classes: they must not matter."""
    return lambda pred, t: reference(pred[:, ::2], t[:, ::2])


def loss_cases():
    cases = []
    for name, reference in REFERENCES.items():
        loss = LOSSES[name]
        for kind, pred, target in (
            ("labels", normal(5, 4), LABELS),
            ("distribution", normal(5, 4), DISTRIBUTION),
            ("real values", normal(5, 4), normal(5, 4, seed=1)),
            ("one output", normal(5, 1), normal(5, 1, seed=1)),
            ("one sample", normal(1, 3), np.array([2])),
            ("sequence", normal(2, 3, 4), np.array([[0, 1, 3], [2, 2, 0]])),
            ("huge", HUGE, np.array([1, 2, 3])),
            ("int rows", normal(3, 2), np.array([[0, 1], [1, 0], [1, 1]])),
        ):
            cases.append(Case(f"{name}: {kind}", loss, pred, target, reference))
    for name in ("softmax_cross_entropy", "nll"):
        reference = unmasked(REFERENCES[name])
        case = Case(f"{name}: masked", LOSSES[name], MASKED, MASKED_LABELS, reference)
        cases.append(case)
    for share in (0.1, 1.0):
        loss = loss_by_name("softmax_cross_entropy", share)
        for kind, target in (("labels", LABELS), ("distribution", DISTRIBUTION)):
            name = f"label smoothing {share}: {kind}"
            cases.append(Case(name, loss, normal(5, 4), target, smoothed(share)))
    return cases


CASES = {case.name: case for case in loss_cases()}


def rows(case):
    """The target as rows of the shape of pred."""
    if case.target.shape == case.pred.shape:
        return jnp.asarray(case.target, float)
    return jnp.asarray(np.eye(case.pred.shape[-1])[case.target])


def by_vjp(case, pred, reduction):
    def value(pred):
        values = case.reference(pred, rows(case))
        return values.mean() if reduction == "mean" else values

    value, pull_back = jax.vjp(value, pred)
    return value, pull_back(jnp.ones_like(value))[0]


PAIRS = [
    (name, reduction)
    for name in CASES
    # the mean differs from none in its last line only, so two kinds are enough
    for reduction in ("none", "mean")[: 1 + name.endswith(("labels", "sequence"))]
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


@pytest.mark.parametrize("name", LOSSES)
def test_mean_and_none_differ_by_the_batch(name):
    value, dpred = compiled()[f"{name}: labels", "mean"][0]
    values, rows = compiled()[f"{name}: labels", "none"][0]
    assert values.shape == (5,)
    check((value, dpred), (values.mean(), rows / 5))


@jax.jit
def cross_entropies(pred, labels):
    case = CASES["softmax_cross_entropy: labels"]
    t = jax.nn.one_hot(labels, pred.shape[-1], dtype=pred.dtype)
    value, pull_back = jax.vjp(lambda pred: case.reference(pred, t), pred)
    got = softmax_cross_entropy(pred, labels, reduction="none")
    return got, (value, pull_back(jnp.ones_like(value))[0])


LOGITS = st.lists(st.floats(-1e6, 1e6, allow_subnormal=False), min_size=3, max_size=3)


@settings(max_examples=30)
@given(pred=st.tuples(LOGITS, LOGITS), labels=st.tuples(*[st.integers(0, 2)] * 2))
def test_cross_entropy_equals_vjp_anywhere(pred, labels):
    check(*cross_entropies(jnp.array(pred), jnp.array(labels)))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", LOSSES)
def test_value_is_float32_and_gradient_as_narrow_as_pred(name, dtype):
    pred, target = jnp.zeros((3, 4), dtype), jnp.zeros(3, int)
    value, dpred = jax.eval_shape(LOSSES[name], pred, target)
    assert value.dtype == jnp.float32
    assert (dpred.dtype, dpred.shape) == (dtype, (3, 4))


@pytest.mark.parametrize("name", LOSSES)
def test_nan_in_pred_reaches_value_and_gradient(name):
    pred = jnp.asarray(normal(5, 4)).at[1, 0].set(jnp.nan)
    # label 0 of sample 1, so that nll looks at the NaN
    loss = functools.partial(LOSSES[name], reduction="none")
    values, dpred = jax.jit(loss)(pred, jnp.asarray(LABELS))
    assert np.isnan(values).tolist() == [False, True, False, False, False]
    if name != "nll":  # -target, whatever pred is
        assert np.isnan(dpred[1, 0])


def test_right_and_certain_costs_nothing():
    pred = jnp.array([[0.0, 1e4]])
    value, dlogits = softmax_cross_entropy(pred, jnp.array([1]))
    assert value == 0
    assert dlogits.tolist() == [[0, 0]]


def test_impossible_logit_of_sigmoid_costs_nothing_if_not_wanted():
    # the limits of both terms: -log(1 - 0) and -log(1)
    logits, target = jnp.array([[-jnp.inf, jnp.inf]]), jnp.array([[0.0, 1.0]])
    value, dlogits = LOSSES["sigmoid_cross_entropy"](logits, target)
    assert dlogits.tolist() == [[0, 0]]
    assert value == 0


ERRORS = {
    "fewer targets": (
        lambda loss: loss(jnp.ones((3, 2)), jnp.zeros(2, int)),
        r": got predictions \(3, 2\) and targets \(2,\); expected labels \(3,\) or "
        r"rows \(3, 2\)",
    ),
    "other classes": (
        lambda loss: loss(jnp.ones((3, 2)), jnp.ones((3, 5))),
        r": got predictions \(3, 2\) and targets \(3, 5\)",
    ),
    "column of labels": (
        lambda loss: loss(jnp.ones((3, 2)), jnp.ones((3, 1), int)),
        r": got predictions \(3, 2\) and targets \(3, 1\)",
    ),
    "real labels": (
        lambda loss: loss(jnp.ones((3, 2)), jnp.ones(3)),
        r": labels of shape \(3,\) must be integers, got float64",
    ),
    "scalar": (
        lambda loss: loss(jnp.ones(()), jnp.zeros(3, int)),
        r": got predictions \(\) and targets \(3,\)",
    ),
    "unknown reduction": (
        lambda loss: loss(jnp.ones((3, 2)), jnp.zeros(3, int), reduction="sum"),
        r"reduction 'sum' is unknown; valid: mean, none",
    ),
    "no samples": (
        lambda loss: loss(jnp.ones((0, 2)), jnp.zeros(0, int)),
        r"the mean loss of no samples: predictions \(0, 2\)",
    ),
}


@pytest.mark.parametrize(("call", "message"), ERRORS.values(), ids=ERRORS)
@pytest.mark.parametrize("name", LOSSES)
def test_error_says_got_and_expected(name, call, message):
    message = name + message if message.startswith(":") else message
    with pytest.raises(JaxnnError, match=f"^{message}"):
        jax.eval_shape(lambda: call(LOSSES[name]))


@pytest.mark.parametrize("name", LOSSES)
def test_no_samples_have_no_losses(name):
    values, dpred = jax.eval_shape(
        lambda: LOSSES[name](jnp.ones((0, 2)), jnp.zeros(0, int), reduction="none")
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


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_label_smoothing_is_a_share(share):
    def smoothed():
        loss = loss_by_name("softmax_cross_entropy", share)
        return jax.eval_shape(loss, jnp.ones((3, 2)), jnp.zeros(3, int))

    with pytest.raises(JaxnnError, match="label_smoothing"):
        smoothed()


@pytest.mark.parametrize("name", sorted(LOSSES))
@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_outside_the_classes_is_never_a_loss_of_zero(name, label):
    value, _ = LOSSES[name](jnp.zeros((2, 3)) - 1.0, jnp.array([0, label]))
    assert jnp.isnan(value)
