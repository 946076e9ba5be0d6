"""Losses: `(pred, target) -> (value, dpred)`, the gradient written beside the value.

pred (B, N). `target` is int labels (B,) or an array of the shape of pred (a
distribution, one-hot rows or real values); a label outside 0..N-1 makes its loss NaN.
With `reduction="mean"` the value is the mean over the batch, (); with "none" it is one
value a sample, (B,), and dpred is the gradient of their sum, so that each row is that
sample's own (attacks use this).

`weights` (B,) multiply the samples' values, and `class_weights` (N,) do so by label;
for a distribution the class weight is its mean. The mean still divides by B, as Keras
does, so that a batch's gradient is unbiased (PyTorch divides by the sum of the
weights: ours times B / sum). A sample of weight 0 must still have a valid target and a
finite value: 0 * NaN is NaN.

Predictions are floats (lists and other arrays are read, whole numbers refused). The
value is taken in float32 at least, dpred has the type of pred. A NaN in pred makes the
value NaN; a logit of -inf masks its class, which costs nothing unless it is the target.

    core      targets as rows, weights, the mean
    classes   one class out of N: cross-entropy, KL, focal, margin
    outputs   N outputs one by one: sigmoid losses, hinge, distances
"""

from functools import partial

from jaxnn.errors import JaxnnError, lookup
from jaxnn.losses.classes import (
    kl,
    margin,
    nll,
    softmax_cross_entropy,
    softmax_focal,
)
from jaxnn.losses.core import Loss, Reduction, one_hot
from jaxnn.losses.outputs import (
    hinge,
    huber,
    mae,
    mse,
    quadratic,
    sigmoid_cross_entropy,
    sigmoid_focal,
)
from jaxnn.programs import remembered

LOSSES: dict[str, Loss] = {
    "hinge": hinge,
    "huber": huber,
    "kl": kl,
    "mae": mae,
    "margin": margin,
    "mse": mse,
    "nll": nll,
    "quadratic": quadratic,
    "sigmoid_cross_entropy": sigmoid_cross_entropy,
    "sigmoid_focal": sigmoid_focal,
    "softmax_cross_entropy": softmax_cross_entropy,
    "softmax_focal": softmax_focal,
}
"""Every loss by name."""


@remembered
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


__all__ = [
    "LOSSES",
    "Loss",
    "Reduction",
    "hinge",
    "huber",
    "kl",
    "loss_by_name",
    "mae",
    "margin",
    "mse",
    "nll",
    "one_hot",
    "quadratic",
    "sigmoid_cross_entropy",
    "sigmoid_focal",
    "softmax_cross_entropy",
    "softmax_focal",
]
