"""Pictures of pictures: the worst mistakes, and attacked images."""

from pathlib import Path

import numpy as np
from matplotlib.patches import Rectangle

from jaxnn.errors import JaxnnError
from jaxnn.plots.shared import (
    BLUE,
    CAPTION,
    GAP,
    GREY,
    GREYS,
    HEAD,
    INK,
    RED,
    SIGNED,
    TILE,
    counted,
    draw_words,
    new_figure,
    percent,
    picked,
    same_length,
    save,
    text_width,
)


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
    same_length("mistakes", images=images, labels=labels, probabilities=probabilities)
    said = probabilities.argmax(1)
    wrong = np.flatnonzero(said != labels)
    if not len(wrong):
        return draw_words(f"No mistakes: all {len(labels):,} images are right.", path)
    p_label, p_said = picked(probabilities, labels), picked(probabilities, said)
    # float32 rounds many p[label] to 0: then the surer mistake is the worse one
    worst = wrong[np.lexsort((-p_said[wrong], p_label[wrong]))][:count]
    tiles = _tiles("mistakes", images, worst)
    columns = min(5, len(worst))
    which = f"The {len(worst)} worst of" if len(worst) < len(wrong) else "All"
    title = (
        f"{which} {counted(len(wrong), 'mistake')} in {len(labels):,} images "
        f"({100 * len(wrong) / len(labels):.2f}%), highest loss first"
    )
    width, height = _extent(tiles)
    lines = -(-len(worst) // columns)
    ax = _canvas(columns * (width + GAP) + GAP, lines * (height + CAPTION + GAP), title)
    for place, (i, tile) in enumerate(zip(worst, tiles, strict=True)):
        line, column = divmod(place, columns)
        caption = f"is {labels[i]}, said {said[i]} ({percent(p_said[i])})"
        x = GAP + column * (width + GAP)
        y = line * (height + CAPTION + GAP)
        _tile(ax, x, y, tile, caption, INK, **GREYS)
    save(ax.figure, path)


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
    budget: bool = True,
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
      budget: False says that `epsilon` is no budget but the largest change found.

    Raises:
      JaxnnError: lengths or image sizes differ, or there are no images.
    """
    labels, before, after = map(np.asarray, (labels, before, after))
    same_length(
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
        f"{attack} ({norm}, {'epsilon' if budget else 'at most'} {epsilon:.3g}) fools "
        f"{_share_of(fooled, right)} that were right"
    )
    if not fooled.any():
        title += ": these survived" if right.any() else ""
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
        ax.text(
            across,
            top - 0.09,
            "±epsilon" if budget else "±most",
            fontsize=8,
            va="bottom",
            color=INK,
        )
    save(ax.figure, path)


def _verdict(i, labels, probabilities, said):
    """Caption and colour: 'is 4, said 9 (99%)', wrong ones in vermilion and bold."""
    p = percent(probabilities[i, said[i]])
    wrong = said[i] != labels[i]
    return f"is {labels[i]}, said {said[i]} ({p})", RED if wrong else BLUE


def _share_of(part, whole) -> str:
    """'912 of the 921 images'."""
    return f"{int(part.sum()):,} of the {counted(int(whole.sum()), 'image')}"


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
    wide = max(width, text_width([title], 10) + 2 * GAP)
    figure = new_figure(wide, height + HEAD)
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set_xlim((width - wide) / 2, (width + wide) / 2)
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
