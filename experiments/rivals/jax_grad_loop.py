"""Rival: the same JAX program as `jax_grad_scan`, one jitted step a call.

Most JAX code trains like this. NumPy gathers each batch, which on a CPU is faster than
XLA's gather in the step, and the loop never waits for a result, so that Python prepares
the next batch while the device works.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from experiments.rivals import Rival, Task, batches, start, unit
from experiments.rivals.jax_grad_scan import OPTIMIZERS, accuracy_of, logits, train_step


def make(task: Task) -> Rival:
    """See `experiments.rivals.Rival`."""
    return rival("jax_grad_loop", start(task.widths, task.seed), logits, task)


def rival(name: str, params, logits: Callable, task: Task) -> Rival:
    """The loop over any network: `logits` of (params, x (B, I)) -> (B, C)."""
    opt = task.chosen(OPTIMIZERS)(task.learning_rate)
    step = jax.jit(train_step(opt, logits), donate_argnums=(0, 1))
    params = jax.tree.map(jnp.asarray, params)
    state = opt.init(params)
    images, labels = unit(task.x), task.y

    def epoch(index: int) -> float:
        nonlocal params, state
        losses = []
        for rows in batches(task, index):
            params, state, loss = step(params, state, images[rows], labels[rows])
            losses.append(loss)
        jax.block_until_ready(params)
        return float(np.mean(jax.device_get(losses)))

    def accuracy(x: np.ndarray, y: np.ndarray) -> float:
        return accuracy_of(logits, params, x, y)

    return Rival(name, jax.__version__, epoch, accuracy)
