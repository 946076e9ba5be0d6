"""The pictures of a training run, as PNG files: curves, confusion, mistakes, attacks.

Each function takes plain NumPy arrays and a path, and the file is whole or not there.
`Figure` is used without pyplot: no global state, so any thread may draw, and no window
system is asked for. Colours are those of Okabe and Ito (2008), which colour-blind
readers can tell apart; where colour says something, so does a mark or a word.

N images, C classes, E epochs, S seeds, H W image.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from jaxnn.errors import JaxnnError
from jaxnn.files import write_with

DPI = 110
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
GREY, PALE, INK = "#767676", "#e4e4e4", "#222222"
MIDDLE = {"ha": "center", "va": "bottom", "fontsize": 9, "color": INK}
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

# ---------------------------------------------------------------- curves


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
        return _say("No epoch was finished: there is nothing to draw.", path)
    epoch = np.array([row["epoch"] for row in rows])  # (E,)
    loss, norm = _series(rows, "loss"), _series(rows, "grad_norm")  # (E, S)
    validation = _series(rows, "validation_loss")
    error = 100 - 100 * _series(rows, "validation_accuracy")
    measured = [bool(np.isfinite(a).any()) for a in (validation, error)]

    panels = 2 + measured[1]
    width, height = 4.1 * panels, 3.8
    figure = _figure(width, height)
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
        f"Training: {_count(len(rows), 'epoch')}, {_count(seeds, 'seed')}"
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
    _save(figure, path)


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
    ends = [mean[0]] if len(mean) == 1 else [mean[0], mean[-1]]
    return " to ".join(f"{v:.3g}" if np.isfinite(v) else "not finite" for v in ends)


# ---------------------------------------------------------------- confusion


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
    names = list(map(str, range(classes) if isinstance(classes, int) else classes))
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    _same_length("confusion", labels=labels, predictions=predictions)
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
    most, right = int(errors.max()), int(counts.trace())

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
    left = 0.35 + _text_width(named, fontsize)
    below = 0.4 + (_text_width(names, fontsize) if rotated else 0.15)
    width, height = left + side + 1.0, below + side + 0.55
    figure = _figure(width, height)
    ax = _axes(figure, left, below, side, side)
    image = ax.imshow(errors, cmap=ERRORS, vmin=0.5, vmax=max(most, 1), aspect="auto")
    if most:
        key = _axes(figure, left + side + 0.15, below + 0.15 * side, 0.15, 0.7 * side)
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
        error = f"{names[i]} taken for {names[j]}, {_count(most, 'time')}"
        title += f"\nMost frequent error: {error}"
    figure.text(0.5, 1 - 0.45 / height, title, **(MIDDLE | {"fontsize": 10}))
    _save(figure, path)


# ---------------------------------------------------------------- galleries


def mistakes(
    images: np.ndarray,
    labels: np.ndarray,
    probabilities: np.ndarray,
    path: str | Path,
    count: int = 25,
) -> None:
    """The wrongly classified images of highest loss -log p[label], worst first.

    Args:
      images: (N, H, W), (N, H, W, 1) or square ones flat, (N, H * W); uint8 in 0..255
        or float in [0, 1].
      labels: (N,) integers.
      probabilities: (N, C), rows that sum to 1.
      path: the PNG file.
      count: how many at most; if there are no mistakes the picture says so.

    Raises:
      JaxnnError: lengths differ, or the images are none.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities)
    _same_length("mistakes", images=images, labels=labels, probabilities=probabilities)
    said = probabilities.argmax(1)
    wrong = np.flatnonzero(said != labels)
    if not len(wrong):
        return _say(f"No mistakes: all {len(labels):,} images are right.", path)
    p_label, p_said = _picked(probabilities, labels), _picked(probabilities, said)
    # float32 rounds many p[label] to 0: then the surer mistake is the worse one
    worst = wrong[np.lexsort((-p_said[wrong], p_label[wrong]))][:count]
    tiles = _tiles("mistakes", images, worst)
    columns = min(5, len(worst))
    which = f"The {len(worst)} worst of" if len(worst) < len(wrong) else "All"
    title = (
        f"{which} {_count(len(wrong), 'mistake')} in {len(labels):,} images "
        f"({100 * len(wrong) / len(labels):.2f}%), highest loss first"
    )
    width, height = _extent(tiles)
    lines = -(-len(worst) // columns)
    ax = _canvas(columns * (width + GAP) + GAP, lines * (height + CAPTION + GAP), title)
    for place, (i, tile) in enumerate(zip(worst, tiles, strict=True)):
        line, column = divmod(place, columns)
        caption = f"is {labels[i]}, said {said[i]} ({_percent(p_said[i])})"
        x = GAP + column * (width + GAP)
        y = line * (height + CAPTION + GAP)
        _tile(ax, x, y, tile, caption, INK, **GREYS)
    _save(ax.figure, path)


def adversarial(
    clean: np.ndarray,
    attacked: np.ndarray,
    labels: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    epsilon: float,
    path: str | Path,
    count: int = 8,
    *,
    norm: str = "linf",
    attack: str = "The attack",
) -> None:
    """Images before and after an attack, and what it added.

    Shown are images that were right before and wrong after, the first of each class,
    then the second, and so on: not the most striking ones. If none was fooled the
    survivors are shown, and the title says so.

    Args:
      clean: images as in `mistakes`.
      attacked: the same images, attacked.
      labels: (N,) integers.
      before: probabilities (N, C) of the clean images.
      after: of the attacked ones.
      epsilon: the budget, in [0, 1] pixel units.
      path: the PNG file.
      count: how many images at most.
      norm: of the budget. For "linf" the colours reach from -epsilon to +epsilon, for
        others to the largest change that is shown.
      attack: its name, for the title.

    Raises:
      JaxnnError: lengths or image sizes differ, or there are no images.
    """
    labels, before, after = map(np.asarray, (labels, before, after))
    _same_length(
        "adversarial",
        clean=clean,
        attacked=attacked,
        labels=labels,
        before=before,
        after=after,
    )
    said = [before.argmax(1), after.argmax(1)]
    right = said[0] == labels
    fooled = right & (said[1] != labels)
    pool = next((m for m in (fooled, right) if m.any()), np.ones_like(right))
    shown = _round_of_classes(labels, np.flatnonzero(pool))[:count]
    tiles = [_tiles("adversarial", images, shown) for images in (clean, attacked)]
    if tiles[0].shape != tiles[1].shape:
        raise JaxnnError(
            f"adversarial: clean images are {tiles[0].shape[1:]} but attacked ones "
            f"{tiles[1].shape[1:]}, expected the same"
        )
    change = tiles[1] - tiles[0]
    linf = norm == "linf"
    limit = epsilon if linf else max(float(np.abs(change).max()), 1e-12)

    width, height = _extent(tiles[0])
    left, key = 1.05, 0.75  # inches for the names of the rows and for the colour scale
    step = height + CAPTION + GAP
    title = (
        f"{attack} ({norm}, epsilon {epsilon:g}) fools {_share_of(fooled, right)} "
        f"that were right"
    )
    if not fooled.any():
        title += ": " + ("survivors" if right.any() else "wrong before and after")
    across = left + len(shown) * (width + GAP)
    ax = _canvas(across + key, 3 * step, title)
    signed = {"cmap": SIGNED, "vmin": -limit, "vmax": limit}
    names = ("clean", "change\n= attacked\n   - clean", "attacked")
    for line, name in enumerate(names):
        y = line * step + CAPTION + height / 2
        ax.text(left - 2 * GAP, y, name, ha="right", va="center", fontsize=9, color=INK)
    for column, i in enumerate(shown):
        x = left + column * (width + GAP)
        _tile(
            ax, x, 0, tiles[0][column], *_verdict(i, labels, before, said[0]), **GREYS
        )
        _tile(ax, x, step, change[column], "", INK, **signed)
        _tile(
            ax,
            x,
            2 * step,
            tiles[1][column],
            *_verdict(i, labels, after, said[1]),
            **GREYS,
        )
    top = step + CAPTION
    bar = np.linspace(limit, -limit, 64)[:, None]
    ax.imshow(
        bar, extent=(across, across + 0.12, top + height, top), aspect="auto", **signed
    )
    for share, text in ((0, f"+{limit:.3g}"), (0.5, "0"), (1, f"-{limit:.3g}")):
        y = top + share * height
        ax.text(across + 0.17, y, text, va="center", fontsize=8, color=INK)
    if linf:
        ax.text(across, top - 0.09, "±epsilon", fontsize=8, va="bottom", color=INK)
    _save(ax.figure, path)


def _verdict(i, labels, probabilities, said):
    """Caption and colour: 'is 4, said 9 (99%)', wrong ones in vermilion and bold."""
    p = _percent(probabilities[i, said[i]])
    wrong = said[i] != labels[i]
    return f"is {labels[i]}, said {said[i]} ({p})", RED if wrong else BLUE


def _share_of(part, whole) -> str:
    """'912 of the 921 images'."""
    return f"{int(part.sum()):,} of the {int(whole.sum()):,} images"


def _round_of_classes(labels, rows):
    """`rows` reordered: the first of every class, then the second of every class ..."""
    taken: dict[int, int] = {}
    turns = []
    for label in labels[rows]:
        turns.append(taken.setdefault(int(label), 0))
        taken[int(label)] += 1
    return rows[np.lexsort((labels[rows], turns))]


def _tiles(where, images, rows) -> np.ndarray:
    """The chosen images as float (M, H, W) in [0, 1]."""
    chosen = np.asarray(images)[rows]
    if chosen.dtype == np.uint8:
        chosen = chosen / 255.0
    chosen = chosen.astype(np.float64)
    if chosen.ndim == 4 and chosen.shape[-1] == 1:
        chosen = chosen[..., 0]
    if chosen.ndim == 2:
        side = round(chosen.shape[1] ** 0.5)
        if side * side == chosen.shape[1]:
            chosen = chosen.reshape(-1, side, side)
    if chosen.ndim != 3:
        raise JaxnnError(
            f"{where}: got images of shape {chosen.shape[1:]}, expected (H, W), "
            "(H, W, 1) or a flat square; reshape them to (N, H, W)"
        )
    if chosen.min() < -1e-3 or chosen.max() > 1 + 1e-3:
        raise JaxnnError(
            f"{where}: got floats from {chosen.min():g} to {chosen.max():g}, expected "
            "0 to 1; pass uint8, or undo the standardisation"
        )
    return chosen


def _extent(tiles):
    """Width and height of an image in inches; the longer side is TILE."""
    height, width = tiles.shape[1:]
    return TILE * width / max(height, width), TILE * height / max(height, width)


def _canvas(width, height, title):
    """One axes over the whole figure, in inches from the top left below the title.

    Many images on one axes draw several times faster than one axes for each.
    """
    width = max(width, _text_width([title], 10) + 2 * GAP)
    figure = _figure(width, height + HEAD)
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set_xlim(0, width)
    ax.set_ylim(height, -HEAD)
    ax.set_autoscale_on(False)
    ax.axis("off")
    ax.text(
        width / 2, -0.6 * HEAD, title, ha="center", va="center", fontsize=10, color=INK
    )
    return ax


def _tile(ax, x, y, image, caption, colour, **colours):
    """One image with its caption above; x, y: inches of the caption's top left."""
    width, height = _extent(image[None])
    top = y + CAPTION
    extent = (x, x + width, top + height, top)
    ax.imshow(image, extent=extent, aspect="auto", **colours)
    ax.add_patch(Rectangle((x, top), width, height, fill=False, ec=GREY, lw=0.6))
    ax.text(x + width / 2, top - 0.03, caption, ha="center", fontsize=8, color=colour)


# ---------------------------------------------------------------- shared


def _picked(probabilities, columns):
    return np.take_along_axis(probabilities, columns[:, None], 1)[:, 0]


def _percent(p: float) -> str:
    """Whole percent; never '100%' of what is less."""
    if not np.isfinite(p):
        return "not finite"
    if p < 1 and p > 0.995:
        return ">99%"
    return f"{100 * p:.0f}%"


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'s' * (number != 1)}"


def _same_length(where, **arrays):
    """Raise unless all arrays have the same number of rows."""
    lengths = {name: len(a) for name, a in arrays.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        found = ", ".join(f"{name} {n}" for name, n in lengths.items())
        raise JaxnnError(f"{where}: got {found} rows, expected one number, at least 1")


def _say(text, path):
    """A picture of one sentence, so that a report has something to show."""
    figure = _figure(6, 1.2)
    figure.text(0.5, 0.5, text, ha="center", va="center", fontsize=12, color=INK)
    _save(figure, path)


def _text_width(texts, fontsize) -> float:
    """About as many inches as the longest text takes."""
    return 0.62 * fontsize / 72 * max(map(len, texts))


def _axes(figure, left, bottom, width, height):
    """Axes at a place in inches from the bottom left."""
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / up, width / across, height / up))


def _figure(width, height) -> Figure:
    """An empty figure of so many inches, with its own canvas."""
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _save(figure, path):
    write_with(path, lambda file: figure.savefig(file, format="png", dpi=DPI))
