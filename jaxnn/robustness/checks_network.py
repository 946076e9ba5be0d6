"""K10, K15, K17 to K20: is the network itself fit to be attacked by its gradient?"""

from functools import partial

import jax
import numpy as np

from jaxnn.attacks import Classifier
from jaxnn.check.automatic import automatic
from jaxnn.losses import softmax_cross_entropy
from jaxnn.robustness.checks import verdict
from jaxnn.robustness.evidence import Check, Evidence
from jaxnn.robustness.masking import Masking


def k10_gradient_size(e: Evidence) -> Check:
    """Images whose gradient is zero cannot be attacked by following it."""
    parts, zero, tiny = [], {}, {}
    for name, (_, size) in e.gradients.items():
        zero[name], tiny[name] = size == 0, size < 1e-6
        parts.append(
            f"{name}: {100 * zero[name].mean():.1f}% zero, "
            f"{100 * tiny[name].mean():.1f}% < 1e-6"
        )
    worst = max(zero, key=lambda n: (zero[n].mean(), tiny[n].mean()))
    share = float(zero[worst].mean())
    how = "fail" if share >= 0.1 else "pass"
    if how == "pass" and max(t.mean() for t in tiny.values()) >= 0.1:
        how = "warn"
    words = "; ".join(parts)
    return Check("K10", "zero gradients", how, share, words, e.where(zero[worst]))


def k15_logits(e: Evidence) -> Check:
    """Probabilities instead of logits flatten the loss twice."""
    z = e.lab.outputs(e.x)
    sums = np.abs(z.sum(-1) - 1) < 1e-5
    probabilities = bool((sums & (z >= 0).all(-1)).mean() > 0.99)
    words = "outputs are logits"
    if probabilities:
        words = "outputs are probabilities (rows sum to 1): attack the layer before"
    number = float(sums.mean())
    return Check("K15", "logits", verdict(not probabilities, "warn"), number, words)


def k17_loss_noise(e: Evidence) -> Check:
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
    mean = float(change.mean())
    words = f"mean relative change of the loss at 100 near points: {mean:.4f}"
    if mean >= 0.1:
        words += ": the network is noisy, average gradients over its randomness"
    return Check(
        "K17", "loss noise", verdict(mean < 0.1), mean, words, e.where(change > 0.1)
    )


def k18_gradient_truth(e: Evidence) -> Check:
    """The hand-written input gradient is `jax.grad`'s, and the slope that one sees."""
    lab, x, y = e.lab, e.x[:100], e.y[:100]
    twin = automatic(lab.model.net)

    def double(a):
        a = np.asarray(a)
        return a.astype(np.float64) if np.issubdtype(a.dtype, np.floating) else a

    with jax.enable_x64(True):
        p, s = jax.tree.map(double, (lab.model.params, lab.model.state))
        x, loss = np.asarray(x, np.float64), softmax_cross_entropy

        def program(net):
            model = Classifier(net, p, s)
            return jax.jit(lambda x, y: model.value_and_gradient(x, y, loss)[:2])

        hand = program(lab.model.net)
        by_hand, by_jax = hand(x, y)[1], program(twin)(x, y)[1]
        v = np.random.default_rng(0).standard_normal(x.shape)
        ahead, behind = (hand(x + h * v, y)[0] for h in (1e-6, -1e-6))
        seen = (np.asarray(ahead) - np.asarray(behind)) / 2e-6
    by_hand, by_jax = np.asarray(by_hand), np.asarray(by_jax)
    predicted = (by_hand * v).reshape(len(x), -1).sum(-1)
    same, slope = _cosine(by_hand, by_jax), _cosine(predicted, seen)
    words = f"cosine with jax.grad {same:.8f}, of slopes with differences {slope:.6f}"
    ok = same >= 1 - 1e-5 and slope >= 1 - 1e-3
    if not ok:
        words += ": a backward pass is wrong or not the forward's (jaxnn compare)"
    return Check("K18", "gradient truth", verdict(ok), same, words)


def _cosine(a, b):
    a, b = a.ravel(), b.ravel()
    size = np.linalg.norm(a) * np.linalg.norm(b)
    if size == 0:  # two zero gradients agree, one zero gradient does not
        return 1.0 if not a.any() and not b.any() else 0.0
    return float(a @ b / size)


def k19_certified(e: Evidence) -> Check:
    """No image that is proven robust may be broken, none broken may be proven."""
    if e.certified is None:
        words = "no certificate given"
        return Check("K19", "certified <= attacked", "skip", None, words)
    everything = np.all(list(e.right.values()), axis=0)
    wrong = (e.certified & ~everything) | (everything & ~e.clean)
    words = (
        f"certified {100 * e.certified.mean():.1f}% <= attacked "
        f"{100 * everything.mean():.1f}% <= clean {100 * e.clean.mean():.1f}%"
    )
    ok = not wrong.any()
    return Check(
        "K19", "certified <= attacked", verdict(ok), int(wrong.sum()), words,
        e.where(wrong),
    )  # fmt: skip


def k20_adaptive(e: Evidence, masking: Masking) -> Check:
    """A layer that passes no gradient is attacked through, as if it were the identity.

    So is the one that passes the least: if that breaks more than all attacks along the
    gradient together, the layer hides it.

    Source: Athalye, Carlini, Wagner 2018, arXiv 1802.00420 (BPDA).
    """
    suspects, how = masking.blocking, "no"
    if not suspects and masking.saturated is not None:
        suspects, how = [masking.saturated], "hardly any"
    if not suspects:
        words = "every layer passes gradients: the plain attack is adaptive"
        return Check("K20", "adaptive", "pass", None, words)
    names = ", ".join(layer.label for layer in suspects)
    through = masking.attacked_through
    if through is None:
        words = f"{names} passes no gradient and changes the shape: NOT adaptive"
        return Check("K20", "adaptive", "fail", None, words)
    gap = float(e.worst.mean() - through.mean())
    words = (
        f"{names} passes {how} gradient; attacked through it (BPDA) accuracy is "
        f"{100 * through.mean():.1f}%, without {100 * e.worst.mean():.1f}%"
    )
    ok = gap <= 0.005
    if ok and not masking.blocking:
        words += ": it hides nothing"
    missed = e.worst & ~through
    return Check("K20", "adaptive", verdict(ok), gap, words, e.where(missed))


def dead_loss(e: Evidence) -> str | None:
    """The loss whose gradient has died on many images while another's lives."""
    tiny = {
        name: float((size < 1e-6).mean()) for name, (_, size) in e.gradients.items()
    }
    worst = max(tiny, key=lambda n: tiny[n])
    if tiny[worst] >= 0.1 and min(tiny.values()) < tiny[worst] - 0.05:
        return worst
    return None
