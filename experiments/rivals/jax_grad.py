"""Rivals: what JAX users write, jax.grad and optax, in a scan and in a loop.

A good one compiles an epoch as one scan, which gathers the batches by index from
float32 images on the device. Most JAX code calls one jitted step a batch. NumPy gathers
it, which on a CPU is faster than XLA's gather in the step, and the loop never waits for
a result, so that Python prepares the next batch while the device works.

Convolutions and pools are XLA's, and so are their gradients. In a scan XLA on CPU takes
tens of times as long for the gradient of a kernel
(https://github.com/jax-ml/jax/issues/12868), in a loop not.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from experiments.rivals import Rival, Task, batches, start, unit

OPTIMIZERS = {"sgd": optax.sgd, "adam": optax.adam}


def logits(params, x):
    """Relu layers and a last linear one: x (B, I) -> (B, C)."""
    for w, b in params[:-1]:
        x = jax.nn.relu(x @ w + b[None])
    w, b = params[-1]
    return x @ w + b[None]


def cnn_logits(params, x):
    """The convolutional network: x (B, 784) -> (B, 10)."""
    x = x.reshape(x.shape[0], 28, 28, 1)
    for w, b in params[:2]:
        layout = ("NHWC", "HWIO", "NHWC")
        x = lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=layout)
        x = jax.nn.relu(x + b[None, None, None])
        window = (1, 2, 2, 1)
        x = lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")
    return logits(params[2:], x.reshape(x.shape[0], 7 * 7 * 64))


def mean_loss(logits: Callable, params, x, y):
    """Softmax cross-entropy, mean over the batch: x (B, I), y (B,) -> ()."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits(params, x), y)
    return losses.mean()


def made(name: str, looped: bool, task: Task) -> Rival:
    """The network, its start, and a step: in a scan over the batches, or in a loop."""
    outputs = logits if task.widths else cnn_logits
    opt = task.chosen(OPTIMIZERS)(task.learning_rate)
    params = jax.tree.map(jnp.asarray, start(task.widths, task.seed))
    state = opt.init(params)
    images, labels = unit(task.x), task.y
    if not looped:
        images, labels = jnp.asarray(images), jnp.asarray(labels)

    def step(params, state, x, y):
        gradient = jax.value_and_grad(partial(mean_loss, outputs))
        loss, grads = gradient(params, x, y)
        updates, state = opt.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    def scan(params, state, images, labels, order):  # order (S, B)
        def one(carry, rows):
            *carry, loss = step(*carry, images[rows], labels[rows])
            return tuple(carry), loss

        (params, state), losses = lax.scan(one, (params, state), order)
        return params, state, losses.mean()

    compiled = jax.jit(step if looped else scan, donate_argnums=(0, 1))

    def epoch(index: int) -> float:
        nonlocal params, state
        order, losses = batches(task, index), []
        if looped:
            for rows in order:
                params, state, loss = compiled(
                    params, state, images[rows], labels[rows]
                )
                losses.append(loss)
        else:
            order = order.astype(np.int32)
            params, state, loss = compiled(params, state, images, labels, order)
            losses.append(loss)
        jax.block_until_ready(params)
        return float(np.mean(jax.device_get(losses)))

    def accuracy(x: np.ndarray, y: np.ndarray) -> float:
        return float((jax.jit(outputs)(params, unit(x)).argmax(1) == y).mean())

    return Rival(name, jax.__version__, epoch, accuracy)


make_scan = partial(made, "jax_grad_scan", False)
make_loop = partial(made, "jax_grad_loop", True)
