"""The table of what every loss is checked on, with references written another way."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.losses import LOSSES, Loss, loss_by_name
from tests.rules.common import normal


class Case(NamedTuple):
    name: str
    loss: Loss
    pred: np.ndarray
    target: np.ndarray
    reference: Callable  # (pred, rows of targets) -> values (B,)


def softplus(x):
    return jax.scipy.special.logsumexp(jnp.stack([x, jnp.zeros_like(x)]), axis=0)


def cross_entropy(pred, t):
    return -(t * jax.nn.log_softmax(pred)).sum(-1)


def smoothed(share):
    def reference(pred, t):
        return cross_entropy(pred, (1 - share) * t + share / t.shape[-1])

    return reference


def nll(pred, t):
    return -(t * pred).sum(-1)


def kl(pred, t):
    entropy = jax.scipy.special.entr(t).sum(-1)
    return cross_entropy(pred, t) - entropy


def softmax_focal(pred, t, gamma=2.0):
    p = jax.nn.softmax(pred)
    hard = 1.0 if gamma == 0 else (p.sum(-1, keepdims=True) - p) ** gamma
    return -(t * hard * jax.nn.log_softmax(pred)).sum(-1)


def sigmoid_cross_entropy(pred, t):
    return (t * softplus(-pred) + (1 - t) * softplus(pred)).sum(-1)


def sigmoid_focal(pred, t, gamma=2.0, alpha=None):
    yes, no = (1, 1) if alpha is None else (alpha, 1 - alpha)
    # powers by exp: s ** 0 has no derivative that jax finds finite
    log_s, log_rest = -softplus(-pred), -softplus(pred)
    one = -yes * t * jnp.exp(gamma * log_rest) * log_s
    return (one - no * (1 - t) * jnp.exp(gamma * log_s) * log_rest).sum(-1)


def hinge(pred, t, margin=1.0):
    yes, no = jax.nn.relu(margin - pred), jax.nn.relu(margin + pred)
    return (t * yes + (1 - t) * no).sum(-1)


def margin(pred, t, margin=1.0, form="crammer_singer"):
    total = 0.0
    for y in range(pred.shape[-1]):
        others = jnp.delete(pred, y, axis=-1)
        slack = jax.nn.relu(margin + others - jnp.expand_dims(pred[..., y], -1))
        if form == "crammer_singer" and slack.shape[-1]:
            first = jnp.argmax(slack, -1, keepdims=True)
            slack = jnp.take_along_axis(slack, first, -1)
        total += t[..., y] * slack.sum(-1)
    return total


def mse(pred, t):
    return ((pred - t) ** 2).mean(-1)


def quadratic(pred, t):
    return 0.5 * ((pred - t) ** 2).sum(-1)


def mae(pred, t):
    return jnp.maximum(pred - t, t - pred).mean(-1)


def huber(pred, t, delta=1.0):
    d = pred - t
    held = jnp.clip(d, -delta, delta)
    return (held * d - held**2 / 2).mean(-1)


REFERENCES = {
    "hinge": hinge, "huber": huber, "kl": kl, "mae": mae, "margin": margin, "mse": mse,
    "nll": nll, "quadratic": quadratic, "sigmoid_cross_entropy": sigmoid_cross_entropy,
    "sigmoid_focal": sigmoid_focal, "softmax_cross_entropy": cross_entropy,
    "softmax_focal": softmax_focal,
}  # fmt: skip
# one loss of each kind of targets: what is done with them is the same for all
KINDS = ("softmax_cross_entropy", "sigmoid_cross_entropy", "hinge", "mse")
YES_NO = ("hinge", "sigmoid_cross_entropy", "sigmoid_focal")
DISTRIBUTION_ONLY = ("hinge", "kl")  # other rows are NaN
OF_CLASSES = ("kl", "margin", "nll", "softmax_cross_entropy", "softmax_focal")

LABELS = np.array([2, 0, 3, 1, 2])
DISTRIBUTION = np.random.default_rng(0).dirichlet(np.ones(4), 5)
HUGE = np.array([[800.0, -800, 0, 0], [1e4, 1e4, -1e4, 0], [0, 0, 0, 0]])
# Masked classes (logit -inf) have no weight in the target.
MASKED = np.array([[0.5, -np.inf, 1, -np.inf], [2, -np.inf, -1, -np.inf]])
MASKED_LABELS = np.array([2, 0])
WEIGHTS, CLASS_WEIGHTS = np.array([0.5, 0, 3, 1, 2]), np.array([2.0, 0.5, 0, 1])


def unmasked(reference):
    """The same loss without the masked classes: they must not matter."""
    return lambda pred, t: reference(pred[:, ::2], t[:, ::2])


def weighted(reference):
    def weigh(pred, t):
        return reference(pred, t) * jnp.asarray(WEIGHTS) * (t @ CLASS_WEIGHTS)

    return weigh


def settings():
    """Other settings than the defaults: name -> (loss, reference)."""
    table = {
        "softmax_focal": [{"gamma": g} for g in (0.0, 0.5, 5.0)],
        "sigmoid_focal": [{"gamma": 0.0}, {"gamma": 0.5, "alpha": 0.25}],
        "huber": [{"delta": 0.3}, {"delta": 50.0}],
        "hinge": [{"margin": 0.0}, {"margin": 0.3}],
        "margin": [{"margin": 0.3}, {"margin": 0.7, "form": "weston_watkins"}],
    }
    for name, options in table.items():
        for given in options:
            words = " ".join(f"{k}={v}" for k, v in given.items())
            reference = partial(REFERENCES[name], **given)
            yield f"{name} {words}", partial(LOSSES[name], **given), reference
    for share in (0.1, 1.0):
        loss = loss_by_name("softmax_cross_entropy", share)
        yield f"label smoothing {share}", loss, smoothed(share)


def default_cases(name, reference):
    """What the formula is checked on; of one loss a kind also what all of them share.

    Every case is compiled, which is what takes the time.
    """
    loss = LOSSES[name]
    found = {
        "labels": (normal(5, 4), LABELS),
        "distribution": (normal(5, 4), DISTRIBUTION),
        "huge": (HUGE, np.array([1, 2, 3])),
    }
    if name not in (*DISTRIBUTION_ONLY, "mae", "huber", "quadratic"):  # as mse
        found["real values"] = normal(5, 4), normal(5, 4, seed=1)
        found["one output"] = normal(5, 1), normal(5, 1, seed=1)
    if name in (*KINDS, "margin"):
        found["one sample"] = normal(1, 3), np.array([2])
        found["sequence"] = normal(2, 3, 4), np.array([[0, 1, 3], [2, 2, 0]])
    if name in KINDS:
        found["int rows"] = normal(3, 2), np.array([[0, 1], [1, 0], [1, 1]])
    for kind, (pred, target) in found.items():
        yield Case(f"{name}: {kind}", loss, pred, target, reference)
    if name in OF_CLASSES:
        yield Case(f"{name}: masked", loss, MASKED, MASKED_LABELS, unmasked(reference))
    if name in KINDS:
        both = partial(loss, weights=WEIGHTS, class_weights=CLASS_WEIGHTS)
        for kind in ("labels", "distribution")[: 1 + (name in OF_CLASSES)]:
            case = f"{name}: weighted {kind}"
            yield Case(case, both, *found[kind], weighted(reference))


def loss_cases():
    for name, reference in REFERENCES.items():
        yield from default_cases(name, reference)
    for name, loss, reference in settings():
        yield Case(f"{name}: rows", loss, 2 * normal(5, 4), DISTRIBUTION, reference)
        if name.startswith("margin"):  # which are another program
            yield Case(f"{name}: rivals", loss, 2 * normal(5, 4), LABELS, reference)
    answers = np.array([1, 0, 1, 1, 0])
    for name in YES_NO:
        case = f"{name}: one question, labels"
        yield Case(case, LOSSES[name], normal(5, 1), answers, REFERENCES[name])
    for kind, shape in (("labels", (5,)), ("rows", (5, 1))):
        signs = (2 * answers - 1).reshape(shape)
        yield Case(
            f"hinge: signs as {kind}", LOSSES["hinge"], normal(5, 1), signs, hinge
        )


CASES = {case.name: case for case in loss_cases()}


def rows(case):
    """The target as rows of the shape of pred."""
    target = case.target
    if "signs" in case.name:
        target = (target + 1) // 2
    if target.shape == case.pred.shape:
        return jnp.asarray(target, float)
    if case.pred.shape[-1] == 1:
        return jnp.asarray(target[:, None], float)
    return jnp.asarray(np.eye(case.pred.shape[-1])[target])
