"""Images of a run: the mistakes, and the images before and after an attack."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike

from jaxnn.errors import JaxnnError
from jaxnn.plots.panels import (
    BLUE,
    GRAY,
    GRAYS,
    INK,
    RED,
    SIGNED,
    as_written,
    counted,
    draw_words,
    new_figure,
    percent,
    same_length,
    save,
    text_width,
)

# inches: an image's longer side, between images, the line above one, the title
TILE, GAP, CAPTION, HEAD = 1.27, 0.13, 0.165, 0.4
LONG = 14  # letters of a class's name above an image


def mistakes(
    images: ArrayLike,
    labels: ArrayLike,
    probabilities: ArrayLike,
    path: str | Path | None = None,
    count: int = 25,
    dpi: int | None = None,
    names: Sequence[str] = (),
) -> Figure:
    """The wrongly classified images of highest loss -log p[label], worst first.

    Args:
      images: (N, H, W), (N, H, W, 1) or square ones flat, (N, H * W); uint8 in 0..255
        or float in [0, 1].
      labels: (N,) integers.
      probabilities: (N, C), rows that sum to 1.
      path, dpi: see `jaxnn.plots`.
      count: how many at most; if there are no mistakes the picture says so.
      names: of the classes, where they are not their numbers.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities)
    same_length("mistakes", images=images, labels=labels, probabilities=probabilities)
    said = probabilities.argmax(1)
    wrong = np.flatnonzero(said != labels)
    if not len(wrong):
        none = f"No mistakes: all {len(labels):,} images are right."
        return draw_words(none, path, dpi)
    p_label, p_said = (
        np.take_along_axis(probabilities, rows[:, None], 1)[:, 0]
        for rows in (labels, said)
    )
    # float32 rounds many p[label] to 0: then the surer mistake is the worse one
    worst = wrong[np.lexsort((-p_said[wrong], p_label[wrong]))][:count]
    tiles = _tiles("mistakes", images, worst)
    which = f"The {len(worst)} worst of" if len(worst) < len(wrong) else "All"
    title = (
        f"{which} {counted(len(wrong), 'mistake')} in {len(labels):,} images "
        f"({100 * len(wrong) / len(labels):.2f}%), highest loss first"
    )
    columns = min(5, len(worst))
    captions = [_verdict(labels[i], probabilities[i], names)[0] for i in worst]
    across, down, indent, above = _cells(tiles, captions)
    ax = _canvas(columns * across + GAP, -(-len(worst) // columns) * down, title)
    for place, (tile, caption) in enumerate(zip(tiles, captions, strict=True)):
        line, column = divmod(place, columns)
        at = GAP + indent + column * across, above + line * down
        _tile(ax, *at, tile, caption, INK, **GRAYS)
    return save(ax.figure, path, dpi)


def adversarial(
    clean: ArrayLike,
    attacked: ArrayLike,
    labels: ArrayLike,
    before: ArrayLike,
    after: ArrayLike,
    epsilon: float,
    path: str | Path | None = None,
    count: int = 8,
    *,
    norm: str = "linf",
    attack: str = "The attack",
    budget: bool = True,
    dpi: int | None = None,
    names: Sequence[str] = (),
) -> Figure:
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
      path, dpi: see `jaxnn.plots`.
      count: how many images at most.
      norm: of the budget. For "linf" the colors reach from -epsilon to +epsilon, for
        others to the largest change that is shown.
      attack: its name, for the title.
      budget: False says that `epsilon` is no budget but the largest change found.
      names: of the classes, where they are not their numbers.
    """
    labels, before, after = map(np.asarray, (labels, before, after))
    same_length(
        "adversarial", clean=clean, attacked=attacked, labels=labels, before=before,
        after=after,
    )  # fmt: skip
    right = before.argmax(1) == labels
    fooled = right & (after.argmax(1) != labels)
    pool = next((m for m in (fooled, right) if m.any()), np.ones_like(right))
    shown = round_of_classes(labels, np.flatnonzero(pool))[:count]
    tiles = [_tiles("adversarial", images, shown) for images in (clean, attacked)]
    if tiles[0].shape != tiles[1].shape:
        raise JaxnnError(
            f"adversarial: clean images are {tiles[0].shape[1:]} but attacked ones "
            f"{tiles[1].shape[1:]}, expected the same"
        )
    change = tiles[1] - tiles[0]
    limit = epsilon if norm == "linf" else max(float(np.abs(change).max()), 1e-12)
    signed = {"cmap": SIGNED, "vmin": -limit, "vmax": limit}
    title = (
        f"{attack} ({norm}, {'epsilon' if budget else 'at most'} {epsilon:.3g}) fools "
        f"{int(fooled.sum()):,} of the {counted(int(right.sum()), 'image')} that were "
        f"right{': these survived' * bool(right.any() and not fooled.any())}"
    )
    captions = [
        [_verdict(labels[i], p[i], names) for i in shown] for p in (before, after)
    ]
    most = "" if norm != "linf" else "±epsilon" if budget else "±most"
    return _rows_of_tiles(title, {
        "clean": (tiles[0], captions[0], GRAYS),
        "change\n= attacked\n   - clean": (change, [("", INK)] * len(shown), signed),
        "attacked": (tiles[1], captions[1], GRAYS),
    }, most, signed, path, dpi)  # fmt: skip


def _rows_of_tiles(title, rows, key, signed, path, dpi):
    """Named rows of images with captions, the key to the second's colors beside it."""
    tiles = next(iter(rows.values()))[0]
    height = _extent(tiles)[1]
    said = [words for _, captions, _ in rows.values() for words, _ in captions]
    wide, step, indent, above = _cells(tiles, said)
    left = 1.05  # inches: the names of the rows
    across = left + len(tiles) * wide
    ax = _canvas(across + 0.75, len(rows) * step, title)
    middle = {"ha": "right", "va": "center", "fontsize": 9, "color": INK}
    for line, (name, (images, captions, colors)) in enumerate(rows.items()):
        y = line * step + above
        ax.text(left - 2 * GAP, y + height / 2, name, **middle)
        for column, (image, caption) in enumerate(zip(images, captions, strict=True)):
            _tile(ax, left + indent + column * wide, y, image, *caption, **colors)
    top, limit = step + above, signed["vmax"]
    bar = np.linspace(limit, -limit, 64)
    place = (across, across + 0.12, top + height, top)
    ax.imshow(bar[:, None], extent=place, aspect="auto", **signed)
    style = {"fontsize": 8, "color": INK}
    for share, text in ((0, f"+{limit:.3g}"), (0.5, "0"), (1, f"-{limit:.3g}")):
        ax.text(across + 0.17, top + share * height, text, va="center", **style)
    ax.text(across, top - 0.09, key, va="bottom", **style)
    return save(ax.figure, path, dpi)


def _verdict(label, probabilities, names):
    """Caption and color: 'is 4, said 9 (99%)', wrong ones in vermilion.

    Names have a line each.
    """
    said = probabilities.argmax()
    is_, was = (_short(names[i]) if names else i for i in (label, said))
    between = "\n" if names else ", "
    caption = f"is {is_}{between}said {was} ({percent(probabilities[said])})"
    return caption, RED if said != label else BLUE


def _short(name):
    return as_written(name if len(name) <= LONG else f"{name[: LONG - 1]}…")


def round_of_classes(labels: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """`rows` reordered: the first of every class, then the second of every class ..."""
    taken: dict[int, int] = {}
    turns = []
    for label in labels[rows]:
        turns.append(taken.setdefault(int(label), 0))
        taken[int(label)] += 1
    return rows[np.lexsort((labels[rows], np.array(turns, int)))]


def _tiles(where, images, rows) -> np.ndarray:
    """The chosen images as float (M, H, W) in [0, 1]."""
    chosen = np.asarray(images)[rows]
    chosen = chosen.astype(np.float64) / (255.0 if chosen.dtype == np.uint8 else 1.0)
    if chosen.ndim == 4 and chosen.shape[-1] == 1:
        chosen = chosen[..., 0]
    side = round(chosen.shape[1] ** 0.5)
    if chosen.ndim == 2 and side * side == chosen.shape[1]:
        chosen = chosen.reshape(-1, side, side)
    if chosen.ndim != 3:
        raise JaxnnError(
            f"{where}: got images of shape {chosen.shape[1:]}, expected (H, W), "
            "(H, W, 1) or a flat square; reshape them to (N, H, W)"
        )
    if chosen.min() < -1e-3 or chosen.max() > 1 + 1e-3:
        raise JaxnnError(
            f"{where}: got floats from {chosen.min():g} to {chosen.max():g}, expected "
            "0 to 1; pass uint8, or undo the standardization"
        )
    return chosen


def _extent(tiles):
    """Width and height of an image in inches; the longer side is TILE."""
    height, width = tiles.shape[1:]
    return TILE * width / max(height, width), TILE * height / max(height, width)


def _cells(tiles, captions):
    """How far images stand apart, across and down, and where in its cell one begins:
    a caption has the room that it takes."""
    width, height = _extent(tiles)
    words = [caption.split("\n") for caption in captions]
    across = max(width, *(text_width(lines, 8) for lines in words))
    above = CAPTION * max(map(len, words))
    return across + GAP, above + height + GAP, (across - width) / 2, above


def _canvas(width, height, title):
    """One axes over the whole figure, in inches from the top left below the title.

    Many images on one axes draw several times faster than one axes for each.
    """
    wide = max(width, text_width([title], 10) + 2 * GAP)
    ax = new_figure(wide, height + HEAD).add_axes((0, 0, 1, 1))
    ax.set(xlim=((width - wide) / 2, (width + wide) / 2), ylim=(height, -HEAD))
    ax.set_autoscale_on(False)
    ax.axis("off")
    style = {"ha": "center", "va": "center", "fontsize": 10, "color": INK}
    ax.text(width / 2, -0.6 * HEAD, title, **style)
    return ax


def _tile(ax, x, y, image, caption, color, **colors):
    """One image with its caption above; x, y: inches of its top left."""
    width, height = _extent(image[None])
    ax.imshow(image, extent=(x, x + width, y + height, y), aspect="auto", **colors)
    ax.add_patch(Rectangle((x, y), width, height, fill=False, ec=GRAY, lw=0.6))
    ax.text(x + width / 2, y - 0.03, caption, ha="center", fontsize=8, color=color)
