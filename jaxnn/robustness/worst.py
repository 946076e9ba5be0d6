"""Attacks within a threat model, the suite of an evaluation, and the worst of some.

One function serves every command and report: `under`, with batches of one shape.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn import attacks, programs
from jaxnn.attacks import ATTACKS, Classifier, distance
from jaxnn.attacks.classifier import to_logits
from jaxnn.attacks.core import per_image
from jaxnn.attacks.driver import attack_of
from jaxnn.errors import JaxnnError
from jaxnn.robustness.threat import Threat
from jaxnn.tasks import run_tasks
from jaxnn.tree import map_batches


def under(
    threat: Threat, attack: Callable, model: Classifier, x: Any, y: Any, *,
    key: jax.Array | None = None, batch: int | None = None, **options: Any,
) -> np.ndarray:  # fmt: skip
    """All of x (N, ...) after one attack within a threat model, batch by batch.

    Args:
      threat: gives the attack its budget, norm and box.
      attack: one of `jaxnn.attacks`, or `functools.partial` of one.
      model, x, y: the network, images and labels.
      key: for attacks that draw.
      batch: images a call, see `jaxnn.tree.map_batches`.
      options: more settings of the attack; they go before the threat model's.

    Returns:
      The attacked images. An attack that looks for the smallest change has a try at
      each image; where what it found is beyond the budget, the image stays as it was.

    Raises:
      JaxnnError: the attack cannot keep a budget in that norm.
    """
    found, bound = attack_of(attack)
    options = bound | options
    if options.get("norm", threat.norm) not in found.norms:
        can = ", ".join(found.norms) or "no norm"
        raise JaxnnError(
            f"{found.name} keeps a budget in {can}, the threat model is {threat}"
        )
    given = {
        "epsilon": threat.epsilon, "norm": threat.norm, "box": threat.box, "key": key
    }  # fmt: skip
    given = {k: v for k, v in given.items() if k in found.takes} | options
    attacked = partial(found.run, model, **given)
    if "epsilon" not in found.takes:
        attacked = partial(_kept_within, attacked, threat)
    return map_batches(attacked, x, y, batch=batch, run=run_tasks)


def _kept_within(attacked, threat, x, y):
    return _within(attacked(x, y), x, threat.norm, threat.epsilon)


@partial(programs.jit, static_argnums=2)
def _within(x_adv, x, norm, epsilon):
    near = distance(x_adv, x, norm) <= epsilon
    return jnp.where(per_image(near, x), x_adv, x)


def not_attacked(model: Classifier, x: Any, y: Any, batch: int | None = None) -> Any:
    """Which images (N,) no attack can follow: their own gradient is NaN."""
    if not model.gradients:
        return np.zeros(len(y), bool)
    return np.isnan(model.gradient(x, y, batch=batch)[1].reshape(len(y), -1)).any(-1)


class AttackSpec(NamedTuple):
    """An attack with its settings."""

    name: str  # what tables call it
    attack: Callable[..., Any]  # a function of `jaxnn.attacks`
    options: dict[str, Any]  # budget, norm and key come from the threat model
    images: int | None = None  # that it sees: None is all, else a stratified sample


def first_three(steps: int = 40, restarts: int = 1) -> list[AttackSpec]:
    """Of every evaluation, `jaxnn train`'s report among them: all images see them."""
    options = {"steps": steps, "restarts": restarts}
    margin = options | {"loss": attacks.margin}
    return [
        AttackSpec("FGSM", attacks.fgsm, {}),
        AttackSpec(f"PGD-{steps}", attacks.pgd, options),
        AttackSpec(f"PGD-{steps}, margin", attacks.pgd, margin),
    ]


def attack_suite(
    level: str, norm: str, classes: int, gradients: bool = True
) -> list[AttackSpec]:
    """The attacks of a level, cheapest first; of a black box, those on outputs only.

    Attacks that were registered with `in_suite` follow. `fast` takes about a minute
    for a small MLP; `full` has more steps and restarts.
    """
    more = [
        AttackSpec(a.name, a.run, {}) for a in ATTACKS.values()
        if a.in_suite and norm in a.norms and (gradients or not a.gradients)
    ]  # fmt: skip
    full = level == "full"
    queries, images = (5000, 1000) if full else (500, 500)
    square = AttackSpec(
        f"Square-{queries} (black-box)", attacks.square, {"queries": queries}, images
    )
    if not gradients:
        steps = 100 if full else 40
        spsa = f"SPSA-{steps} (black-box)"
        found = [AttackSpec(spsa, attacks.spsa, {"steps": steps}, images)]
        return [*found, *([square] if norm == "linf" else []), *more]
    found = first_three(100, 10) if full else first_three()
    if norm in ("linf", "l2"):
        options = {"steps": 100 if full else 50, "restarts": 5 if full else 1}
        loss = attacks.dlr if classes >= 3 else attacks.margin
        name = f"APGD-{options['steps']}, {'DLR' if classes >= 3 else 'margin'}"
        found.append(AttackSpec(name, attacks.apgd, options | {"loss": loss}))
        if full:
            found.append(AttackSpec("APGD-100", attacks.apgd, options))
    return [*found, *([square] if norm == "linf" else []), *more]


class WorstCase(NamedTuple):
    """What some attacks leave of a network, each of them tried on all images."""

    clean: np.ndarray  # which images (N,) are classified right without an attack
    correct: dict[str, np.ndarray]  # attack -> which images it leaves right
    x_adv: dict[str, np.ndarray]  # attack -> the images after it
    not_attacked: np.ndarray  # right, but their own gradient is NaN: not to be followed

    @property
    def stands(self) -> np.ndarray:
        """Which images every attack leaves right; not attacked is not robust."""
        return np.all([*self.correct.values(), self.clean, ~self.not_attacked], axis=0)


def worst_case(
    model: Classifier, x: Any, y: Any, *, threat: Threat, key: jax.Array,
    steps: int = 40, log: Callable[[str], None] | None = None,
) -> WorstCase:  # fmt: skip
    """Attack all images by FGSM, PGD on cross-entropy and PGD on the margin.

    Plain cross-entropy and margin, whatever the network was trained with. The commands
    `train`, `attack` and `robustness` and the experiments call this, or what it calls,
    with batches of one shape: the same attack, key and images give the same bits.

    Args:
      model: the network.
      x: images (N, ...), floats in the threat model's box.
      y: labels (N,).
      threat: what the attacker may do.
      key: of the random starts.
      steps: of PGD.
      log: called with a line after each attack.
    """
    x = np.asarray(x)
    model, y = to_logits(model, x, np.asarray(y))
    clean = model.correct(x, y)
    correct, x_adv = {}, {}
    for spec in first_three(steps):
        found = under(threat, spec.attack, model, x, y, key=key, **spec.options)
        correct[spec.name], x_adv[spec.name] = model.correct(found, y), found
        if log is not None:
            log(f"{spec.name}: {correct[spec.name].sum():,} of {len(y):,} right")
    return WorstCase(clean, correct, x_adv, clean & not_attacked(model, x, y))
