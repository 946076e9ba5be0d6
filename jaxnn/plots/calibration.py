"""Are the numbers that a network says right? Probabilities, and predicted values."""

from typing import Any

import numpy as np

from jaxnn.plots.panels import name_axes, show_legend
from jaxnn.plots.shared import BLUE, GREY, INK, same_length


def calibration_bins(
    probabilities: np.ndarray, happened: np.ndarray, bins: int = 10
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """What was said against what happened, in bins of equal numbers of rows.

    Args:
      probabilities: (N,) that it happens, as the network said.
      happened: (N,) whether it did, 0 or 1.
      bins: how many; N // bins rows each, or one more.

    Returns:
      for each bin the mean probability said, the share that happened and its standard
      error; and the expected calibration error, the mean over rows of
      |said - happened| of their bins. Source: Guo et al. 2017.
    """
    p, t = np.asarray(probabilities, float), np.asarray(happened, float)
    same_length("calibration", probabilities=p, happened=t)
    parts = np.array_split(np.argsort(p, kind="stable"), min(bins, len(p)))
    said = np.array([p[rows].mean() for rows in parts])
    share = np.array([t[rows].mean() for rows in parts])
    sizes = np.array([len(rows) for rows in parts])
    error = np.sqrt(share * (1 - share) / sizes)
    return said, share, error, float((sizes * abs(said - share)).sum() / len(p))


def calibration(
    ax: Any, probabilities: np.ndarray, happened: np.ndarray, thing: str, bins: int = 10
) -> float:
    """Draw what was said against what happened; returns the calibration error.

    On the diagonal, of those given 70% seventy of a hundred are what `thing` says.
    """
    said, share, error, gap = calibration_bins(probabilities, happened, bins)
    ax.plot([0, 1], [0, 1], color=GREY, lw=1, ls=":", label="perfectly calibrated")
    ax.errorbar(
        said, share, error, color=BLUE, marker="o", ms=4.5, lw=1.5, capsize=2.5,
        label=f"network, error {100 * gap:.1f} points",
    )  # fmt: skip
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1)
    ax.set_aspect("equal")
    name_axes(ax, f"probability said: {thing}", f"share: {thing}", "Calibration")
    show_legend(ax, loc="upper left")
    return gap


def predicted_against_true(
    ax: Any, true: np.ndarray, predicted: np.ndarray, name: str, scale: float = 1.0
) -> None:
    """One dot a row, on the diagonal where the prediction is right.

    Args:
      ax: the panel.
      true, predicted: (N,).
      name: of the quantity, with its unit after division by `scale`.
      scale: what both are divided by.
    """
    t, p = np.asarray(true, float) / scale, np.asarray(predicted, float) / scale
    same_length("predicted_against_true", true=t, predicted=p)
    low, high = min(t.min(), p.min(), 0.0), max(t.max(), p.max())
    low, high = low - 0.03 * (high - low), high + 0.05 * (high - low)
    ax.plot([low, high], [low, high], color=GREY, lw=1, ls=":")
    ax.text(
        0.04, 0.93, "dotted: predicted = true", fontsize=8, color=GREY,
        transform=ax.transAxes,
    )  # fmt: skip
    ax.scatter(t, p, s=14, color=BLUE, alpha=0.35, lw=0)
    ax.set_xlim(low, high)
    ax.set_ylim(low, high)
    ax.set_aspect("equal")
    ax.tick_params(colors=INK)
    name_axes(ax, f"true {name}", f"predicted {name}")
