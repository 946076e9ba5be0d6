"""Numbers side by side: bars, strips of dots, stacked shares. One panel each."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxnn.errors import JaxnnError
from jaxnn.plots.panels import COLOURS, name_axes, set_scales, show_legend
from jaxnn.plots.shared import INK, text_width


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

    Args:
      ax: the panel.
      values: name -> number.
      x_name, title: names, with units.
      form: Python format of the numbers.
      log: logarithmic abscissa (the bars then start at no particular number).
      marked: names drawn in the second colour.
    """
    sizes, places = np.array(list(values.values()), float), np.arange(len(values))
    colours = [COLOURS[name in marked] for name in values]
    ax.barh(places, sizes, color=colours, height=0.42, alpha=0.85)
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
        colour = COLOURS[name in marked]
        nudge = np.linspace(-0.08, 0.08, len(sample))  # so that dots do not hide others
        ax.scatter(sample, place + nudge, s=13, color=colour, alpha=0.35, lw=0)
        ax.errorbar(mean, place, xerr=std, color=colour, marker="D", ms=6, capsize=4)
    words = {
        f"{name}: {format(np.mean(v), form)} ± {format(np.std(v, ddof=1), form)}"
        if len(v) > 1
        else f"{name}: {format(np.mean(v), form)}": v
        for name, v in values.items()
    }
    _names_above(ax, words, 0.2)
    set_scales(ax, False, False)
    name_axes(ax, x_name, "", title)


def stacked(
    ax: Any,
    counts: Mapping[str, Mapping[str, float]],
    colours: Sequence[str],
    x_name: str,
    title: str = "",
) -> None:
    """Shares of a whole: one bar a name, one piece a kind, in percent.

    Args:
      ax: the panel.
      counts: name -> kind -> how many, the same kinds in all.
      colours: of the kinds.
      x_name, title: names.
    """
    kinds = list(next(iter(counts.values())))
    table = np.array([[row[kind] for kind in kinds] for row in counts.values()], float)
    if not (table.sum(1) > 0).all():
        raise JaxnnError("stacked: got a bar without any count")
    shares = 100 * table / table.sum(1, keepdims=True)
    left = np.cumsum(shares, 1) - shares
    for i, kind in enumerate(kinds):
        ax.barh(
            np.arange(len(counts)), shares[:, i], left=left[:, i], color=colours[i],
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
