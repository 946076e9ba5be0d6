"""Accuracy over the attacker's budget, and who fools whom."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from jaxnn.errors import JaxnnError
from jaxnn.plots.panels import GRAY, as_written, cells, lines, name_axes, panels, save

UNITS = {"linf": "largest change of a pixel", "l2": "2-norm", "l1": "1-norm"}


def curve(
    epsilons: Any,
    accuracy: Mapping[str, Any],
    images: int,
    path: str | Path | None = None,
    *,
    budget: float | None = None,
    norm: str = "linf",
    title: str = "Accuracy over the attacker's budget",
    dpi: int | None = None,
) -> Figure:
    """One line an attack: how accuracy falls as the budget grows.

    Args:
      epsilons: budgets (E,), in `norm`.
      accuracy: name of an attack -> shares (E,) in [0, 1], or (S, E) of S seeds.
      images: how many images the shares are of.
      path, dpi: see `jaxnn.plots`.
      budget: the threat model's, marked by a line; None marks none.
      norm: of the budgets.
      title: above the picture.
    """
    for name, shares in accuracy.items():
        if (count := np.shape(shares)[-1]) != len(epsilons):
            raise JaxnnError(
                f"curve: {name} has {count} values for {len(epsilons)} budgets"
            )
    figure, (ax,) = panels(1, width=6.4, height=3.9, title=title)
    lines(
        ax, epsilons, {k: 100 * np.asarray(v, float) for k, v in accuracy.items()},
        f"epsilon: {UNITS.get(norm, norm)}, pixels in [0, 1]",
        f"accuracy on {images:,} images, percent", marker="o", ms=4,
    )  # fmt: skip
    if budget is not None:
        ax.axvline(budget, color=GRAY, lw=1, ls="--")
        ax.text(budget, 103, f"budget {budget:g}", ha="center", color=GRAY, fontsize=9)
    ax.set(ylim=(-2, 102), xlim=(min(epsilons), max(epsilons)))
    return save(figure, path, dpi)


def transfer(
    matrix: np.ndarray,
    names: Sequence[str],
    path: str | Path | None = None,
    *,
    title: str = "Accuracy under examples made on another network",
    dpi: int | None = None,
) -> Figure:
    """Accuracies (N, N) in [0, 1] of the named networks on each other's examples.

    Rows made the examples, columns are attacked by them.
    """
    matrix, n = np.asarray(matrix), len(names)
    if matrix.shape != (n, n):
        raise JaxnnError(
            f"transfer: got a matrix of shape {matrix.shape} for {n} networks"
        )
    names = list(map(as_written, names))
    figure, (ax,) = panels(1, width=3 + 0.95 * n, height=1.6 + 0.5 * n, title=title)
    texts = [[f"{100 * share:.1f}" for share in row] for row in matrix]
    cells(ax, matrix, texts, names, names, cmap="cividis", vmin=0, vmax=1)
    for i in range(n):
        ax.texts[i * n + i].set_weight("bold")
    ax.xaxis.tick_top()
    note = "row: made on, column: attacked; percent right; bold: white-box"
    name_axes(ax, note, "")
    ax.xaxis.set_label_position("bottom")
    return save(figure, path, dpi)
