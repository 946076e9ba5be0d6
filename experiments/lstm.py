"""An LSTM that reads digits row by row, by hand-written backpropagation through time.

Questions: how many test digits does one LSTM layer read right when it sees an image as
28 rows of 28 pixels, from top to bottom, and only its last state is asked? How long
does it train? And how soon does it know: what would it answer after each row?

    python -m experiments.lstm            about 4 minutes, 3 seeds one after the other

Accuracy is on all 10,000 test images, once, with the parameters that were best on
validation. Expected: at least 98.5%, usually 98.7 to 98.9. The picture
results/lstm/reading.png shows one digit of each class, drawn at random among those read
right, beside what the network would have answered after each row.
"""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from experiments.common import conclude, main, print_epoch, spread
from jaxnn import serial
from jaxnn.check import compare_gradients
from jaxnn.costs import count_parameters
from jaxnn.data import Dataset, load, pixel_statistics
from jaxnn.layers import Layer, dense, lstm, standardize
from jaxnn.losses import softmax_cross_entropy
from jaxnn.optimizers import optimizer_by_name
from jaxnn.plots.panels import BLUE, GRAY, GRAYS, INK, PALE, new_figure
from jaxnn.train import History, evaluate, fit, predict


@dataclass(frozen=True)
class Args:
    """Settings."""

    seeds: int = 3  # Networks trained, one after the other
    units: int = 128  # Width of the LSTM's state
    epochs: int = 5  # Epochs of Adam on a one-cycle schedule
    batch: int = 128  # Images a step
    lr: float = 6e-3  # Learning rate at the schedule's peak
    clip_norm: float = 1.0  # Longest gradient; the first steps have longer ones


def network(units: int, mean: float, std: float, every_row: bool = False) -> Layer:
    """Logits after the last row, (B, 10), or after each one, (B, 28, 10)."""
    return serial(
        standardize(mean, std), lstm(units, every_row), dense(10, init="lecun")
    )


def train(net: Layer, data: Dataset, seed: int, args: Args) -> History:
    """One network; prints a line an epoch."""
    print(f"seed {seed}")
    steps = len(data.train.x) // args.batch * args.epochs
    return fit(
        net, data.train, validation=data.validation, epochs=args.epochs,
        optimizer=optimizer_by_name("adam", args.lr, "onecycle", steps),
        batch=args.batch, clip_norm=args.clip_norm, seeds=seed, on_epoch=print_epoch,
    )  # fmt: skip


def gradients_agree(net: Layer, history: History, data: Dataset) -> dict:
    """The trained network's gradients by hand and by `jax.grad`, one batch."""
    report = compare_gradients(
        net, softmax_cross_entropy, history.params, history.state,
        data.train.x[:128], data.train.y[:128],
    )  # fmt: skip
    print(report.line())
    return {t: report.max_relative(t) for t in ("float32", "float64")}


def one_of_each(labels: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Row numbers: for each digit one image at random among those read right."""
    rng = np.random.default_rng(0)
    found = [np.flatnonzero(right & (labels == k)) for k in range(10)]
    return np.array([rng.choice(rows) for rows in found])


def draw(images, chance, right) -> Any:
    """Ten digits and the answers after each row beside them; below, how often right.

    images (10, 28, 28), chance (10, 28, 10) after each row, right (28,) of all images.
    """
    figure = new_figure(12, 7.6)
    title = "What the network would answer after each row: probability of 0 to 9"
    figure.suptitle(title, fontsize=12, color=INK)
    grid = figure.add_gridspec(
        3, 14, left=0.05, right=0.985, top=0.9, bottom=0.075, hspace=0.35, wspace=0.05,
        width_ratios=([1.4, 1, 0.1] * 5)[:-1],
    )  # fmt: skip
    for k in range(10):
        line, column = divmod(k, 5)
        axes = [figure.add_subplot(grid[line, 3 * column + i]) for i in (0, 1)]
        _draw_digit(axes, images[k], chance[k], k)
        if column == 0:
            axes[0].set_yticks([0, 13, 27], ["1", "14", "28"], fontsize=7)
            axes[0].set_ylabel("row", fontsize=8)
    _draw_share(figure.add_subplot(grid[2, :]), right)
    return figure


def _draw_digit(axes, image, chance, k):
    """The image, and to its right the answers, row beside row."""
    axes[0].imshow(image, vmin=0, vmax=255, cmap=GRAYS["cmap"], aspect="auto")
    axes[1].imshow(chance, vmin=0, vmax=1, cmap="Blues", aspect="auto")
    for ax in axes:
        ax.set_xticks([])
        ax.set_yticks([])
    axes[1].set_xticks(range(10), range(10), fontsize=7)
    axes[1].tick_params(length=0, pad=1)
    sure = _sure_from(chance[:, k])
    axes[1].axhline(sure - 0.5, color=INK, lw=0.8, ls=":")
    axes[1].set_title(f"{k} from row {sure + 1}", fontsize=8, color=INK, pad=3)


def _draw_share(ax, right):
    ax.plot(range(1, 29), 100 * right, color=BLUE, marker="o", ms=4, lw=1.6)
    for row in (7, 14, 21, 28):
        at = (row, 100 * right[row - 1])
        text = f"{at[1]:.1f}%"
        ax.annotate(text, at, (4, -12), textcoords="offset points", fontsize=8)
    ax.axhline(10, color=GRAY, lw=0.8, ls=":")
    ax.set_xlim(0.5, 29.2)
    ax.set_ylim(0, 105)
    ax.set_xlabel("rows read (it was trained to answer after row 28 only)", fontsize=9)
    ax.set_ylabel("test images right (%)", fontsize=9)
    ax.grid(True, color=PALE, lw=0.8)
    ax.tick_params(labelsize=8)


def _sure_from(probability: np.ndarray) -> int:
    """The row from which on the right answer stays above one half."""
    below = np.flatnonzero(probability <= 0.5)
    return int(below[-1]) + 1 if len(below) else 0


def run(args: Args) -> None:
    data = load("mnist")
    mean, std = pixel_statistics(data.train.x)
    net = network(args.units, mean, std)
    histories = [train(net, data, seed, args) for seed in range(args.seeds)]
    found = [evaluate(net, h.params, h.state, *data.test) for h in histories]
    accuracy = [100 * float(f.accuracy) for f in found]
    first = histories[0]
    reader = network(args.units, mean, std, every_row=True)
    outputs = predict(reader, first.params, first.state, data.test.x)
    chance = np.asarray(jax.nn.softmax(outputs))
    right = chance.argmax(-1) == data.test.y[:, None]
    values = {
        "accuracy_percent": spread(accuracy),
        "test_images": len(data.test.y),
        "parameters": count_parameters(first.params),
        "train_seconds": spread([h.seconds["train"] for h in histories]),
        "compile_seconds": [h.seconds["compile"] for h in histories],
        "best_epoch": [int(h.best_epoch) for h in histories],
        "validation_accuracy": [
            max(row["validation_accuracy"] for row in h.epochs) for h in histories
        ],
        "gradients_max_relative": gradients_agree(net, first, data),
        "accuracy_percent_after_row": (100 * right.mean(0)).round(2).tolist(),
    }
    rows = one_of_each(data.test.y, right[:, -1])
    figure = draw(data.test.x[rows], chance[rows], right.mean(0))
    print(f"test accuracy {np.mean(accuracy):.2f}%: {accuracy}")
    conclude(
        "lstm", args, values, {"reading.png": figure},
        "For most of the way down the answers are guesses that later rows overturn. "
        "The dotted\nlines say from which row on the answer is right: halfway down for "
        "some digits, with the\nlast stroke for others.",
    )  # fmt: skip


if __name__ == "__main__":
    main(Args, run)
