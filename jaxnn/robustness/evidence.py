"""What the checks look at: measured once, on one stratified sample of the images."""

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, wraps
from typing import Any, NamedTuple

import numpy as np

from jaxnn import attacks
from jaxnn.attacks.arguments import widest
from jaxnn.losses import softmax_cross_entropy
from jaxnn.robustness.battery import Weapon
from jaxnn.robustness.lab import Lab
from jaxnn.robustness.masking import Masking, masking_report
from jaxnn.robustness.threat import Threat

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)  # of the budget, for the curve


class Check(NamedTuple):
    """The outcome of one check.

    Attributes:
      id: "K1" to "K20".
      name: what is checked, in a few words.
      verdict: "pass", "warn", "fail" or "skip".
      number: what was measured, None where there is no number.
      words: the number's meaning, and what to do where it did not pass.
      images: rows of the evaluated images that are the evidence, at most 20.
    """

    id: str
    name: str
    verdict: str
    number: float | None
    words: str
    images: tuple[int, ...] = ()


class Measured(NamedTuple):
    """What a check found.

    Attributes:
      verdict, number, words: as in `Check`.
      images: which of the sample (bool) are the evidence; None for none.
    """

    verdict: str
    number: float | None
    words: str
    images: np.ndarray | None = None


CHECKS: dict[str, Callable[["Evidence"], Check]] = {}
"""Every check by its id, in the order of the modules that hold them."""


def check(id: str, name: str) -> Callable:
    """Enter a function from `Evidence` to `Measured` into `CHECKS`."""

    def enter(measure: Callable[["Evidence"], Measured]) -> Callable:
        @wraps(measure)
        def run(e: "Evidence") -> Check:
            found = measure(e)
            images = () if found.images is None else e.where(found.images)
            return Check(id, name, found.verdict, found.number, found.words, images)

        CHECKS[id] = run
        return run

    return enter


class Evidence:
    """A sample of the images under every weapon, each alone, and what follows from it.

    Args:
      lab: the network under attack.
      x: images of the sample, float in [0, 1].
      y: their labels.
      rows: their row numbers among the evaluated images.
      weapons: the battery.
      others: name -> `Lab` of other networks, whose examples are tried on this one.
      certified: which of the sample (bool) a certificate holds for, or None.
    """

    def __init__(
        self,
        lab: Lab,
        x: np.ndarray,
        y: np.ndarray,
        rows: np.ndarray,
        weapons: list[Weapon],
        others: dict[str, Lab] | None = None,
        certified: np.ndarray | None = None,
    ):
        self.lab, self.x, self.y, self.rows = lab, x, y, rows
        self.weapons, self.others = weapons, others or {}
        self.certified = certified
        self.steps = next(
            w.options["steps"] for w in weapons if w.attack is attacks.pgd
        )

    def attacked(self, weapon: Weapon, **more: Any) -> np.ndarray:
        """The sample after one weapon."""
        options = weapon.options | more
        return self.lab.attack(weapon.attack, self.x, self.y, **options)

    @cached_property
    def clean(self) -> np.ndarray:
        """Which images are classified right without an attack."""
        return self.lab.correct(self.x, self.y)

    @cached_property
    def images(self) -> dict[str, np.ndarray]:
        """Weapon -> the attacked sample."""
        return {w.name: self.attacked(w) for w in self.weapons}

    @cached_property
    def right(self) -> dict[str, np.ndarray]:
        """Weapon -> which images it left right."""
        return {n: self.lab.correct(a, self.y) for n, a in self.images.items()}

    @cached_property
    def worst(self) -> np.ndarray:
        """Which images were right and every white-box weapon left right."""
        left = [self.right[w.name] for w in self.white_box]
        return np.all([self.clean, *left], axis=0)

    @cached_property
    def chance(self) -> float:
        """What saying one class always is worth: the largest class's share."""
        return float(np.unique(self.y, return_counts=True)[1].max() / len(self.y))

    @property
    def white_box(self) -> list[Weapon]:
        """The weapons that use gradients."""
        return [w for w in self.weapons if w.attack is not attacks.square]

    def named(self, attack: Callable, loss: Any = None) -> str:
        """The name of the weapon of that kind (and loss), "" if there is none."""
        for w in self.weapons:
            if w.attack is attack and w.options.get("loss") is loss:
                return w.name
        return ""

    @cached_property
    def epsilons(self) -> np.ndarray:
        """Budgets of the curve."""
        t = self.lab.threat
        most = widest(t.norm, t.box, self.x[0].size)
        return np.minimum(t.epsilon * np.asarray(SHARES), most)

    @cached_property
    def curve(self) -> dict[str, np.ndarray]:
        """Attack -> right (E, B) at every budget of `epsilons`."""
        kinds = {
            "random signs" if self.lab.threat.norm == "linf" else "Gaussian": None,
            "FGSM": (attacks.fgsm, {}),
            f"PGD-{self.steps}": (attacks.pgd, {"steps": self.steps}),
        }
        found = {}
        for name, kind in kinds.items():
            found[name] = np.stack([self._at(kind, e) for e in self.epsilons])
        return found

    def _at(self, kind, epsilon):
        if kind is not None:
            attack, options = kind
            x_adv = self.lab.attack(attack, self.x, self.y, epsilon=epsilon, **options)
            return self.lab.correct(x_adv, self.y)
        return self.lab.correct(self.random(epsilon, draws=1), self.y)

    def random(self, epsilon: float, draws: int) -> np.ndarray:
        """The worst of several draws of noise that has the budget's size."""
        if self.lab.threat.norm == "linf":
            options = {"kind": "signs"}
        else:  # the standard deviation that makes the noise about as long as the budget
            features = self.x[0].size
            scale = np.sqrt(features) if self.lab.threat.norm == "l2" else features
            options, epsilon = {"kind": "gaussian"}, epsilon / scale
        box = self.lab.threat.box  # noise has an amount, and no norm to keep it in
        lab = replace(self.lab, threat=Threat("linf", epsilon, box))
        return lab.attack(attacks.noise, self.x, self.y, draws=draws, **options)

    @cached_property
    def masking(self) -> Masking:
        """Every layer's gradients, and the attack through those that pass none."""
        return masking_report(self.lab, self.x, self.y, self.steps)

    @cached_property
    def gradients(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Loss -> (loss of each image, largest |gradient| of each image)."""
        losses = {"cross-entropy": softmax_cross_entropy, "margin": attacks.margin}
        if self.lab.outputs(self.x[:1]).shape[-1] >= 3:
            losses["DLR"] = attacks.dlr
        found = {}
        for name, loss in losses.items():
            values, dx = self.lab.gradient(self.x, self.y, loss)
            found[name] = values, np.abs(dx).reshape(len(dx), -1).max(-1)
        return found

    def where(self, mask: np.ndarray) -> tuple[int, ...]:
        """Row numbers, among all evaluated images, of the sample's `mask`."""
        return tuple(int(i) for i in self.rows[mask][:20])
