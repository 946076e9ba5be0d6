"""K1 to K9, K11 to K14, K16: is the attack what it says, and does it converge?

A check never changes a result: it says whether the result can be believed. What must
hold exactly fails on one image; a share fails beyond its limit and the error of so many
images, so that an honest network is left alone.
"""

import numpy as np

from jaxnn import attacks
from jaxnn.robustness.evidence import Evidence, Measured, check
from jaxnn.robustness.threat import surely_above, surely_more

POINT = 0.005  # half a percentage point


def verdict(ok: bool, otherwise: str = "fail") -> str:
    """ "pass", or what it is otherwise."""
    return "pass" if ok else otherwise


def _exact(wrong, number, words):
    """What must hold for every image."""
    return Measured(verdict(not wrong.any()), number, words, wrong)


def _missed(missed, limit, words, otherwise="fail"):
    """What may happen to a share of the images up to `limit`."""
    ok = not surely_above(int(missed.sum()), len(missed), limit)
    return Measured(verdict(ok, otherwise), int(missed.sum()), words, missed)


@check("K1", "identity at 0")
def k1_identity(e: Evidence) -> Measured:
    """A budget of 0 changes no bit, and so no decision."""
    changed = np.zeros(len(e.y), bool)
    for w in e.weapons:
        x_adv = e.attacked(w, epsilon=0.0)
        changed |= (x_adv != e.x).reshape(len(e.y), -1).any(-1)
    words = f"{len(e.weapons)} attacks with epsilon 0: {changed.sum()} images changed"
    return _exact(changed, int(changed.sum()), words)


@check("K2", "budget and box")
def k2_budget(e: Evidence) -> Measured:
    """Every example keeps the budget and the box, and is finite."""
    t, most, bad = e.lab.threat, 0.0, np.zeros(len(e.y), bool)
    for x_adv in e.images.values():
        size = np.asarray(attacks.distance(x_adv, e.x, t.norm))
        most = max(most, float(np.max(size)))
        flat = x_adv.reshape(len(x_adv), -1)
        bad |= ~np.isfinite(flat).all(-1) | ~(size <= t.epsilon * (1 + 1e-6) + 1e-6)
        if t.box is not None:
            bad |= (flat.min(-1) < t.box[0]) | (flat.max(-1) > t.box[1])
    words = f"largest perturbation {most:.6g} of {t.epsilon:g}, {bad.sum()} outside"
    return _exact(bad, most, words)


@check("K3", "many steps >= one")
def k3_iterated(e: Evidence) -> Measured:
    """Many steps are at least as strong as one, and a longer step is stronger.

    That one step is much weaker than many is the rule. Where a longer step is weaker
    than a short one, the network hides its gradient from the step.
    """
    pgd, fgsm = e.curve[f"PGD-{e.steps}"], e.curve["FGSM"]
    above, gain = pgd.mean(1) - fgsm.mean(1), fgsm.mean(1) - pgd.mean(1)
    worst, at = int(above.argmax()), int(gain.argmax())
    words = (
        f"at the worst budget PGD leaves {100 * above[worst]:+.1f} pp beside FGSM; "
        f"FGSM overstates accuracy by {100 * gain[at]:.1f} pp at {e.epsilons[at]:g}"
    )
    lost, gained = pgd[worst] & ~fgsm[worst], fgsm[worst] & ~pgd[worst]
    if surely_more(lost, gained, POINT):
        return Measured("fail", float(above[worst]), words, lost)
    one = fgsm.mean(1)
    high = int((one - np.minimum.accumulate(one)).argmax())
    low = int(one[: high + 1].argmin())
    back, gone = fgsm[high] & ~fgsm[low], fgsm[low] & ~fgsm[high]
    rises = gain[at] > 0.15 and surely_more(back, gone, 0.1)
    if rises:
        words += (
            f"; one step of {e.epsilons[high]:g} breaks fewer than one of "
            f"{e.epsilons[low]:g}: the gradient is hidden from a single step"
        )
    return Measured(verdict(not rises, "warn"), float(gain[at]), words)


@check("K4", "monotone in epsilon")
def k4_monotone(e: Evidence) -> Measured:
    """A larger budget never helps the defender."""
    right = e.curve[f"PGD-{e.steps}"]
    rises = np.diff(right.mean(1))
    at = int(rises.argmax())
    back, gone = right[at + 1] & ~right[at], right[at] & ~right[at + 1]
    rise = max(0.0, float(rises[at]))
    words = f"largest rise of accuracy with the budget: {100 * rise:.2f} pp"
    return Measured(verdict(not surely_more(back, gone, POINT)), rise, words, back)


def _accuracy_at(e, epsilon):
    x_adv = e.lab.attack(attacks.pgd, e.x, e.y, epsilon=epsilon, steps=e.steps)
    return e.clean & e.lab.correct(x_adv, e.y)


@check("K5", "unbounded reaches 0")
def k5_unbounded(e: Evidence) -> Measured:
    """Free to repaint the image, the attack must win."""
    features = e.x[0].size
    whole = {"linf": 1.0, "l2": features**0.5, "l1": float(features)}[e.lab.threat.norm]
    right = _accuracy_at(e, whole)
    count, total, share = int(right.sum()), len(right), float(right.mean())
    words = (
        f"budget {whole:g} leaves {100 * share:.1f}%, one class always said "
        f"{100 * e.chance:.0f}%"
    )
    if surely_above(count, total, e.chance):
        words += ": the gradient does not lead to the images that fool (masking)"
        return Measured("fail", share, words, right)
    how = verdict(not surely_above(count, total, POINT), "warn")
    return Measured(how, share, words, right)


@check("K6", "impossible region")
def k6_impossible(e: Evidence) -> Measured:
    """Where every image can be made grey, nobody can do better than one class."""
    if e.lab.threat.norm != "linf" or e.lab.threat.box is None:
        return Measured("skip", None, "for linf in a box only")
    right = _accuracy_at(e, (e.lab.threat.box[1] - e.lab.threat.box[0]) / 2)
    share = float(right.mean())
    words = (
        f"half the range leaves {100 * share:.1f}%, one class always said "
        f"{100 * e.chance:.0f}%"
    )
    ok = not surely_above(int(right.sum()), len(right), e.chance)
    return Measured(verdict(ok), share, words, right)


@check("K7", "random-noise floor")
def k7_noise(e: Evidence) -> Measured:
    """What random noise breaks, the attack must break."""
    random = e.lab.correct(e.random(e.lab.threat.epsilon, draws=100), e.y)
    missed = ~random & e.worst
    words = (
        f"{(e.clean & ~random).sum()} broken by 100 draws, {missed.sum()} of them not "
        "by PGD"
    )
    return _missed(missed, POINT, words)


@check("K8", "white-box <= black-box")
def k8_black_box(e: Evidence) -> Measured:
    """An attack that sees no gradients must not do better than those that do."""
    name = e.named(attacks.square)
    if not name:
        return Measured("skip", None, "Square is for linf")
    square = e.right[name] & e.clean
    missed, others = e.worst & ~square, square & ~e.worst
    gap = float(e.worst.mean() - square.mean())
    words = (
        f"{name} leaves {100 * square.mean():.1f}%, the white-box attacks "
        f"{100 * e.worst.mean():.1f}%; {missed.sum()} broken by it alone"
    )
    if surely_more(missed, others, 0.002):
        words += ": the gradients are masked"
        return Measured("fail", gap, words, missed)
    return _missed(missed, 0.01, words, "warn")._replace(number=gap)


@check("K9", "transfer >= white-box")
def k9_transfer(e: Evidence) -> Measured:
    """Examples made on another network must not be stronger than one's own."""
    if not e.others:
        words = "no other network given: pass others={name: Classifier(...)}"
        return Measured("skip", None, words)
    right = {}
    for name, other in e.others.items():
        x_adv = other.attack(attacks.pgd, e.x, e.y, steps=e.steps)
        right[name] = e.clean & e.lab.correct(x_adv, e.y)
    parts = [f"from {name} {100 * r.mean():.1f}%" for name, r in right.items()]
    words = f"{', '.join(parts)}; white-box {100 * e.worst.mean():.1f}%"
    strongest = min(right.values(), key=np.mean)
    gap = float(e.worst.mean() - strongest.mean())
    missed = e.worst & ~strongest
    ok = not surely_more(missed, strongest & ~e.worst, POINT)
    if not ok:
        words += ": a stranger's examples do more harm, so the gradients are masked"
    return Measured(verdict(ok), gap, words, missed)


@check("K11", "two losses agree")
def k11_two_losses(e: Evidence) -> Measured:
    """Two different losses must find the same weakness."""
    first = e.right[e.named(attacks.pgd)]
    rivals = [w.name for w in e.white_box if w.options.get("loss") is not None]
    name = min(rivals, key=lambda n: e.right[n].mean())
    missed, others = first & ~e.right[name], e.right[name] & ~first
    gap = float(first.mean() - e.right[name].mean())
    words = f"{name} breaks {100 * gap:+.1f} pp more than cross-entropy"
    if surely_more(missed, others, 0.05):
        words += ": the loss masks the gradient"
        return Measured("fail", gap, words, missed)
    apart = surely_more(missed, others, 0.01) or surely_more(others, missed, 0.01)
    return Measured(verdict(not apart, "warn"), gap, words, missed)


@check("K12", "converged")
def k12_converged(e: Evidence) -> Measured:
    """Twice the steps and twice the restarts change little."""
    pgd = next(w for w in e.weapons if w.name == e.named(attacks.pgd))
    before = e.right[pgd.name]
    changes = {}
    for setting, value in (
        ("steps", e.steps), ("restarts", pgd.options.get("restarts", 1)),
    ):  # fmt: skip
        after = e.lab.correct(e.attacked(pgd, **{setting: 2 * value}), e.y)
        changes[setting] = before & ~after, after & ~before
    gains = {k: float(a.mean() - b.mean()) for k, (a, b) in changes.items()}
    words = ", ".join(f"{k} x 2: {100 * gain:+.1f} pp" for k, gain in gains.items())
    ok = not any(surely_more(a, b, POINT) for a, b in changes.values())
    if not ok:
        words += ": the attack has not converged, use level=full"
    missed = np.any([a for a, _ in changes.values()], axis=0)
    return Measured(verdict(ok, "warn"), max(gains.values()), words, missed)


def _lost(e, weaker, stronger):
    """Images that PGD fools with the settings `weaker` but not with `stronger`."""
    few, many = (
        ~e.lab.correct(e.lab.attack(attacks.pgd, e.x, e.y, **options), e.y)
        for options in (weaker, stronger)
    )
    return e.clean & few & ~many


@check("K13", "best iterate")
def k13_best_iterate(e: Evidence) -> Measured:
    """Success anywhere on the path counts: a longer path never loses an image.

    But for rounding: programs of another length are other programs.
    """
    step = 2.5 * e.lab.threat.epsilon / e.steps
    long = {"steps": e.steps, "step_size": step}
    short = long | {"steps": max(1, e.steps // 4)}
    lost = _lost(e, short, long)
    words = f"{lost.sum()} images fooled after {short['steps']} steps but not later"
    return _missed(lost, POINT, words)


@check("K14", "worst case per image")
def k14_worst_case(e: Evidence) -> Measured:
    """Restarts are reduced image by image: more of them never lose one."""
    lost = _lost(e, {"steps": 5, "restarts": 1}, {"steps": 5, "restarts": 3})
    words = f"{lost.sum()} images fooled by one start but not by it and two more"
    return _missed(lost, POINT, words)


@check("K16", "determinism")
def k16_determinism(e: Evidence) -> Measured:
    """The same key gives the same bits, whatever images are in the batch."""
    pgd = next(w for w in e.weapons if w.attack is attacks.pgd)
    again = e.attacked(pgd)
    differs = (again != e.images[pgd.name]).reshape(len(e.y), -1).any(-1)
    words = f"{pgd.name} twice with one key: {differs.sum()} images differ"
    some = max(1, len(e.y) // 2)  # the rest of their batch is the last of them
    outputs = e.lab.outputs(e.x)[:some]
    apart = np.abs(outputs - e.lab.outputs(e.x[:some])).max(-1)
    moved = apart > 1e-3 * np.abs(outputs).max()  # NaN is K15's
    words += f"; {moved.sum()} of {some} outputs depend on the rest of the batch"
    differs[:some] |= moved
    return _exact(differs, int(differs.sum()), words)
