"""What a network makes of the plane: regions, boundaries, lines of units, bent grids.

All functions draw on one panel (`jaxnn.plots.panels.panels`). Class 0 is blue and
round, class 1 vermilion and a triangle. P points, H hidden units.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxnn.plots.panels import BLUE, GRAY, GREEN, INK, RED, SIGNED

Extent = tuple[float, float, float, float]  # left, right, bottom, top
SIDE = 90  # points along each side at which the network is asked


def plane(extent: Extent) -> np.ndarray:
    """A square grid of points over `extent`: (SIDE * SIDE, 2), bottom row first."""
    left, right, bottom, top = extent
    across, up = np.linspace(left, right, SIDE), np.linspace(bottom, top, SIDE)
    return np.stack(np.meshgrid(across, up), -1).reshape(-1, 2)


def regions(ax: Any, values: Any, extent: Extent) -> None:
    """Color the plane by the network's answer, and draw the boundary between.

    values: on `plane(extent)`: above 0 is class 1, full color from 1 on.
    """
    image = np.asarray(values, float).reshape(SIDE, SIDE)
    ax.imshow(
        np.clip(image, -1, 1), cmap=SIGNED, vmin=-1.6, vmax=1.6, extent=extent,
        origin="lower", aspect="auto", interpolation="bilinear", zorder=0,
    )  # fmt: skip
    if image.min() < 0 < image.max():
        ax.contour(
            image, levels=[0.0], colors=[INK], linewidths=1.8, extent=extent, zorder=2
        )
    ax.grid(False)
    _window(ax, extent)


def class_points(ax: Any, x: np.ndarray, y: np.ndarray, size: float = 16) -> None:
    """Points x (P, 2) with labels y (P,) of 0 and 1."""
    for label, marker, color in ((0, "o", BLUE), (1, "^", RED)):
        rows = np.asarray(y) == label
        ax.scatter(
            *np.asarray(x)[rows].T, s=size, marker=marker, color=color, lw=0.4,
            edgecolors="white", zorder=3,
        )  # fmt: skip


def unit_lines(ax: Any, w: np.ndarray, b: np.ndarray, extent: Extent) -> None:
    """Where each hidden unit's input w_1 x_1 + w_2 x_2 + b is zero: a dashed line.

    A short arrow points to the side where it is positive. w (2, H), b (H,).
    """
    left, right, bottom, top = extent
    reach = float(np.hypot(right - left, top - bottom))
    for slope, offset in zip(np.asarray(w).T, np.asarray(b), strict=True):
        length = float(np.hypot(*slope))
        if length < 1e-12:
            continue  # a unit that ignores its input has no line
        normal = slope / length
        middle = np.array([(left + right) / 2, (bottom + top) / 2])
        # the point of the line nearest to the middle of the picture
        foot = middle - normal * (normal @ middle + offset / length)
        along = np.array([-normal[1], normal[0]])
        ends = np.stack([foot - reach * along, foot + reach * along])
        ax.plot(*ends.T, color=GREEN, ls="--", lw=1.5, zorder=2)
        tip = foot + 0.07 * reach * normal
        if left < foot[0] < right and bottom < foot[1] < top:
            ax.annotate(
                "", tip, foot, arrowprops={"arrowstyle": "->", "color": GREEN}, zorder=2
            )
    _window(ax, extent)


def bent_grid(ax: Any, lines: Sequence[np.ndarray]) -> None:
    """Lines of points, as they come out of a layer: each (P, 2)."""
    for line in lines:
        ax.plot(*np.asarray(line).T, color=GRAY, lw=0.7, zorder=1)


def grid_lines(extent: Extent, count: int = 21) -> list[np.ndarray]:
    """`count` straight lines each way over `extent`, each (80, 2), to be bent."""
    left, right, bottom, top = extent
    across, up = np.linspace(left, right, 80), np.linspace(bottom, top, 80)
    upright = [np.stack([0 * up + at, up], 1) for at in np.linspace(left, right, count)]
    level = [
        np.stack([across, 0 * across + at], 1) for at in np.linspace(bottom, top, count)
    ]
    return upright + level


def _window(ax, extent):
    ax.set_xlim(extent[:2])
    ax.set_ylim(extent[2:])
