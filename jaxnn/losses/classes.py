"""Losses of one class out of N: softmax, focal, KL, and the margins of scores."""

from typing import Any, Literal

import jax.numpy as jnp
from jax import Array

from jaxnn.errors import JaxnnError
from jaxnn.losses.core import (
    Reduction,
    at_least_0,
    class_rows,
    finish,
    taking_arrays,
    wide,
)
from jaxnn.rules import log_softmax


@taking_arrays
def softmax_cross_entropy(
    logits: Array,
    target: Array,
    *,
    label_smoothing: float = 0.0,
    weights: Any = None,
    class_weights: Any = None,
    reduction: Reduction = "mean",
) -> tuple[Array, Array]:
    """-sum t log softmax(logits), dlogits = softmax(logits) sum(t) - t.

    Args:
      logits: (B, N), any size: the log of the softmax is taken directly, so nothing
        overflows. Not probabilities.
      target: labels (B,) in 0..N-1, or a distribution (B, N).
      label_smoothing: share s of the target spread evenly: t (1 - s) + s / N; the part
        of a class that a logit of -inf masks is left out.
      weights: (B,), see the module; class_weights: (N,).
      reduction: see the module.

    Raises:
      JaxnnError: shapes that do not fit.

    Source: Bridle 1990; label smoothing, Szegedy et al. 2016.
    """
    t, each = class_rows(
        "softmax_cross_entropy", logits, target, weights, class_weights
    )
    if not 0 <= label_smoothing <= 1:
        raise JaxnnError(
            f"softmax_cross_entropy: got label_smoothing={label_smoothing:g}, expected "
            "a share in [0, 1]"
        )
    if label_smoothing:
        # a masked class, of logit -inf, gets no share, or every loss would be infinite
        share = jnp.where(logits == -jnp.inf, 0, label_smoothing / logits.shape[-1])
        t = t * (1 - label_smoothing) + share
    log_p, cache = log_softmax.fwd(wide(logits))
    dlogits = log_softmax.bwd(cache, -t)[0]
    assert dlogits is not None
    # where: 0 * -inf is NaN, but a class of no weight costs nothing
    values = -jnp.where(t == 0, 0, t * log_p).sum(-1)
    return finish(values, dlogits, logits, each, reduction)


@taking_arrays
def nll(
    log_p: Array,
    target: Array,
    *,
    weights: Any = None,
    class_weights: Any = None,
    reduction: Reduction = "mean",
) -> tuple[Array, Array]:
    """Negative log-likelihood -sum t log_p of log-probabilities, dlog_p = -t.

    log_p (B, N) comes from a `log_softmax` layer; target as in
    `softmax_cross_entropy`, which is this with that layer in one.
    """
    t, each = class_rows("nll", log_p, target, weights, class_weights)
    log_p_wide = wide(log_p)
    # a class of no weight costs nothing, also at -inf; but a NaN stays in sight
    idle = (t == 0) & ~jnp.isnan(log_p_wide)
    values = -jnp.where(idle, 0, t * log_p_wide).sum(-1)
    return finish(values, -t, log_p, each, reduction)


@taking_arrays
def kl(
    logits: Array,
    target: Array,
    *,
    weights: Any = None,
    class_weights: Any = None,
    reduction: Reduction = "mean",
) -> tuple[Array, Array]:
    """Kullback-Leibler divergence of softmax(logits) from t; gradient softmax - t.

    sum t (log t - log softmax(logits)): the cross-entropy less the entropy of t, so 0
    where the network says exactly t. For a target that another network gave
    (distillation). dlogits = softmax(logits) sum(t) - t. A class with t = 0 costs
    nothing; a negative t is NaN.

    Source: Kullback, Leibler 1951.
    """
    t, each = class_rows("kl", logits, target, weights, class_weights)
    log_p, cache = log_softmax.fwd(wide(logits))
    dlogits = log_softmax.bwd(cache, -t)[0]
    assert dlogits is not None
    log_t = jnp.log(jnp.where(t == 0, 1, t))
    values = jnp.where(t == 0, 0, t * (log_t - log_p)).sum(-1)
    return finish(values, dlogits, logits, each, reduction)


@taking_arrays
def softmax_focal(
    logits: Array,
    target: Array,
    *,
    gamma: float = 2.0,
    weights: Any = None,
    class_weights: Any = None,
    reduction: Reduction = "mean",
) -> tuple[Array, Array]:
    """-sum t (1 - p)^gamma log p, p = softmax(logits): what is easy counts little.

    With g = dvalue/dlog p = t (gamma (1 - p)^(gamma - 1) p log p - (1 - p)^gamma),
    dlogits = g - p sum(g). gamma = 0 is `softmax_cross_entropy`.

    Source: Lin et al. 2017, there for sigmoids (`sigmoid_focal`).
    """
    at_least_0("softmax_focal", "gamma", gamma)
    t, each = class_rows("softmax_focal", logits, target, weights, class_weights)
    log_p, cache = log_softmax.fwd(wide(logits))
    p, rest = jnp.exp(log_p), -jnp.expm1(log_p)  # 0 only where log_p is
    # log(p) / (1 - p) is -1 in the limit p = 1, and p log(p) is 0 at p = 0
    certain, never = rest == 0, p == 0
    slope = jnp.where(certain, -1, log_p / jnp.where(certain, 1, rest))
    slope = jnp.where(never, 0, p * jnp.where(never, 0, slope))
    fading = rest**gamma
    values = -jnp.where(t == 0, 0, t * fading * log_p).sum(-1)
    dlogits = log_softmax.bwd(cache, t * fading * (gamma * slope - 1))[0]
    assert dlogits is not None
    return finish(values, dlogits, logits, each, reduction)


@taking_arrays
def margin(
    scores: Array,
    target: Array,
    *,
    margin: float = 1.0,
    form: Literal["crammer_singer", "weston_watkins"] = "crammer_singer",
    weights: Any = None,
    class_weights: Any = None,
    reduction: Reduction = "mean",
) -> tuple[Array, Array]:
    """Multiclass hinge: the right score is to lead the others by `margin`.

    With slack_j = margin + z_j - z_y for j != y, crammer_singer is the largest of them
    or 0, weston_watkins the sum of the positive ones (PyTorch's `MultiMarginLoss`
    divides it by N). dscores is +1 for each slack that counts, and -1 for z_y for each.

    Args:
      scores: (B, N).
      target: labels (B,), or a distribution (B, N): the mean over it of the loss of
        each label, which takes (B, N, N).
      margin: at least 0.
      form: which of the two.
      weights, class_weights, reduction: see the module.

    At the kink slack = 0 the derivative is 0; of several largest slacks the first has
    it. Source: Crammer, Singer 2001; Weston, Watkins 1999.
    """
    if form not in ("crammer_singer", "weston_watkins"):
        raise JaxnnError(
            f"margin: got form {form!r}; valid: crammer_singer, weston_watkins"
        )
    at_least_0("margin", "margin", margin)
    t, each = class_rows("margin", scores, target, weights, class_weights)
    z = wide(scores)[..., None, :]  # (B, 1, N): one label y, or (B, N, N): each of them
    if target.shape == scores.shape:
        z = jnp.broadcast_to(z, (*t.shape, t.shape[-1]))
        right, share = jnp.broadcast_to(jnp.eye(t.shape[-1]) == 1, z.shape), t
    else:
        right, share = (t == 1)[..., None, :], t.sum(-1, keepdims=True)
    own = jnp.where(right, z, 0).sum(-1, keepdims=True)
    slack = jnp.where(right, -jnp.inf, margin + z - own)
    counted = ~(slack <= 0)
    if form == "crammer_singer":
        first = slack.argmax(-1, keepdims=True)
        counted &= jnp.arange(t.shape[-1]).reshape((1,) * t.ndim + (-1,)) == first
    lost = jnp.where(counted, slack, 0).sum(-1)
    values = jnp.where(share == 0, 0, share * lost).sum(-1)
    up = jnp.where(counted, jnp.sign(slack), 0)  # the sign keeps a NaN in sight
    moved = up - jnp.where(right, up.sum(-1, keepdims=True), 0)
    dscores = (share[..., None] * moved).sum(-2)
    return finish(values, dscores, scores, each, reduction)
