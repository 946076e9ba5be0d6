"""A network under attack: calls of one shape, so each program compiles once."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn import attacks
from jaxnn.attacks.core import loss_and_gradient
from jaxnn.layers import Layer
from jaxnn.losses import Loss, softmax_cross_entropy
from jaxnn.robustness.threat import Threat

BATCH = 500


class Lab:
    """Attacks bound to one network and one threat model.

    Args:
      net: the network; its first layer does any normalisation.
      params: its parameters.
      state: its state.
      threat: what the attacker may do.
      key: all randomness comes from it.
      batch: images a call.
    """

    def __init__(
        self,
        net: Layer,
        params: Any,
        state: Any,
        threat: Threat,
        key: jax.Array,
        batch: int = BATCH,
    ):
        self.net, self.threat, self.key, self.batch = net, threat, key, batch
        self.params, self.state = jax.tree.map(jnp.asarray, (params, state))
        self._outputs = jax.jit(
            lambda p, s, x: net.forward(p, s, x, key=None, train=False)[0]
        )
        self._gradients: dict[Loss, Callable] = {}

    def each_batch(self, function: Callable, *arrays: Any) -> Any:
        """`function(*batches)` over all rows, the last batch padded and cut again."""
        count, found = len(arrays[0]), []
        for start in range(0, count, self.batch):
            rows = np.minimum(np.arange(start, start + self.batch), count - 1)
            made = jax.device_get(function(*(jnp.asarray(a[rows]) for a in arrays)))
            found.append(jax.tree.map(lambda a, n=count - start: a[:n], made))
        return jax.tree.map(lambda *parts: np.concatenate(parts), *found)

    def outputs(self, x: Any) -> np.ndarray:
        """Logits (B, N) in evaluation mode."""
        return self.each_batch(lambda a: self._outputs(self.params, self.state, a), x)

    def right(self, x: Any, y: Any) -> np.ndarray:
        """Which images (B,) the network classifies as labelled."""
        return self.outputs(x).argmax(-1) == y

    def gradient(self, x: Any, y: Any, loss: Loss = softmax_cross_entropy) -> Any:
        """Loss of each image (B,) and its gradient for x, by the hand-written rules."""
        if loss not in self._gradients:
            self._gradients[loss] = jax.jit(
                lambda p, s, x, y: loss_and_gradient(self.net, loss, p, s, x, y)[:2]
            )
        program = self._gradients[loss]
        return self.each_batch(
            lambda a, b: program(self.params, self.state, a, b), x, y
        )

    def attack(self, attack: Callable, x: Any, y: Any, **options: Any) -> np.ndarray:
        """Attacked images; epsilon, norm and box come from the threat model."""
        given = {"epsilon": self.threat.epsilon, "box": self.threat.box} | options
        if attack in (attacks.fgsm, attacks.bim, attacks.mifgsm, attacks.pgd):
            given.setdefault("norm", self.threat.norm)
        if attack is attacks.apgd:
            given.setdefault("norm", self.threat.norm)
        if attack in (attacks.pgd, attacks.apgd, attacks.square, attacks.noise):
            given.setdefault("key", self.key)
        bound = (self.net, self.params, self.state)
        return self.each_batch(lambda a, b: attack(*bound, a, b, **given), x, y)
