"""Rival: what a good JAX user writes: jax.grad, optax, one jitted scan an epoch.

The batches are gathered by index, in the scan, from float32 images on the device.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.rivals import Rival, Task, batches, start, unit

OPTIMIZERS = {"sgd": optax.sgd, "adam": optax.adam}


def logits(params, x):
    """Relu layers and a last linear one: x (B, I) -> (B, C)."""
    for w, b in params[:-1]:
        x = jax.nn.relu(x @ w + b[None])
    w, b = params[-1]
    return x @ w + b[None]


def mean_loss(logits: Callable, params, x, y):
    """Softmax cross-entropy, mean over the batch: x (B, I), y (B,) -> ()."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits(params, x), y)
    return losses.mean()


def train_step(opt: optax.GradientTransformation, logits: Callable):
    """Make the step: (params, state, x (B, I), y (B,)) -> (params, state, loss)."""
    loss_of = partial(mean_loss, logits)

    def step(params, state, x, y):
        loss, grads = jax.value_and_grad(loss_of)(params, x, y)
        updates, state = opt.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    return step


def accuracy_of(logits: Callable, params, x: np.ndarray, y: np.ndarray) -> float:
    """Share of the images x uint8 (N, I) whose largest logit is at y (N,)."""
    right = jax.jit(logits)(params, unit(x)).argmax(1) == y
    return float(right.mean())


def make(task: Task) -> Rival:
    """See `experiments.rivals.Rival`."""
    return rival("jax_grad_scan", start(task.widths, task.seed), logits, task)


def rival(name: str, params, logits: Callable, task: Task) -> Rival:
    """The scan over any network: `logits` of (params, x (B, I)) -> (B, C)."""
    opt = task.chosen(OPTIMIZERS)(task.learning_rate)
    step = train_step(opt, logits)
    params = jax.tree.map(jnp.asarray, params)
    state = opt.init(params)
    images, labels = jnp.asarray(unit(task.x)), jnp.asarray(task.y)

    @jax.jit(donate_argnums=(0, 1))
    def scan(params, state, images, labels, order):  # order (S, B)
        def one(carry, rows):
            *carry, loss = step(*carry, images[rows], labels[rows])
            return tuple(carry), loss

        (params, state), losses = jax.lax.scan(one, (params, state), order)
        return params, state, losses.mean()

    def epoch(index: int) -> float:
        nonlocal params, state
        order = batches(task, index).astype(np.int32)
        params, state, loss = scan(params, state, images, labels, order)
        jax.block_until_ready(params)
        return float(loss)

    def accuracy(x: np.ndarray, y: np.ndarray) -> float:
        return accuracy_of(logits, params, x, y)

    return Rival(name, jax.__version__, epoch, accuracy)
