"""Panels: several small diagrams in one figure, drawn in the house style.

    figure, axes = panels(2, title="Which learns faster?")
    lines(axes[0], steps, {"by hand": losses}, "step", "loss")
    bars(axes[1], {"NumPy": 0.13, "jaxnn": 0.11}, "seconds an epoch")
    save(figure, "picture.png")

Every function draws one panel on the `Axes` it is given and sets its names, so that a
figure is composed of calls. Colours are taken in the order of `COLOURS`; where colour
says something, so does a line's dash, a mark or a word.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from jaxnn.errors import JaxnnError
from jaxnn.plots.shared import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PALE,
    RED,
    new_figure,
)

COLOURS = (BLUE, RED, GREEN, ORANGE, "#CC79A7", "#56B4E9", INK, GREY)
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (3, 1)), "-", "--")
MARGIN = {"left": 0.72, "right": 0.2, "bottom": 0.52, "top": 0.36}  # inches a panel
TITLE = 0.34  # inches for the title of the figure


def panels(
    columns: int,
    rows: int = 1,
    *,
    width: float = 3.9,
    height: float = 3.1,
    title: str = "",
    ratios: Sequence[float] | None = None,
) -> tuple[Any, list[Any]]:
    """A figure of `columns` x `rows` empty panels, and the panels row by row.

    Args:
      columns, rows: how many.
      width, height: of one panel with its names, in inches.
      title: above all of them.
      ratios: widths of the columns relative to `width`, where they differ.
    """
    ratios = list(ratios or [1.0] * columns)
    if len(ratios) != columns:
        raise JaxnnError(f"panels: got {len(ratios)} ratios for {columns} columns")
    across = width * sum(ratios)
    up = height * rows + TITLE * bool(title)
    figure = new_figure(across, up)
    axes = []
    for row in range(rows):
        left = 0.0
        for ratio in ratios:
            box = (
                (left + MARGIN["left"]) / across,
                (height * (rows - 1 - row) + MARGIN["bottom"]) / up,
                (width * ratio - MARGIN["left"] - MARGIN["right"]) / across,
                (height - MARGIN["bottom"] - MARGIN["top"]) / up,
            )
            axes.append(figure.add_axes(box))
            left += width * ratio
    if title:
        place = {"ha": "center", "va": "center", "fontsize": 11.5, "color": INK}
        figure.text(0.5, 1 - 0.6 * TITLE / up, title, **place)
    for ax in axes:
        _plain(ax)
    return figure, axes


def name_axes(ax: Any, x: str, y: str, title: str = "") -> None:
    """Names of the axes and of the panel."""
    ax.set_xlabel(x, fontsize=9)
    ax.set_ylabel(y, fontsize=9)
    ax.set_title(title, fontsize=10, color=INK)


def lines(
    ax: Any,
    x: Sequence[float] | np.ndarray,
    series: Mapping[str, Any],
    x_name: str,
    y_name: str,
    title: str = "",
    *,
    log: bool = False,
    log_x: bool = False,
    band: str = "std",
    legend: bool = True,
) -> None:
    """One line a series, with a band over seeds.

    Args:
      ax: the panel.
      x: (T,) the common abscissa.
      series: name -> (T,) one line, or (S, T) S seeds: the line is their mean and the
        band one standard deviation on either side, or with `band="range"` the line
        is the median and the band reaches from the smallest to the largest.
      x_name, y_name, title: names, with units.
      log, log_x: logarithmic ordinate, abscissa.
      band: "std" or "range".
      legend: whether to show the names.
    """
    if band not in ("std", "range"):
        raise JaxnnError(f"lines: got band={band!r}; valid: std, range")
    for i, (name, values) in enumerate(series.items()):
        style = {"color": COLOURS[i % len(COLOURS)], "ls": DASHES[i % len(DASHES)]}
        values = np.asarray(values, float)
        if values.shape[-1] != len(x):
            raise JaxnnError(
                f"lines: {name!r} has {values.shape[-1]} values for {len(x)} on the "
                "abscissa"
            )
        middle, low, high = _summary(np.atleast_2d(values), band, log)
        if values.ndim > 1:
            ax.fill_between(x, low, high, color=style["color"], alpha=0.18, lw=0)
        ax.plot(x, middle, lw=1.7, label=name, **style)
    set_scales(ax, log, log_x)
    name_axes(ax, x_name, y_name, title)
    if legend:
        show_legend(ax)


def many_lines(
    ax: Any,
    x: Sequence[float] | np.ndarray,
    values: np.ndarray,
    colours: Sequence[str],
    x_name: str,
    y_name: str,
    title: str = "",
    *,
    log_x: bool = False,
) -> None:
    """One thin line a row of values (S, T), each in its own colour."""
    for row, colour in zip(np.asarray(values), colours, strict=True):
        ax.plot(x, row, color=colour, lw=0.8, alpha=0.6)
    set_scales(ax, False, log_x)
    name_axes(ax, x_name, y_name, title)


def show_legend(ax: Any, **options: Any) -> None:
    """A quiet legend where it hides least."""
    style = {"fontsize": 8, "framealpha": 0.85, "edgecolor": PALE, "loc": "best"}
    ax.legend(**(style | options))


def _short(v: float) -> str:
    """0.001, 10, 1000, but 1e5 and 1e-6."""
    if 1e-3 <= v < 1e5:
        return f"{v:g}"
    return f"{v:.0e}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")


def _plain(ax):
    ax.tick_params(labelsize=8)
    ax.grid(True, color=PALE, lw=0.8)
    ax.set_axisbelow(True)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def _summary(values, band, log):
    """Middle, low and high over the rows of (S, T)."""
    if band == "range":
        return np.median(values, 0), values.min(0), values.max(0)
    if log:  # a mean of logarithms: a band symmetric on the paper, never below zero
        logs = np.log(np.maximum(values, np.finfo(float).tiny))
        middle, spread = logs.mean(0), logs.std(0)
        return np.exp(middle), np.exp(middle - spread), np.exp(middle + spread)
    middle, spread = values.mean(0), values.std(0)
    return middle, middle - spread, middle + spread


def set_scales(ax: Any, log: bool, log_x: bool) -> None:
    """Linear or logarithmic axes, with few and plain numbers."""
    for on, axis, set_scale in (
        (log, ax.yaxis, ax.set_yscale),
        (log_x, ax.xaxis, ax.set_xscale),
    ):
        if on:
            set_scale("log")
            axis.set_major_locator(LogLocator(numticks=7))
            axis.set_major_formatter(FuncFormatter(lambda v, _: _short(v)))
            axis.set_minor_formatter(NullFormatter())
        elif axis is ax.xaxis:
            axis.set_major_locator(MaxNLocator(nbins=6))
