"""Pictures from files of any kind and size, as arrays: looked at before they are read.

`open_picture` refuses what is empty, cut, no image, several images, or made to fill a
memory; `read_gray` and `read_whole` make arrays of what it gives.
"""

import io
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from jaxnn.errors import JaxnnError
from jaxnn.files import bad_file, open_file

MAX_PIXELS = 64_000_000
LONGEST = 1500  # pixels of a side from twice of which on a picture is shrunk first
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "ICO", "TGA")
"""What is read; others (EPS) would start programs."""
ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm"}
"""Of names in a folder that are taken for pictures."""
CONTRAST = 16.0  # gray levels of 255 that ink must differ from its background


def bad_picture(path: str | Path, got: str, expected: str, fix: str = "") -> JaxnnError:
    """The error for a picture."""
    return bad_file(path, got, expected, fix or "Save it again as PNG or JPEG.")


def open_picture(path: str | Path, content: bytes | None = None) -> Any:
    """Read a picture: Pillow's, turned as it says.

    Args:
      path: the file.
      content: its bytes, where they lie in another file; `path` is their name then.

    Raises:
      JaxnnError: missing, empty, not an image or several, cut, or too large.
    """
    if content is not None:
        return _opened(io.BufferedReader(io.BytesIO(content)), path)  # type: ignore[arg-type]
    with open_file(path, "a picture") as file:
        return _opened(file, path)


def _opened(file, path):
    from PIL import Image, UnidentifiedImageError

    with warnings.catch_warnings():
        if not file.peek(1):
            raise bad_picture(path, "an empty file (0 bytes)", "a picture")
        # the limit below is stricter than the one Pillow warns of
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            # a PNG has checksums, which reading its pixels does not look at
            Image.open(file, formats=FORMATS).verify()
            file.seek(0)
            with Image.open(file, formats=FORMATS) as image:
                return _loaded(image, path)
        except Image.DecompressionBombError as error:
            raise _too_large(path, error) from error
        except UnidentifiedImageError as error:
            raise bad_picture(path, "a file that is no image", "a picture") from error
        except JaxnnError:
            raise
        except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
            # Pillow reports cut and corrupt files as any of these
            got = f"a damaged file ({error})"
            raise bad_picture(path, got, "a readable picture") from error


def _too_large(path, size):
    got, limit = f"too large a picture ({size})", f"at most {MAX_PIXELS} pixels"
    return bad_picture(path, got, limit, "Crop or shrink it first.")


def _loaded(image, path):
    from PIL import ImageOps

    if image.width * image.height > MAX_PIXELS:
        raise _too_large(path, f"{image.width}x{image.height}")
    if 0 in image.size or max(image.size) > LONGEST * min(image.size):
        size = f"a picture of {image.width} x {image.height} pixels"
        raise bad_picture(path, size, "one that can show a thing", "Crop it first.")
    # phones keep a second view of the same picture in a JPEG (MPO)
    if image.format != "MPO" and getattr(image, "is_animated", False):
        got, fix = "a film or several pages", "Save one of them."
        raise bad_picture(path, got, "one picture", fix)
    image.load()
    return ImageOps.exif_transpose(image)


def read_gray(
    path: str | Path, content: bytes | None = None
) -> tuple[np.ndarray, bool]:
    """Read a picture as it is: uint8 (H, W), and whether it has color.

    Raises:
      JaxnnError: as `open_picture`.
    """
    image = open_picture(path, content)
    gray = smaller(gray_levels(image)).round().astype(np.uint8)
    return gray, _is_colored(image)


def read_whole(path: str | Path, shape: tuple[int, ...]) -> np.ndarray:
    """Read a picture and make it `shape`, (H, W), or (H, W, 3) in color: uint8.

    Raises:
      JaxnnError: as `open_picture`, or it is blank.
    """
    image = open_picture(path)
    if len(shape) == 2:
        pixels = smaller(gray_levels(image)).round().astype(np.uint8)
    else:
        pixels = np.asarray(_on_paper(image, "white").convert("RGB"))
    if np.ptp(pixels) < CONTRAST:
        got = f"a blank picture (its levels differ by {np.ptp(pixels)} of 255)"
        raise bad_picture(path, got, "one that shows something", "Take another one.")
    return sized(pixels, shape)


def sized(pixels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Pixels uint8 (H, W) or (H, W, 3) as a picture of another height and width."""
    if pixels.shape == shape:
        return pixels
    from PIL import Image

    height, width = shape[:2]
    image = Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX)
    return np.asarray(image)


def _is_colored(image):
    if image.mode[0] in "1LIF":  # one channel, perhaps with transparency
        return False
    channels = np.asarray(image.convert("RGB"))
    return bool((channels.max(-1) != channels.min(-1)).any())


def smaller(gray: np.ndarray) -> np.ndarray:
    """Means of squares, where a picture has far more pixels than are needed: floats."""
    k = max(gray.shape) // LONGEST
    if k < 2:
        return gray.astype(np.float64)
    h, w = (side // k for side in gray.shape)
    squares = gray[: h * k, : w * k].reshape(h, k, w, k)
    return squares.mean((1, 3), dtype=np.float64)


def gray_levels(image: Any) -> np.ndarray:
    """Gray levels (H, W) in 0..255 of a picture of any kind."""
    if image.mode.startswith(("I", "F")):  # one channel, 16 or 32 bits
        values = np.nan_to_num(np.asarray(image, np.float64))
        top = values.max()
        if top > 255:
            values = values * (255 / (65535 if top <= 65535 else top))
        elif image.mode == "F" and 0 < top <= 1:
            values = values * 255
        return values.clip(0, 255)
    for paper in ("white", "black"):
        gray = np.asarray(_on_paper(image, paper).convert("L"))
        if np.ptp(gray) >= CONTRAST:
            break
    return gray


def _on_paper(image, paper):
    """A picture without transparency: what shows through is paper."""
    from PIL import Image

    if "A" not in image.getbands() and "transparency" not in image.info:
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, paper), image)
