"""The house style: colors, words, saving, and panels of small diagrams in one figure.

    figure, axes = panels(2, title="Which learns faster?")
    lines(axes[0], steps, {"by hand": losses}, "step", "loss")
    lines(axes[1], steps, {"by hand": norms}, "step", "gradient norm", log=True)
    save(figure, "picture.png")

Every function draws one panel on the `Axes` it is given and sets its names, so that a
figure is composed of calls. Colors are taken in the order of `COLORS`; where color
says something, so does a line's dash, a mark or a word.
"""

import io
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context, rcParams
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from jaxnn.errors import JaxnnError
from jaxnn.files import write_with
from jaxnn.text import printable

DPI, MOST_DPI = 110, 1200  # printers print no more, it only fills the memory
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
GRAY, PALE, INK = "#767676", "#e4e4e4", "#222222"
COLORS = (BLUE, RED, GREEN, ORANGE, "#CC79A7", "#56B4E9", INK, GRAY)
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (3, 1)), "-", "--")
GRAYS = {"cmap": "gray", "vmin": 0, "vmax": 1}
MARGINS = (0.72, 0.2, 0.52, 0.36)  # inches left, right, below, above: names and ticks
UNTITLED = (*MARGINS[:3], 0.15)  # of a panel without a title of its own
SIGNED = LinearSegmentedColormap.from_list("signed", [BLUE, "white", RED])
THIN = 10  # seeds up to which each is drawn
PAPER = {"fc": "white", "ec": "none", "alpha": 0.85, "pad": 1}  # behind words on lines
BESIDE = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}  # a legend off the curves
ERRORS = colormaps["Oranges"].with_extremes(under="white", bad="#d4d4d4")


# ---- figures


class Picture(Figure):
    """A figure that a notebook shows, whatever matplotlib's backend."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()


def new_figure(width: float, height: float, **options: Any) -> Figure:
    """An empty figure of so many inches, with its own canvas."""
    figure = Picture((width, height), dpi=DPI, facecolor="white", **options)
    FigureCanvasAgg(figure)
    return figure


def panels(
    columns: int,
    rows: int = 1,
    *,
    width: float = 4.4,
    height: float = 3.1,
    title: str = "",
    ratios: Sequence[float] | None = None,
    margins: tuple[float, float, float, float] | None = None,
) -> tuple[Any, list[Any]]:
    """A figure of `columns` x `rows` empty panels, and the panels row by row.

    Args:
      columns, rows: how many.
      width, height: of one panel with its names, in inches.
      title: above all of them.
      ratios: widths of the columns relative to `width`, where they differ.
      margins: of each panel, such as `MARGINS`; None has matplotlib find them, which
        takes half as long as the drawing.
    """
    ratios = list(ratios or [1.0] * columns)
    if len(ratios) != columns:
        raise JaxnnError(f"panels: got {len(ratios)} ratios for {columns} columns")
    across, up = width * sum(ratios), height * rows + 0.34 * bool(title)
    layout = None if margins else ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08)
    figure = new_figure(across, up, layout=layout)
    grid = figure.subplots(rows, columns, squeeze=False, width_ratios=ratios)
    if margins:
        left, right, below, above = margins
        figure.subplots_adjust(
            left / across, below / up, 1 - right / across, (height * rows - above) / up,
            (left + right) / (across / columns - left - right),
            (below + above) / (height - below - above),
        )  # fmt: skip
    if title:
        figure.suptitle(title, fontsize=11.5, color=INK)
    for ax in grid.flat:
        ax.tick_params(labelsize=8)
        ax.grid(True, color=PALE, lw=0.8)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
    return figure, list(grid.flat)


def save(figure: Any, path: str | Path | None, dpi: int | None = None) -> Figure:
    """Write the figure, whole or not at all, as its name says; see `jaxnn.plots`.

    Raises:
      JaxnnError: a name that ends neither in .png nor in .svg or .pdf.
    """
    dpi = dpi or rcParams["savefig.dpi"]
    if dpi != "figure":  # matplotlib's word for "as it is"
        figure.set_dpi(dpi)
    if path is None:
        return figure
    kind = Path(path).suffix.lower()
    if kind not in (".png", ".svg", ".pdf"):
        raise JaxnnError(f"{path}: got a picture {kind!r}, expected .png, .svg or .pdf")
    if kind == ".png":  # `savefig` would draw it twice
        write_with(path, figure.canvas.print_png)  # type: ignore[attr-defined]
    else:
        write_with(path, lambda file: figure.savefig(file, format=kind[1:]))
    return figure


def drawn_at(dpi: str) -> AbstractContextManager:
    """Where every picture has so many dots an inch that is not told another number."""
    if not dpi.isdecimal() or not 1 <= int(dpi) <= MOST_DPI:
        raise JaxnnError(
            f"--dpi: got {dpi}, expected dots an inch, a whole number from 1 to "
            f"{MOST_DPI:,}"
        )
    return rc_context({"savefig.dpi": int(dpi)})


def draw_words(text: str, path: str | Path | None, dpi: int | None = None) -> Figure:
    """A picture of one sentence, so that a report has something to show."""
    figure = new_figure(6, 1.2)
    figure.text(0.5, 0.5, text, ha="center", va="center", fontsize=12, color=INK)
    return save(figure, path, dpi)


# ---- one panel


def name_axes(ax: Any, x: str, y: str, title: str = "") -> None:
    """Names of the axes and of the panel."""
    ax.set_xlabel(x, fontsize=9)
    ax.set_ylabel(y, fontsize=9)
    ax.set_title(title, fontsize=10, color=INK)


def show_legend(ax: Any, **options: Any) -> None:
    """A quiet legend where it hides least."""
    style = {"fontsize": 8, "framealpha": 0.85, "edgecolor": PALE, "loc": "best"}
    ax.legend(**(style | options))


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


def _short(v: float) -> str:
    """0.001, 10, 1000, but 1e5 and 1e-6."""
    if 1e-3 <= v < 1e5:
        return f"{v:g}"
    return f"{v:.0e}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")


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
    legend: bool = True,
    **style: Any,
) -> None:
    """One line a series, the mean over its seeds.

    Args:
      ax: the panel.
      x: (T,) the common abscissa.
      series: name -> (T,) one line, or (S, T) S seeds, see `draw_seeds`.
      x_name, y_name, title: names, with units.
      log, log_x: logarithmic ordinate, abscissa.
      legend: whether to show the names: beside the panel if they are many.
      style: of all lines, as matplotlib's `plot` takes it.
    """
    for i, (name, values) in enumerate(series.items()):
        own = {"color": COLORS[i % len(COLORS)], "ls": DASHES[i % len(DASHES)]}
        values = np.atleast_2d(np.asarray(values, float))
        if values.shape[-1] != len(x):
            raise JaxnnError(
                f"lines: {name!r} has {values.shape[-1]} values for {len(x)} on the "
                "abscissa"
            )
        draw_seeds(ax, x, values, log=log, label=name, **own, **style)
    set_scales(ax, log, log_x)
    name_axes(ax, x_name, y_name, title)
    if legend:
        show_legend(ax, **(BESIDE if len(series) > 4 else {}))


def draw_seeds(
    ax: Any, x: Any, values: np.ndarray, *, log: bool = False, **style: Any
) -> None:
    """The mean over seeds (S, T); each seed thin beside it, of many a band of all.

    Args:
      ax: the panel.
      x: (T,) the abscissa.
      values: one row a seed; what is not finite is left out.
      log: a mean of logarithms, which lies in the middle of a logarithmic axis.
      style: of the mean, as matplotlib's `plot` takes it.
    """
    middle, low, high = over_seeds(values, log)
    color = style["color"]
    if len(values) > THIN:
        ax.fill_between(x, low, high, color=color, alpha=0.18, lw=0)
    elif len(values) > 1:
        mark = "_" if len(x) == 1 else None  # a line of one point has no length
        ax.plot(x, values.T, color=color, marker=mark, lw=0.7, alpha=0.4)
    ax.plot(x, middle, **{"lw": 1.7} | style)


def over_seeds(values: np.ndarray, log: bool = False) -> list[np.ndarray]:
    """Mean, smallest and largest over the finite of (S, T); NaN where none is."""
    good = np.isfinite(values)
    count = good.sum(0)
    # never of zero, whose logarithm is none
    a = np.log(np.maximum(values, np.finfo(float).tiny)) if log else values
    mean = np.where(good, a, 0).sum(0) / np.maximum(count, 1)
    low = np.where(good, values, np.inf).min(0)
    high = np.where(good, values, -np.inf).max(0)
    found = np.exp(mean) if log else mean, low, high
    return [np.where(count == 0, np.nan, a) for a in found]


def say_what_is_cut(ax: Any) -> None:
    """Write at the edge of the panel which of its named lines leave it."""
    low, high = ax.get_ylim()
    named = [line for line in ax.lines if not line.get_label().startswith("_")]
    for word, at, leaves in (
        ("above, or not finite", 1, lambda y: ~(y <= high)),
        ("below", 0.05, lambda y: y < low),
    ):
        out = [n.get_label() for n in named if leaves(np.asarray(n.get_ydata())).any()]
        if out:
            ax.text(
                0.5, at, f"partly {word}: {', '.join(out)}", va="top", ha="center",
                transform=ax.transAxes, fontsize=8, color=INK, bbox=PAPER,
            )  # fmt: skip


def name_ticks(ax: Any, words: Sequence[str], fontsize: float = 8) -> None:
    """Words at 0, 1, 2 ... of the abscissa, upright where they would touch."""
    ax.set_xticks(range(len(words)), words, fontsize=fontsize)
    room = ax.get_position().width * ax.figure.get_size_inches()[0]
    longest = max((part for word in words for part in word.split("\n")), key=len)
    if text_width([longest], fontsize) > room / len(words):
        ax.tick_params(axis="x", rotation=90)


def cells(
    ax: Any,
    values: np.ndarray,
    texts: Any,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    fontsize: float = 9,
    **colors: Any,
) -> Any:
    """A table of colors (R, C), with a text in each cell: white where that is dark.

    Args:
      ax: the panel.
      values: what the colors say; masked or NaN: none.
      texts: (R, C) words, or None for none.
      rows, columns: their names, in `fontsize`.
      fontsize: of the names.
      colors: `cmap`, and `norm` or `vmin` and `vmax`, as of matplotlib's `imshow`.

    Returns:
      the image, for a color bar.
    """
    image = ax.imshow(values, aspect="auto", **colors)
    bright = image.to_rgba(values)[..., :3] @ (0.3, 0.59, 0.11)
    for (i, j), text in np.ndenumerate([] if texts is None else np.array(texts)):
        color = "white" if bright[i, j] < 0.45 else INK
        ax.text(j, i, text, ha="center", va="center", fontsize=8.5, color=color)
    name_ticks(ax, columns, fontsize)
    ax.set_yticks(range(len(rows)), rows, fontsize=fontsize)
    (down, across), lw = np.shape(values), 0.8 if fontsize > 6 else 0.3
    # a grid of minor ticks is slow
    ax.hlines(np.arange(down + 1) - 0.5, -0.5, across - 0.5, color=PALE, lw=lw)
    ax.vlines(np.arange(across + 1) - 0.5, -0.5, down - 0.5, color=PALE, lw=lw)
    ax.grid(False)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return image


# ---- words


def percent(p: float) -> str:
    """Whole percent; never '100%' of what is less."""
    if not np.isfinite(p):
        return "not finite"
    return ">99%" if 0.995 < p < 1 else f"{100 * p:.0f}%"


def counted(number: int, thing: str) -> str:
    """1 thing, 2 things."""
    return f"{number:,} {thing}{'s' * (number != 1)}"


def as_written(name: str) -> str:
    """A name for a picture: no mathematics between dollars, nothing unprintable."""
    return printable(name).replace("$", "\\$")


def text_width(texts: Sequence[str], fontsize: float) -> float:
    """About as many inches as the longest text takes."""
    return 0.58 * fontsize / 72 * max(map(len, texts))


def same_length(where: str, **arrays: Any) -> None:
    """Raise unless all arrays have the same number of rows."""
    lengths = {name: len(a) for name, a in arrays.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        found = ", ".join(f"{name} {n}" for name, n in lengths.items())
        raise JaxnnError(f"{where}: got {found} rows, expected one number, at least 1")
