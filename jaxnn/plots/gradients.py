"""Pictures of the comparison of gradients: who agrees with whom, and how well.

Each takes plain numbers, and `path` and `dpi` as in `jaxnn.plots`. Errors are relative;
one of exactly 0 is drawn as `EXACT`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullLocator

from jaxnn.plots.panels import (
    COLORS,
    DASHES,
    ERRORS,
    GRAY,
    INK,
    RED,
    UNTITLED,
    as_written,
    cells,
    lines,
    name_axes,
    panels,
    save,
    set_scales,
    show_legend,
    text_width,
)

EXACT = 1e-17  # where 0 lies on a log axis
WORDS = {
    "manual": "by hand",
    "forward": "forward AD",
    "complex_step": "complex step",
    "central": "central difference",
}
MARKS = ("o", "s", "^", "D", "v", "P")


def errors_by_layer(
    rows: Sequence[Mapping[str, Any]],
    policy: Mapping[str, float],
    path: str | Path | None = None,
    dpi: int | None = None,
) -> Figure:
    """A table of colors: layers down, methods across, each error written in its cell.

    Args:
      rows: dicts with `layer`, `errors` (method -> error or None) and `kinks`.
      policy: method -> largest error that passes; a cell beyond it has a red frame.
      path, dpi: see `jaxnn.plots`.
    """
    methods = list(policy)
    names = [as_written(str(row["layer"])) for row in rows]
    errors = [[row["errors"].get(method) for method in methods] for row in rows]
    values = np.array(errors, float)  # None becomes NaN
    kinks = np.array([bool(row["kinks"]) for row in rows])
    waived = kinks[:, None] & (np.array(methods) == "central")[None]
    texts = [
        [_cell(v) + ("*" if w else "") for v, w in zip(*row, strict=True)]
        for row in zip(values, waived, strict=True)
    ]
    title = "Error of each layer's derivative by each method, against reverse mode"
    width = max(7.0, 1.35 * len(methods) + text_width(names, 9) + 0.4)
    figure, (ax,) = panels(1, width=width, height=0.3 * len(rows) + 1.1, title=title)
    shown = np.where(np.isinf(values), 1.0, np.clip(values, EXACT, None))
    columns = [WORDS.get(m, m) for m in methods]
    cells(ax, shown, texts, names, columns, cmap=ERRORS, norm=LogNorm(EXACT, 1.0))
    for i, j in np.argwhere((values > list(policy.values())) & ~waived):
        frame = {"fill": False, "ec": RED, "lw": 2, "zorder": 3}
        ax.add_patch(Rectangle((j - 0.48, i - 0.46), 0.96, 0.92, **frame))
    ax.xaxis.tick_top()
    note = (
        "float64, along a random direction, relative to the gradient's length. "
        "Red frame: beyond the policy.\n-: the method does not apply. "
        "*: kinks within the step of the difference, which is not judged then."
    )
    ax.set_xlabel(note, fontsize=8, color=INK)
    ax.xaxis.set_label_position("bottom")
    return save(figure, path, dpi)


def scatter(
    leaves: Mapping[str, tuple[np.ndarray, np.ndarray, bool]],
    path: str | Path | None = None,
    dtype: str = "float32",
    dpi: int | None = None,
) -> Figure:
    """Each gradient entry by hand over the same by `jax.grad`, and their difference.

    Args:
      leaves: name -> (by hand, by jax.grad, passed), arrays of one shape; of large ones
        a sample.
      path, dpi: see `jaxnn.plots`.
      dtype: the precision, for the title.
    """
    title = f"Gradient by hand and by jax.grad, {dtype}"
    figure, (left, right) = panels(2, width=4.9, height=4.1, title=title)
    every = np.concatenate([np.abs(b).ravel() for _, b, _ in leaves.values()])
    largest = float(np.max(every, initial=0.0, where=np.isfinite(every))) or 1.0
    edge = largest * 1.6
    left.plot([-edge, edge], [-edge, edge], color=GRAY, lw=0.8, zorder=1)
    for i, (name, (a, b, passed)) in enumerate(leaves.items()):
        a, b = np.ravel(a).astype(float), np.ravel(b).astype(float)
        style = {
            "color": COLORS[i % len(COLORS)] if passed else RED,
            "marker": MARKS[i % len(MARKS)] if passed else "x",
            "ls": "", "ms": 3.2 if passed else 5, "alpha": 0.6,
        }  # fmt: skip
        label = name if passed else f"{name} WRONG"
        left.plot(b, a, label=label, **style)
        gap = np.maximum(np.abs(a - b) / largest, EXACT)
        right.plot(np.maximum(np.abs(b) / largest, 1e-12), gap, **style)
    linear = largest * 1e-5
    left.set_xscale("symlog", linthresh=linear)
    left.set_yscale("symlog", linthresh=linear)
    left.set(xlim=(-edge, edge), ylim=(-edge, edge))
    ticks = [-largest, -largest * 1e-3, 0, largest * 1e-3, largest]
    for axis in (left.xaxis, left.yaxis):
        axis.set_ticks(ticks, [f"{t:.0e}" if t else "0" for t in ticks])
        axis.set_minor_locator(NullLocator())
    name_axes(left, "by jax.grad", "by hand", "on the line: the same number")
    show_legend(left, loc="upper left", ncols=1 + (len(leaves) > 12), markerscale=1.5)
    set_scales(right, True, True)
    right.set_ylim(EXACT / 3, 3)
    title = f"the difference; exactly 0 is drawn at {EXACT:.0e}"
    name_axes(right, "|entry|, largest = 1", "|difference|, largest entry = 1", title)
    return save(figure, path, dpi)


def step_errors(
    steps: Sequence[float],
    errors: Mapping[str, Sequence[float | None]],
    path: str | Path | None = None,
    dpi: int | None = None,
) -> Figure:
    """The V of finite differences: error over step size h, log-log.

    `errors` are those of each step, by method and precision; None throughout where a
    method does not apply.
    """
    shown = {
        name: np.maximum(np.array(values, float), EXACT)
        for name, values in errors.items()
        if any(e is not None for e in values)
    }
    title = "Smaller steps are better, until rounding takes over"
    figure, (ax,) = panels(1, width=7.6, height=4.3, title=title, margins=UNTITLED)
    lines(
        ax, steps, shown, "step h: how far each parameter and pixel moves",
        "error of the derivative, relative", log=True, log_x=True, legend=False,
    )  # fmt: skip
    for i, (name, values) in enumerate(shown.items()):
        best = int(np.nanargmin(values))
        if name.startswith("complex"):
            label = f"{name}: nothing rounds"
        else:
            label = f"{name}: best {values[best]:.0e} at h = {steps[best]:.0e}"
            ax.plot(steps[best], values[best], "*", ms=12, mfc="none",
                    mec=COLORS[i % len(COLORS)])  # fmt: skip
        ax.lines[i].set_label(label)
    ax.set_ylim(EXACT / 3, 30)
    show_legend(ax, loc="upper left", bbox_to_anchor=(0.0, 0.42))
    return save(figure, path, dpi)


def taylor(
    found: Mapping[str, Any], path: str | Path | None = None, dpi: int | None = None
) -> Figure:
    """Taylor remainders over step size: slope 2 if the gradient is right, 1 if wrong.

    `found` is what `jaxnn.check.measurements.taylor_errors` returns.
    """
    title = "What is left after the linear term"
    figure, (ax,) = panels(1, width=6.4, height=4.0, title=title, margins=UNTITLED)
    steps = np.array(found["steps"])
    series = {
        f"gradient by hand: slope {found['slope']:.2f}": found["remainders"],
        f"one that is 1% too large: slope {found['wrong_slope']:.2f}": found["wrong"],
    }
    shown = {k: np.maximum(v, 1e-300) for k, v in series.items()}
    remainder = "|f(x + h v) - f(x) - h g v|"
    lines(ax, steps, shown, "step h", remainder, log=True, log_x=True, marker="o", ms=4)
    start = max(found["remainders"][0], 1e-300)
    for order in (1, 2):
        guide = start * (steps / steps[0]) ** order
        ax.plot(steps, guide, color=GRAY, lw=0.9, ls=DASHES[3])
        style = {"textcoords": "offset points", "fontsize": 8.5, "color": INK}
        ax.annotate(f"h^{order}", (steps[-1], guide[-1]), (6, -8), **style)
    show_legend(ax, loc="upper left")
    return save(figure, path, dpi)


def _cell(value) -> str:
    if np.isnan(value):
        return "-"
    if np.isinf(value):
        return "wrong"
    return "0" if value == 0 else f"{value:.0e}"
