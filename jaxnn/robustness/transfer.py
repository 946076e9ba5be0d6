"""Who fools whom: examples made on one network, shown to the others."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnn import attacks
from jaxnn.attacks.classifier import BATCH, Classifier
from jaxnn.errors import JaxnnError
from jaxnn.robustness.checks import POINT, verdict
from jaxnn.robustness.evidence import Check
from jaxnn.robustness.lab import Lab
from jaxnn.robustness.threat import Threat, surely_more


class Transfer(NamedTuple):
    """Accuracies under each other's examples.

    Attributes:
      names: of the networks (S,).
      matrix: accuracy (S, S): row s made the examples, column t is attacked by them.
      check: K9, whether each column's minimum is its diagonal.
    """

    names: tuple[str, ...]
    matrix: np.ndarray
    check: Check


def transfer_matrix(
    networks: Mapping[str, Classifier],
    x: Any,
    y: Any,
    *,
    threat: Threat | None = None,
    attack: Callable = attacks.pgd,
    seed: int = 0,
    **options: Any,
) -> Transfer:
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
    labs = {name: Lab(net, threat, key, batch) for name, net in networks.items()}
    right = np.zeros((len(labs), len(labs), len(y)), bool)
    for s, source in enumerate(labs.values()):
        x_adv = source.attack(attack, np.asarray(x), y, **options)
        for t, target in enumerate(labs.values()):
            right[s, t] = target.correct(x_adv, y)
    names = tuple(labs)
    return Transfer(names, right.mean(-1), _k9(names, right))


def _k9(names, right) -> Check:
    matrix = right.mean(-1)
    gaps = np.diag(matrix)[None] - matrix  # above 0: a stranger does more harm
    s, t = np.unravel_index(int(gaps.argmax()), gaps.shape)
    gap = float(gaps[s, t])
    words = "every column's minimum is its diagonal"
    if gap > 0:
        words = (
            f"examples of {names[s]} leave {names[t]} {100 * matrix[s, t]:.1f}%, its "
            f"own {100 * matrix[t, t]:.1f}%"
        )
    missed, others = right[t, t] & ~right[s, t], right[s, t] & ~right[t, t]
    how = verdict(not surely_more(missed, others, POINT))
    rows = tuple(map(int, np.flatnonzero(missed)[:20]))
    return Check("K9", "transfer >= white-box", how, gap, words, rows)
