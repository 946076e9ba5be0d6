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

`softmax_cross_entropy.having(label_smoothing=0.1)` is the loss with that setting, equal
to any other such one (`functools.partial` is equal to itself only, and compiles anew).
Write your own with `@loss`; that makes it known by its name, too.
"""

from jaxnn.errors import JaxnnError, lookup
from jaxnn.losses.core import LOSSES as LOSSES
from jaxnn.losses.core import Loss as Loss
from jaxnn.losses.core import Reduction as Reduction
from jaxnn.losses.core import RegisteredLoss as RegisteredLoss
from jaxnn.losses.core import is_correct as is_correct
from jaxnn.losses.core import loss as loss
from jaxnn.losses.core import one_hot as one_hot
from jaxnn.losses.core import yes_above as yes_above
from jaxnn.losses.formulas import *  # noqa: F403


def loss_by_name(name: str | Loss, label_smoothing: float = 0.0) -> Loss:
    """The loss of that name, or `name` itself if it is a function.

    Raises:
      JaxnnError: unknown name (lists the valid ones), or label smoothing of a loss
        that has none.
    """
    found = name if callable(name) else lookup("loss", name, LOSSES)
    if not label_smoothing:
        return found
    if not isinstance(found, RegisteredLoss) or not found.takes("label_smoothing"):
        raise JaxnnError(
            f"label_smoothing={label_smoothing:g} needs loss softmax_cross_entropy, "
            f"got {name}"
        )
    return found.having(label_smoothing=label_smoothing)
