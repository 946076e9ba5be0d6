"""Moving pictures: GIF files from figures."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxnn.files import write_with

COLORS = 96  # of the palette that all frames share
DPI = 72
HOLD = 2000  # milliseconds that the last frame stays


def animation(
    frames: Iterable[Any], path: str | Path, *, seconds_per_frame: float
) -> None:
    """Write figures as the frames of an endless GIF, whole or not at all.

    All frames share the palette of the first and the last one, so nothing flickers and
    the file stays small. Frames may be the same `Figure`, changed in between: each is
    drawn as it comes.
    """
    images = [_drawn(figure) for figure in frames]
    both = Image.fromarray(
        np.concatenate([np.asarray(images[0]), np.asarray(images[-1])])
    )
    palette = both.quantize(COLORS, dither=Image.Dither.NONE)
    drawn = [i.quantize(palette=palette, dither=Image.Dither.NONE) for i in images]
    durations = [round(1000 * seconds_per_frame)] * (len(drawn) - 1) + [HOLD]

    def save(file):
        drawn[0].save(
            file, "GIF", save_all=True, append_images=drawn[1:], duration=durations,
            loop=0, optimize=False,
        )  # fmt: skip

    write_with(path, save)


def _drawn(figure) -> Image.Image:
    figure.set_dpi(DPI)
    figure.canvas.draw()
    figure.set_layout_engine("none")  # the first frame's: else the panels would tremble
    return Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3].copy())
