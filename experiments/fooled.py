"""Adversarial examples from dX: the derivative that training throws away.

Questions: backpropagation also gives the derivative of the cost with regard to the
picture. What can be done with it? And how little must a picture change?

    python -m experiments.fooled            about 15 seconds

Training asks how the cost changes with the weights, dJ/dw, and steps down. Ask instead
how it changes with each pixel, dJ/dx: the last thing the way back computes. Step *up*:

    x' = x + epsilon sign(dJ/dx)          pixels in [0, 1], none moves by more than eps

Why the sign: of all changes that stay within epsilon at each pixel, this one raises the
linear part of J most, by epsilon sum |dJ/dx|. With 784 pixels that sum is large though
each part is tiny: many small pushes in one direction. Random signs of the same size
push as often back as forth, and do next to nothing.

This is FGSM (Goodfellow et al. 2015). One step is a weak attack: PGD takes many small
ones. `jaxnn attack` and `jaxnn robustness` do that, and check that it was honest.

Exercises
1. A linear network's score is x w: how far can it fall, epsilon at each pixel?
2. What does the attack do where dJ/dx is exactly 0, and why is that dangerous to trust?
3. How would you make the network say a certain other digit?
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import conclude, main
from jaxnn import fit, mlp, plots, predict
from jaxnn.data import load, stratified_sample, unit_images
from jaxnn.losses import softmax_cross_entropy
from jaxnn.plots.panels import lines, panels

ANSWERS = """
1. By epsilon sum |w|: move each pixel against the sign of its weight.
2. Nothing: the network looks robust, but only its gradient is hidden (a sure softmax,
   rounding). `experiments/masking.py` breaks such networks all the same.
3. Step down, x - epsilon sign(dJ/dx), with the wished digit as the label in J.
"""


@dataclass(frozen=True)
class Args:
    """Settings."""

    images: int = 20_000  # Training images
    test_images: int = 2000  # Images attacked
    epochs: int = 3  # Times through the training images
    epsilon: float = 0.1  # Budget of the picture


def input_gradient(net, history, x, y):
    """dJ/dx (N, 784): forward, loss, backward; the weights' part is not used."""
    params, state = history.params, history.state
    logits, _, cache = net.forward(params, state, jnp.asarray(x), train=False)
    _, dlogits = softmax_cross_entropy(logits, y)
    dx, _ = net.backward(cache, dlogits)
    return np.asarray(dx)


def chances(net, history, x):
    """Probabilities (N, 10)."""
    return np.asarray(jax.nn.softmax(predict(net, history.params, history.state, x)))


def run(args: Args) -> None:
    data, net = load("mnist"), mlp([784, 128, 10])
    x_train = data.train.x[: args.images].reshape(-1, 784)
    history = fit(net, x_train, data.train.y[: args.images], epochs=args.epochs)
    rows = stratified_sample(data.test.y, args.test_images, 0)
    x, y = unit_images(data.test.x[rows]).reshape(-1, 784), data.test.y[rows]
    uphill = np.sign(input_gradient(net, history, x, y))
    dice = np.random.default_rng(0).choice([-1.0, 1.0], x.shape)

    def moved(signs, epsilon):
        return np.clip(x + epsilon * signs, 0, 1).astype(np.float32)

    def right(signs, epsilon):
        said = chances(net, history, moved(signs, epsilon)).argmax(1)
        return float((said == y).mean())

    budgets = np.linspace(0, 2 * args.epsilon, 9)
    found = {"signs of dX": [right(uphill, e) for e in budgets],
             "random signs": [right(dice, e) for e in budgets]}  # fmt: skip
    for i, e in enumerate(budgets):
        print(f"epsilon {e:.3f}: " + ", ".join(
            f"{name} {shares[i]:.1%}" for name, shares in found.items()))  # fmt: skip
    title = f"Accuracy of 784-128-10 on {len(y):,} test images, each pixel moved"
    figure, (ax,) = panels(1, width=6, height=3.6, title=title)
    lines(ax, budgets, {n: 100 * np.array(v) for n, v in found.items()},
          "epsilon: change of each pixel, in [0, 1]", "percent right")  # fmt: skip
    ax.set_ylim(0, 100)
    worse = moved(uphill, args.epsilon)
    gallery = plots.adversarial(
        x, worse, y, chances(net, history, x), chances(net, history, worse),
        args.epsilon, attack="One step up dX",
    )  # fmt: skip
    values = {"epsilons": budgets.tolist(), "accuracy": found}
    conclude(
        "fooled", args, values, {"fooled.png": figure, "examples.png": gallery},
        "  fooled.png: the same size of change, along dX and at random.\n"
        "  examples.png: you read the digit as before.",
    )  # fmt: skip


if __name__ == "__main__":
    main(Args, run)
