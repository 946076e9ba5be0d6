"""Moving pictures: GIF files from figures."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxnn.errors import JaxnnError
from jaxnn.files import write_with

COLORS = 96  # of the palette that all frames share
DPI = 72


def animation(
    frames: Iterable[Any],
    path: str | Path,
    *,
    seconds_per_frame: float = 0.1,
    hold: float = 2.0,
    dpi: int = DPI,
) -> None:
    """Write figures as the frames of an endless GIF, whole or not at all.

    All frames share the palette of the first and the last one, so nothing flickers and
    the file stays small. Frames may be the same `Figure`, changed in between: each is
    drawn as it comes.

    Args:
      frames: matplotlib figures of one size.
      path: the GIF file.
      seconds_per_frame: how long each is shown.
      hold: how long the last one stays.
      dpi: dots an inch of the figures.

    Raises:
      JaxnnError: no frames, or frames of different size.
    """
    images = [_drawn(figure, dpi) for figure in frames]
    if not images:
        raise JaxnnError(f"animation: got no frames for {path}, expected at least one")
    sizes = {image.size for image in images}
    if len(sizes) > 1:
        raise JaxnnError(f"animation: got frames of sizes {sorted(sizes)} dots")
    both = Image.fromarray(
        np.concatenate([np.asarray(images[0]), np.asarray(images[-1])])
    )
    palette = both.quantize(COLORS, dither=Image.Dither.NONE)
    drawn = [i.quantize(palette=palette, dither=Image.Dither.NONE) for i in images]
    durations = [round(1000 * seconds_per_frame)] * len(drawn)
    durations[-1] = round(1000 * hold)

    def save(file):
        drawn[0].save(
            file, "GIF", save_all=True, append_images=drawn[1:], duration=durations,
            loop=0, optimize=False,
        )  # fmt: skip

    write_with(path, save)


def _drawn(figure, dpi) -> Image.Image:
    figure.set_dpi(dpi)
    figure.canvas.draw()
    figure.set_layout_engine("none")  # the first frame's: else the panels would tremble
    return Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3].copy())
