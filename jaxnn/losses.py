"""Losses: `(pred, target) -> (value, dpred)`, the gradient written beside the value.

pred (B, N). `target` is int labels (B,) or an array of the shape of pred (a
distribution, one-hot rows or real values); a label outside 0..N-1 makes its loss NaN.
With `reduction="mean"` the value is the mean over the batch, (); with "none" it is one
value a sample, (B,), and dpred is the gradient of their sum, so that each row is that
sample's own (attacks use this).
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.errors import JaxnnError, lookup
from jaxnn.rules import log_softmax

Reduction = Literal["mean", "none"]
Loss = Callable[..., tuple[Array, Array]]


def softmax_cross_entropy(
    logits: Array,
    target: Array,
    *,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
) -> tuple[Array, Array]:
    """-sum t log softmax(logits), dlogits = softmax(logits) sum(t) - t.

    Args:
      logits: (B, N), any size: the log of the softmax is taken directly, so nothing
        overflows. Not probabilities.
      target: labels (B,) in 0..N-1, or a distribution (B, N).
      label_smoothing: share s of the target spread evenly: t (1 - s) + s / N.
      reduction: see the module.

    Raises:
      JaxnnError: shapes that do not fit.

    Source: Bridle 1990; label smoothing, Szegedy et al. 2016.
    """
    t = _rows("softmax_cross_entropy", logits, target)
    if not 0 <= label_smoothing <= 1:
        raise JaxnnError(
            f"softmax_cross_entropy: got label_smoothing={label_smoothing:g}, expected "
            "a share in [0, 1]"
        )
    if label_smoothing:
        t = t * (1 - label_smoothing) + label_smoothing / logits.shape[-1]
    log_p, cache = log_softmax.fwd(_wide(logits))
    dlogits = log_softmax.bwd(cache, -t)[0]
    assert dlogits is not None
    # where: 0 * -inf is NaN, but a class of no weight costs nothing
    values = -jnp.where(t == 0, 0, t * log_p).sum(-1)
    return _reduce(values, dlogits, logits, reduction)


def nll(
    log_p: Array, target: Array, *, reduction: Reduction = "mean"
) -> tuple[Array, Array]:
    """Negative log-likelihood -sum t log_p of log-probabilities, dlog_p = -t.

    log_p (B, N) comes from a `log_softmax` layer; target as in
    `softmax_cross_entropy`, which is this with that layer in one.
    """
    t = _rows("nll", log_p, target)
    values = -jnp.where(t == 0, 0, t * _wide(log_p)).sum(-1)
    return _reduce(values, -t, log_p, reduction)


def mse(
    pred: Array, target: Array, *, reduction: Reduction = "mean"
) -> tuple[Array, Array]:
    """Mean over outputs of (pred - target)^2, dpred = 2 (pred - target) / N.

    pred and target (B, N) (or labels (B,), taken as one-hot rows).
    """
    difference = _wide(pred) - _rows("mse", pred, target)
    n = pred.shape[-1]
    values = jnp.square(difference).sum(-1) / n
    return _reduce(values, difference * (2 / n), pred, reduction)


def quadratic(
    pred: Array, target: Array, *, reduction: Reduction = "mean"
) -> tuple[Array, Array]:
    """Half the squared distance |pred - target|^2 / 2, dpred = pred - target.

    The cost of Nielsen, "Neural Networks and Deep Learning" (2015), chapter 1.
    """
    difference = _wide(pred) - _rows("quadratic", pred, target)
    values = jnp.square(difference).sum(-1) / 2
    return _reduce(values, difference, pred, reduction)


def sigmoid_cross_entropy(
    logits: Array, target: Array, *, reduction: Reduction = "mean"
) -> tuple[Array, Array]:
    """Sum over outputs of -t log s - (1 - t) log(1 - s), s = sigmoid(z); dz = s - t.

    N independent yes/no questions: target (B, N) in [0, 1] (or labels, as one-hot).
    With softplus(z) = -log(1 - s) the value is t softplus(-z) + (1 - t) softplus(z):
    it cannot overflow, keeps the digits of a tiny loss, and is smooth at z = 0.
    """
    t = _rows("sigmoid_cross_entropy", logits, target)
    z = _wide(logits)
    # where: an infinite logit costs nothing where the target agrees with it
    yes = jnp.where(t == 0, 0, t * jnp.logaddexp(-z, 0))
    no = jnp.where(t == 1, 0, (1 - t) * jnp.logaddexp(z, 0))
    values = (yes + no).sum(-1)
    return _reduce(values, jax.nn.sigmoid(z) - t, logits, reduction)


LOSSES: dict[str, Loss] = {
    "mse": mse,
    "nll": nll,
    "quadratic": quadratic,
    "sigmoid_cross_entropy": sigmoid_cross_entropy,
    "softmax_cross_entropy": softmax_cross_entropy,
}
"""Every loss by name."""


def loss_by_name(loss: str | Loss, label_smoothing: float = 0.0) -> Loss:
    """The loss of that name, or `loss` itself if it is a function.

    Raises:
      JaxnnError: unknown name (lists the valid ones), or label smoothing of a loss
        that has none.
    """
    function = loss if callable(loss) else lookup("loss", loss, LOSSES)
    if not label_smoothing:
        return function
    if function is not softmax_cross_entropy:
        raise JaxnnError(
            f"label_smoothing={label_smoothing:g} needs loss softmax_cross_entropy, "
            f"got {loss}"
        )
    return partial(softmax_cross_entropy, label_smoothing=label_smoothing)


def _wide(a: Array) -> Array:
    """At least float32: sums of bfloat16 lose the small terms."""
    return a.astype(jnp.promote_types(a.dtype, jnp.float32))


def _rows(name: str, pred: Array, target: Array) -> Array:
    """Targets as rows (B, N) in the loss's own precision; labels become one-hot."""
    dtype = jnp.promote_types(pred.dtype, jnp.float32)
    if target.shape == pred.shape:
        return target.astype(dtype)
    if pred.ndim < 1 or target.shape != pred.shape[:-1]:
        raise JaxnnError(
            f"{name}: got predictions {pred.shape} and targets {target.shape}; "
            f"expected labels {pred.shape[:-1]} or rows {pred.shape}"
        )
    if not jnp.issubdtype(target.dtype, jnp.integer):
        raise JaxnnError(
            f"{name}: labels of shape {target.shape} must be integers, got "
            f"{target.dtype}; for real values give targets of shape {pred.shape}"
        )
    classes = pred.shape[-1]
    inside = (target >= 0) & (target < classes)
    # A label outside the classes would be a row of zeros, a loss of 0: NaN is honest.
    rows = jax.nn.one_hot(target, classes, dtype=dtype)
    return jnp.where(inside[..., None], rows, jnp.nan)


def _reduce(values: Array, dpred: Array, pred: Array, reduction: str):
    if reduction == "none":
        return values, dpred.astype(pred.dtype)
    if reduction != "mean":
        raise JaxnnError(f"reduction {reduction!r} is unknown; valid: mean, none")
    if values.size == 0:
        raise JaxnnError(f"the mean loss of no samples: predictions {pred.shape}")
    return values.mean(), (dpred / values.size).astype(pred.dtype)
