"""What the checks look at: measured once, on one stratified sample of the images."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, wraps
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnn import attacks
from jaxnn.attacks import Classifier
from jaxnn.attacks.arguments import widest
from jaxnn.attacks.driver import attack_of
from jaxnn.losses import softmax_cross_entropy
from jaxnn.robustness.masking import Masking, masking_report
from jaxnn.robustness.threat import Threat
from jaxnn.robustness.worst import AttackSpec, under

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)  # of the budget, for the curve


class Check(NamedTuple):
    """The outcome of one check."""

    id: str  # "K1" to "K20"
    name: str  # what is checked, in a few words
    verdict: str  # "pass", "warn", "fail" or "skip"
    number: float | None  # what was measured, None where there is no number
    message: str  # the number's meaning, and what to do where it did not pass
    images: tuple[int, ...] = ()  # rows that are the evidence, at most 20


CHECKS: dict[str, Callable[["CheckContext"], Check]] = {}
"""Every check by its id, in the order of the modules that hold them."""

Measured = tuple[Any, ...]
"""What a check finds: whether it passed, or its verdict; the number; the message; which
images of the sample (bool) are the evidence, if any are."""


def outcome(id: str, name: str, found: Measured, rows: np.ndarray) -> Check:
    """The check with what it found; `rows` are the numbers of the sample's images."""
    verdict, number, message, *evidence = found
    images = tuple(int(i) for mask in evidence for i in rows[mask][:20])
    if not isinstance(verdict, str):
        verdict = "pass" if verdict else "fail"
    return Check(id, name, verdict, number, message, images)


def check(id: str, name: str, gradients: bool = True) -> Callable:
    """Enter a function from `CheckContext` to `Measured` into `CHECKS`.

    One that needs `gradients` is skipped where the network is a black box.
    """

    def enter(measure: Callable[["CheckContext"], Measured]) -> Callable:
        @wraps(measure)
        def run(e: "CheckContext") -> Check:
            if gradients and not e.model.gradients:
                return Check(id, name, "skip", None, "a black box has no gradients")
            return outcome(id, name, measure(e), e.rows)

        CHECKS[id] = run
        return run

    return enter


@dataclass(eq=False)
class CheckContext:
    """A sample of the images under every attack, each alone, and what follows."""

    model: Classifier  # the network under attack, by its logits
    threat: Threat
    key: jax.Array  # all randomness comes from it
    batch: int | None  # images a call, see `jaxnn.tree.map_batches`
    x: np.ndarray  # images of the sample, float in [0, 1]
    y: np.ndarray  # their labels
    rows: np.ndarray  # their row numbers among the evaluated images
    suite: list[AttackSpec]
    others: dict[str, Classifier] = field(default_factory=dict)  # for transfer
    certified: np.ndarray | None = None  # which of x a certificate holds for
    precision: str | None = None  # in which attacks follow the network

    @property
    def steps(self) -> int:
        """Of the suite's PGD, or of what stands in its place."""
        return next(s.options["steps"] for s in self.suite if "steps" in s.options)

    def attack(
        self, attack: Callable, y: Any = None, threat: Threat | None = None,
        model: Classifier | None = None, **options: Any,
    ) -> np.ndarray:  # fmt: skip
        """The sample after one attack; labels, threat, network can be others."""
        model = replace(model or self.model, precision=self.precision)
        return under(
            threat or self.threat, attack, model, self.x,
            self.y if y is None else y, key=self.key, batch=self.batch, **options,
        )  # fmt: skip

    def attacked(self, spec: AttackSpec, **more: Any) -> np.ndarray:
        """The sample after one attack of the suite."""
        return self.attack(spec.attack, **(spec.options | more))

    def outputs(self, x: Any) -> np.ndarray:
        """Outputs (B, classes)."""
        return self.model.outputs(x, self.batch)

    def correct(self, x: Any, y: Any = None) -> np.ndarray:
        """Which images (B,) are classified as labeled."""
        return self.model.correct(x, self.y if y is None else y, self.batch)

    @cached_property
    def clean(self) -> np.ndarray:
        """Which images are classified right without an attack."""
        return self.correct(self.x)

    @cached_property
    def images(self) -> dict[str, np.ndarray]:
        """Attack -> the attacked sample."""
        return {s.name: self.attacked(s) for s in self.suite}

    @cached_property
    def left(self) -> dict[str, np.ndarray]:
        """Attack -> which images it left right."""
        return {name: self.correct(x_adv) for name, x_adv in self.images.items()}

    @cached_property
    def worst(self) -> np.ndarray:
        """Which images were right and every attack with full knowledge left right."""
        specs = self.white_box if self.model.gradients else self.suite
        return np.all([self.clean, *(self.left[s.name] for s in specs)], axis=0)

    @cached_property
    def chance(self) -> float:
        """What saying one class always is worth: the largest class's share."""
        return float(np.unique(self.y, return_counts=True)[1].max() / len(self.y))

    @property
    def white_box(self) -> list[AttackSpec]:
        """The attacks that use gradients."""
        return [s for s in self.suite if attack_of(s.attack)[0].gradients]

    def named(self, attack: Callable) -> str:
        """The name of the suite's attack of that kind, on its usual loss, or ""."""
        found = (
            s for s in self.suite if s.attack is attack and "loss" not in s.options
        )
        return next((s.name for s in found), "")

    @cached_property
    def epsilons(self) -> np.ndarray:
        """Budgets of the curve."""
        t = self.threat
        most = widest(t.norm, t.box, self.x[0].size)
        return np.minimum(t.epsilon * np.asarray(SHARES), most)

    @cached_property
    def curve(self) -> dict[str, np.ndarray]:
        """Attack -> right (E, B) at every budget of `epsilons`."""
        linf = self.threat.norm == "linf"
        attacked: dict[str, Callable[[float], np.ndarray]] = {
            "random signs" if linf else "Gaussian": lambda e: self.random(e, draws=1)
        }
        if self.model.gradients:
            attacked["FGSM"] = lambda e: self.attack(attacks.fgsm, epsilon=e)
            attacked[f"PGD-{self.steps}"] = lambda e: self.attack(
                attacks.pgd, epsilon=e, steps=self.steps
            )
        return {
            name: np.stack([self.correct(at(e)) for e in self.epsilons])
            for name, at in attacked.items()
        }

    def random(self, epsilon: float, draws: int) -> np.ndarray:
        """The worst of several draws of noise that has the budget's size."""
        kind = "signs"
        if self.threat.norm != "linf":
            # the standard deviation that makes the noise about as long as the budget
            scale = widest(self.threat.norm, (0.0, 1.0), self.x[0].size)
            kind, epsilon = "gaussian", epsilon / scale
        # noise has an amount, and no norm to keep it in
        threat = Threat("linf", epsilon, self.threat.box)
        return self.attack(attacks.noise, threat=threat, draws=draws, kind=kind)

    @cached_property
    def masking(self) -> Masking:
        """Every layer's gradients, and the attack through those that pass none."""
        if not self.model.gradients:
            return Masking([], [], None, None)
        some = slice(self.batch)

        def through(model):
            x_adv = self.attack(
                attacks.pgd, model=model, steps=self.steps, loss=attacks.margin
            )
            return self.correct(x_adv)

        return masking_report(self.model, self.x[some], self.y[some], through)

    @cached_property
    def gradients(self) -> dict[str, np.ndarray]:
        """Loss -> the largest |gradient| of each image."""
        losses = {"cross-entropy": softmax_cross_entropy, "margin": attacks.margin}
        if self.outputs(self.x[:1]).shape[-1] >= 3:
            losses["DLR"] = attacks.dlr

        def largest(loss):
            dx = self.model.gradient(self.x, self.y, loss, self.batch)[1]
            return np.abs(dx).reshape(len(dx), -1).max(-1)

        return {name: largest(loss) for name, loss in losses.items()}
