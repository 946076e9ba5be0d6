"""K1 to K16: is the attack what it says, and does it converge? Each with its evidence.

A check never changes a result: it says whether the result can be believed.
"""

import numpy as np

from jaxnn import attacks
from jaxnn.robustness.evidence import Check, Evidence

POINT = 0.005  # half a percentage point


def verdict(ok: bool, otherwise: str = "fail") -> str:
    """ "pass", or what it is otherwise."""
    return "pass" if ok else otherwise


def k1_identity(e: Evidence) -> Check:
    """A budget of 0 changes no bit, and so no decision."""
    changed = np.zeros(len(e.y), bool)
    for w in e.weapons:
        x_adv = e.attacked(w, epsilon=0.0)
        changed |= (x_adv != e.x).reshape(len(e.y), -1).any(-1)
    words = f"{len(e.weapons)} attacks with epsilon 0: {changed.sum()} images changed"
    ok = not changed.any()
    return Check(
        "K1", "identity at 0", verdict(ok), int(changed.sum()), words, e.where(changed)
    )


def k2_budget(e: Evidence) -> Check:
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
    ok = not bad.any()
    return Check("K2", "budget and box", verdict(ok), most, words, e.where(bad))


def k3_iterated(e: Evidence) -> Check:
    """Many steps are at least as strong as one; much stronger is a sign of masking."""
    pgd, fgsm = e.curve[f"PGD-{e.steps}"].mean(1), e.curve["FGSM"].mean(1)
    above, gain = float((pgd - fgsm).max()), float((fgsm - pgd).max())
    at = e.epsilons[int((fgsm - pgd).argmax())]
    words = (
        f"at the worst budget PGD leaves {100 * above:+.1f} pp beside FGSM; FGSM "
        f"overstates accuracy by {100 * gain:.1f} pp at {at:g}"
    )
    if above > POINT:
        return Check("K3", "many steps >= one", "fail", above, words)
    masked = gain > 0.15
    if masked:
        words += ": never quote FGSM for this network"
    return Check("K3", "many steps >= one", verdict(not masked, "warn"), gain, words)


def k4_monotone(e: Evidence) -> Check:
    """A larger budget never helps the defender."""
    accuracy = e.curve[f"PGD-{e.steps}"].mean(1)
    rise = float(np.diff(accuracy).max(initial=0))
    words = f"largest rise of accuracy with the budget: {100 * rise:.2f} pp"
    return Check("K4", "monotone in epsilon", verdict(rise <= POINT), rise, words)


def _accuracy_at(e, epsilon):
    x_adv = e.lab.attack(attacks.pgd, e.x, e.y, epsilon=epsilon, steps=e.steps)
    return e.lab.correct(x_adv, e.y)


def k5_unbounded(e: Evidence) -> Check:
    """Free to repaint the image, the attack must win."""
    features = e.x[0].size
    whole = {"linf": 1.0, "l2": features**0.5, "l1": float(features)}[e.lab.threat.norm]
    right = _accuracy_at(e, whole)
    share, chance = float(right.mean()), 1 / e.lab.outputs(e.x[:1]).shape[-1]
    words = f"budget {whole:g} leaves {100 * share:.1f}%, chance is {100 * chance:.0f}%"
    how = "pass" if share == 0 else "warn" if share <= chance else "fail"
    if how == "fail":
        words += ": the gradient does not lead to the images that fool (masking)"
    return Check("K5", "unbounded reaches 0", how, share, words, e.where(right))


def k6_impossible(e: Evidence) -> Check:
    """Where every image can be made grey, nobody can do better than chance."""
    if e.lab.threat.norm != "linf" or e.lab.threat.box is None:
        return Check("K6", "impossible region", "skip", None, "for linf in a box only")
    right = _accuracy_at(e, (e.lab.threat.box[1] - e.lab.threat.box[0]) / 2)
    share, chance = float(right.mean()), 1 / e.lab.outputs(e.x[:1]).shape[-1]
    # of so few images chance itself varies
    limit = chance + 2 * (chance * (1 - chance) / len(e.y)) ** 0.5
    words = f"half the range leaves {100 * share:.1f}%, chance {100 * chance:.0f}%"
    ok = share <= limit
    return Check("K6", "impossible region", verdict(ok), share, words, e.where(right))


def k7_noise(e: Evidence) -> Check:
    """What random noise breaks, the attack must break."""
    random = e.lab.correct(e.random(e.lab.threat.epsilon, draws=100), e.y)
    missed = ~random & e.worst
    words = f"{(~random).sum()} broken by 100 draws, {missed.sum()} of them not by PGD"
    ok = not missed.any()
    return Check(
        "K7", "random-noise floor", verdict(ok), int(missed.sum()), words,
        e.where(missed),
    )  # fmt: skip


def k8_black_box(e: Evidence) -> Check:
    """An attack that sees no gradients must not do better than those that do."""
    name = e.named(attacks.square)
    if not name:
        return Check("K8", "white-box <= black-box", "skip", None, "Square is for linf")
    missed = ~e.right[name] & e.worst
    gap = float(e.worst.mean() - e.right[name].mean())
    words = (
        f"{name} leaves {100 * e.right[name].mean():.1f}%, the white-box attacks "
        f"{100 * e.worst.mean():.1f}%; {missed.sum()} broken by it alone"
    )
    how = "fail" if gap > 0.002 else verdict(bool(missed.mean() <= 0.01), "warn")
    if how == "fail":
        words += ": the gradients are masked"
    return Check("K8", "white-box <= black-box", how, gap, words, e.where(missed))


def k9_transfer(e: Evidence) -> Check:
    """Examples made on another network must not be stronger than one's own."""
    if not e.others:
        words = "no other network given: pass others={name: Classifier(...)}"
        return Check("K9", "transfer >= white-box", "skip", None, words)
    gaps, evidence, parts = [], np.zeros(len(e.y), bool), []
    for name, other in e.others.items():
        x_adv = other.attack(attacks.pgd, e.x, e.y, steps=e.steps)
        right = e.lab.correct(x_adv, e.y)
        evidence |= ~right & e.worst
        gaps.append(float(e.worst.mean() - right.mean()))
        parts.append(f"from {name} {100 * right.mean():.1f}%")
    gap = max(gaps)
    words = f"{', '.join(parts)}; white-box {100 * e.worst.mean():.1f}%"
    if gap > POINT:
        words += ": a stranger's examples do more harm, so the gradients are masked"
    ok = gap <= POINT
    return Check(
        "K9", "transfer >= white-box", verdict(ok), gap, words, e.where(evidence)
    )


def k11_two_losses(e: Evidence) -> Check:
    """Two different losses must find the same weakness."""
    first = e.named(attacks.pgd)
    rivals = [w.name for w in e.white_box if w.options.get("loss") is not None]
    gaps = {n: float(e.right[first].mean() - e.right[n].mean()) for n in rivals}
    name = max(gaps, key=lambda n: gaps[n])
    gap = gaps[name]
    words = f"{name} breaks {100 * gap:+.1f} pp more than cross-entropy"
    how = "pass" if abs(gap) < 0.01 else "warn"
    if gap > 0.05:
        how = "fail"
        words += ": the loss masks the gradient"
    missed = e.right[first] & ~e.right[name]
    return Check("K11", "two losses agree", how, gap, words, e.where(missed))


def k12_converged(e: Evidence) -> Check:
    """Twice the steps and twice the restarts change little."""
    pgd = next(w for w in e.weapons if w.name == e.named(attacks.pgd))
    before = e.right[pgd.name]
    more = {
        "steps": 2 * e.steps,
        "restarts": 2 * pgd.options.get("restarts", 1),
    }
    changes, missed = [], np.zeros(len(e.y), bool)
    for name, value in more.items():
        right = e.lab.correct(e.attacked(pgd, **{name: value}), e.y)
        changes.append(float(before.mean() - right.mean()))
        missed |= before & ~right
    gain = max(changes)
    words = f"steps x 2: {100 * changes[0]:+.1f} pp, restarts x 2: "
    words += f"{100 * changes[1]:+.1f} pp"
    ok = gain < POINT
    if not ok:
        words += ": the attack has not converged, use level=full"
    return Check("K12", "converged", verdict(ok, "warn"), gain, words, e.where(missed))


def k13_best_iterate(e: Evidence) -> Check:
    """Success anywhere on the path counts: a longer path never loses an image."""
    step = 2.5 * e.lab.threat.epsilon / e.steps
    long = {"steps": e.steps, "step_size": step}
    short = long | {"steps": max(1, e.steps // 4)}
    fooled = [
        ~e.lab.correct(e.lab.attack(attacks.pgd, e.x, e.y, **options), e.y)
        for options in (short, long)
    ]
    lost = fooled[0] & ~fooled[1]
    words = f"{lost.sum()} images fooled after {short['steps']} steps but not later"
    ok = not lost.any()
    return Check(
        "K13", "best iterate", verdict(ok), int(lost.sum()), words, e.where(lost)
    )


def k14_worst_case(e: Evidence) -> Check:
    """Restarts are reduced image by image: more of them never lose one."""
    few, many = (
        ~e.lab.correct(
            e.lab.attack(attacks.pgd, e.x, e.y, steps=5, restarts=restarts), e.y
        )
        for restarts in (1, 3)
    )
    lost = few & ~many
    words = f"{lost.sum()} images fooled by one start but not by it and two more"
    ok = not lost.any()
    return Check(
        "K14", "worst case per image", verdict(ok), int(lost.sum()), words,
        e.where(lost),
    )  # fmt: skip


def k16_determinism(e: Evidence) -> Check:
    """The same key gives the same bits."""
    pgd = next(w for w in e.weapons if w.attack is attacks.pgd)
    again = e.attacked(pgd)
    differs = (again != e.images[pgd.name]).reshape(len(e.y), -1).any(-1)
    words = f"{pgd.name} twice with one key: {differs.sum()} images differ"
    ok = not differs.any()
    return Check(
        "K16", "determinism", verdict(ok), int(differs.sum()), words, e.where(differs)
    )
