"""The same losses in PyTorch, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn.losses import LOSSES
from tests.rules.common import assert_close, normal

torch = pytest.importorskip("torch")
F = torch.nn.functional

PRED = 2 * normal(6, 4)
LABELS, ROWS = np.array([2, 0, 3, 1, 2, 2]), normal(6, 4, seed=1)
SHARES = np.random.default_rng(0).dirichlet(np.ones(4), 6)
YES = np.eye(4)[LABELS]
CLASS_WEIGHTS = np.array([2.0, 0.5, 0.1, 1])


def tensor(a):
    return torch.tensor(np.asarray(a))


def focal(pred, t):
    """As torchvision.ops.sigmoid_focal_loss writes it, alpha 0.25, gamma 2."""
    p = torch.sigmoid(pred)
    cost = F.binary_cross_entropy_with_logits(pred, t, reduction="none")
    p_t = p * t + (1 - p) * (1 - t)
    return ((0.25 * t + 0.75 * (1 - t)) * cost * (1 - p_t) ** 2).sum() / len(pred)


def of_weights(weighted_mean):
    """PyTorch's weighted mean divides by the sum of the weights, ours by B."""
    return lambda p, t: weighted_mean(p, t) * CLASS_WEIGHTS[LABELS].sum() / 6


PAIRS = {
    # name: (loss, settings, target, in PyTorch)
    "cross-entropy": ("softmax_cross_entropy", {}, LABELS, F.cross_entropy),
    "of a distribution": ("softmax_cross_entropy", {}, SHARES, F.cross_entropy),
    "smoothed": (
        "softmax_cross_entropy", {"label_smoothing": 0.2}, LABELS,
        lambda p, t: F.cross_entropy(p, t, label_smoothing=0.2),
    ),
    "class weights": (
        "softmax_cross_entropy", {"class_weights": CLASS_WEIGHTS}, LABELS,
        of_weights(lambda p, t: F.cross_entropy(p, t, weight=tensor(CLASS_WEIGHTS))),
    ),
    "nll": ("nll", {}, LABELS, F.nll_loss),
    "nll class weights": (
        "nll", {"class_weights": CLASS_WEIGHTS}, LABELS,
        of_weights(lambda p, t: F.nll_loss(p, t, weight=tensor(CLASS_WEIGHTS))),
    ),
    "kl": (
        "kl", {}, SHARES,
        lambda p, t: F.kl_div(F.log_softmax(p, -1), t, reduction="batchmean"),
    ),
    "sigmoid": (
        "sigmoid_cross_entropy", {}, YES,
        lambda p, t: 4 * F.binary_cross_entropy_with_logits(p, t),
    ),
    "sigmoid focal": ("sigmoid_focal", {"alpha": 0.25}, YES, focal),
    "mse": ("mse", {}, ROWS, F.mse_loss),
    "mae": ("mae", {}, ROWS, F.l1_loss),
    "huber": (
        "huber", {"delta": 0.7}, ROWS, lambda p, t: F.huber_loss(p, t, delta=0.7)
    ),
    "weston-watkins": (
        "margin", {"form": "weston_watkins", "margin": 0.8}, LABELS,
        lambda p, t: 4 * F.multi_margin_loss(p, t, margin=0.8),
    ),
    "hinge": (
        "hinge", {}, YES,
        lambda p, t: 4 * (1 - (2 * t - 1) * p).clamp(min=0).mean(),
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "settings", "target", "theirs"), PAIRS.values(), ids=PAIRS
)
def test_value_and_gradient_are_those_of_torch(name, settings, target, theirs):
    value, dpred = LOSSES[name](jnp.asarray(PRED), jnp.asarray(target), **settings)
    pred = torch.tensor(PRED, requires_grad=True)
    want = theirs(pred, tensor(target))
    want.backward()
    assert_close(value, want.item())
    assert_close(dpred, pred.grad.numpy())


@pytest.mark.parametrize("scale", [1e3, 1e30])
def test_huge_logits_in_float32_are_as_in_torch(scale):
    logits = (scale * normal(6, 4)).astype(np.float32)
    value, dpred = jax.jit(LOSSES["softmax_cross_entropy"])(logits, LABELS)
    pred = torch.tensor(logits, requires_grad=True)
    want = F.cross_entropy(pred, tensor(LABELS))
    want.backward()
    np.testing.assert_allclose(value, want.item(), rtol=1e-6)
    np.testing.assert_allclose(dpred, pred.grad.numpy(), atol=1e-7)
