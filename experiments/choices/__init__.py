"""The ideas of `experiments.design_choices`, a file each, and what they share.

Read them in this order: layout, initialisers, keeping, optimisers, nested. Each has
`measure(args)`, which prints what it finds and returns the numbers and the pictures.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.turns import in_turn, spread, waited_for
from jaxnn.data import load
from jaxnn.layers import Layer
from jaxnn.losses import softmax_cross_entropy
from jaxnn.train import batch_order

RATE_SEED = 100  # learning rates are chosen with this start, results use others


@dataclass(frozen=True)
class Short:
    """Settings of a training of seconds."""

    images: int = 3000  # Training images
    test_images: int = 1000  # Not used for training
    batch: int = 50  # Images a step
    epochs: int = 3  # Times through the images
    seeds: int = 3  # Starts


class Digits(NamedTuple):
    """Images (N, 784), floats in [0, 1], and labels (N,): to learn from and to test."""

    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def digits(args: Any) -> Digits:
    """The first `args.images` training images and `args.test_images` test images."""
    data = load("mnist")
    x, x_test = (
        a.reshape(len(a), 784).astype(np.float32) / 255
        for a in (data.train.x[: args.images], data.test.x[: args.test_images])
    )
    return Digits(x, data.train.y[: len(x)], x_test, data.test.y[: len(x_test)])


class Learnt(NamedTuple):
    """What R runs gave: losses (R, steps) and parameters, with a leading axis R."""

    losses: np.ndarray
    params: Any


def learner(
    net: Layer, make_optimizer: Callable, data: Digits, *, batch: int, epochs: int
) -> Callable[..., Learnt]:
    """A function (rates, seeds) -> Learnt that trains a network for each pair.

    All of training is here: draw the parameters; for each batch run forward, take the
    loss, run backward, let the optimizer make a step of the gradients. `scan` repeats
    the step, `vmap` does it for all runs at once. `learn(rates, seeds, start)` draws
    the parameters of another network `start`, which differs from `net` in that only:
    it is trained by the program that is compiled already.
    """
    x, y = jnp.asarray(data.x), jnp.asarray(data.y)
    _, state, _ = net.init(jax.random.key(0), x.shape[1:])
    epoch_orders = [batch_order(len(x), batch, epoch) for epoch in range(epochs)]
    order = jnp.asarray(np.concatenate(epoch_orders))  # (steps, B) row numbers

    def one_run(rate, params):
        optimizer = make_optimizer(rate)

        def step(carry, rows):
            params, memory = carry
            logits, _, cache = net.forward(params, state, x[rows], train=True)
            loss, dlogits = softmax_cross_entropy(logits, y[rows])
            _, grads = net.backward(cache, dlogits)
            updates, memory = optimizer.update(grads, memory, params)
            return (optax.apply_updates(params, updates), memory), loss

        start = params, optimizer.init(params)
        (params, _), losses = jax.lax.scan(step, start, order)
        return params, losses

    runs = jax.jit(jax.vmap(one_run))

    def learn(rates, seeds, start=net):
        keys = jnp.stack([jax.random.key(seed) for seed in seeds])
        drawn = _first_parameters(start, x.shape[1:], keys)
        params, losses = runs(jnp.asarray(rates, jnp.float32), drawn)
        return Learnt(np.asarray(losses), params)

    return learn


@partial(jax.jit, static_argnums=(0, 1))
def _first_parameters(net, in_shape, keys):
    return jax.vmap(lambda key: net.init(key, in_shape)[0])(keys)


def best_rate(learn: Callable, rates: Sequence[float]) -> float:
    """The rate whose loss is smallest over the last fifth of the steps.

    Every way gets the same number of tries, with a start that no result uses: to
    compare ways at one rate would compare how well the rate suits them.
    """
    losses = learn(rates, [RATE_SEED] * len(rates)).losses
    late = losses[:, -losses.shape[1] // 5 :].mean(1)
    return rates[int(np.argmin(np.where(np.isfinite(late), late, np.inf)))]


def smoothed(curves: dict, points: int) -> tuple[int, np.ndarray, dict]:
    """Curves (R, steps) as means of `window` steps: (window, steps (K,), curves)."""
    count = next(iter(curves.values())).shape[1]
    window = max(count // points, 1)
    whole = count // window
    means = {
        name: a[:, : whole * window].reshape(len(a), whole, window).mean(2)
        for name, a in curves.items()
    }
    return window, window * (np.arange(whole) + 1), means


@partial(jax.jit, static_argnums=0)
def accuracies(net: Layer, params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    """The share of images each of the R networks gets right: (R,)."""
    _, state, _ = net.init(jax.random.key(0), x.shape[1:])

    def one(params):
        logits = net.forward(params, state, x, train=False)[0]
        return (logits.argmax(1) == y).mean()

    return jax.vmap(one)(params)


def milliseconds(
    works: dict[str, Callable[[], Any]], times: int = 9
) -> dict[str, float]:
    """Median time of each call, in turn; prints them with their spread."""
    found = in_turn({n: waited_for(w) for n, w in works.items()}, times, pause=0)
    for name, f in found.items():
        print(f"  {name:<30}{spread(f['seconds'], 1e-3):>24} ms")
    return {name: 1e3 * f["median"] for name, f in found.items()}
