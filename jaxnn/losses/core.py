"""What every loss is made of: targets as rows, weights, and the mean at the end."""

from collections.abc import Callable
from functools import wraps
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.arrays import as_array, as_floats
from jaxnn.errors import JaxnnError

Reduction = Literal["mean", "none"]
Loss = Callable[..., tuple[Array, Array]]


def wide(a: Array) -> Array:
    """At least float32: sums of bfloat16 lose the small terms."""
    return a.astype(jnp.promote_types(a.dtype, jnp.float32))


def one_hot(labels: Array, classes: int, dtype: Any) -> Array:
    """Labels (...) as rows (..., N) of 0 and 1; a label outside 0..N-1 is a row of NaN.

    It would be a row of zeros, a loss of 0: NaN is honest.
    """
    inside = (labels >= 0) & (labels < classes)
    rows = jax.nn.one_hot(labels, classes, dtype=dtype)
    return jnp.where(inside[..., None], rows, jnp.nan)


def class_rows(
    name: str, pred: Array, target: Array, weights: Any, class_weights: Any
) -> tuple[Array, Array | None]:
    """Rows (B, N) that share out the classes, and the samples' weights (B,) or None.

    A sample's class weight is the mean over its row: that of its label.
    """
    t = _rows(name, pred, target)
    return t, _weights(name, t, weights, class_weights)


def value_rows(
    name: str, pred: Array, target: Array, weights: Any, class_weights: Any
) -> tuple[Array, Array | None]:
    """Rows (B, N) of any numbers, and weights; only labels have class weights."""
    t = _rows(name, pred, target)
    _need_labels(name, t, target, class_weights)
    return t, _weights(name, t, weights, class_weights)


def yes_no_rows(
    name: str, pred: Array, target: Array, weights: Any, class_weights: Any
) -> tuple[Array, Array | None]:
    """Rows (B, N) in [0, 1] of N questions, and weights.

    Labels (B,) say which of N questions has the answer yes; for a single output, pred
    (B, 1), they are the answer itself, 0 or 1.
    """
    one = pred.ndim > 0 and pred.shape[-1] == 1 and target.shape == pred.shape[:-1]
    if one and jnp.issubdtype(target.dtype, jnp.integer):
        dtype = jnp.promote_types(pred.dtype, jnp.float32)
        answers = one_hot(target, 2, dtype)  # (B, 2): no, yes
        return answers[..., 1:], _weights(name, answers, weights, class_weights)
    return value_rows(name, pred, target, weights, class_weights)


def finish(
    values: Array, dpred: Array, pred: Array, weights: Array | None, reduction: str
) -> tuple[Array, Array]:
    """Weight and reduce the values (B,) and gradients (B, N) of the samples."""
    if weights is not None:
        values, dpred = values * weights, dpred * weights[..., None]
    if reduction == "none":
        return values, dpred.astype(pred.dtype)
    if reduction != "mean":
        raise JaxnnError(f"reduction {reduction!r} is unknown; valid: mean, none")
    if values.size == 0:
        raise JaxnnError(f"the mean loss of no samples: predictions {pred.shape}")
    return values.mean(), (dpred / values.size).astype(pred.dtype)


def taking_arrays(loss: Loss) -> Loss:
    """Decorate a loss: predictions are floats, targets numbers, lists made arrays.

    Raises:
      JaxnnError: anything else.
    """

    @wraps(loss)
    def checked(pred: Any, target: Any, **settings: Any) -> tuple[Array, Array]:
        name = getattr(loss, "__name__", "loss")
        pred = as_floats(pred, name, "predictions")
        return loss(pred, jnp.asarray(as_array(target, name, "targets")), **settings)

    return checked


def at_least_0(name: str, setting: str, value: float) -> None:
    """Raise unless the setting of a loss is a number >= 0."""
    if not value >= 0:
        raise JaxnnError(f"{name}: got {setting}={value:g}, expected {setting} >= 0")


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
    return one_hot(target, pred.shape[-1], dtype)


def _need_labels(name, t, target, class_weights):
    if class_weights is not None and target.shape == t.shape:
        raise JaxnnError(
            f"{name}: class_weights need labels {t.shape[:-1]}, got targets {t.shape}; "
            "give each sample its own weight by weights="
        )


def _weights(name, t, weights, class_weights):
    """(B,): weights times the class weights' mean over the rows t."""
    each = None
    if weights is not None:
        each = jnp.asarray(weights).astype(t.dtype)
        if each.shape != t.shape[:-1]:
            raise JaxnnError(
                f"{name}: got weights {each.shape}, expected one a sample, "
                f"{t.shape[:-1]}"
            )
    if class_weights is None:
        return each
    of_class = jnp.asarray(class_weights).astype(t.dtype)
    if of_class.shape != t.shape[-1:]:
        raise JaxnnError(
            f"{name}: got class_weights {of_class.shape}, expected one a class, "
            f"{t.shape[-1:]}"
        )
    of_sample = t @ of_class
    return of_sample if each is None else each * of_sample
