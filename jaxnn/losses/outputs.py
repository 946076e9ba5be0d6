"""Losses of N outputs one by one: yes/no questions, and distances to real values."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.combine import mlp, serial
from jaxnn.errors import JaxnnError
from jaxnn.layers import Layer, sigmoid
from jaxnn.losses.core import (
    Reduction,
    at_least_0,
    finish,
    taking_arrays,
    value_rows,
    wide,
    yes_no_rows,
)

YES_NO = ("hinge", "sigmoid_cross_entropy", "sigmoid_focal")
"""Losses whose labels of a single output are the answer itself, 0 or 1."""


def says(outputs: Any, y: Any, above: float = 0.0) -> Any:
    """Whether outputs (..., N) say the labels y (...): bool, NumPy's or JAX's.

    The largest output is the answer; a single one says yes above `above`.
    """
    if outputs.shape[-1] == 1:
        return (outputs[..., 0] > above) == (y > 0)  # no is 0, for hinge also -1
    return outputs.argmax(-1) == y


def yes_above(net: Layer) -> float:
    """Return what a single output says yes above: 0, or 0.5 if it ends in sigmoid."""
    while net.made is not None and net.made.constructor in (serial, mlp):
        net = net.parts[-1]
    return 0.5 if net == sigmoid else 0.0


@taking_arrays
def sigmoid_cross_entropy(
    logits: Array,
    target: Array,
    *,
    weights: Any = None,
    class_weights: Any = None,
    reduction: Reduction = "mean",
) -> tuple[Array, Array]:
    """Sum over outputs of -t log s - (1 - t) log(1 - s), s = sigmoid(z); dz = s - t.

    N independent yes/no questions: target (B, N) in [0, 1], or labels (B,) as one-hot
    rows; for a single output, logits (B, 1), labels are the answers 0 or 1.
    With softplus(z) = -log(1 - s) the value is t softplus(-z) + (1 - t) softplus(z):
    it cannot overflow, keeps the digits of a tiny loss, and is smooth at z = 0.
    """
    t, each = yes_no_rows(
        "sigmoid_cross_entropy", logits, target, weights, class_weights
    )
    z = wide(logits)
    # where: an infinite logit costs nothing where the target agrees with it
    yes = jnp.where(t == 0, 0, t * jnp.logaddexp(-z, 0))
    no = jnp.where(t == 1, 0, (1 - t) * jnp.logaddexp(z, 0))
    values = (yes + no).sum(-1)
    return finish(values, jax.nn.sigmoid(z) - t, logits, each, reduction)


@taking_arrays
def sigmoid_focal(
    logits: Array,
    target: Array,
    *,
    gamma: float = 2.0,
    alpha: float | None = None,
    weights: Any = None,
    class_weights: Any = None,
    reduction: Reduction = "mean",
) -> tuple[Array, Array]:
    """Sum over outputs of -t (1-s)^gamma log s - (1-t) s^gamma log(1-s), s = sigmoid z.

    What is already right counts little; gamma = 0 is `sigmoid_cross_entropy`.
    dz = t (1-s)^gamma (gamma s log s - (1-s)) - the same of -z for 1 - t.

    Args:
      logits: (B, N), any size.
      target: as in `sigmoid_cross_entropy`.
      gamma: at least 0; 2 in the paper.
      alpha: weight of yes, 1 - alpha that of no, in [0, 1]; 0.25 in the paper, None
        weights both by 1.
      weights, class_weights, reduction: see the module.

    Source: Lin et al. 2017.
    """
    at_least_0("sigmoid_focal", "gamma", gamma)
    if alpha is not None and not 0 <= alpha <= 1:
        raise JaxnnError(f"sigmoid_focal: got alpha={alpha:g}, expected 0 to 1 or None")
    t, each = yes_no_rows("sigmoid_focal", logits, target, weights, class_weights)
    z = wide(logits)
    yes, no = (t, 1 - t) if alpha is None else (alpha * t, (1 - alpha) * (1 - t))
    (value_yes, dyes), (value_no, dno) = _fading(z, gamma), _fading(-z, gamma)
    values = jnp.where(yes == 0, 0, yes * value_yes) + jnp.where(
        no == 0, 0, no * value_no
    )
    return finish(values.sum(-1), yes * dyes - no * dno, logits, each, reduction)


def _fading(z, gamma):
    """(1 - s)^gamma softplus(-z) and its derivative, s = sigmoid z, for any z."""
    s, rest, cost = jax.nn.sigmoid(z), jax.nn.sigmoid(-z), jnp.logaddexp(-z, 0)
    rising = jnp.where(s == 0, 0, s * jnp.where(s == 0, 0, cost))  # s log s: 0 at 0
    return rest**gamma * cost, -(rest**gamma) * (gamma * rising + rest)


@taking_arrays
def hinge(
    scores: Array,
    target: Array,
    *,
    margin: float = 1.0,
    weights: Any = None,
    class_weights: Any = None,
    reduction: Reduction = "mean",
) -> tuple[Array, Array]:
    """Sum over outputs of max(0, margin - s z), s = 2 t - 1; dz = -s where positive.

    N yes/no questions (one class against the rest): target (B, N) in [0, 1], where -1
    also stands for no, or labels (B,) as one-hot rows; for a single output, scores
    (B, 1), labels are the answers, 0 or -1 for no and 1 for yes. A t between 0 and 1
    is a mean: t max(0, margin - z) + (1 - t) max(0, margin + z); outside it is NaN.
    At the kink s z = margin the derivative is 0. `margin` is at least 0; see `margin`
    for one class against each other.

    Source: Cortes, Vapnik 1995; Rifkin, Klautau 2004.
    """
    at_least_0("hinge", "margin", margin)
    if scores.shape[-1:] == (1,) or target.shape == scores.shape:
        target = jnp.where(target == -1, 0, target)
    t, each = yes_no_rows("hinge", scores, target, weights, class_weights)
    t = jnp.where((t >= 0) & (t <= 1), t, jnp.nan)
    z = wide(scores)
    short, over = margin - z, margin + z  # of yes, and of no
    # `<= 0` is false for NaN, which so stays in value and gradient
    yes, no = jnp.where(short <= 0, 0, short), jnp.where(over <= 0, 0, over)
    values = jnp.where(t == 0, 0, t * yes) + jnp.where(t == 1, 0, (1 - t) * no)
    dscores = (1 - t) * jnp.sign(no) - t * jnp.sign(yes)
    return finish(values.sum(-1), dscores, scores, each, reduction)


@taking_arrays
def mse(
    pred: Array,
    target: Array,
    *,
    weights: Any = None,
    class_weights: Any = None,
    reduction: Reduction = "mean",
) -> tuple[Array, Array]:
    """Mean over outputs of (pred - target)^2, dpred = 2 (pred - target) / N.

    pred and target (B, N) (or labels (B,), taken as one-hot rows).
    """
    t, each = value_rows("mse", pred, target, weights, class_weights)
    difference, n = wide(pred) - t, pred.shape[-1]
    values = jnp.square(difference).sum(-1) / n
    return finish(values, difference * (2 / n), pred, each, reduction)


@taking_arrays
def quadratic(
    pred: Array,
    target: Array,
    *,
    weights: Any = None,
    class_weights: Any = None,
    reduction: Reduction = "mean",
) -> tuple[Array, Array]:
    """Half the squared distance |pred - target|^2 / 2, dpred = pred - target.

    The cost of Nielsen, "Neural Networks and Deep Learning" (2015), chapter 1.
    """
    t, each = value_rows("quadratic", pred, target, weights, class_weights)
    difference = wide(pred) - t
    values = jnp.square(difference).sum(-1) / 2
    return finish(values, difference, pred, each, reduction)


@taking_arrays
def mae(
    pred: Array,
    target: Array,
    *,
    weights: Any = None,
    class_weights: Any = None,
    reduction: Reduction = "mean",
) -> tuple[Array, Array]:
    """Mean over outputs of |pred - target|, dpred = sign(pred - target) / N.

    pred and target as in `mse`. At the kink pred = target the derivative is 0.
    """
    t, each = value_rows("mae", pred, target, weights, class_weights)
    difference, n = wide(pred) - t, pred.shape[-1]
    values = jnp.abs(difference).sum(-1) / n
    return finish(values, jnp.sign(difference) / n, pred, each, reduction)


@taking_arrays
def huber(
    pred: Array,
    target: Array,
    *,
    delta: float = 1.0,
    weights: Any = None,
    class_weights: Any = None,
    reduction: Reduction = "mean",
) -> tuple[Array, Array]:
    """Mean over outputs of d^2 / 2, beyond delta of delta (|d| - delta / 2).

    d = pred - target, and target as in `mse`; delta > 0. dpred = d / N, held
    at +-delta / N: it is continuous, its own slope breaks at |d| = delta.

    Source: Huber 1964.
    """
    if not delta > 0:
        raise JaxnnError(f"huber: got delta={delta:g}, expected delta > 0")
    t, each = value_rows("huber", pred, target, weights, class_weights)
    difference, n = wide(pred) - t, pred.shape[-1]
    size = jnp.abs(difference)
    near = size <= delta
    square = jnp.square(jnp.where(near, difference, 0)) / 2
    values = jnp.where(near, square, delta * (size - delta / 2)).sum(-1) / n
    slope = jnp.where(near, difference, delta * jnp.sign(difference))
    return finish(values, slope / n, pred, each, reduction)
