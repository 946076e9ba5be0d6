"""Weights of samples and of classes, checked and made one array before training."""

import inspect
from typing import Any

import numpy as np

from jaxnn.errors import JaxnnError


def sample_weights(y: Any, weights: Any = None, class_weights: Any = None) -> Any:
    """One weight for each sample, (N,), or None if neither kind is given.

    Args:
      y: targets; class weights need labels (N,).
      weights: (N,), at least 0.
      class_weights: (classes,), at least 0: a sample's weight is multiplied by that of
        its label; "balanced": see `balanced_class_weights`.

    Raises:
      JaxnnError: weights of another length, negative or not finite, class weights
        without labels or of too few classes.
    """
    if weights is None and class_weights is None:
        return None
    y = np.asarray(y)
    weights = np.ones(len(y)) if weights is None else _checked("weights", weights)
    if len(weights) != len(y):
        raise JaxnnError(f"fit: got {len(weights)} weights for {len(y)} training rows")
    if class_weights is None:
        return weights
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer):
        raise JaxnnError(
            f"fit: class_weights need integer labels (N,), got targets {y.shape} of "
            f"{y.dtype}; give each sample its own weight by weights= instead"
        )
    if isinstance(class_weights, str):
        if class_weights != "balanced":
            raise JaxnnError(
                f"fit: got class_weights={class_weights!r}; valid: 'balanced' or an "
                "array with a weight for each class"
            )
        class_weights = balanced_class_weights(y)
    class_weights = _checked("class_weights", class_weights)
    if y.min() < 0 or y.max() >= len(class_weights):
        raise JaxnnError(
            f"fit: got {len(class_weights)} class_weights, but labels from {y.min()} "
            f"to {y.max()}"
        )
    return weights * class_weights[y]


def balanced_class_weights(y: Any) -> np.ndarray:
    """Weights (max label + 1,) that give every class the same total: N / (classes n_c).

    The mean over the N samples is 1; a label that does not occur has weight 0 and is
    not counted among the classes. Source: King, Zeng 2001; scikit-learn's "balanced".

    >>> balanced_class_weights([0, 0, 0, 2]).round(2).tolist()
    [0.67, 0.0, 2.0]
    """
    y = np.asarray(y)
    if y.size == 0 or y.min() < 0:
        least = f"the least is {y.min()}" if y.size else "there are none"
        raise JaxnnError(f"balanced class weights need labels >= 0, but {least}")
    counts = np.bincount(y)
    seen = counts > 0
    return np.where(seen, counts.sum() / (seen.sum() * np.maximum(counts, 1)), 0.0)


def check_takes_weights(loss: Any) -> None:
    """Raise unless `loss` has the keyword `weights`."""
    try:
        parameters = inspect.signature(loss).parameters.values()
    except (TypeError, ValueError):  # a builtin tells nothing: let it try
        return
    if not any(p.name == "weights" or p.kind is p.VAR_KEYWORD for p in parameters):
        name = getattr(loss, "__name__", loss)
        raise JaxnnError(
            f"fit: loss {name} has no keyword weights, expected "
            "(pred, target, *, weights=None) -> (value, dpred); see jaxnn.losses"
        )


def _checked(name, given) -> np.ndarray:
    a = np.asarray(given)
    if a.ndim != 1 or not np.issubdtype(np.result_type(a, np.float32), np.floating):
        raise JaxnnError(
            f"fit: got {name} {a.shape} of {a.dtype}, expected numbers (N,)"
        )
    bad = np.flatnonzero(~(np.isfinite(a) & (a >= 0)))
    if len(bad):
        raise JaxnnError(
            f"fit: {name} has {a[bad[0]]} at index {bad[0]}, expected finite weights "
            ">= 0"
        )
    if not a.any():
        raise JaxnnError(f"fit: got {name} that are all 0, expected one above")
    return a
