"""How robust is a network? The worst case per image, and whether to believe it."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnn import attacks
from jaxnn.arrays import as_rows
from jaxnn.attacks.classifier import BATCH, Classifier, to_logits
from jaxnn.data.datasets import stratified_sample, unit_images
from jaxnn.errors import JaxnnError, lookup
from jaxnn.robustness.battery import battery
from jaxnn.robustness.causes import find_cause
from jaxnn.robustness.evidence import CHECKS, Check, Evidence
from jaxnn.robustness.lab import Lab
from jaxnn.robustness.masking import LayerGradient
from jaxnn.robustness.threat import Share, Threat
from jaxnn.robustness.worst import worst_case

LEVELS = ("fast", "full")


class Round(NamedTuple):
    """One attack of the battery.

    Attributes:
      name: which attack.
      tried: images it was tried on: those still right, or a sample of them.
      broken: how many of them it broke.
      alone: share of all images that it leaves right by itself; of the sample, where
        it was not tried on all.
    """

    name: str
    tried: int
    broken: int
    alone: Share


class Evaluation(NamedTuple):
    """What `evaluate` found.

    Attributes:
      threat: what the attacker may do.
      level: "fast" or "full".
      clean: images classified right without an attack, of all.
      robust: images that every attack of the battery left right, of all; one that no
        attack could follow (`not_attacked`) is not robust.
      rounds: the attacks in the order they were run.
      targeted: least-likely class reached, of the sample.
      curve: attack -> accuracy on the sample at each of `epsilons`.
      epsilons: budgets of the curve.
      checks: K1 to K20.
      layers: gradients of every layer, from the output back.
      verdict: in words, whether the number can be believed.
      not_attacked: rows of images no attack broke whose own gradient is NaN.
      not_finite: rows of images for which the network's outputs are not finite.
      robust_images: which images stayed right (N,), bool.
      x_adv: the worst example found for every image (N, ...).
      sample: rows of the sample.
      seconds: how long it took.
    """

    threat: Threat
    level: str
    clean: Share
    robust: Share
    rounds: list[Round]
    targeted: Share
    curve: dict[str, np.ndarray]
    epsilons: np.ndarray
    checks: list[Check]
    layers: list[LayerGradient]
    not_attacked: np.ndarray
    not_finite: np.ndarray
    verdict: str
    robust_images: np.ndarray
    x_adv: np.ndarray
    sample: np.ndarray
    seconds: float

    @property
    def believable(self) -> bool:
        """Whether no check failed."""
        return all(c.verdict != "fail" for c in self.checks)


def evaluate(
    model: Classifier,
    x: Any,
    y: Any,
    *,
    threat: Threat | None = None,
    level: str = "fast",
    seed: int = 0,
    sample: int = 500,
    others: Mapping[str, Classifier] | None = None,
    certified: Any = None,
    say: Callable[[str], None] | None = None,
) -> Evaluation:
    """Attack every image by a battery, keep the worst case, and check the attack.

    On the level "fast" all images see the first three attacks, as in `worst_case`;
    otherwise an image that one attack has broken is not shown to the next. The checks
    K1 to K20 run on a stratified sample, by default, and say whether robustness is real
    or the gradient is only hidden. A network is measured by its logits, see
    `jaxnn.attacks.classifier`, with plain cross-entropy and margin.

    Args:
      model: the network; its first layer does any normalisation.
      x: images (N, ...), float in [0, 1] or uint8.
      y: labels (N,).
      threat: norm, epsilon and box; None is linf 0.1.
      level: "fast" (one start) or "full" (10 restarts, 100 steps, 5,000 queries).
      seed: of all randomness.
      sample: images of the checks, the curve and the targeted attack.
      others: name -> other networks, for transfer (K9).
      certified: which images (N,) a certificate holds for, for K19.
      say: called with a line of progress now and then.

    Raises:
      JaxnnError: unknown level or norm, lengths that differ, no images.
    """
    started = time.perf_counter()
    lookup("level", level, dict.fromkeys(LEVELS))
    threat = (threat or Threat()).checked()
    x, y = _images(x, y)
    say = say or (lambda line: None)
    key, batch = jax.random.key(seed), min(BATCH, len(y))
    outputs = model.keyed(x)
    model, y = to_logits(model, x, y)
    lab = Lab(model, threat, key, batch)
    weapons = battery(level, threat.norm, lab.outputs(x[:1]).shape[-1])
    rows = stratified_sample(y, min(sample, len(y)), seed)
    rivals = {
        name: Lab(to_logits(other, x, y)[0], threat, key, batch)
        for name, other in (others or {}).items()
    }
    proven = None if certified is None else np.asarray(certified)[rows]
    evidence = Evidence(lab, x[rows], y[rows], rows, weapons, rivals, proven)

    first = worst_case(model, x, y, threat=threat, key=key) if level == "fast" else None
    right, rounds, x_adv = lab.correct(x, y), [], x.copy()
    clean = Share(int(right.sum()), len(y))
    for weapon in weapons:
        if first is not None and weapon.name in first.right:
            tried, left = int(right.sum()), first.right[weapon.name]
            broken = _take(right, x_adv, left, first.x_adv[weapon.name])
            alone = Share(int(left.sum()), len(y))
        else:
            tried, broken = _round(lab, weapon, x, y, right, x_adv, rows)
            alone = Share(int(evidence.right[weapon.name].sum()), len(rows))
        say(f"{weapon.name}: {broken:,} of {tried:,} broken, {right.sum():,} stand")
        rounds.append(Round(weapon.name, tried, broken, alone))
    not_attacked = right & np.isnan(_flat(lab.gradient(x, y)[1])).any(-1)
    right &= ~not_attacked
    say("checks K1 to K20")
    results = [CHECKS[k](evidence) for k in sorted(CHECKS, key=lambda k: int(k[1:]))]
    return Evaluation(
        threat=threat,
        level=level,
        clean=clean,
        robust=Share(int(right.sum()), len(y)),
        rounds=rounds,
        targeted=_targeted(lab, evidence),
        curve={name: found.mean(1) for name, found in evidence.curve.items()},
        epsilons=evidence.epsilons,
        checks=results,
        layers=evidence.masking.layers,
        not_attacked=np.flatnonzero(not_attacked),
        not_finite=np.flatnonzero(~np.isfinite(outputs.outputs(x)).all(-1)),
        verdict=judge(results, evidence),
        robust_images=right,
        x_adv=x_adv,
        sample=rows,
        seconds=time.perf_counter() - started,
    )


def _images(x, y):
    x = np.asarray(as_rows(x, "robustness", "images"))
    y = np.asarray(as_rows(y, "robustness", "labels"))
    if len(x) != len(y):
        raise JaxnnError(
            f"robustness: got {len(x)} images and {len(y)} labels, expected as many"
        )
    if x.dtype == np.uint8:
        x = unit_images(x)
    # as attacks see them: what float32 rounds off is no change that they made
    return x.astype(jax.dtypes.canonicalize_dtype(x.dtype)), y


def _round(lab, weapon, x, y, right, x_adv, rows):
    """Attack the images still right; `right` and `x_adv` are brought up to date."""
    alive = np.flatnonzero(right)
    if weapon.images is not None:  # dear weapons see the sample only
        alive = np.intersect1d(alive, rows[: weapon.images])
    if not len(alive):
        return 0, 0
    found, left = x.copy(), np.ones(len(y), bool)
    found[alive] = lab.attack(weapon.attack, x[alive], y[alive], **weapon.options)
    left[alive] = lab.correct(found[alive], y[alive])
    return len(alive), _take(right, x_adv, left, found)


def _take(right, x_adv, left, found):
    """Bring `right` and `x_adv` up to date by one attack; how many it broke."""
    broken = right & ~left
    x_adv[broken], right[broken] = found[broken], False
    return int(broken.sum())


def _flat(a):
    return a.reshape(len(a), -1)


def _targeted(lab, evidence):
    goal = attacks.map_batches(
        partial(attacks.least_likely, lab.model), evidence.x, batch=lab.batch
    )
    x_adv = lab.attack(
        attacks.pgd, evidence.x, goal, steps=evidence.steps, targeted=True
    )
    return Share(int(lab.correct(x_adv, goal).sum()), len(goal))


def judge(results: list[Check], e: Evidence) -> str:
    """The verdict: which checks failed, and what hides the gradient."""
    failed = [c for c in results if c.verdict == "fail"]
    if failed:
        return (
            f"DO NOT BELIEVE the accuracy under attack: {_names(failed)} failed. "
            f"Cause: {find_cause(e, failed)}."
        )
    words = "No sign of masked gradients"
    warned = [c for c in results if c.verdict == "warn"]
    if warned:
        words = f"Believable with care: warnings from {_names(warned)}"
    return words + "; an upper bound on robustness, as any attack gives."


def _names(checks):
    return ", ".join(f"{c.id} ({c.name})" for c in checks)
