"""A picture of a mark, from a scanner, a phone or a paint program, made like MNIST.

MNIST's own recipe: the ink, bright on black, fits a 20 x 20 box with its proportions
kept, grays come from anti-aliasing, and the center of mass lies in the middle of
28 x 28 pixels (on average at index 14.0 in both directions, at most 0.5 away). Sets of
another size have boxes of another size: `how_marks_lie` measures them.

Source: Y. LeCun et al., "The MNIST database of handwritten digits".
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxnn.data.picture import CONTRAST, bad_picture, gray_levels, open_picture, smaller

SIDE = 28  # pixels
_FAINT = 0.2  # of the strongest ink: paler pixels do not widen the box
_NOISE = 6.0  # standard deviations of the background that are not ink
MOTTLED = 128.0  # levels of noise from which a ground is none
SAMPLE = 1000  # images that are enough to measure a set by
APART, SHARE = 0.05, 0.2
"""Two marks are those that an empty band divides, as wide as this share of the longer
side, with at least this share of the ink on either side."""


class Marks(NamedTuple):
    """How the marks of a set, bright on black, lie in its square pictures: pixels."""

    box: float  # longer side of the ink
    center: float  # index at which the center of mass is, in both directions
    drift: float  # how far from there it is at most, but for one in a hundred


MNIST = Marks(20, 14, 0.5)


def ground_of(x: np.ndarray) -> float | None:
    """The level in 0..255 of the paper that pictures (N, H, W) uint8 are drawn on.

    None where half of the pixels at their borders are none of one level.
    """
    border = np.stack([x[:, 0], x[:, -1]]), np.stack([x[..., 0], x[..., -1]])
    border = np.concatenate([a.ravel() for a in border]).astype(np.float32)
    level = float(np.median(border))
    return level if (np.abs(border - level) < CONTRAST).mean() >= 0.5 else None


def how_marks_lie(x: np.ndarray) -> Marks | None:
    """Measure pictures (N, H, W) uint8; None unless they are marks on black."""
    x = x[x.max((1, 2)) > 0].astype(np.float64)
    ground = ground_of(x) if len(x) else None
    if ground is None or ground >= CONTRAST or x.shape[1] != x.shape[2]:
        return None
    side = x.shape[1]
    ink = x > _FAINT * x.max((1, 2), keepdims=True)
    lines = np.stack([ink.any(2), ink.any(1)], 1)  # (N, rows or columns, side)
    spans = side - lines.argmax(2) - lines[..., ::-1].argmax(2)
    sums = np.stack([x.sum(2), x.sum(1)], 1)
    centers = (sums * np.arange(side)).sum(2) / sums.sum(2)
    center = float(np.median(centers))
    drift = float(np.quantile(np.abs(centers - center).max(1), 0.99))
    box = float(np.median(spans.max(1)))
    found = Marks(box, round(center, 2), round(drift, 2))
    return found if drift <= side / 8 else None


def read_digit(path: str | Path) -> np.ndarray:
    """Read any picture of one digit, in one of `picture.FORMATS`, as MNIST shows it.

    Any size, color or depth; dark ink on a bright ground is inverted (the border
    tells the ground); transparent parts count as white paper, or as black if the ink
    is white. Ink that lies in a 20 x 20 box of 28 x 28 pixels is only centered.

    Returns:
      uint8 (28, 28), background 0, strongest ink 255.

    Raises:
      JaxnnError: missing, empty, not an image or several, cut, too large, or without
        ink.
    """
    return read_mark(path)[0]


def read_mark(
    path: str | Path, side: int = SIDE, marks: Marks = MNIST
) -> tuple[np.ndarray, bool]:
    """Read any picture of one mark as a set shows it; see `read_digit`.

    A picture that is as those of the set are, in size, ground and place, stays as it
    is.

    Args:
      path: the file.
      side: of the set's pictures.
      marks: how they lie there.

    Returns:
      uint8 (side, side), and whether there seem to be two marks: see `APART`.

    Raises:
      JaxnnError: as `read_digit`.
    """
    gray = smaller(gray_levels(open_picture(path)))
    ink, noise = _strength(gray, path)
    there = ink > max(_FAINT * ink.max(), noise)
    where = _bounds(_solid(there))
    box, two = ink[where], _divided(np.where(there, ink, 0)[where])
    if gray.shape == (side, side) and max(box.shape) <= marks.box:
        at = _center(gray)
        black = np.median(_border(gray)) < CONTRAST
        if black and max(abs(c - marks.center) for c in at) <= marks.drift:
            return gray.round().astype(np.uint8), two
        return _place(ink[_bounds(ink > 0)], side, marks.center), two
    from PIL import Image

    # the longer side takes as many pixels as in the set, anti-aliased
    scale = marks.box / max(box.shape)
    height, width = (max(1, round(length * scale)) for length in box.shape)
    image = Image.fromarray(box.astype(np.float32))
    small = image.resize((width, height), Image.Resampling.HAMMING)
    return _place(np.asarray(small, np.float64).clip(0), side, marks.center), two


def _divided(ink: np.ndarray) -> bool:
    """Whether an empty band divides the ink: see `APART`."""
    for axis in (0, 1):
        lines = ink.sum(axis)
        filled, before = np.flatnonzero(lines), np.cumsum(lines) / lines.sum()
        wide = np.diff(filled) - 1 >= max(1, APART * max(ink.shape))
        shares = before[filled[:-1]][wide]
        if ((shares >= SHARE) & (shares <= 1 - SHARE)).any():
            return True
    return False


def _border(gray: np.ndarray) -> np.ndarray:
    return np.concatenate([gray[0], gray[-1], gray[1:-1, 0], gray[1:-1, -1]])


def _ground(gray: np.ndarray) -> tuple[np.ndarray, float]:
    """The background at each pixel, and the level up to which it is only noise.

    Uneven light is a plane through the border, fitted without what sticks out of it,
    as the ink may touch the border.
    """
    at = np.indices(gray.shape).astype(np.float64)
    border = _border(gray)
    where = np.stack([np.ones(border.shape), _border(at[0]), _border(at[1])], axis=1)
    plane = np.array([np.median(border), 0.0, 0.0])
    off = np.abs(border - plane[0])
    for _ in range(3):
        spread = 1.4826 * np.median(off)
        near = off <= 3 * spread
        if spread == 0 or near.sum() < 8:
            break
        plane = np.linalg.lstsq(where[near], border[near])[0]
        off = np.abs(border - where @ plane)
    noise = _NOISE * 1.4826 * float(np.median(off))
    return plane[0] + plane[1] * at[0] + plane[2] * at[1], noise


def _strength(gray: np.ndarray, path: str | Path) -> tuple[np.ndarray, float]:
    """How far each pixel is from the background, towards the ink; and the noise.

    Pixels within half the noise are 0.
    """
    ground, noise = _ground(gray)
    above = gray - ground
    ink = (above if above.max() >= -above.min() else -above).clip(0)
    ink[ink <= noise / 2] = 0
    least = max(CONTRAST, noise)
    if noise > MOTTLED:
        raise bad_picture(
            path, "a picture whose border is of many levels",
            "a mark on plain ground, as the training images are", "Crop it to one.",
        )  # fmt: skip
    if ink.max() < least:
        raise bad_picture(
            path, f"a blank picture (its strongest mark is {ink.max():.0f} of 255)",
            f"ink that differs from its background by {least:.0f} or more",
            "Use a picture with more contrast.",
        )  # fmt: skip
    return ink, noise


def _solid(mask: np.ndarray) -> np.ndarray:
    """Without the pixels that have fewer than two neighbors, if any are left."""
    padded = np.pad(mask, 1)
    height, width = mask.shape
    around = np.zeros(mask.shape, np.int8)
    for i in range(3):
        for j in range(3):
            around += padded[i : i + height, j : j + width]
    solid = mask & (around > 2)  # itself and two more
    return solid if solid.any() else mask


def _bounds(mask: np.ndarray) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _center(gray: np.ndarray) -> list[float]:
    """Row and column of the center of mass."""
    sums = gray.sum(1), gray.sum(0)
    return [float((a * np.arange(len(a))).sum() / a.sum()) for a in sums]


def _place(box: np.ndarray, side: int, center: float) -> np.ndarray:
    """Center of mass to its place in a square of `side`, strongest ink to 255."""
    corner = [
        min(max(round(center - at), 0), side - length)
        for at, length in zip(_center(box), box.shape, strict=True)
    ]
    digit = np.zeros((side, side), np.uint8)
    place = tuple(slice(a, a + n) for a, n in zip(corner, box.shape, strict=True))
    digit[place] = np.rint(box * (255 / box.max()))
    return digit
