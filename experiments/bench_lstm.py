"""Does an LSTM's backward pass by hand keep up with `jax.grad`?

Question: how long does a training step of an LSTM that reads MNIST digits row by row
(28 steps of 28 pixels, 10 classes) take with hand-written backpropagation through time,
and how long with `jax.grad` of the same forward pass, both inside the engine's scan?
And what does PyTorch take, where it is installed?

    python -m experiments.bench_lstm            about 2 minutes

Programs take turns within each round, in another order each time; figures are medians
over rounds, ratios are of one round. A step is the gradient and the update by SGD.
Expected: by hand at most 1.0 of `jax.grad`'s time, as its weight gradients are one
product over all steps.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
import optax

from experiments.bench import scanned
from experiments.common import main, record
from experiments.turns import Program, in_turn, ratio
from jaxnn import serial
from jaxnn.check.adapters import automatic, automatic_loss
from jaxnn.data import load
from jaxnn.layers import Layer, dense, gru, lstm, rnn, standardize
from jaxnn.losses import softmax_cross_entropy
from jaxnn.train import batch_order, make_step


@dataclass(frozen=True)
class Args:
    """Settings."""

    rounds: int = 9
    """Counted rounds, after one that warms up."""
    steps: int = 20
    """Training steps a program runs in a round."""
    batch: int = 128
    """Images a step."""
    units: int = 128
    """Width of the recurrent state."""


CELLS: dict[str, Callable[..., Layer]] = {"lstm": lstm, "gru": gru, "rnn": rnn}


def network(cell: str, units: int) -> Layer:
    """One recurrent layer over the rows, and a dense one on its last state."""
    return serial(standardize(0.1307, 0.3081), CELLS[cell](units), dense(10, "lecun"))


def training(net: Layer, loss, x, y, args: Args) -> Program:
    """So many steps of SGD, as `fit` runs them."""
    sgd = optax.sgd(0.1)
    step = make_step(net, loss, sgd)
    return scanned(step, net, sgd, x, y, args.batch, args.steps)


def in_torch(x, y, args: Args) -> Callable[[int], float]:
    """The same steps in PyTorch, eager, with its own LSTM."""
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(28, args.units, batch_first=True)
            self.dense = nn.Linear(args.units, 10)

        def forward(self, x):
            return self.dense(self.lstm(x)[0][:, -1])

    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    images, labels = torch.tensor(x), torch.tensor(y).long()

    def run(number):
        rows = batch_order(len(x), args.batch, number)[: args.steps]
        for batch in torch.tensor(rows):
            inputs = (images[batch].float() / 255 - 0.1307) / 0.3081
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(inputs), labels[batch])
            loss.backward()
            optimizer.step()
        return loss.item()

    return run


def programs(x, y, args: Args) -> tuple[dict[str, Callable], str | None]:
    """Every program by name, and why PyTorch is not among them if it is not."""
    xj, yj, loss = jnp.asarray(x), jnp.asarray(y), softmax_cross_entropy
    found = {}
    for cell in CELLS:
        net = network(cell, args.units)
        auto = automatic(net), automatic_loss(loss)
        twins = {"by hand": (net, loss), "jax.grad": auto}
        for name, twin in twins.items():
            found[f"{cell}, {name}"] = training(*twin, xj, yj, args)
    try:
        found["lstm, torch eager"] = in_torch(x, y, args)
    except ImportError as error:
        return found, str(error)
    return found, None


def run(args: Args) -> None:
    """Measure everything and write results/bench-lstm.json."""
    data, start = load("mnist").train, time.perf_counter()
    made, absent = programs(data.x, data.y, args)
    found = in_turn(made, args.rounds)
    for name in found:
        found[name]["ms_per_step"] = 1000 * found[name]["median"] / args.steps
        print(f"{name:<34}{found[name]['ms_per_step']:8.2f} ms a step")
    pairs = {
        name.removesuffix(", by hand"): (name, name.replace("by hand", "jax.grad"))
        for name in found
        if name.endswith("by hand")
    }
    shares = {name: ratio(found, *pair) for name, pair in pairs.items()}
    if absent is None:
        shares["lstm, against torch"] = ratio(
            found, "lstm, by hand", "lstm, torch eager"
        )
    for name, share in shares.items():
        print(f"{name}: by hand takes {share:.2f} of the other's time")
    values = {
        "programs": found,
        "by_hand_over_other": shares,
        "torch_absent": absent,
        "seconds": time.perf_counter() - start,
    }
    record("bench-lstm", args, values, ("torch",), module="bench_lstm")


if __name__ == "__main__":
    main(Args, run)
