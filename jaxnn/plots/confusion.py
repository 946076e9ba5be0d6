"""Which class is taken for which."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from jaxnn.errors import JaxnnError
from jaxnn.plots.shared import (
    ANNOTATED,
    ERRORS,
    INK,
    MIDDLE,
    PALE,
    as_written,
    counted,
    new_axes,
    new_figure,
    same_length,
    save,
    text_width,
)


def confusion(
    labels: np.ndarray,
    predictions: np.ndarray,
    classes: int | Sequence[Any],
    path: str | Path,
) -> None:
    """How often each class was taken for which; only the errors have colour.

    Args:
      labels: (N,) the true classes, integers 0 .. C - 1.
      predictions: (N,) the network's.
      classes: C, or C names.
      path: the PNG file.

    Raises:
      JaxnnError: lengths differ, or a label is outside 0 .. C - 1.
    """
    given = range(classes) if isinstance(classes, int) else classes
    names = [as_written(str(name)) for name in given]
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    same_length("confusion", labels=labels, predictions=predictions)
    for name, a in (("labels", labels), ("predictions", predictions)):
        if len(a) and not 0 <= a.min() <= a.max() < len(names):
            raise JaxnnError(
                f"confusion: {name} run from {a.min()} to {a.max()}, expected 0 to "
                f"{len(names) - 1} for {len(names)} classes"
            )
    size, total = len(names), len(labels)
    counts = np.zeros((size, size), int)  # row: true, column: said
    np.add.at(counts, (labels, predictions), 1)
    errors = np.ma.masked_array(counts, np.eye(size, dtype=bool))
    most, right = int(errors.filled(0).max()), int(counts.trace())

    annotated = size <= ANNOTATED
    shares = [
        f"   {100 * counts[i, i] / n:.1f}%" if n else "   none"
        for i, n in enumerate(counts.sum(1))
    ]
    named = [n + s for n, s in zip(names, shares, strict=True)] if annotated else names
    fontsize = 9 if annotated else 6
    rotated = max(map(len, names)) > 3

    # inches; by hand, as matplotlib's layout engines take as long as the rest
    side = float(np.clip(0.46 * size, 2.4, 9.0))
    left = 0.35 + text_width(named, fontsize)
    below = 0.4 + (text_width(names, fontsize) if rotated else 0.15)
    width, height = left + side + 1.0, below + side + 0.55
    figure = new_figure(width, height)
    ax = new_axes(figure, left, below, side, side)
    image = ax.imshow(errors, cmap=ERRORS, vmin=0.5, vmax=max(most, 1), aspect="auto")
    if most:
        key = new_axes(
            figure, left + side + 0.15, below + 0.15 * side, 0.15, 0.7 * side
        )
        whole = MaxNLocator(nbins=6, integer=True, min_n_ticks=1)
        bar = figure.colorbar(image, cax=key, ticks=whole)
        bar.set_label("errors (grey: right)", fontsize=9)
        key.tick_params(labelsize=8)
        bar.outline.set_visible(False)

    if annotated:
        for i, j in np.argwhere(counts):
            dark = i != j and counts[i, j] > 0.6 * most
            colour = "white" if dark else INK
            text = f"{counts[i, j]:,}"
            ax.text(j, i, text, ha="center", va="center", fontsize=8, color=colour)
    ax.set_xticks(range(size), names, fontsize=fontsize, rotation=90 * rotated)
    ax.set_yticks(range(size), named, fontsize=fontsize)
    figure.text(
        (left + side / 2) / width, 0.1 / height, "class the network said", **MIDDLE
    )
    figure.text(
        0.15 / width,
        (below + side / 2) / height,
        f"true class{' and its share right' * annotated}",
        rotation=90,
        **(MIDDLE | {"va": "center"}),
    )
    edges = np.arange(size + 1) - 0.5
    ends, lw = (-0.5, size - 0.5), 0.8 if annotated else 0.3
    ax.hlines(edges, *ends, color=PALE, lw=lw)  # a grid of minor ticks is slow
    ax.vlines(edges, *ends, color=PALE, lw=lw)
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)

    title = f"{right:,} of {total:,} right ({100 * right / max(total, 1):.2f}%)"
    if most:
        i, j = np.unravel_index(errors.argmax(), counts.shape)
        error = f"{names[i]} taken for {names[j]}, {counted(most, 'time')}"
        title += f"\nMost frequent error: {error}"
    figure.text(0.5, 1 - 0.45 / height, title, **(MIDDLE | {"fontsize": 10}))
    save(figure, path)
