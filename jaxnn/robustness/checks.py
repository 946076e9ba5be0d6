"""K1 to K20: is the attack what it says, and the network fit to be attacked by it?

A check never changes a result: it says whether the result can be believed. What must
hold exactly fails on one image; a share fails beyond its limit and the error of so many
images, so that an honest network is left alone.
"""

from typing import Any

import numpy as np

from jaxnn import attacks, programs
from jaxnn.attacks.arguments import widest
from jaxnn.losses import softmax_cross_entropy
from jaxnn.robustness.context import CheckContext, Measured, check
from jaxnn.robustness.slopes import gradient_truth
from jaxnn.robustness.threat import SURE, surely_above, surely_more

POINT = 0.005  # half a percentage point
TINY = 1e-6  # a gradient below it is nearly lost in float32


def _is_rare(images, limit, total=None):
    """Whether that may be a share of `total` images up to `limit`."""
    return not surely_above(int(images.sum()), total or len(images), limit)


@check("K1", "identity at 0", gradients=False)
def k1_identity(e: CheckContext) -> Measured:
    """A budget of 0 changes no bit, and so no decision."""
    changed = np.zeros(len(e.y), bool)
    for w in e.suite:
        x_adv = e.attacked(w, epsilon=0.0)
        changed |= (x_adv != e.x).reshape(len(e.y), -1).any(-1)
    message = f"{len(e.suite)} attacks with epsilon 0: {changed.sum()} images changed"
    return not changed.any(), int(changed.sum()), message, changed


@check("K2", "budget and box", gradients=False)
def k2_budget(e: CheckContext) -> Measured:
    """Every example keeps the budget and the box, and is finite."""
    t, most, bad = e.threat, 0.0, np.zeros(len(e.y), bool)
    for x_adv in e.images.values():
        size = np.asarray(attacks.distance(x_adv, e.x, t.norm))
        most = max(most, float(np.max(size)))
        flat = x_adv.reshape(len(x_adv), -1)
        bad |= ~np.isfinite(flat).all(-1) | ~(size <= t.epsilon * (1 + 1e-6) + 1e-6)
        if t.box is not None:
            bad |= (flat.min(-1) < t.box[0]) | (flat.max(-1) > t.box[1])
    message = f"largest perturbation {most:.6g} of {t.epsilon:g}, {bad.sum()} outside"
    return not bad.any(), most, message, bad


@check("K3", "many steps >= one")
def k3_iterated(e: CheckContext) -> Measured:
    """Many steps are at least as strong as one, and a longer step is stronger.

    That one step is much weaker than many is the rule. Where a longer step is weaker
    than a short one, the network hides its gradient from the step.
    """
    pgd, fgsm = e.curve[f"PGD-{e.steps}"], e.curve["FGSM"]
    above, gain = pgd.mean(1) - fgsm.mean(1), fgsm.mean(1) - pgd.mean(1)
    worst, at = int(above.argmax()), int(gain.argmax())
    message = (
        f"at the worst budget PGD leaves {100 * above[worst]:+.1f} pp beside FGSM; "
        f"FGSM overstates accuracy by {100 * gain[at]:.1f} pp at {e.epsilons[at]:g}"
    )
    lost, gained = pgd[worst] & ~fgsm[worst], fgsm[worst] & ~pgd[worst]
    if surely_more(lost, gained, POINT):
        return False, float(above[worst]), message, lost
    one = fgsm.mean(1)
    high = int((one - np.minimum.accumulate(one)).argmax())
    low = int(one[: high + 1].argmin())
    back, gone = fgsm[high] & ~fgsm[low], fgsm[low] & ~fgsm[high]
    rises = gain[at] > 0.15 and surely_more(back, gone, 0.1)
    if rises:
        message += (
            f"; one step of {e.epsilons[high]:g} breaks fewer than one of "
            f"{e.epsilons[low]:g}: the gradient is hidden from a single step"
        )
    return "warn" if rises else "pass", float(gain[at]), message


@check("K4", "monotone in epsilon")
def k4_monotone(e: CheckContext) -> Measured:
    """A larger budget never helps the defender."""
    correct = e.curve[f"PGD-{e.steps}"]
    rises = np.diff(correct.mean(1))
    at = int(rises.argmax())
    back, gone = correct[at + 1] & ~correct[at], correct[at] & ~correct[at + 1]
    rise = max(0.0, float(rises[at]))
    message = f"largest rise of accuracy with the budget: {100 * rise:.2f} pp"
    return not surely_more(back, gone, POINT), rise, message, back


def _within(e, epsilon, name):
    """Which images PGD of that budget leaves right, their share, and what to say."""
    x_adv = e.attack(attacks.pgd, epsilon=epsilon, steps=e.steps)
    correct = e.clean & e.correct(x_adv)
    share = float(correct.mean())
    chance = f"one class always said {100 * e.chance:.0f}%"
    return correct, share, f"{name} leaves {100 * share:.1f}%, {chance}"


@check("K5", "unbounded reaches 0")
def k5_unbounded(e: CheckContext) -> Measured:
    """Free to repaint the image, the attack must win."""
    whole = widest(e.threat.norm, (0.0, 1.0), e.x[0].size)
    correct, share, message = _within(e, whole, f"budget {whole:g}")
    if not _is_rare(correct, e.chance):
        message += ": the gradient does not lead to the images that fool (masking)"
        return False, share, message, correct
    return _is_rare(correct, POINT) or "warn", share, message, correct


@check("K6", "impossible region")
def k6_impossible(e: CheckContext) -> Measured:
    """Where every image can be made gray, nobody can do better than one class."""
    if e.threat.norm != "linf" or e.threat.box is None:
        return "skip", None, "for linf in a box only"
    half = (e.threat.box[1] - e.threat.box[0]) / 2
    correct, share, message = _within(e, half, "half the range")
    return _is_rare(correct, e.chance), share, message, correct


@check("K7", "random-noise floor", gradients=False)
def k7_noise(e: CheckContext) -> Measured:
    """What random noise breaks, the attack must break."""
    random = e.correct(e.random(e.threat.epsilon, draws=100))
    missed = ~random & e.worst
    message = (
        f"{(e.clean & ~random).sum()} broken by 100 draws, {missed.sum()} of them not "
        "by PGD"
    )
    return _is_rare(missed, POINT), int(missed.sum()), message, missed


@check("K8", "white-box <= black-box")
def k8_black_box(e: CheckContext) -> Measured:
    """An attack that sees no gradients must not do better than those that do."""
    name = e.named(attacks.square)
    if not name:
        return "skip", None, "Square is for linf"
    square = e.left[name] & e.clean
    missed, others = e.worst & ~square, square & ~e.worst
    gap = float(e.worst.mean() - square.mean())
    message = (
        f"{name} leaves {100 * square.mean():.1f}%, the white-box attacks "
        f"{100 * e.worst.mean():.1f}%; {missed.sum()} broken by it alone"
    )
    if surely_more(missed, others, 0.002):
        message += ": the gradients are masked"
        return False, gap, message, missed
    return _is_rare(missed, 0.01) or "warn", gap, message, missed


@check("K9", "transfer >= white-box")
def k9_transfer(e: CheckContext) -> Measured:
    """Examples made on another network must not be stronger than one's own."""
    if not e.others:
        message = "no other network given: pass others={name: Classifier(...)}"
        return "skip", None, message
    correct = {}
    for name, other in e.others.items():
        x_adv = e.attack(attacks.pgd, model=other, steps=e.steps)
        correct[name] = e.clean & e.correct(x_adv)
    parts = [f"from {name} {100 * r.mean():.1f}%" for name, r in correct.items()]
    message = f"{', '.join(parts)}; white-box {100 * e.worst.mean():.1f}%"
    worst = min(correct.values(), key=np.mean)
    ok, gap, message, missed = own_attack_is_worst(e.worst, worst, message)
    if not ok:
        message += ": a stranger's examples do more harm, so the gradients are masked"
    return ok, gap, message, missed


def own_attack_is_worst(own: Any, foreign: Any, message: str) -> Measured:
    """K9: what a network's own examples leave right (N,), and what foreign ones do."""
    missed = own & ~foreign
    gap = float(own.mean() - foreign.mean())
    return not surely_more(missed, foreign & ~own, POINT), gap, message, missed


@check("K11", "two losses agree")
def k11_two_losses(e: CheckContext) -> Measured:
    """Two different losses must find the same weakness.

    Cross-entropy can be the weaker of two sound losses, by much where training is not
    over; the worst case counts both. It masks the gradient where it has none left on
    the images that the other one breaks.
    """
    first = e.left[e.named(attacks.pgd)]
    rivals = [w.name for w in e.white_box if w.options.get("loss") is not None]
    name = min(rivals, key=lambda n: e.left[n].mean())
    missed, others = first & ~e.left[name], e.left[name] & ~first
    gap = float(first.mean() - e.left[name].mean())
    message = f"{name} breaks {100 * gap:+.1f} pp more than cross-entropy"
    blind = missed & without_gradient(e, TINY)["cross-entropy"]
    if surely_more(blind, others, 0.05):
        message += f", {blind.sum()} of them without a gradient: the loss masks it"
        return False, gap, message, blind
    apart = surely_more(missed, others, 0.01) or surely_more(others, missed, 0.01)
    if apart:
        message += ": never quote the attack on one loss for this network"
    return not apart or "warn", gap, message, missed


@check("K12", "converged")
def k12_converged(e: CheckContext) -> Measured:
    """Twice the steps and twice the restarts change little."""
    pgd = next(w for w in e.suite if w.name == e.named(attacks.pgd))
    before = e.left[pgd.name]
    changes = {}
    for setting, value in (
        ("steps", e.steps), ("restarts", pgd.options.get("restarts", 1)),
    ):  # fmt: skip
        after = e.correct(e.attacked(pgd, **{setting: 2 * value}))
        changes[setting] = before & ~after, after & ~before
    gains = {k: float(a.mean() - b.mean()) for k, (a, b) in changes.items()}
    message = ", ".join(f"{k} x 2: {100 * gain:+.1f} pp" for k, gain in gains.items())
    ok = not any(surely_more(a, b, POINT) for a, b in changes.values())
    if not ok:
        message += ": the attack has not converged, use level=full"
    missed = np.any([a for a, _ in changes.values()], axis=0)
    return ok or "warn", max(gains.values()), message, missed


def _lost(e, weaker, stronger):
    """Images that PGD fools with the settings `weaker` but not with `stronger`."""
    few, many = (
        ~e.correct(e.attack(attacks.pgd, **options)) for options in (weaker, stronger)
    )
    return e.clean & few & ~many


@check("K13", "best iterate")
def k13_best_iterate(e: CheckContext) -> Measured:
    """Success anywhere on the path counts: a longer path never loses an image.

    But for rounding: programs of another length are other programs.
    """
    step = 2.5 * e.threat.epsilon / e.steps
    long = {"steps": e.steps, "step_size": step}
    short = long | {"steps": max(1, e.steps // 4)}
    lost = _lost(e, short, long)
    message = f"{lost.sum()} images fooled after {short['steps']} steps but not later"
    return _is_rare(lost, POINT), int(lost.sum()), message, lost


@check("K14", "worst case per image")
def k14_worst_case(e: CheckContext) -> Measured:
    """Restarts are reduced image by image: more of them never lose one."""
    lost = _lost(e, {"steps": 5, "restarts": 1}, {"steps": 5, "restarts": 3})
    message = f"{lost.sum()} images fooled by one start but not by it and two more"
    return _is_rare(lost, POINT), int(lost.sum()), message, lost


@check("K16", "determinism", gradients=False)
def k16_determinism(e: CheckContext) -> Measured:
    """The same key gives the same bits, whatever images are in the batch."""
    spec = next((s for s in e.suite if s.attack is attacks.pgd), e.suite[0])
    again = e.attacked(spec)
    differs = (again != e.images[spec.name]).reshape(len(e.y), -1).any(-1)
    message = f"{spec.name} twice with one key: {differs.sum()} images differ"
    some = max(1, len(e.y) // 2)  # the rest of their batch is the last of them
    outputs = e.outputs(e.x)[:some]
    apart = np.abs(outputs - e.outputs(e.x[:some])).max(-1)
    moved = apart > 1e-3 * np.abs(outputs).max()  # NaN is K15's
    message += f"; {moved.sum()} of {some} outputs depend on the rest of the batch"
    differs[:some] |= moved
    return not differs.any(), int(differs.sum()), message, differs


def without_gradient(e: CheckContext, least: float = 0.0) -> dict[str, np.ndarray]:
    """Loss -> which images that are right have no gradient above `least` to follow.

    One that is not a number leads nowhere. Wrong images need no attack.
    """
    return {
        name: e.clean & ~((size > least) & (size < np.inf))
        for name, size in e.gradients.items()
    }


@check("K10", "zero gradients")
def k10_gradient_size(e: CheckContext) -> Measured:
    """Images whose gradient is zero cannot be attacked by following it."""
    zero, tiny = without_gradient(e), without_gradient(e, TINY)
    total = max(1, int(e.clean.sum()))
    message = "; ".join(
        f"{name}: {100 * zero[name].sum() / total:.1f}% zero, "
        f"{100 * tiny[name].sum() / total:.1f}% < {TINY:g}"
        for name in zero
    )
    outputs = e.outputs(e.x)
    if (outputs == outputs[:1]).all():
        message = "the network says the same of every image: there is nothing to follow"
        return "warn", 1.0, message
    worst = zero[max(zero, key=lambda n: (zero[n].sum(), tiny[n].sum()))]
    share = float(worst.sum() / total)
    if not _is_rare(worst, 0.1, total):
        return False, share, message, worst
    faint = max(tiny.values(), key=np.sum)
    return _is_rare(faint, 0.1, total) or "warn", share, message, worst


@check("K15", "logits", gradients=False)
def k15_logits(e: CheckContext) -> Measured:
    """Outputs are finite; probabilities instead of logits flatten the loss twice."""
    z = e.outputs(e.x)
    lost = np.asarray(~np.isfinite(z).all(-1))
    if lost.any():
        message = f"the outputs for {lost.sum()} images are NaN or infinite: no answers"
        return False, float(lost.mean()), message, lost
    sums = np.abs(z.sum(-1) - 1) < 1e-5
    probabilities = bool((sums & (z >= 0).all(-1)).mean() > 0.99)
    message = "outputs are logits"
    if probabilities:
        message = "outputs are probabilities (rows sum to 1): attack the layer before"
    return not probabilities or "warn", float(sums.mean()), message


@check("K17", "loss noise", gradients=False)
def k17_loss_noise(e: CheckContext) -> Measured:
    """The loss is smooth: at near points it is nearly the same."""

    def values(x):
        return np.asarray(_losses(e.outputs(x), e.y))

    base = values(e.x)
    rng, total = np.random.default_rng(0), np.zeros(len(e.y))
    radius = e.threat.epsilon / 1000
    for _ in range(100):
        near = e.x + radius * rng.choice([-1.0, 1.0], e.x.shape).astype(e.x.dtype)
        near = near if e.threat.box is None else np.clip(near, *e.threat.box)
        total += np.abs(values(near) - base) / np.maximum(base, 1e-3)
    change = total / 100
    lost = ~np.isfinite(change)
    if lost.any():
        message = f"the loss at or near {lost.sum()} images is not finite"
        return False, None, message, lost
    mean, error = float(change.mean()), float(change.std() / len(change) ** 0.5)
    message = f"mean relative change of the loss at 100 near points: {mean:.4f}"
    ok = mean - SURE * error < 0.1
    if not ok:
        message += ": it jumps however near the points are"
    return ok, mean, message, change > 0.1


@programs.jit
def _losses(logits, y):
    return softmax_cross_entropy(logits, y, reduction="none")[0]


@check("K18", "gradient truth")
def k18_gradient_truth(e: CheckContext) -> Measured:
    """The hand-written input gradient is `jax.grad`'s, and the slope that one sees."""
    found = gradient_truth(e.model, e.x[:100], e.threat.box)
    judged, missed = found.slopes
    beside = "jax.grad has none"
    if found.automatic is not None:
        beside = f"{found.automatic} of {len(found.wrong)} are not jax.grad's"
    message = (
        f"gradients by hand: {beside}; {missed} of {judged} slopes are not theirs "
        f"({2 * len(found.wrong) - judged} kinks left out)"
    )
    wrong = np.zeros(len(e.y), bool)
    wrong[: len(found.wrong)] = found.wrong
    if found.surely_wrong:
        message += ": a backward pass is wrong or not the forward's (jaxnn compare)"
    return not found.surely_wrong, float(found.wrong.mean()), message, wrong


@check("K19", "certified <= attacked", gradients=False)
def k19_certified(e: CheckContext) -> Measured:
    """No image that is proven robust may be broken, or wrong before any attack."""
    if e.certified is None:
        return "skip", None, "no certificate given"
    attacked = np.all([e.clean, *e.left.values()], axis=0)
    wrong = e.certified & ~attacked
    message = (
        f"certified {100 * e.certified.mean():.1f}% <= attacked "
        f"{100 * attacked.mean():.1f}% <= clean {100 * e.clean.mean():.1f}%"
    )
    return not wrong.any(), int(wrong.sum()), message, wrong


@check("K20", "adaptive")
def k20_adaptive(e: CheckContext) -> Measured:
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
        message = "every layer passes gradients: the plain attack is adaptive"
        return True, None, message
    names = ", ".join(layer.label for layer in suspects)
    if masking.attacked_through is None:
        message = f"{names} passes {how} gradient and changes the shape: NOT adaptive"
        return False, None, message
    through = e.clean & masking.attacked_through
    gap = float(e.worst.mean() - through.mean())
    message = (
        f"{names} passes {how} gradient; attacked through it (BPDA) accuracy is "
        f"{100 * through.mean():.1f}%, without {100 * e.worst.mean():.1f}%"
    )
    missed = e.worst & ~through
    # what it breaks is broken, however much it leaves that the others broke
    ok = _is_rare(missed, POINT)
    message += f", {missed.sum()} broken by it alone"
    if ok and not masking.blocking:
        message += ": it hides nothing"
    return ok, gap, message, missed
