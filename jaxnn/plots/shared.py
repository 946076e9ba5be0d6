"""What the pictures share: colours, sizes, words, saving."""

from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from jaxnn.errors import JaxnnError
from jaxnn.files import write_with
from jaxnn.markdown import printable

DPI = 110
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
GREY, PALE, INK = "#767676", "#e4e4e4", "#222222"
MIDDLE: dict[str, Any] = {"ha": "center", "va": "bottom", "fontsize": 9, "color": INK}
GREYS = {"cmap": "gray", "vmin": 0, "vmax": 1}
SIGNED = LinearSegmentedColormap.from_list("signed", [BLUE, "white", RED])
ERRORS = colormaps["Oranges"].with_extremes(under="white", bad="#d4d4d4")
TILE = 140 / DPI  # inches of an image's longer side: 5 dots for each of 28 pixels
GAP = 14 / DPI  # inches between images
CAPTION = 18 / DPI  # inches for the line above an image
HEAD = 44 / DPI  # inches for the title
LOG_RANGE = 20  # largest / smallest from which a log axis shows more
ANNOTATED = 20  # classes up to which a cell is wide enough for its number
MARKED = 25  # epochs up to which each has a marker


def picked(probabilities, columns):
    """The probability of one class in each row: (N, C), (N,) -> (N,)."""
    return np.take_along_axis(probabilities, columns[:, None], 1)[:, 0]


def percent(p: float) -> str:
    """Whole percent; never '100%' of what is less."""
    if not np.isfinite(p):
        return "not finite"
    if p < 1 and p > 0.995:
        return ">99%"
    return f"{100 * p:.0f}%"


def counted(number: int, thing: str) -> str:
    """1 thing, 2 things."""
    return f"{number:,} {thing}{'s' * (number != 1)}"


def same_length(where, **arrays):
    """Raise unless all arrays have the same number of rows."""
    lengths = {name: len(a) for name, a in arrays.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        found = ", ".join(f"{name} {n}" for name, n in lengths.items())
        raise JaxnnError(f"{where}: got {found} rows, expected one number, at least 1")


def draw_words(text, path):
    """A picture of one sentence, so that a report has something to show."""
    figure = new_figure(6, 1.2)
    figure.text(0.5, 0.5, text, ha="center", va="center", fontsize=12, color=INK)
    save(figure, path)


def as_written(name: str) -> str:
    """A name for a picture: no mathematics between dollars, nothing unprintable."""
    return printable(name).replace("$", "\\$")


def text_width(texts, fontsize) -> float:
    """About as many inches as the longest text takes."""
    return 0.62 * fontsize / 72 * max(map(len, texts))


def new_axes(figure, left, bottom, width, height):
    """Axes at a place in inches from the bottom left."""
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / up, width / across, height / up))


def new_figure(width, height) -> Figure:
    """An empty figure of so many inches, with its own canvas."""
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save(figure, path):
    """Write the figure as a PNG, whole or not at all."""
    write_with(path, lambda file: figure.savefig(file, format="png", dpi=DPI))
