"""What attacks see of a network: its outputs, and the gradient for its inputs."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnn import programs
from jaxnn.layers import Layer
from jaxnn.losses import Loss, softmax_cross_entropy

BATCH = 500  # images a call, in every command: random starts depend on it


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("params", "state"),
    meta_fields=("net",),
)
@dataclass(frozen=True, eq=False)
class Classifier:
    """A network in evaluation mode, bound to its parameters: one argument of a program.

    `logits`, `value_and_gradient` and `vjp` can be traced; networks of one structure
    share compiled programs. `outputs`, `correct` and `gradient` take any number of
    images and work batch by batch. It is never trained and never saved.

    Attributes:
      net: the network; its first layer does any normalization.
      params: its parameters.
      state: its state.
    """

    net: Layer
    params: Any = field(repr=False)
    state: Any = field(default=(), repr=False)

    def logits(self, x: Array) -> Array:
        """Outputs for x (B, ...): (B, N)."""
        return self.net.forward(self.params, self.state, x, train=False)[0]

    def vjp(self, x: Array) -> tuple[Array, Callable[[Array], Array]]:
        """Outputs (B, N), and the function that takes their gradient back to x."""
        pred, _, cache = self.net.forward(self.params, self.state, x, train=False)
        # the parameters' gradients are not used: XLA drops them
        return pred, lambda dpred: self.net.backward(cache, dpred)[0]

    def value_and_gradient(
        self, x: Array, y: Array, loss: Loss
    ) -> tuple[Array, Array, Array]:
        """Loss of each image (B,), its gradient for x (as x), and the outputs (B, N).

        The gradient comes from the hand-written backward passes; row i is the gradient
        of image i's own loss.
        """
        pred, pull = self.vjp(x)
        values, dpred = loss(pred, y, reduction="none")
        return values, pull(dpred), pred

    def outputs(self, x: Any, batch: int | None = None) -> np.ndarray:
        """Outputs (N, classes) for all of x, see `map_batches`."""
        return map_batches(partial(_logits, self), x, batch=batch)

    def correct(self, x: Any, y: Any, batch: int | None = None) -> np.ndarray:
        """Which images (N,) it classifies as labelled; NaN is no answer."""
        out = self.outputs(x, batch)
        return (out.argmax(-1) == np.asarray(y)) & ~np.isnan(out).any(-1)

    def gradient(
        self,
        x: Any,
        y: Any,
        loss: Loss = softmax_cross_entropy,
        batch: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Loss of each image (N,) and its gradient for x, by the hand-written rules."""
        return map_batches(partial(_gradient, loss, self), x, y, batch=batch)


@programs.jit
def _logits(model, x):
    return model.logits(x)


@partial(programs.jit, static_argnums=0)
def _gradient(loss, model, x, y):
    return model.value_and_gradient(x, y, loss)[:2]


def map_batches(function: Callable, *arrays: Any, batch: int | None = None) -> Any:
    """`function(*batches)` over all rows, every call of one shape, the last one padded.

    >>> map_batches(lambda x: 2 * x, np.arange(5), batch=2)
    array([0, 2, 4, 6, 8], dtype=int32)

    Args:
      function: for example `lambda x, y: fgsm(model, x, y, epsilon=0.1)`.
      arrays: of one length, at least one row.
      batch: rows a call, so many even if there are fewer; None is 500 at most.

    Returns:
      What the calls returned, as NumPy arrays of all rows.
    """
    count, found = len(arrays[0]), []
    size = min(BATCH, count) if batch is None else batch
    for start in range(0, count, size):
        rows = np.minimum(np.arange(start, start + size), count - 1)
        made = jax.device_get(function(*(jnp.asarray(a[rows]) for a in arrays)))
        found.append(jax.tree.map(lambda a, n=count - start: a[:n], made))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *found)
