"""Rivals: the convolutional network by `jax.grad`, in a scan and in a loop.

Convolutions and pools are XLA's, and so are their gradients. In a scan XLA on CPU takes
tens of times as long for the gradient of a kernel
(https://github.com/jax-ml/jax/issues/12868), which is why the loop is here too.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.rivals import Rival, jax_grad_loop, jax_grad_scan
from experiments.rivals.cnn import start
from jaxnn.errors import lookup


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


def make_scan(
    batch: int, optimizer: str, learning_rate: float, x: np.ndarray, y: np.ndarray, seed
) -> Rival:
    """See `experiments.rivals.Rival`."""
    opt = lookup("optimizer", optimizer, jax_grad_scan.OPTIMIZERS)(learning_rate)
    return jax_grad_scan.rival(
        "jax_grad_scan", start(seed), logits, batch, opt, x, y, seed
    )


def make_loop(
    batch: int, optimizer: str, learning_rate: float, x: np.ndarray, y: np.ndarray, seed
) -> Rival:
    """See `experiments.rivals.Rival`."""
    opt = lookup("optimizer", optimizer, jax_grad_scan.OPTIMIZERS)(learning_rate)
    return jax_grad_loop.rival(
        "jax_grad_loop", start(seed), logits, batch, opt, x, y, seed
    )
