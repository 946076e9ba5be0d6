"""Is it a zero? One neuron reads MNIST as a stream, then the same through a graph.

MNIST is 70,000 images of handwritten digits, 28 x 28 = 784 pixels each; 60,000 are to
learn from and 10,000 to be tested on. They lie in IDX files: a few bytes that say how
many images of what size, then the pixels, a byte each.

Questions: how far does a single neuron get, reading one image after the other from the
file, never holding more than that in memory? And a graph of nodes: does it compute the
same, and how much does one hidden layer add?

    python -m experiments.one_digit         about 15 seconds

Expected: one neuron at least 99.0% of the 10,000 test images, with a hidden layer of 30
at least 99.5%; the streaming part stays below 300 MB, all of Python and JAX included
(the whole of MNIST as float32 would be 188 MB more). Always saying "no" is 90.2% right.

The neuron weighs the 784 pixels and adds a bias: z = x.w + b. Its answer is a
probability, p = sigmoid(z) = 1 / (1 + e^-z). With y = 1 for a zero and 0 for any other
digit, the cross-entropy is -ln p if y = 1 and -ln(1 - p) if y = 0; in one formula:

    -ln p       = ln(1 + e^-z)         -ln(1 - p) = ln(1 + e^z)
    J           = ln(1 + e^u)          with u = (1 - 2y) z,  1 - 2y being -1 or +1
    dJ/du       = sigmoid(u)
    dJ/dz       = (1 - 2y) sigmoid(u)  = p - y
    dJ/dw       = dJ/dz x              dJ/db = dJ/dz

As written e^u overflows from u = 710 on (88 in float32). Take e^u out of the logarithm
where u is positive: ln(1 + e^u) = u + ln(1 + e^-u), so

    J = max(u, 0) + ln(1 + e^-|u|)     in which no exponent is ever positive.

After each image the weights take a small step: w <- w - rate dJ/dw.
"""

import itertools
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import conclude, main, spread
from experiments.pictures import filters
from jaxnn import graph
from jaxnn.data.idx import stream_idx
from jaxnn.data.sources import fetch, locate
from jaxnn.layers import initializer
from jaxnn.plots.panels import lines, panels

DIGIT = 0
WINDOW = 2000  # images over which the loss is averaged in the figure


@dataclass(frozen=True)
class Args:
    """Settings."""

    images: int = 60_000  # Training images read from the file, a multiple of 2,000
    epochs: int = 2  # Times through them
    rate: float = 0.02  # Step of the neuron after each image, at first; then half
    hidden: int = 30  # Units of the hidden layer in the third network
    hidden_rate: float = 0.01  # The same step for the network with the hidden layer
    seeds: int = 3  # Starts of the hidden layer (the neuron starts at zero)


# ---- the stream


def records(split: str, at_once: int = 1) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images (at_once, 784) in [0, 1] and answers y (at_once,), in the file's order.

    Pieces are read from the compressed file as they are asked for.
    """
    place = locate("mnist")
    if place is None:
        fetch("mnist")
        place = locate("mnist")
    assert place is not None, "what was fetched can be located"
    images, labels = (place.files[f"{split}-{what}"] for what in ("images", "labels"))
    pieces = zip(stream_idx(images, at_once), stream_idx(labels, at_once), strict=True)
    for image, label in pieces:
        x = image.reshape(len(image), -1).astype(np.float32) / 255
        yield x, (label == DIGIT).astype(np.float32)


# ---- one neuron, by hand, in NumPy


def neuron_loss(w, b, x, y):
    """J, dJ/dw and dJ/db of one image x (784,): the formulas above."""
    sign = 1 - 2 * y
    u = sign * (x @ w + b)
    loss = max(u, 0.0) + np.log1p(np.exp(-abs(u)))
    dz = sign * (0.5 + 0.5 * np.tanh(u / 2))  # sigmoid(u), without overflow
    return loss, dz * x, dz


def train_neuron(args: Args) -> tuple[np.ndarray, Any, np.ndarray]:
    """Weights (784,), bias, and the loss of every image as it came by."""
    w, b, losses = np.zeros(784, np.float32), np.float32(0), []
    for epoch in range(args.epochs):
        rate = np.float32(args.rate / (1 + epoch))
        for x, y in itertools.islice(records("train"), args.images):
            loss, dw, db = neuron_loss(w, b, x[0], y[0])
            w -= rate * dw
            b -= rate * db
            losses.append(loss)
    return w, b, np.array(losses)


def accuracy_of_neuron(w, b) -> float:
    """Share of the 10,000 test images that are answered right."""
    right = [(x @ w + b > 0) == (y > 0) for x, y in records("test", 100)]
    return float(np.concatenate(right).mean())


def peak_memory() -> float:
    """The most memory this process has held so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3  # bytes, or kB


# ---- the same as a graph


class Network:
    """A graph from the image x to the loss J, and its parameters as nodes."""

    def __init__(self, hidden: int | None):
        self.x, self.y = graph.feed("x"), graph.feed("y")
        self.params = {"w": graph.feed("w"), "b": graph.feed("b")}
        h = self.x
        if hidden is not None:
            self.params |= {
                "w_hidden": graph.feed("w_hidden"),
                "b_hidden": graph.feed("b_hidden"),
            }
            h = graph.relu(h @ self.params["w_hidden"] + self.params["b_hidden"])
        self.z = h @ self.params["w"] + self.params["b"]
        self.loss = graph.softplus((1 - 2 * self.y) * self.z)
        self.hidden = hidden
        # (params, x, y) -> (J, the derivatives of J), by backpropagation in the graph
        self.gradients = graph.function(
            self.loss, self.params, (self.params, self.x, self.y)
        )

    def start(self, seed: int) -> dict:
        """Zeros for the neuron; random weights where there is a hidden layer."""
        if self.hidden is None:
            return {"w": jnp.zeros(784), "b": jnp.zeros(())}
        keys = jax.random.split(jax.random.key(seed))
        draw = initializer("he")
        return {
            "w_hidden": draw(keys[0], (784, self.hidden), jnp.float32),
            "b_hidden": jnp.zeros(self.hidden),
            "w": draw(keys[1], (self.hidden, 1), jnp.float32)[:, 0],
            "b": jnp.zeros(()),
        }

    def train(self, seeds: int, rate: float, args: Args):
        """Parameters and losses (S, images), one step an image, seeds side by side."""

        def one_image(rate, params, image):
            loss, grads = self.gradients(params, *image)
            return jax.tree.map(lambda p, d: p - rate * d, params, grads), loss

        @jax.jit
        @partial(jax.vmap, in_axes=(0, None, None, None))
        def one_piece(params, x, y, rate):
            return jax.lax.scan(partial(one_image, rate), params, (x, y))

        starts = [self.start(seed) for seed in range(seeds)]
        params, losses = jax.tree.map(lambda *a: jnp.stack(a), *starts), []
        for epoch in range(args.epochs):
            for x, y in itertools.islice(records("train", 500), args.images // 500):
                params, loss = one_piece(params, x, y, rate / (1 + epoch))
                losses.append(np.asarray(loss))
        return params, np.concatenate(losses, 1)

    def accuracy(self, params) -> np.ndarray:
        """Share of the test images answered right, one a seed."""
        ask = graph.function(self.z, None, (self.params, self.x))
        answer = jax.jit(jax.vmap(jax.vmap(ask, (None, 0)), (0, None)))
        right = [
            (np.asarray(answer(params, x)) > 0) == (y > 0)[None]
            for x, y in records("test", 500)
        ]
        return np.concatenate(right, 1).mean(1)


def largest_difference(network: Network, w, b, images: int = 200) -> float:
    """The graph's derivatives against the formulas, in float64, at trained weights."""
    gap = 0.0
    with jax.enable_x64(True):
        w, b = np.asarray(w, np.float64), np.float64(b)
        gradients = jax.jit(network.gradients)
        for x, y in itertools.islice(records("train"), images):
            x, y = x[0].astype(np.float64), np.float64(y[0])
            mine = neuron_loss(w, b, x, y)
            loss, found = gradients({"w": w, "b": b}, x, y)
            theirs = (loss, found["w"], found["b"])
            pairs = zip(mine, theirs, strict=True)
            gap = max(gap, *(float(abs(p - q).max()) for p, q in pairs))
    return gap


def run(args: Args) -> None:
    start = time.perf_counter()
    w, b, losses = train_neuron(args)
    by_hand, memory = accuracy_of_neuron(w, b), peak_memory()
    print(f"one neuron, streamed    {by_hand:.2%} of 10,000 test images, peak memory "
          f"{memory:.0f} MB, {time.perf_counter() - start:.1f} s")  # fmt: skip

    neuron, deep = Network(None), Network(args.hidden)
    gap = largest_difference(neuron, w, b)
    assert gap < 1e-12, "the graph and the formulas must agree"
    print(f"its graph against the formulas: largest difference {gap:.0e}")
    one, one_losses = neuron.train(1, args.rate, args)
    through_graph = neuron.accuracy(one)
    print(f"the same as a graph     {through_graph[0]:.2%}")
    many, many_losses = deep.train(args.seeds, args.hidden_rate, args)
    hidden = deep.accuracy(many)
    print(f"with {args.hidden} hidden units    {hidden.mean():.2%} +- "
          f"{hidden.std(ddof=1):.2%} ({args.seeds} seeds)")  # fmt: skip

    figure = draw(w, losses, one_losses, many_losses, many)
    values = {
        "neuron_accuracy": by_hand, "neuron_by_graph_accuracy": float(through_graph[0]),
        "hidden_accuracy": spread(hidden.tolist()), "streaming_peak_megabytes": memory,
        "largest_gradient_difference": gap,
        "loss_curves_differ_by": float(abs(losses - one_losses[0]).max()),
        "largest_hidden_memory_megabytes": peak_memory(),
    }  # fmt: skip
    conclude(
        "one_digit", args, values, {"one_digit.png": figure},
        """\
  Left: the loss as the images come by. The neuron by hand and the neuron as a graph
  are one curve; the hidden layer is lower by a factor of three. Middle: the neuron's
  weights as an image. Orange pixels speak for a zero, blue ones against: a ring, and
  ink in its middle forbidden. Right: hidden units look for parts; each is a neuron
  like the first.""",
    )  # fmt: skip


def draw(w, losses, one_losses, many_losses, many: Any) -> Any:
    figure, (left, middle, right) = panels(
        3, width=4.0, height=3.5, ratios=(1.15, 0.8, 1.05)
    )

    def smooth(values):
        return values.reshape(*values.shape[:-1], -1, WINDOW).mean(-1)

    curves = {
        "one neuron, by hand": smooth(losses),
        "one neuron, as a graph": smooth(one_losses)[0],
        "30 hidden units, as a graph": smooth(many_losses),
    }
    images = WINDOW * (1 + np.arange(len(losses) // WINDOW))
    lines(left, images / 1000, curves, "thousand images seen",
          f"loss, mean of {WINDOW:,} images", "Is it a zero?", log=True)  # fmt: skip
    filters(middle, w[:, None], "the neuron's weights")
    filters(right, many["w_hidden"][0], "weights of the hidden units", columns=6)
    return figure


if __name__ == "__main__":
    main(Args, run)
