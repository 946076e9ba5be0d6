"""Loss, validation accuracy and gradient norm over the epochs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from jaxnn.plots.shared import (
    BLUE,
    GREEN,
    GREY,
    INK,
    LOG_RANGE,
    MARKED,
    PALE,
    RED,
    counted,
    draw_words,
    new_figure,
    save,
)


def curves(rows: Sequence[dict], path: str | Path) -> None:
    """Loss, validation accuracy and gradient norm over the epochs.

    With several seeds the line is their mean and the band reaches from the smallest to
    the largest. Values that are not finite are left out of both and marked by a cross
    at the foot of the panel; so are epochs with skipped steps, by a triangle.

    Args:
      rows: the rows of `jaxnn.train.fit`'s history: dicts with `epoch`, `loss`,
        `grad_norm`, `skipped`, and where there was a validation set
        `validation_loss` and `validation_accuracy` (a share in [0, 1]); each value a
        number, None for not finite, or a list of them, one a seed. No rows give a
        picture that says so.
      path: the PNG file.
    """
    if not rows:
        return draw_words("No epoch was finished: there is nothing to draw.", path)
    epoch = np.array([row["epoch"] for row in rows])  # (E,)
    loss, norm = _series(rows, "loss"), _series(rows, "grad_norm")  # (E, S)
    validation = _series(rows, "validation_loss")
    error = 100 - 100 * _series(rows, "validation_accuracy")
    measured = [bool(np.isfinite(a).any()) for a in (validation, error)]

    panels = 2 + measured[1]
    width, height = 4.1 * panels, 3.8
    figure = new_figure(width, height)
    axes = list(figure.subplots(1, panels))
    # by hand: matplotlib's layout engines take as long as the rest
    figure.subplots_adjust(
        left=0.62 / width,
        right=1 - 0.12 / width,
        bottom=0.5 / height,
        top=1 - 0.62 / height,
        wspace=0.23,
    )
    seeds = loss.shape[1]
    figure.suptitle(
        f"Training: {counted(len(rows), 'epoch')}, {counted(seeds, 'seed')}"
        + (f" (line: mean, band: smallest to largest of {seeds})" if seeds > 1 else ""),
        fontsize=11,
        color=INK,
        y=1 - 0.15 / height,
        va="center",
    )

    ax = axes.pop(0)
    _line(ax, epoch, loss, BLUE, "o", "training, mean over the epoch")
    if measured[0]:
        _line(ax, epoch, validation, RED, "s", "validation, after the epoch")
    _finish(ax, epoch, [loss, validation], f"Training loss {_path(loss)}", "loss")

    if measured[1]:
        ax = axes.pop(0)
        _line(ax, epoch, error, RED, "s", None)
        mean = _over_seeds(error)[0]
        best = int(np.nanargmin(mean))
        ax.axhline(mean[best], color=GREY, lw=0.8, ls=":")
        ax.plot(
            epoch[best], mean[best], "*", ms=15, mfc="none", mec=INK, label="best epoch"
        )
        title = (
            f"Best {'mean ' if seeds > 1 else ''}validation accuracy "
            f"{100 - mean[best]:.2f}% (epoch {epoch[best]})"
        )
        _finish(ax, epoch, [error], title, "accuracy (%)", "log scale of the error")
        # drawn as the error upside down: where that spans decades, so does the axis
        ax.invert_yaxis()
        ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 - v:.6g}"))

    ax = axes.pop(0)
    _line(ax, epoch, norm, GREEN, "o", None)
    skipped = np.nan_to_num(_series(rows, "skipped"))
    if skipped.any():
        label = f"steps skipped: {int(skipped.sum()):,} in all"
        _mark(ax, epoch[skipped.any(1)], "^", 0.09, label)
    _finish(
        ax,
        epoch,
        [norm],
        f"Gradient norm {_path(norm)}",
        "gradient norm, mean of steps",
    )
    save(figure, path)


def _series(rows, key) -> np.ndarray:
    """Values of `key` (E, S) float64; NaN where missing or None."""
    wide = max(np.size(row.get(key)) for row in rows)
    return np.stack(
        [
            np.broadcast_to(np.asarray(row.get(key), dtype=np.float64), (wide,))
            for row in rows
        ]
    )


def _over_seeds(values):
    """Mean, smallest and largest over the finite seeds, each (E,); NaN if none is."""
    good = np.isfinite(values)
    count = good.sum(1)
    none = count == 0
    mean = np.where(good, values, 0).sum(1) / np.maximum(count, 1)
    low = np.where(good, values, np.inf).min(1)
    high = np.where(good, values, -np.inf).max(1)
    return [np.where(none, np.nan, a) for a in (mean, low, high)]


def _line(ax, epoch, values, colour, marker, label):
    mean, low, high = _over_seeds(values)
    if values.shape[1] > 1:
        ax.fill_between(epoch, low, high, color=colour, alpha=0.2, lw=0)
        if len(epoch) == 1:  # a band over one epoch has no width
            ax.vlines(epoch, low, high, color=colour, alpha=0.4, lw=6)
    marker = marker if len(epoch) <= MARKED else None
    ax.plot(epoch, mean, color=colour, marker=marker, ms=4, lw=1.6, label=label)


def _mark(ax, epoch, marker, height, label):
    """Marks at a height of the panel, whatever its scale."""
    place = ax.get_xaxis_transform()
    heights = np.full(len(epoch), height)
    ax.plot(
        epoch, heights, marker, color=INK, ms=6, transform=place, label=label, zorder=4
    )


def _finish(ax, epoch, series, title, ylabel, log="log scale"):
    """Scale, ticks, names, legend, and crosses where a value is not finite.

    series: arrays (E, S); one that is NaN throughout was not measured.
    """
    # not measured is not the same as gone wrong: only the first is always measured
    series = [a for i, a in enumerate(series) if i == 0 or np.isfinite(a).any()]
    bad = [~np.isfinite(a) for a in series]
    lost = np.any([b.any(1) for b in bad], axis=0)
    if lost.any():
        _mark(ax, epoch[lost], "x", 0.04, "not finite")
    seen = np.concatenate([a[~b] for a, b in zip(series, bad, strict=True)])
    if not len(seen):
        ax.set_yticks([])
    elif seen.min() > 0 and seen.max() > LOG_RANGE * seen.min():
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=_log_steps(seen)))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())
        ylabel += f", {log}"
    if len(epoch) == 1:
        ax.set_xlim(epoch[0] - 0.5, epoch[0] + 0.5)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    ax.set_xlabel("epoch", fontsize=9)
    ax.set_ylabel(ylabel, fontsize=9)
    ax.set_title(title, fontsize=10, color=INK)
    ax.tick_params(labelsize=8)
    ax.grid(True, color=PALE, lw=0.8)
    ax.set_axisbelow(True)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=8, framealpha=0.85, edgecolor=PALE, loc="best")


def _log_steps(seen):
    """Labelled steps in a decade: few decades need more of them."""
    decades = np.log10(seen.max() / seen.min())
    return (1, 2, 5) if decades < 3 else (1,)


def _path(values) -> str:
    """First and last mean, as words: '0.61 to 0.27'."""
    mean = _over_seeds(values)[0]
    if np.isnan(mean).all():
        return "never finite"
    ends = [mean[0]] if len(mean) == 1 else [mean[0], mean[-1]]
    return " to ".join(f"{v:.3g}" if np.isfinite(v) else "not finite" for v in ends)
