"""Losses of infinite, NaN or huge logits: right or not finite, never a lie."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn.losses import LOSSES, margin, softmax_cross_entropy
from jaxnn.rules import group_norm, layer_norm

TABLE = LOSSES | {
    "smoothed": softmax_cross_entropy.having(label_smoothing=0.1),
    "weston_watkins": margin.having(form="weston_watkins"),
}
ROW = [0.5, 1.0, -1.0]
TARGETS = {"label": np.array([0]), "distribution": np.array([[0.7, 0.2, 0.1]])}
SATURATES = ("hinge", "margin", "weston_watkins", "sigmoid_cross_entropy",
             "sigmoid_focal")  # fmt: skip
SOFTMAX = ("kl", "softmax_cross_entropy", "softmax_focal", "smoothed")


@functools.cache
def compiled(loss):
    """One program, not one an operation."""
    return jax.jit(lambda pred, target: loss(pred, target, reduction="none")[0])


def values(loss, at, target):
    """The loss for each value at that place of the row."""
    rows = [[*ROW[:at], v, *ROW[at + 1 :]] for v in (np.nan, np.inf, -np.inf, 1e30)]
    target = np.repeat(target, len(rows), 0)
    return np.asarray(compiled(loss)(np.asarray(rows, np.float32), target))


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize("name", TABLE)
def test_no_finite_value_of_what_is_not(name, at, kind):
    nan, up, down, huge = values(TABLE[name], at, TARGETS[kind])
    assert np.isnan(nan)
    own = at == 0 and kind == "label"
    # a finite value only where the limit is one: a right answer that could not be
    # surer, a wrong one that could not be less so, a class that the target leaves out
    if np.isfinite(up):
        assert (own and name in SATURATES) or (at and kind == "label" and name == "nll")
    if np.isfinite(down):
        assert at
        assert kind == "label"
        assert name in (*SATURATES, *SOFTMAX, "nll")
    if own and name in (*SATURATES, *SOFTMAX) and name != "smoothed":
        assert np.isfinite(huge)
        assert huge < 3
    elif kind == "distribution" or name != "nll":
        assert abs(huge) > 1e20


@pytest.mark.parametrize(
    ("dtype", "big"),
    [("float32", 1e38), ("float16", 6e4), ("float64", 1e300), ("bfloat16", 1e38)],
)
def test_cross_entropies_are_finite_for_any_finite_logits(dtype, big):
    logits = np.array([[big / 4, -big / 4, 0], [0, 0, 0]], jnp.dtype(dtype))
    answers = np.array([[1, 0, 0], [0, 1, 0]], jnp.dtype(dtype))
    for name, target in {
        "softmax_cross_entropy": np.array([0, 1]), "sigmoid_cross_entropy": answers,
        "softmax_focal": np.array([0, 1]),
    }.items():  # fmt: skip
        value, dpred = jax.jit(LOSSES[name])(logits, target)
        assert np.isfinite(np.asarray(value, float)), name
        assert np.isfinite(np.asarray(dpred, float)).all(), name


def test_a_masked_class_has_no_share_of_label_smoothing():
    masked = jnp.array([[0.5, -jnp.inf, 1.0, -jnp.inf]])
    smoothed = jax.jit(softmax_cross_entropy.having(label_smoothing=0.1))
    value, dlogits = smoothed(masked, jnp.array([2]))
    # as without those classes, whose part of the target is left out
    t = jnp.array([[0.1 / 4, 0.9 + 0.1 / 4]])
    want, dwant = jax.jit(softmax_cross_entropy)(masked[:, ::2], t)
    np.testing.assert_allclose(value, want, rtol=1e-14)
    np.testing.assert_allclose(dlogits[:, ::2], dwant, rtol=1e-14)
    assert (dlogits[:, 1::2] == 0).all()


def test_label_smoothing_of_all_classes_is_bit_for_bit_an_even_share():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(64, 10)), jnp.float32)
    labels = np.arange(64) % 10
    t = jax.nn.one_hot(labels, 10, dtype=jnp.float32) * (1 - 0.1) + 0.1 / 10
    want = softmax_cross_entropy(logits, t)
    got = softmax_cross_entropy(logits, labels, label_smoothing=0.1)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("rule", [layer_norm(), group_norm()])
def test_a_norm_of_numbers_whose_squares_overflow_is_not_beta(rule):
    x = jnp.asarray([[1e20, -1e20, 0.0]], jnp.float32)
    ones = jnp.ones(3, jnp.float32)
    assert np.isnan(rule.fwd(x, ones, ones)[0]).all()
    tiny, _ = rule.fwd(x * 1e-50, ones, ones)
    np.testing.assert_array_equal(tiny, 1)
