"""Accuracy over the attacker's budget, and who fools whom."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxnn.errors import JaxnnError
from jaxnn.plots.shared import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    RED,
    as_written,
    new_figure,
    save,
)

COLOURS = (GREEN, ORANGE, BLUE, RED, GREY, INK)
UNITS = {"linf": "largest change of a pixel", "l2": "2-norm", "l1": "1-norm"}


def curve(
    epsilons: Any,
    accuracy: Mapping[str, Any],
    images: int,
    path: str | Path,
    *,
    budget: float | None = None,
    norm: str = "linf",
    title: str = "Accuracy over the attacker's budget",
) -> None:
    """One line an attack: how accuracy falls as the budget grows.

    Args:
      epsilons: budgets (E,).
      accuracy: name of an attack -> shares (E,) in [0, 1].
      images: how many images the shares are of.
      path: the PNG file.
      budget: the threat model's, marked by a line; None marks none.
      norm: of the budgets.
      title: above the picture.

    Raises:
      JaxnnError: lengths differ.
    """
    figure = new_figure(6.4, 4.2)
    ax = figure.add_axes((0.11, 0.13, 0.86, 0.74))
    for colour, (name, shares) in zip(COLOURS * 2, accuracy.items(), strict=False):
        if len(shares) != len(epsilons):
            raise JaxnnError(
                f"curve: {name} has {len(shares)} values for {len(epsilons)} budgets"
            )
        percent = 100 * np.asarray(shares, float)
        ax.plot(epsilons, percent, "o-", color=colour, ms=4, label=name)
    if budget is not None:
        ax.axvline(budget, color=GREY, lw=1, ls="--")
        ax.text(budget, 103, f"budget {budget:g}", ha="center", color=GREY, fontsize=9)
    ax.set(ylim=(-2, 102), xlim=(min(epsilons), max(epsilons)))
    ax.set_xlabel(f"epsilon: {UNITS.get(norm, norm)}, pixels in [0, 1]")
    ax.set_ylabel(f"accuracy on {images:,} images, percent")
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", alpha=0.3)
    ax.legend(frameon=False, fontsize=9)
    figure.text(0.11, 0.94, title, fontsize=12, color=INK)
    save(figure, path)


def transfer(
    matrix: np.ndarray,
    names: Sequence[str],
    path: str | Path,
    *,
    title: str = "Accuracy under examples made on another network",
) -> None:
    """The transfer matrix: rows made the examples, columns are attacked by them.

    Args:
      matrix: accuracies (S, T) in [0, 1].
      names: of the networks; sources and targets are the same ones.
      path: the PNG file.
      title: above the picture.
    """
    names, n = list(map(as_written, names)), len(names)
    figure = new_figure(2.6 + 0.95 * n, 1.7 + 0.6 * n)
    ax = figure.add_axes((0.3, 0.06, 0.68, 0.66))
    ax.imshow(np.asarray(matrix), cmap="RdYlGn", vmin=0, vmax=1, aspect="auto")
    for i in range(n):
        for j in range(n):
            weight = "bold" if i == j else "normal"
            ax.text(
                j, i, f"{100 * matrix[i][j]:.1f}", ha="center", va="center",
                color=INK, weight=weight,
            )  # fmt: skip
    ax.set_xticks(range(n), names, rotation=20, ha="left", fontsize=9)
    ax.set_yticks(range(n), names, fontsize=9)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    figure.text(0.02, 0.95, title, fontsize=12, color=INK)
    figure.text(
        0.02, 0.895, "row: made on, column: attacked; percent right; bold: white-box",
        fontsize=9, color=GREY,
    )  # fmt: skip
    save(figure, path)
