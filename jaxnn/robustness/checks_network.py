"""K10, K15, K17 to K20: is the network itself fit to be attacked by its gradient?"""

from functools import partial

import jax
import numpy as np

from jaxnn.losses import softmax_cross_entropy
from jaxnn.robustness.checks import POINT, verdict
from jaxnn.robustness.evidence import Evidence, Measured, check
from jaxnn.robustness.slopes import gradient_truth
from jaxnn.robustness.threat import SURE, surely_above

TINY = 1e-6  # a gradient below it is nearly lost in float32


def without_gradient(e: Evidence, least: float = 0.0) -> dict[str, np.ndarray]:
    """Loss -> which images that are right have no gradient above `least` to follow.

    One that is not a number leads nowhere. Wrong images need no attack.
    """
    return {
        name: e.clean & ~((size > least) & (size < np.inf))
        for name, (_, size) in e.gradients.items()
    }


@check("K10", "zero gradients")
def k10_gradient_size(e: Evidence) -> Measured:
    """Images whose gradient is zero cannot be attacked by following it."""
    zero, tiny = without_gradient(e), without_gradient(e, TINY)
    total = max(1, int(e.clean.sum()))
    words = "; ".join(
        f"{name}: {100 * zero[name].sum() / total:.1f}% zero, "
        f"{100 * tiny[name].sum() / total:.1f}% < {TINY:g}"
        for name in zero
    )
    outputs = e.lab.outputs(e.x)
    if (outputs == outputs[:1]).all():
        words = "the network says the same of every image: there is nothing to follow"
        return Measured("warn", 1.0, words)
    worst = max(zero, key=lambda n: (zero[n].sum(), tiny[n].sum()))
    share = float(zero[worst].sum() / total)
    if surely_above(int(zero[worst].sum()), total, 0.1):
        return Measured("fail", share, words, zero[worst])
    faint = max(int(t.sum()) for t in tiny.values())
    how = verdict(not surely_above(faint, total, 0.1), "warn")
    return Measured(how, share, words, zero[worst])


@check("K15", "logits")
def k15_logits(e: Evidence) -> Measured:
    """Outputs are finite; probabilities instead of logits flatten the loss twice."""
    z = e.lab.outputs(e.x)
    lost = np.asarray(~np.isfinite(z).all(-1))
    if lost.any():
        words = f"the outputs for {lost.sum()} images are NaN or infinite: no answers"
        return Measured("fail", float(lost.mean()), words, lost)
    sums = np.abs(z.sum(-1) - 1) < 1e-5
    probabilities = bool((sums & (z >= 0).all(-1)).mean() > 0.99)
    words = "outputs are logits"
    if probabilities:
        words = "outputs are probabilities (rows sum to 1): attack the layer before"
    return Measured(verdict(not probabilities, "warn"), float(sums.mean()), words)


@check("K17", "loss noise")
def k17_loss_noise(e: Evidence) -> Measured:
    """The loss is smooth: at near points it is nearly the same."""
    loss = jax.jit(partial(softmax_cross_entropy, reduction="none"))

    def values(x):
        return np.asarray(loss(e.lab.outputs(x), e.y)[0])

    base = values(e.x)
    rng, total = np.random.default_rng(0), np.zeros(len(e.y))
    radius = e.lab.threat.epsilon / 1000
    for _ in range(100):
        near = e.x + radius * rng.choice([-1.0, 1.0], e.x.shape).astype(e.x.dtype)
        near = near if e.lab.threat.box is None else np.clip(near, *e.lab.threat.box)
        total += np.abs(values(near) - base) / np.maximum(base, 1e-3)
    change = total / 100
    lost = ~np.isfinite(change)
    if lost.any():
        words = f"the loss of {lost.sum()} images or of points near them is not finite"
        return Measured("fail", None, words, lost)
    mean, error = float(change.mean()), float(change.std() / len(change) ** 0.5)
    words = f"mean relative change of the loss at 100 near points: {mean:.4f}"
    ok = mean - SURE * error < 0.1
    if not ok:
        words += ": it jumps however near the points are"
    return Measured(verdict(ok), mean, words, change > 0.1)


@check("K18", "gradient truth")
def k18_gradient_truth(e: Evidence) -> Measured:
    """The hand-written input gradient is `jax.grad`'s, and the slope that one sees."""
    found = gradient_truth(e.lab.model, e.x[:100], e.lab.threat.box)
    judged, missed = found.slopes
    beside = "jax.grad has none"
    if found.automatic is not None:
        beside = f"{found.automatic} of {len(found.wrong)} are not jax.grad's"
    words = (
        f"gradients by hand: {beside}; {missed} of {judged} slopes are not theirs "
        f"({found.points - judged} kinks left out)"
    )
    wrong = np.zeros(len(e.y), bool)
    wrong[: len(found.wrong)] = found.wrong
    if found.surely_wrong:
        words += ": a backward pass is wrong or not the forward's (jaxnn compare)"
    how = verdict(not found.surely_wrong)
    return Measured(how, float(found.wrong.mean()), words, wrong)


@check("K19", "certified <= attacked")
def k19_certified(e: Evidence) -> Measured:
    """No image that is proven robust may be broken, or wrong before any attack."""
    if e.certified is None:
        return Measured("skip", None, "no certificate given")
    attacked = np.all([e.clean, *e.right.values()], axis=0)
    wrong = e.certified & ~attacked
    words = (
        f"certified {100 * e.certified.mean():.1f}% <= attacked "
        f"{100 * attacked.mean():.1f}% <= clean {100 * e.clean.mean():.1f}%"
    )
    return Measured(verdict(not wrong.any()), int(wrong.sum()), words, wrong)


@check("K20", "adaptive")
def k20_adaptive(e: Evidence) -> Measured:
    """A layer that passes no gradient is attacked through, as if it were the identity.

    So is the one that passes the least: if that breaks more than all attacks along the
    gradient together, the layer hides it.

    Source: Athalye, Carlini, Wagner 2018, arXiv 1802.00420 (BPDA).
    """
    masking = e.masking
    suspects, how = masking.blocking, "no"
    if not suspects and masking.saturated is not None:
        suspects, how = [masking.saturated], "hardly any"
    if not suspects:
        words = "every layer passes gradients: the plain attack is adaptive"
        return Measured("pass", None, words)
    names = ", ".join(layer.label for layer in suspects)
    if masking.attacked_through is None:
        words = f"{names} passes {how} gradient and changes the shape: NOT adaptive"
        return Measured("fail", None, words)
    through = e.clean & masking.attacked_through
    gap = float(e.worst.mean() - through.mean())
    words = (
        f"{names} passes {how} gradient; attacked through it (BPDA) accuracy is "
        f"{100 * through.mean():.1f}%, without {100 * e.worst.mean():.1f}%"
    )
    missed = e.worst & ~through
    # what it breaks is broken, however much it leaves that the others broke
    ok = not surely_above(int(missed.sum()), len(missed), POINT)
    words += f", {missed.sum()} broken by it alone"
    if ok and not masking.blocking:
        words += ": it hides nothing"
    return Measured(verdict(ok), gap, words, missed)
