"""Pictures of a run: curves and confusion; of a sweep and of a search for a rate."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import ArrayLike

from jaxnn.errors import JaxnnError
from jaxnn.plots.panels import (
    BLUE,
    COLORS,
    ERRORS,
    GRAY,
    GREEN,
    INK,
    MARGINS,
    RED,
    THIN,
    as_written,
    cells,
    counted,
    draw_seeds,
    draw_words,
    name_axes,
    name_ticks,
    over_seeds,
    panels,
    same_length,
    save,
    say_what_is_cut,
    set_scales,
    show_legend,
    text_width,
)

LOG_RANGE = 20  # largest / smallest from which a log axis shows more
MARKED = 25  # epochs up to which each has a marker
ANNOTATED = 20  # classes up to which a cell is wide enough for its number


# ---- curves


def curves(
    rows: Sequence[dict],
    path: str | Path | None = None,
    floor: float | None = None,
    dpi: int | None = None,
) -> Figure:
    """Loss, validation accuracy and gradient norm over the epochs.

    With several seeds the line is their mean, see `panels.draw_seeds`.
    Values that are not finite are left out and marked by a cross at the foot of the
    panel; so are epochs with skipped steps, by a triangle.

    Args:
      rows: the rows of `jaxnn.train.fit`'s history: dicts with `epoch`, `loss`,
        `grad_norm`, `skipped`, and where there was a validation set
        `validation_loss` and `validation_accuracy` (a share in [0, 1]), of a sample of
        the training set `training_accuracy`; each value a
        number, None for not finite, or a list of them, one a seed. No rows give a
        picture that says so.
      path, dpi: see `jaxnn.plots`.
      floor: the least loss there can be, which label smoothing keeps above 0.
    """
    if not rows:
        return draw_words("No epoch was finished: there is nothing to draw.", path, dpi)
    epoch = np.array([row["epoch"] for row in rows])  # (T,)
    loss, norm = _series(rows, "loss"), _series(rows, "grad_norm")  # (S, T)
    error = 100 - 100 * _series(rows, "validation_accuracy")
    fitted = 100 - 100 * _series(rows, "training_accuracy")
    measured, seeds = bool(np.isfinite(error).any()), len(loss)
    rest = "thin: each seed" if seeds <= THIN else "band: smallest to largest"
    over = f" (line: mean, {rest})" if seeds > 1 else ""
    title = f"Training: {counted(len(rows), 'epoch')}, {counted(seeds, 'seed')}{over}"
    figure, axes = panels(
        2 + measured, width=4.1, height=3.4, title=title, margins=MARGINS
    )
    validation = _series(rows, "validation_loss")
    _line(axes[0], epoch, loss, BLUE, "o", "training, mean over the epoch")
    if np.isfinite(validation).any():
        _line(axes[0], epoch, validation, RED, "s", "validation, after the epoch")
    if floor is not None:
        style = {"color": GRAY, "lw": 1, "ls": ":"}
        axes[0].axhline(floor, label="least possible, labels smoothed", **style)
    title = f"Training loss {_ends(loss)}"
    _label(axes[0], epoch, [loss, validation], title, "loss")
    if measured:
        _accuracy(axes[1], epoch, error, fitted)
    _line(axes[-1], epoch, norm, GREEN, "o", None)
    skipped = np.nan_to_num(_series(rows, "skipped"))
    if skipped.any():
        label = f"steps skipped: {int(skipped.sum()):,} in all"
        _mark(axes[-1], epoch[skipped.any(0)], "^", 0.09, label)
    name, title = "gradient norm, mean of steps", f"Gradient norm {_ends(norm)}"
    _label(axes[-1], epoch, [norm], title, name)
    return save(figure, path, dpi)


def _accuracy(ax, epoch, error, fitted):
    """The error upside down: where that spans decades, so does the axis."""
    both = bool(np.isfinite(fitted).any())
    if both:
        _line(ax, epoch, fitted, BLUE, "o", "training, a sample")
    _line(ax, epoch, error, RED, "s", "validation" if both else None)
    mean = over_seeds(error)[0]
    best = int(np.nanargmin(mean))
    ax.axhline(mean[best], color=GRAY, lw=0.8, ls=":")
    star = {"ms": 15, "mfc": "none", "mec": INK, "label": "best epoch"}
    ax.plot(epoch[best], mean[best], "*", **star)
    title = (
        f"Best {'mean ' * (len(error) > 1)}validation accuracy "
        f"{100 - mean[best]:.2f}% (epoch {epoch[best]})"
    )
    series = [error, fitted]
    _label(ax, epoch, series, title, "accuracy (%)", "log scale of the error")
    ax.invert_yaxis()
    ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 - v:.6g}"))


def _series(rows, key) -> np.ndarray:
    """Values of `key` (S, T) float64; NaN where missing or None."""
    wide = max(np.size(row.get(key)) for row in rows)
    values = [np.asarray(row.get(key), dtype=np.float64) for row in rows]
    return np.stack([np.broadcast_to(v, (wide,)) for v in values], 1)


def _line(ax, epoch, values, color, marker, label):
    marker = marker if len(epoch) <= MARKED else None
    draw_seeds(ax, epoch, values, color=color, marker=marker, ms=4, label=label)


def _mark(ax, epoch, marker, height, label):
    """Marks at a height of the panel, whatever its scale."""
    style = {"color": INK, "ms": 6, "zorder": 4, "label": label}
    where = ax.get_xaxis_transform()
    ax.plot(epoch, np.full(len(epoch), height), marker, transform=where, **style)


def _label(ax, epoch, series, title, y_name, log="log scale"):
    """Scale, ticks, names, legend, and crosses where a value is not finite.

    series: arrays (S, T); one that is NaN throughout was not measured.
    """
    # not measured is not the same as gone wrong: only the first is always measured
    series = [a for i, a in enumerate(series) if i == 0 or np.isfinite(a).any()]
    bad = [~np.isfinite(a) for a in series]
    lost = np.any([b.any(0) for b in bad], axis=0)
    if lost.any():
        _mark(ax, epoch[lost], "x", 0.04, "not finite")
    seen = np.concatenate([a[~b] for a, b in zip(series, bad, strict=True)])
    if not len(seen):
        ax.set_yticks([])
    elif seen.min() > 0 and seen.max() > LOG_RANGE * seen.min():
        few = np.log10(seen.max() / seen.min()) < 3  # decades: they need more labels
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())
        y_name += f", {log}"
    if len(epoch) == 1:
        ax.set_xlim(epoch[0] - 0.5, epoch[0] + 0.5)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    name_axes(ax, "epoch", y_name, title)
    if ax.get_legend_handles_labels()[0]:
        show_legend(ax)


def _ends(values) -> str:
    """First and last mean, as words: '0.61 to 0.27'."""
    mean = over_seeds(values)[0]
    if np.isnan(mean).all():
        return "never finite"
    ends = mean[:1] if len(mean) == 1 else mean[[0, -1]]
    return " to ".join(f"{v:.3g}" if np.isfinite(v) else "not finite" for v in ends)


# ---- confusion


def confusion(
    labels: ArrayLike,
    predictions: ArrayLike,
    classes: int | Sequence[Any],
    path: str | Path | None = None,
    dpi: int | None = None,
) -> Figure:
    """How often each class was taken for which; only the errors have color.

    Args:
      labels: (N,) the true classes, integers 0 .. C - 1.
      predictions: (N,) the network's.
      classes: C, or C names.
      path, dpi: see `jaxnn.plots`.
    """
    given = range(classes) if isinstance(classes, int) else classes
    names = [as_written(str(name)) for name in given]
    counts = _confused(np.asarray(labels), np.asarray(predictions), len(names))
    size, total = len(names), counts.sum(1)
    errors = np.ma.masked_array(counts, np.eye(size, dtype=bool))
    most, right = int(errors.filled(0).max()), int(counts.trace())

    beside, texts, fontsize = names, None, 6
    if size <= ANNOTATED:
        right_of = counts.diagonal() / np.maximum(total, 1)
        shares = np.where(total, [f"{100 * share:.1f}%" for share in right_of], "none")
        beside = [f"{n}   {s}" for n, s in zip(names, shares, strict=True)]
        texts = np.where(counts, [[f"{c:,}" for c in row] for row in counts], "")
        fontsize = 9
    side = float(np.clip(0.46 * size, 2.4, 9.0))
    left, tall = text_width(beside, fontsize) + 0.4, text_width(names, fontsize)
    upright = tall > side / size  # names that are wider than a cell
    below = tall + 0.45 if upright else 0.5
    figure, (ax,) = panels(
        1, width=left + side / 0.8 + 0.3, height=below + side + 0.55,
        margins=(left, 0.3, below, 0.55),  # a fifth of the panel is the color bar's
    )  # fmt: skip
    image = cells(
        ax, errors, texts, beside, names, fontsize=fontsize, cmap=ERRORS, vmin=0.5,
        vmax=max(most, 1),
    )  # fmt: skip
    ax.set_aspect("equal")
    ax.tick_params(axis="x", rotation=90 * upright)
    title = f"{right:,} of {total.sum():,} right ({100 * right / total.sum():.2f}%)"
    if most:
        i, j = np.unravel_index(errors.argmax(), counts.shape)
        error = f"{names[i]} taken for {names[j]}, {counted(most, 'time')}"
        title += f"\nMost frequent error: {error}"
        _color_bar(figure, ax, image)
    said = "true class" + " and its share right" * (texts is not None)
    name_axes(ax, "class the network said", said)
    figure.suptitle(title, fontsize=10, color=INK)
    return save(figure, path, dpi)


def _color_bar(figure, ax, image):
    whole = MaxNLocator(nbins=6, integer=True, min_n_ticks=1)
    bar = figure.colorbar(image, ax=ax, ticks=whole, shrink=0.7, aspect=20)
    bar.set_label("errors (gray: right)", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)


def _confused(labels, predictions, size):
    """(C, C): how many of each true class (row) were taken for each (column)."""
    same_length("confusion", labels=labels, predictions=predictions)
    for name, a in (("labels", labels), ("predictions", predictions)):
        if not 0 <= a.min() <= a.max() < size:
            raise JaxnnError(
                f"confusion: {name} run from {a.min()} to {a.max()}, expected 0 to "
                f"{size - 1} for {size} classes"
            )
    counts = np.zeros((size, size), int)
    np.add.at(counts, (labels, predictions), 1)
    return counts


# ---- sweeps


def rates(found: Any, path: str | Path | None = None, dpi: int | None = None) -> Figure:
    """Loss after a few steps over the learning rate, and which is suggested.

    Args:
      found: a `jaxnn.train.rates.RateSearch`.
      path, dpi: see `jaxnn.plots`.
    """
    left, _, below, above = MARGINS
    margins = left, 2.3, below, above  # the legend stands beside the panel
    figure, (ax,) = panels(1, width=8.2, height=3.9, margins=margins)
    losses = np.where(np.isfinite(found.losses), found.losses, np.nan)
    seen = np.isfinite(losses).any(1)
    at, losses = found.rates[seen], losses[seen]
    middle = np.nanmedian(losses, 1)
    ax.fill_between(
        at, np.nanmin(losses, 1), np.nanmax(losses, 1), color=BLUE, alpha=0.18, lw=0,
        label=f"smallest to largest of {losses.shape[1]} seeds",
    )  # fmt: skip
    ax.plot(at, middle, "o-", color=BLUE, lw=1.7, ms=3.5, label="median")
    ax.axhline(found.start, color=GRAY, lw=1, ls=":", label="before the first step")
    ax.set_xlim(found.rates[0] / 1.3, found.rates[-1] * 1.3)
    # what a broken run reached would press the others together
    low = np.nanmin(losses)
    ax.set_ylim(min(low / 1.5, found.start / 2), max(found.start, low) * 2)
    set_scales(ax, log=True, log_x=True)
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    say_what_is_cut(ax)
    ax.axvspan(found.low, found.high, color=GREEN, alpha=0.15, lw=0, label="as good")
    ax.axvline(found.suggestion, color=INK, lw=1.2, ls="--", label="suggested")
    if found.breaks is not None:
        ax.axvline(found.breaks, color=RED, lw=1.2, ls="-.", label="a seed fails")
    title = f"Suggested learning rate {found.suggestion:.3g}"
    name_axes(ax, "learning rate", "training loss, last fifth of the steps", title)
    show_legend(ax, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    return save(figure, path, dpi)


def sweep(
    settings: Sequence[dict],
    axes: Sequence[str],
    path: str | Path | None = None,
    dpi: int | None = None,
) -> Figure:
    """One panel an axis: a dot a setting, a line through the best at each value.

    `settings` have `values` and `validation_accuracy`; the axis "seed" is left out.
    """
    axes = [name for name in axes if name != "seed"]
    columns = min(max(len(axes), 1), 3)
    accuracy = 100 * np.array([s["validation_accuracy"] for s in settings])
    low = max(np.quantile(accuracy, 0.1) - 3, 0) if len(accuracy) > 4 else 0
    cut = int((accuracy < low).sum())
    title = (
        f"Sweep of {len(settings)} settings, mean over their seeds; line: the best "
        f"at each value{f'; {cut} below {low:.1f}% not shown' * bool(cut)}"
    )
    rows = -(-max(len(axes), 1) // columns)
    # as many letters as there is room for
    title = textwrap.fill(title, 50 * columns)
    figure, drawn = panels(columns, rows, title=title)
    for ax in drawn[len(axes) :]:
        ax.set_axis_off()
    for ax, name in zip(drawn, axes, strict=False):
        at, ticks = _positions([s["values"][name] for s in settings])
        ax.plot(at, accuracy, "o", color=COLORS[0], alpha=0.45, markersize=4)
        places = np.unique(at)
        if len(places) < len(at):
            best = [accuracy[at == place].max() for place in places]
            ax.plot(places, best, "-", color=COLORS[1])
        if ticks is None:
            ax.set_xscale("log")
        else:
            name_ticks(ax, ticks)
        ax.set_ylim(low if cut else None, min(accuracy.max() + 1, 100.5))
        name_axes(ax, name, "validation accuracy (%)")
    return save(figure, path, dpi)


def _positions(values: Sequence[Any]) -> tuple[np.ndarray, list[str] | None]:
    """Where values stand on an axis, and its words; None: a logarithmic axis."""
    keys = ["+".join(v) if isinstance(v, list | tuple) else v for v in values]
    keys = [k if isinstance(k, int | float) else str(k) for k in keys]
    # none and other words before the numbers
    kinds = sorted(set(keys), key=lambda k: (not isinstance(k, str), k))
    numbers = [k for k in keys if isinstance(k, int | float)]
    if len(numbers) == len(keys) and len(kinds) > 8 and min(numbers) > 0:
        return np.array(numbers, float), None
    words = [as_written(k) if isinstance(k, str) else f"{k:g}" for k in kinds]
    return np.array([kinds.index(k) for k in keys]), words
