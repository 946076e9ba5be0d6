"""Where should the weights start? Eight hidden layers show what goes wrong.

A unit adds up I inputs, each times a weight: z = sum of w_i x_i. If the weights are
drawn independently with variance s^2, then z has the variance

    var z = I s^2 mean(x^2)          (independent numbers: variances add up)

    zeros           all units of a layer compute the same, get the same gradient and
                    stay the same; here that is 0, and only the last bias learns
    too small, 0.01 I s^2 is below 1: the signal fades from layer to layer
    too large, 1    I s^2 is I: it grows by a factor of about sqrt(I / 2) a layer
    xavier          s^2 = 2 / (I + O): keeps the size if the activation has slope 1
                    at 0, as tanh has
    he              s^2 = 2 / I: relu sets half of the numbers to 0, so twice as much
                    is needed
    your own        any function of (key, shape, dtype): below, each unit hears a tenth
                    of its inputs only, I / 10 of them, so s^2 = 20 / I for those
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.choices import Digits, accuracies, best_rate, digits, learner, smoothed
from experiments.common import spread
from jaxnn import mlp
from jaxnn.layers import Layer
from jaxnn.plots.panels import lines, panels, say_what_is_cut

DEPTH, WIDTH = 8, 50
RATES = (0.3, 0.1, 0.03, 0.01, 0.003)


def small(key, shape, dtype):
    return 0.01 * jax.random.normal(key, shape, dtype)


def own(key, shape, dtype):
    """Nine weights of ten are 0, the others the larger; shape (I, O)."""
    key_size, key_which = jax.random.split(key)
    size = (20 / shape[0]) ** 0.5 * jax.random.normal(key_size, shape, dtype)
    return jnp.where(jax.random.uniform(key_which, shape) < 0.1, size, 0)


STARTS: dict[str, str | Callable] = {
    "zeros": "zeros", "too small, 0.01": small, "too large, 1": "normal",
    "xavier": "xavier", "he": "he", "your own": own,
}  # fmt: skip


def network(init: str | Callable, activation: str = "relu") -> Layer:
    return mlp([784, *[WIDTH] * DEPTH, 10], activation, init=init)


def sizes(net: Layer, seeds: int, x: np.ndarray) -> np.ndarray:
    """The typical size, sqrt(mean h^2), after each activation: (seeds, DEPTH)."""

    def one(key):
        params, state, _ = net.init(key, x.shape[1:])
        h, found = jnp.asarray(x), []
        for layer, p, s in zip(net.parts, params, state, strict=True):
            h, _, _ = layer.forward(p, s, h, train=False)
            if layer.name in ("relu", "tanh"):
                found.append(jnp.sqrt(jnp.mean(h**2)))
        return jnp.stack(found)

    keys = jnp.stack([jax.random.key(seed) for seed in range(seeds)])
    return np.asarray(jax.jit(jax.vmap(one))(keys))


def learning(
    learn: Callable, net: Layer, data: Digits, init: str | Callable, args: Any
) -> dict:
    """Loss curves at the best of five rates, and test accuracy."""
    learn = partial(learn, start=network(init))
    rate = best_rate(learn, RATES)
    runs = learn([rate] * args.seeds, range(args.seeds))
    right = accuracies(net, runs.params, data.x_test, data.y_test)
    return {"rate": rate, "losses": runs.losses, "accuracy": spread(right)}


def measure(args: Any) -> tuple[dict, dict]:
    data = digits(args)
    few = data.x[:256]
    net = network("he")  # the others differ from it in their first parameters only
    learn = learner(
        net, lambda rate: optax.sgd(rate, momentum=0.9), data,
        batch=args.batch, epochs=args.epochs,
    )  # fmt: skip
    found, by_layer, by_layer_tanh = {}, {}, {}
    print(f"  {'start':<18}{'size after layer 1':>20}{f'{DEPTH} (relu)':>12}"
          f"{f'{DEPTH} (tanh)':>12}{'rate':>8}{'test accuracy':>18}")  # fmt: skip
    for name, init in STARTS.items():
        by_layer[name] = sizes(network(init), args.seeds, few)
        by_layer_tanh[name] = sizes(network(init, "tanh"), args.seeds, few)
        found[name] = learning(learn, net, data, init, args)
        first, last = by_layer[name].mean(0)[[0, -1]]
        right = found[name]["accuracy"]
        print(f"  {name:<18}{first:>20.2g}{last:>12.2g}"
              f"{by_layer_tanh[name].mean(0)[-1]:>12.2g}{found[name]['rate']:>8g}"
              f"{right['mean']:>10.1%} ± {right['std']:.1%}")  # fmt: skip
    values = {
        name: {
            "rate": f["rate"], "accuracy": f["accuracy"],
            "size_by_layer_relu": by_layer[name].mean(0).tolist(),
            "size_by_layer_tanh": by_layer_tanh[name].mean(0).tolist(),
        }
        for name, f in found.items()
    }  # fmt: skip
    return values, {"initialisers.png": draw(found, by_layer, args)}


def draw(found: dict, by_layer: dict, args: Any) -> Any:
    title = f"Where weights start: {DEPTH} hidden layers of {WIDTH} relu units"
    figure, (left, right) = panels(2, width=4.7, height=3.7, title=title)
    shown = {name: size for name, size in by_layer.items() if name != "zeros"}
    nothing = {"zeros": np.full(DEPTH, np.nan)}  # keeps its place among the colors
    layers = np.arange(1, DEPTH + 1)
    lines(left, layers, nothing | shown, "hidden layer",
          "typical size of its output (log scale)", "before training; zeros stay 0",
          log=True, legend=False)  # fmt: skip
    left.set_xticks(layers)
    losses = {name: f["losses"] for name, f in found.items()}
    window, steps, curves = smoothed(losses, 40)
    lines(right, steps, curves, f"step (a batch of {args.batch})",
          f"loss, mean of {window} steps",
          f"learning, {args.seeds} seeds, best of {len(RATES)} rates")  # fmt: skip
    right.set_ylim(0, 3)
    say_what_is_cut(right)
    return figure
