"""Panels that only experiments draw: bars, dots, stacked shares, calibration, filters.

Each function draws one panel on the `Axes` it is given (`jaxnn.plots.panels.panels`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxnn.plots.panels import (
    BLUE,
    COLORS,
    GRAY,
    INK,
    PALE,
    SIGNED,
    name_axes,
    name_ticks,
    panels,
    same_length,
    set_scales,
    show_legend,
    text_width,
)


def bars(
    ax: Any,
    values: Mapping[str, float],
    x_name: str,
    title: str = "",
    *,
    form: str = ".3g",
    log: bool = False,
    marked: Sequence[str] = (),
) -> None:
    """Horizontal bars, first one on top, each with its name above and value beside it.

    form: Python format of the numbers. log: the bars start at no particular number.
    marked: names drawn in the second color.
    """
    sizes, places = np.array(list(values.values()), float), np.arange(len(values))
    colors = [COLORS[name in marked] for name in values]
    ax.barh(places, sizes, color=colors, height=0.42, alpha=0.85)
    texts = [format(size, form) for size in sizes]
    for place, size, text in zip(places, sizes, texts, strict=True):
        ax.annotate(
            text, (size, place), (4, 0), textcoords="offset points", va="center",
            fontsize=8.5, color=INK,
        )  # fmt: skip
    _names_above(ax, values, 0.25)
    set_scales(ax, False, log)
    # room for the numbers on the right
    width = ax.get_position().width * ax.figure.get_size_inches()[0]
    share = max(1 - (text_width(texts, 8.5) + 0.1) / width, 0.3)
    high = float(sizes.max())
    if log:
        low = 0.6 * float(sizes.min())
        ax.set_xlim(low, low * (high / low) ** (1 / share))
    else:
        ax.set_xlim(0, high / share or 1)
    name_axes(ax, x_name, "", title)


def grouped(
    title: str,
    rows: Mapping[str, Mapping[str, Mapping[str, float]]],
    words: Mapping[str, str],
    x_name: str = "",
) -> Any:
    """A figure of upright bars in percent: a group a row, in each a bar a word.

    rows: name below the group -> key -> {"mean": share, "std": share}.
    words: key -> what the legend calls it.
    """
    figure, (ax,) = panels(1, width=9.6, height=4.0, title=title)
    wide = 0.81 / len(words)
    for i, (key, word) in enumerate(words.items()):
        found = [row[key] for row in rows.values()]
        means, errors = (100 * np.array([f[k] for f in found]) for k in ("mean", "std"))
        places = np.arange(len(rows)) + wide * (i - (len(words) - 1) / 2)
        ax.bar(places, means, 0.93 * wide, yerr=errors, color=COLORS[i], label=word,
               capsize=2)  # fmt: skip
        for place, mean, high in zip(places, means, means + errors, strict=True):
            text = f"{mean:.0f}"
            ax.text(place, high + 2, text, ha="center", fontsize=7.5, color=INK)
    name_ticks(ax, list(rows), 7.5)
    ax.set_ylim(0, 125)
    ax.set_yticks(range(0, 101, 20))
    name_axes(ax, x_name, "percent right")
    show_legend(ax, loc="upper center", ncols=len(words))
    return figure


def strips(
    ax: Any,
    values: Mapping[str, Sequence[float]],
    x_name: str,
    title: str = "",
    *,
    form: str = ".3g",
    marked: Sequence[str] = (),
) -> None:
    """A dot a seed, and mean ± standard deviation: for scores that lie close together.

    Arguments as in `bars`, with a sequence of numbers for each name. The abscissa does
    not start at 0.
    """
    for place, (name, sample) in enumerate(values.items()):
        sample = np.asarray(sample, float)
        mean, std = sample.mean(), sample.std(ddof=1) if len(sample) > 1 else 0.0
        color = COLORS[name in marked]
        nudge = np.linspace(-0.08, 0.08, len(sample))  # so that dots do not hide others
        ax.scatter(sample, place + nudge, s=13, color=color, alpha=0.35, lw=0)
        ax.errorbar(mean, place, xerr=std, color=color, marker="D", ms=6, capsize=4)
    words = []
    for name, v in values.items():
        error = f" ± {format(np.std(v, ddof=1), form)}" if len(v) > 1 else ""
        words.append(f"{name}: {format(np.mean(v), form)}{error}")
    _names_above(ax, words, 0.2)
    set_scales(ax, False, False)
    name_axes(ax, x_name, "", title)


def stacked(
    ax: Any,
    counts: Mapping[str, Mapping[str, float]],
    colors: Sequence[str],
    x_name: str,
    title: str = "",
) -> None:
    """Shares of a whole: one bar a name, one piece a kind, in percent.

    counts: name -> kind -> how many, the same kinds in all. colors: of the kinds.
    """
    kinds = list(next(iter(counts.values())))
    table = np.array([[row[kind] for kind in kinds] for row in counts.values()], float)
    shares = 100 * table / table.sum(1, keepdims=True)
    left = np.cumsum(shares, 1) - shares
    for i, kind in enumerate(kinds):
        ax.barh(
            np.arange(len(counts)), shares[:, i], left=left[:, i], color=colors[i],
            height=0.45, label=kind,
        )  # fmt: skip
    names = [
        f"{name}: {row[0]:.1f}% {kinds[0]}"
        for name, row in zip(counts, shares, strict=True)
    ]
    _names_above(ax, names, 0.25)
    ax.set_ylim(top=-2.1)  # room for the legend
    set_scales(ax, False, False)
    name_axes(ax, x_name, "", title)
    show_legend(ax, loc="upper center", ncols=2, fontsize=7.5)


def _names_above(ax, names, gap):
    """The names in the panel, above their bars: long ones need no margin."""
    place = ax.get_yaxis_transform()
    for i, name in enumerate(names):
        ax.text(
            0.015, i - gap, name, transform=place, va="bottom", fontsize=8.5, color=INK
        )
    ax.set_ylim(len(names) - 0.6, -0.85)
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)


def calibration_bins(
    probabilities: np.ndarray, happened: np.ndarray, bins: int = 10
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """What was said (N,) against what happened (N,), in bins of equal numbers of rows.

    Returns:
      for each bin the mean probability said, the share that happened and its standard
      error; and the expected calibration error, the mean over rows of
      |said - happened| of their bins. Source: Guo et al. 2017.
    """
    p, t = np.asarray(probabilities, float), np.asarray(happened, float)
    same_length("calibration", probabilities=p, happened=t)
    parts = np.array_split(np.argsort(p, kind="stable"), min(bins, len(p)))
    said = np.array([p[rows].mean() for rows in parts])
    share = np.array([t[rows].mean() for rows in parts])
    sizes = np.array([len(rows) for rows in parts])
    error = np.sqrt(share * (1 - share) / sizes)
    return said, share, error, float((sizes * abs(said - share)).sum() / len(p))


def calibration(
    ax: Any, probabilities: np.ndarray, happened: np.ndarray, thing: str
) -> None:
    """Draw what was said against what happened.

    On the diagonal, of those given 70% seventy of a hundred are what `thing` says.
    """
    said, share, error, gap = calibration_bins(probabilities, happened)
    ax.plot([0, 1], [0, 1], color=GRAY, lw=1, ls=":", label="perfectly calibrated")
    ax.errorbar(
        said, share, error, color=BLUE, marker="o", ms=4.5, lw=1.5, capsize=2.5,
        label=f"network, error {100 * gap:.1f} points",
    )  # fmt: skip
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1)
    ax.set_aspect("equal")
    name_axes(ax, f"probability said: {thing}", f"share: {thing}", "Calibration")
    show_legend(ax, loc="upper left")


def predicted_against_true(
    ax: Any, true: np.ndarray, predicted: np.ndarray, name: str, scale: float = 1.0
) -> None:
    """One dot a row, on the diagonal where the prediction is right.

    name: of the quantity, with its unit after division of both by `scale`.
    """
    t, p = np.asarray(true, float) / scale, np.asarray(predicted, float) / scale
    same_length("predicted_against_true", true=t, predicted=p)
    low, high = min(t.min(), p.min(), 0.0), max(t.max(), p.max())
    low, high = low - 0.03 * (high - low), high + 0.05 * (high - low)
    ax.plot([low, high], [low, high], color=GRAY, lw=1, ls=":")
    ax.text(
        0.04, 0.93, "dotted: predicted = true", fontsize=8, color=GRAY,
        transform=ax.transAxes,
    )  # fmt: skip
    ax.scatter(t, p, s=14, color=BLUE, alpha=0.35, lw=0)
    ax.set_xlim(low, high)
    ax.set_ylim(low, high)
    ax.set_aspect("equal")
    ax.tick_params(colors=INK)
    name_axes(ax, f"true {name}", f"predicted {name}")


def filters(
    ax: Any, weights: np.ndarray, title: str, columns: int | None = None
) -> None:
    """Draw weights as tiles: vermilion where positive, blue where negative, 0 white.

    weights: (I, N), those of a dense layer whose I inputs are the pixels of square
    pictures; the largest of each tile has full color. columns: tiles side by side; None
    for about a square.
    """
    side, count = round(weights.shape[0] ** 0.5), weights.shape[1]
    tiles = np.asarray(weights, float).T.reshape(count, side, side)
    tiles = tiles / np.maximum(abs(tiles).max((1, 2), keepdims=True), 1e-300)
    columns = min(columns or int(np.ceil(np.sqrt(count))), count)
    step = 1.08 * side
    for i, tile in enumerate(tiles):
        x, y = (i % columns) * step, (i // columns) * step
        extent = (x, x + side, y + side, y)
        ax.imshow(tile, cmap=SIGNED, vmin=-1, vmax=1, extent=extent, zorder=2)
    rows = -(-count // columns)
    ax.set_xlim(side - step, columns * step)
    ax.set_ylim(rows * step, side - step)
    ax.set_aspect("equal")
    ax.set_facecolor(PALE)
    ax.grid(False)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
    ax.set_title(title, fontsize=10, color=INK)
