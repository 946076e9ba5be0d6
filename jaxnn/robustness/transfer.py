"""Who fools whom: examples made on one network, shown to the others."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnn import attacks
from jaxnn.attacks.classifier import Classifier
from jaxnn.errors import JaxnnError
from jaxnn.robustness.checks import own_attack_is_worst
from jaxnn.robustness.context import Check, outcome
from jaxnn.robustness.threat import Threat
from jaxnn.robustness.worst import under
from jaxnn.tree import BATCH


class Transfer(NamedTuple):
    """Accuracies under each other's examples."""

    names: tuple[str, ...]  # of the networks (S,)
    matrix: np.ndarray  # (S, S): row s made the examples that attack column t
    check: Check  # K9, whether each column's minimum is its diagonal


def transfer_matrix(
    networks: Mapping[str, Classifier], x: Any, y: Any, *, threat: Threat | None = None,
    attack: Callable = attacks.pgd, seed: int = 0, **options: Any,
) -> Transfer:  # fmt: skip
    """Accuracy of every network under the examples made on every network.

    An attacker who sees the network does at least as much harm as one who sees another:
    a column whose minimum is off the diagonal shows masked gradients (K9).

    Args:
      networks: name -> network, all for the same images.
      x: images (N, ...), float in [0, 1].
      y: labels (N,).
      threat: norm, epsilon and box; None is linf 0.1.
      attack: of `jaxnn.attacks` or `partial` of one; budget, norm, box and key come
        from the threat model, see `under`.
      seed: of its key.
      options: of the attack; PGD takes 40 steps by itself.

    Raises:
      JaxnnError: no networks, lengths that differ, an attack that cannot keep the
        threat model.
    """
    if not networks or len(x) != len(y) or not len(y):
        raise JaxnnError(
            f"transfer_matrix: got {len(networks)} networks, {len(x)} images and "
            f"{len(y)} labels, expected at least one of each and as many labels"
        )
    threat, y = (threat or Threat()).checked(), np.asarray(y)
    key, batch = jax.random.key(seed), min(BATCH, len(y))
    correct = np.zeros((len(networks), len(networks), len(y)), bool)
    for s, source in enumerate(networks.values()):
        x_adv = under(
            threat, attack, source, np.asarray(x), y, key=key, batch=batch, **options
        )
        for t, target in enumerate(networks.values()):
            correct[s, t] = target.correct(x_adv, y, batch)
    names = tuple(networks)
    return Transfer(names, correct.mean(-1), _k9(names, correct))


def _k9(names, correct) -> Check:
    matrix = correct.mean(-1)
    gaps = np.diag(matrix)[None] - matrix  # above 0: a stranger does more harm
    s, t = np.unravel_index(int(gaps.argmax()), gaps.shape)
    message = "every column's minimum is its diagonal"
    if gaps[s, t] > 0:
        message = (
            f"examples of {names[s]} leave {names[t]} {100 * matrix[s, t]:.1f}%, its "
            f"own {100 * matrix[t, t]:.1f}%"
        )
    found = own_attack_is_worst(correct[t, t], correct[s, t], message)
    return outcome("K9", "transfer >= white-box", found, np.arange(correct.shape[-1]))
