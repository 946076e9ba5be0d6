"""A picture of a digit, from a scanner, a phone or a paint program, made like MNIST.

MNIST's own recipe: the ink, bright on black, fits a 20 x 20 box with its proportions
kept, grays come from anti-aliasing, and the center of mass lies in the middle of
28 x 28 pixels (on average at index 14.0 in both directions, at most 0.5 away).

Source: Y. LeCun et al., "The MNIST database of handwritten digits".
"""

import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from jaxnn.errors import JaxnnError
from jaxnn.files import bad_file, open_file

SIDE = 28  # pixels
BOX = 20  # pixels the longer side of the ink takes
CENTER = 14  # index at which the center of mass goes
MAX_PIXELS = 64_000_000
LONGEST = 1500  # pixels of a side from twice of which on a picture is shrunk first
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "ICO", "TGA")
"""What is read; others (EPS) would start programs."""
_FAINT = 0.2  # of the strongest ink: paler pixels do not widen the box
_NOISE = 6.0  # standard deviations of the background that are not ink
_CONTRAST = 16.0  # gray levels of 255 that ink must differ from its background


def read_digit(path: str | Path) -> np.ndarray:
    """Read any picture of one digit, in one of `FORMATS`, as MNIST would show it.

    Any size, color or depth; dark ink on a bright ground is inverted (the border
    tells the ground); transparent parts count as white paper, or as black if the ink
    is white. Ink that lies in a 20 x 20 box of 28 x 28 pixels is only centered.

    Returns:
      uint8 (28, 28), background 0, strongest ink 255.

    Raises:
      JaxnnError: missing, empty, not an image or several, cut, too large, or without
        ink.
    """
    gray = _read_gray(Path(path))[0]
    ink, noise = _strength(gray, path)
    box = ink[_bounds(_solid(ink > max(_FAINT * ink.max(), noise)))]
    if gray.shape == (SIDE, SIDE) and max(box.shape) <= BOX:
        return _place(ink[_bounds(ink > 0)])
    from PIL import Image

    # the longer side takes 20 pixels, anti-aliased
    scale = BOX / max(box.shape)
    height, width = (max(1, round(side * scale)) for side in box.shape)
    image = Image.fromarray(box.astype(np.float32))
    small = image.resize((width, height), Image.Resampling.HAMMING)
    return _place(np.asarray(small, np.float64).clip(0))


def read_gray(path: str | Path) -> tuple[np.ndarray, bool]:
    """Read any picture as it is: uint8 (H, W), and whether it has color.

    Raises:
      JaxnnError: as `read_digit`, but for ink.
    """
    gray, colored = _read_gray(Path(path))
    return gray.round().astype(np.uint8), colored


def _bad(path: str | Path, got: str, expected: str, fix: str = "") -> JaxnnError:
    return bad_file(path, got, expected, fix or "Save it again as PNG or JPEG.")


def _read_gray(path: Path) -> tuple[np.ndarray, bool]:
    """The picture as float64 (H, W) gray levels in 0..255, no larger than needed, and
    whether it has color."""
    from PIL import Image, UnidentifiedImageError

    with open_file(path, "a picture") as file, warnings.catch_warnings():
        if not file.peek(1):
            raise _bad(path, "an empty file (0 bytes)", "a picture of a digit")
        # the limit below is stricter than the one Pillow warns of
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            # a PNG has checksums, which reading its pixels does not look at
            Image.open(file, formats=FORMATS).verify()
            file.seek(0)
            with Image.open(file, formats=FORMATS) as image:
                image = _loaded(image, path)
                return _smaller(_to_gray(image)), _is_colored(image)
        except Image.DecompressionBombError as error:
            raise _too_large(path, error) from error
        except UnidentifiedImageError as error:
            raise _bad(path, "a file that is no image", "a picture") from error
        except JaxnnError:
            raise
        except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
            # Pillow reports cut and corrupt files as any of these
            got = f"a damaged file ({error})"
            raise _bad(path, got, "a readable picture") from error


def _too_large(path: Path, size: Any) -> JaxnnError:
    got, limit = f"too large a picture ({size})", f"at most {MAX_PIXELS} pixels"
    return _bad(path, got, limit, "Crop or shrink it first.")


def _loaded(image: Any, path: Path) -> Any:
    from PIL import ImageOps

    if image.width * image.height > MAX_PIXELS:
        raise _too_large(path, f"{image.width}x{image.height}")
    if 0 in image.size or max(image.size) > LONGEST * min(image.size):
        size = f"a picture of {image.width} x {image.height} pixels"
        raise _bad(path, size, "one that can show a digit", "Crop it first.")
    # phones keep a second view of the same picture in a JPEG (MPO)
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise _bad(path, "a film or several pages", "one picture", "Save one of them.")
    image.load()
    return ImageOps.exif_transpose(image)


def _is_colored(image: Any) -> bool:
    if image.mode[0] in "1LIF":  # one channel, perhaps with transparency
        return False
    channels = np.asarray(image.convert("RGB"))
    return bool((channels.max(-1) != channels.min(-1)).any())


def _smaller(gray: np.ndarray) -> np.ndarray:
    """Means of squares, where a picture has far more pixels than its digit needs."""
    k = max(gray.shape) // LONGEST
    if k < 2:
        return gray.astype(np.float64)
    h, w = (side // k for side in gray.shape)
    squares = gray[: h * k, : w * k].reshape(h, k, w, k)
    return squares.mean((1, 3), dtype=np.float64)


def _to_gray(image: Any) -> np.ndarray:
    """Gray levels in 0..255 of a picture of any kind."""
    from PIL import Image

    if image.mode.startswith(("I", "F")):  # one channel, 16 or 32 bits
        values = np.nan_to_num(np.asarray(image, np.float64))
        top = values.max()
        if top > 255:
            values = values * (255 / (65535 if top <= 65535 else top))
        elif image.mode == "F" and 0 < top <= 1:
            values = values * 255
        return values.clip(0, 255)
    if "A" not in image.getbands() and "transparency" not in image.info:
        return np.asarray(image.convert("L"))
    image = image.convert("RGBA")
    for paper in ("white", "black"):
        sheet = Image.new("RGBA", image.size, paper)
        gray = np.asarray(Image.alpha_composite(sheet, image).convert("L"))
        if np.ptp(gray) >= _CONTRAST:
            break
    return gray


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
    least = max(_CONTRAST, noise)
    if ink.max() < least:
        raise _bad(
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


def _place(box: np.ndarray) -> np.ndarray:
    """Center of mass to the middle of 28 x 28, strongest ink to 255."""
    height, width = box.shape
    mass = box.sum()
    row = (box.sum(1) * np.arange(height)).sum() / mass
    column = (box.sum(0) * np.arange(width)).sum() / mass
    top = min(max(round(CENTER - row), 0), SIDE - height)
    left = min(max(round(CENTER - column), 0), SIDE - width)
    digit = np.zeros((SIDE, SIDE), np.uint8)
    digit[top : top + height, left : left + width] = np.rint(box * (255 / box.max()))
    return digit
