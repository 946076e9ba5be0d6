"""Weights as pictures: what each unit looks for in its input."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxnn.errors import JaxnnError
from jaxnn.plots.shared import INK, PALE, SIGNED


def filters(
    ax: Any,
    weights: np.ndarray,
    title: str = "",
    *,
    columns: int | None = None,
    captions: Sequence[str] = (),
    shared_scale: bool = False,
) -> None:
    """Draw weights as tiles: vermilion where positive, blue where negative, 0 white.

    Args:
      ax: the panel.
      weights: (N, H, W) pictures, or (I, N) the weights of a dense layer whose I inputs
        are the pixels of square pictures.
      title: of the panel; the largest weight of each tile has full colour.
      columns: tiles side by side; None: about a square.
      captions: a word below each tile.
      shared_scale: one colour scale for all tiles, so that strong ones stand out.

    Raises:
      JaxnnError: the weights are no pictures, or captions and tiles differ in number.
    """
    tiles = _pictures(np.asarray(weights, float))
    count, height, width = tiles.shape
    if captions and len(captions) != count:
        raise JaxnnError(f"filters: got {len(captions)} captions for {count} tiles")
    columns = min(columns or int(np.ceil(np.sqrt(count))), count)
    largest = (
        abs(tiles).max() if shared_scale else abs(tiles).max((1, 2), keepdims=True)
    )
    tiles = tiles / np.maximum(largest, np.finfo(float).tiny)
    gap = 0.08 * max(height, width)
    down = height + gap + 0.2 * height * bool(captions)
    for i, tile in enumerate(tiles):
        x, y = (i % columns) * (width + gap), (i // columns) * down
        extent = (x, x + width, y + height, y)
        ax.imshow(tile, cmap=SIGNED, vmin=-1, vmax=1, extent=extent, zorder=2)
        if captions:
            ax.text(
                x + width / 2, y + height + 0.5 * gap, captions[i], ha="center",
                va="top", fontsize=8, color=INK,
            )  # fmt: skip
    rows = -(-count // columns)
    ax.set_xlim(-gap, columns * (width + gap))
    ax.set_ylim(rows * down, -gap)
    ax.set_aspect("equal")
    ax.set_facecolor(PALE)
    ax.grid(False)
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_title(title, fontsize=10, color=INK)


def _pictures(weights: np.ndarray) -> np.ndarray:
    if weights.ndim == 3 and weights.size:
        return weights
    side = round(weights.shape[0] ** 0.5) if weights.ndim == 2 else 0
    if weights.ndim != 2 or side * side != weights.shape[0] or not weights.size:
        raise JaxnnError(
            f"filters: got weights of shape {weights.shape}, expected pictures "
            "(N, H, W), or (I, N) with I the pixels of a square"
        )
    return weights.T.reshape(-1, side, side)
