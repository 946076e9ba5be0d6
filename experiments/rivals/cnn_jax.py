"""Rivals: the convolutional network by `jax.grad`, in a scan and in a loop.

Convolutions and pools are XLA's, and so are their gradients. In a scan XLA on CPU takes
tens of times as long for the gradient of a kernel
(https://github.com/jax-ml/jax/issues/12868), which is why the loop is here too.
"""

import jax
import jax.numpy as jnp
from jax import lax

from experiments.rivals import Rival, Task, jax_grad_loop, jax_grad_scan
from experiments.rivals.cnn import start


def logits(params, x):
    """x (B, 784) -> (B, 10)."""
    x = x.reshape(x.shape[0], 28, 28, 1)
    for w, b in params[:2]:
        layout = ("NHWC", "HWIO", "NHWC")
        x = lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=layout)
        x = jax.nn.relu(x + b[None, None, None])
        window = (1, 2, 2, 1)
        x = lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")
    return jax_grad_scan.logits(params[2:], x.reshape(x.shape[0], 7 * 7 * 64))


def make_scan(task: Task) -> Rival:
    """See `experiments.rivals.Rival`."""
    return jax_grad_scan.rival("jax_grad_scan", start(task.seed), logits, task)


def make_loop(task: Task) -> Rival:
    """See `experiments.rivals.Rival`."""
    return jax_grad_loop.rival("jax_grad_loop", start(task.seed), logits, task)
