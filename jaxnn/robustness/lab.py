"""A network under attack by one threat model: what every measurement calls."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn import attacks, programs
from jaxnn.attacks import Classifier, map_batches
from jaxnn.attacks.driver import attack_of
from jaxnn.errors import JaxnnError
from jaxnn.losses import Loss, softmax_cross_entropy
from jaxnn.robustness.threat import Threat


@dataclass(frozen=True, eq=False)
class Lab:
    """Attacks bound to one network and one threat model.

    Attributes:
      model: the network.
      threat: what the attacker may do.
      key: all randomness comes from it.
      batch: images a call, see `map_batches`.
    """

    model: Classifier
    threat: Threat
    key: jax.Array
    batch: int | None = None

    def outputs(self, x: Any) -> np.ndarray:
        """Outputs (N, classes) in evaluation mode."""
        return self.model.outputs(x, self.batch)

    def correct(self, x: Any, y: Any) -> np.ndarray:
        """Which images (N,) the network classifies as labelled."""
        return self.model.correct(x, y, self.batch)

    def gradient(self, x: Any, y: Any, loss: Loss = softmax_cross_entropy) -> Any:
        """Loss of each image (N,) and its gradient for x, by the hand-written rules."""
        return self.model.gradient(x, y, loss, self.batch)

    def attack(self, attack: Callable, x: Any, y: Any, **options: Any) -> np.ndarray:
        """Attacked images; epsilon, norm, box and key come from the threat model."""
        return under(
            self.threat, attack, self.model, x, y, key=self.key, batch=self.batch,
            **options,
        )  # fmt: skip


def under(
    threat: Threat,
    attack: Callable,
    model: Classifier,
    x: Any,
    y: Any,
    *,
    key: jax.Array | None = None,
    batch: int | None = None,
    **options: Any,
) -> np.ndarray:
    """All of x after one attack within a threat model, batch by batch.

    Args:
      threat: gives the attack its budget, norm and box.
      attack: one of `jaxnn.attacks`, or `functools.partial` of one.
      model: the network.
      x: images (N, ...).
      y: labels (N,).
      key: for attacks that draw.
      batch: images a call, see `map_batches`.
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

    def run(a, b):
        x_adv = found.run(model, a, b, **given)
        if "epsilon" in found.takes:
            return x_adv
        return _within(x_adv, a, threat.norm, threat.epsilon)

    return map_batches(run, x, y, batch=batch)


@partial(programs.jit, static_argnums=2)
def _within(x_adv, x, norm, epsilon):
    near = attacks.distance(x_adv, x, norm) <= epsilon
    return jnp.where(attacks.core.per_image(near, x), x_adv, x)
