"""The losses themselves: one class out of N, N yes/no questions, distances."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.errors import JaxnnError
from jaxnn.losses.core import check_setting, loss
from jaxnn.rules import log_softmax

__all__ = [
    "hinge", "huber", "kl", "mae", "margin", "mse", "nll", "quadratic",
    "sigmoid_cross_entropy", "sigmoid_focal", "softmax_cross_entropy", "softmax_focal",
]  # fmt: skip

SCORES = (None, "tanh")  # a score may be negative
VALUES = (
    None, "relu", "leaky_relu", "elu", "selu", "gelu", "swish", "tanh", "sigmoid",
    "softplus", "softmax",
)  # fmt: skip


@loss(targets="classes", probabilities="softmax")
def softmax_cross_entropy(
    logits: Array, t: Array, *, label_smoothing: float = 0.0
) -> tuple[Array, Array]:
    """-sum t log softmax(logits), dlogits = softmax(logits) sum(t) - t.

    Args:
      logits: (B, N), any size: the log of the softmax is taken directly, so nothing
        overflows. Not probabilities.
      t: labels (B,) in 0..N-1, or a distribution (B, N).
      label_smoothing: share s of the target spread evenly: t (1 - s) + s / N; the part
        of a class that a logit of -inf masks is left out.

    Source: Bridle 1990; label smoothing, Szegedy et al. 2016.
    """
    if not isinstance(label_smoothing, int | float) or label_smoothing:
        check_setting(
            "softmax_cross_entropy", "label_smoothing", label_smoothing,
            lambda share: 0 <= share <= 1, "a share in [0, 1]",
        )  # fmt: skip
        # a masked class, of logit -inf, gets no share, or every loss would be infinite
        share = jnp.where(logits == -jnp.inf, 0, label_smoothing / logits.shape[-1])
        t = t * (1 - label_smoothing) + share
    log_p, cache = log_softmax.fwd(logits)
    dlogits: Any = log_softmax.bwd(cache, -t)[0]
    # where: 0 * -inf is NaN, but a class of no weight costs nothing
    return -jnp.where(t == 0, 0, t * log_p).sum(-1), dlogits


@loss(targets="classes", outputs=("log_softmax",), probabilities="softmax")
def nll(log_p: Array, t: Array) -> tuple[Array, Array]:
    """Negative log-likelihood -sum t log_p of log-probabilities, dlog_p = -t.

    log_p (B, N) comes from a `log_softmax` layer; target as in
    `softmax_cross_entropy`, which is this with that layer in one.
    """
    # a class of no weight costs nothing, also at -inf; but a NaN stays in sight
    idle = (t == 0) & ~jnp.isnan(log_p)
    return -jnp.where(idle, 0, t * log_p).sum(-1), -t


@loss(targets="classes", probabilities="softmax")
def kl(logits: Array, t: Array) -> tuple[Array, Array]:
    """Kullback-Leibler divergence of softmax(logits) from t; gradient softmax - t.

    sum t (log t - log softmax(logits)): the cross-entropy less the entropy of t, so 0
    where the network says exactly t. For a target that another network gave
    (distillation). dlogits = softmax(logits) sum(t) - t. A class with t = 0 costs
    nothing; a negative t is NaN.

    Source: Kullback, Leibler 1951.
    """
    log_p, cache = log_softmax.fwd(logits)
    dlogits: Any = log_softmax.bwd(cache, -t)[0]
    log_t = jnp.log(jnp.where(t == 0, 1, t))
    return jnp.where(t == 0, 0, t * (log_t - log_p)).sum(-1), dlogits


@loss(targets="classes", probabilities="softmax")
def softmax_focal(
    logits: Array, t: Array, *, gamma: float = 2.0
) -> tuple[Array, Array]:
    """-sum t (1 - p)^gamma log p, p = softmax(logits): what is easy counts little.

    With g = dvalue/dlog p = t (gamma (1 - p)^(gamma - 1) p log p - (1 - p)^gamma),
    dlogits = g - p sum(g). gamma >= 0; 0 is `softmax_cross_entropy`.

    Source: Lin et al. 2017, there for sigmoids (`sigmoid_focal`).
    """
    check_setting("softmax_focal", "gamma", gamma, lambda g: g >= 0, "gamma >= 0")
    log_p, cache = log_softmax.fwd(logits)
    p, rest = jnp.exp(log_p), -jnp.expm1(log_p)  # 0 only where log_p is
    # log(p) / (1 - p) is -1 in the limit p = 1, and p log(p) is 0 at p = 0
    certain, never = rest == 0, p == 0
    slope = jnp.where(certain, -1, log_p / jnp.where(certain, 1, rest))
    slope = jnp.where(never, 0, p * jnp.where(never, 0, slope))
    fading = rest**gamma
    values = -jnp.where(t == 0, 0, t * fading * log_p).sum(-1)
    dlogits: Any = log_softmax.bwd(cache, t * fading * (gamma * slope - 1))[0]
    return values, dlogits


@loss(targets="classes", outputs=SCORES, probabilities="softmax")
def margin(
    scores: Array,
    t: Array,
    *,
    margin: float = 1.0,
    form: Literal["crammer_singer", "weston_watkins"] = "crammer_singer",
    one_hot: bool = False,
) -> tuple[Array, Array]:
    """Multiclass hinge: the right score is to lead the others by `margin`.

    With slack_j = margin + z_j - z_y for j != y, crammer_singer is the largest of them
    or 0, weston_watkins the sum of the positive ones (PyTorch's `MultiMarginLoss`
    divides it by N). dscores is +1 for each slack that counts, and -1 for z_y for each.

    Args:
      scores: (B, N).
      t: labels (B,), or a distribution (B, N): the mean over it of the loss of each
        label, which takes (B, N, N).
      margin: at least 0.
      form: which of the two.
      one_hot: whether t has been labels.

    At the kink slack = 0 the derivative is 0; of several largest slacks the first has
    it. Source: Crammer, Singer 2001; Weston, Watkins 1999.
    """
    if form not in ("crammer_singer", "weston_watkins"):
        raise JaxnnError(
            f"margin: got form {form!r}; valid: crammer_singer, weston_watkins"
        )
    check_setting("margin", "margin", margin, lambda m: m >= 0, "margin >= 0")
    z = scores[..., None, :]  # (B, 1, N): one label y, or (B, N, N): each of them
    if one_hot:
        right, share = (t == 1)[..., None, :], t.sum(-1, keepdims=True)
    else:
        z = jnp.broadcast_to(z, (*t.shape, t.shape[-1]))
        right, share = jnp.broadcast_to(jnp.eye(t.shape[-1]) == 1, z.shape), t
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
    return values, (share[..., None] * moved).sum(-2)


@loss(targets="answers", probabilities="sigmoid")
def sigmoid_cross_entropy(logits: Array, t: Array) -> tuple[Array, Array]:
    """Sum over outputs of -t log s - (1 - t) log(1 - s), s = sigmoid(z); dz = s - t.

    N independent yes/no questions: target (B, N) in [0, 1], or labels (B,) as one-hot
    rows; for a single output, logits (B, 1), labels are the answers 0 or 1.
    With softplus(z) = -log(1 - s) the value is t softplus(-z) + (1 - t) softplus(z):
    it cannot overflow, keeps the digits of a tiny loss, and is smooth at z = 0.
    """
    # where: an infinite logit costs nothing where the target agrees with it
    yes = jnp.where(t == 0, 0, t * jnp.logaddexp(-logits, 0))
    no = jnp.where(t == 1, 0, (1 - t) * jnp.logaddexp(logits, 0))
    return (yes + no).sum(-1), jax.nn.sigmoid(logits) - t


@loss(targets="answers", probabilities="sigmoid")
def sigmoid_focal(
    logits: Array, t: Array, *, gamma: float = 2.0, alpha: float | None = None
) -> tuple[Array, Array]:
    """Sum over outputs of -t (1-s)^gamma log s - (1-t) s^gamma log(1-s), s = sigmoid z.

    What is already right counts little; gamma = 0 is `sigmoid_cross_entropy`.
    dz = t (1-s)^gamma (gamma s log s - (1-s)) - the same of -z for 1 - t.

    Args:
      logits: (B, N), any size.
      t: as in `sigmoid_cross_entropy`.
      gamma: at least 0; 2 in the paper.
      alpha: weight of yes, 1 - alpha that of no, in [0, 1]; 0.25 in the paper, None
        weights both by 1.

    Source: Lin et al. 2017.
    """
    check_setting("sigmoid_focal", "gamma", gamma, lambda g: g >= 0, "gamma >= 0")
    if alpha is not None:
        check_setting(
            "sigmoid_focal", "alpha", alpha, lambda a: 0 <= a <= 1, "0 to 1 or None"
        )
    yes, no = (t, 1 - t) if alpha is None else (alpha * t, (1 - alpha) * (1 - t))
    (value_yes, dyes), (value_no, dno) = _fading(logits, gamma), _fading(-logits, gamma)
    values = jnp.where(yes == 0, 0, yes * value_yes) + jnp.where(
        no == 0, 0, no * value_no
    )
    return values.sum(-1), yes * dyes - no * dno


def _fading(z, gamma):
    """(1 - s)^gamma softplus(-z) and its derivative, s = sigmoid z, for any z."""
    s, rest, cost = jax.nn.sigmoid(z), jax.nn.sigmoid(-z), jnp.logaddexp(-z, 0)
    rising = jnp.where(s == 0, 0, s * jnp.where(s == 0, 0, cost))  # s log s: 0 at 0
    return rest**gamma * cost, -(rest**gamma) * (gamma * rising + rest)


@loss(targets="signs", outputs=SCORES, probabilities="softmax")
def hinge(scores: Array, t: Array, *, margin: float = 1.0) -> tuple[Array, Array]:
    """Sum over outputs of max(0, margin - s z), s = 2 t - 1; dz = -s where positive.

    N yes/no questions (one class against the rest): target (B, N) in [0, 1], where -1
    also stands for no, or labels (B,) as one-hot rows; for a single output, scores
    (B, 1), labels are the answers, 0 or -1 for no and 1 for yes. A t between 0 and 1
    is a mean: t max(0, margin - z) + (1 - t) max(0, margin + z); outside it is NaN.
    At the kink s z = margin the derivative is 0. `margin` is at least 0; see `margin`
    for one class against each other.

    Source: Cortes, Vapnik 1995; Rifkin, Klautau 2004.
    """
    check_setting("hinge", "margin", margin, lambda m: m >= 0, "margin >= 0")
    t = jnp.where(t == -1, 0, t)
    t = jnp.where((t >= 0) & (t <= 1), t, jnp.nan)
    short, over = margin - scores, margin + scores  # of yes, and of no
    # `<= 0` is false for NaN, which so stays in value and gradient
    yes, no = jnp.where(short <= 0, 0, short), jnp.where(over <= 0, 0, over)
    values = jnp.where(t == 0, 0, t * yes) + jnp.where(t == 1, 0, (1 - t) * no)
    dscores = (1 - t) * jnp.sign(no) - t * jnp.sign(yes)
    return values.sum(-1), dscores


@loss(outputs=VALUES)
def mse(pred: Array, t: Array) -> tuple[Array, Array]:
    """Mean over outputs of (pred - target)^2, dpred = 2 (pred - target) / N.

    pred and target (B, N) (or labels (B,), taken as one-hot rows).
    """
    difference, n = pred - t, pred.shape[-1]
    return jnp.square(difference).sum(-1) / n, difference * (2 / n)


@loss(outputs=VALUES)
def quadratic(pred: Array, t: Array) -> tuple[Array, Array]:
    """Half the squared distance |pred - target|^2 / 2, dpred = pred - target.

    The cost of Nielsen, "Neural Networks and Deep Learning" (2015), chapter 1.
    """
    difference = pred - t
    return jnp.square(difference).sum(-1) / 2, difference


@loss(outputs=VALUES)
def mae(pred: Array, t: Array) -> tuple[Array, Array]:
    """Mean over outputs of |pred - target|, dpred = sign(pred - target) / N.

    pred and target as in `mse`. At the kink pred = target the derivative is 0.
    """
    difference, n = pred - t, pred.shape[-1]
    return jnp.abs(difference).sum(-1) / n, jnp.sign(difference) / n


@loss(outputs=VALUES)
def huber(pred: Array, t: Array, *, delta: float = 1.0) -> tuple[Array, Array]:
    """Mean over outputs of d^2 / 2, beyond delta of delta (|d| - delta / 2).

    d = pred - target, and target as in `mse`; delta > 0. dpred = d / N, held
    at +-delta / N: it is continuous, its own slope breaks at |d| = delta.

    Source: Huber 1964.
    """
    check_setting("huber", "delta", delta, lambda d: d > 0, "delta > 0")
    difference, n = pred - t, pred.shape[-1]
    size = jnp.abs(difference)
    near = size <= delta
    square = jnp.square(jnp.where(near, difference, 0)) / 2
    values = jnp.where(near, square, delta * (size - delta / 2)).sum(-1) / n
    return values, jnp.where(near, difference, delta * jnp.sign(difference)) / n
