"""A sweep at one look: validation accuracy along each of its axes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxnn.plots.panels import COLOURS, name_axes, panels
from jaxnn.plots.shared import as_written, save


def sweep(settings: Sequence[dict], axes: Sequence[str], path: str | Path) -> None:
    """One panel an axis: a dot a setting, a line through the best at each value.

    Args:
      settings: `values` and `validation_accuracy` of each.
      axes: names among the values; "seed" is left out.
      path: of the picture.
    """
    axes = [name for name in axes if name != "seed"]
    columns = min(max(len(axes), 1), 3)
    rows = -(-max(len(axes), 1) // columns)
    figure, drawn = panels(
        columns, rows, title=f"Sweep of {len(settings)} settings, mean over their seeds"
    )
    accuracy = 100 * np.array([s["validation_accuracy"] for s in settings])
    low = max(np.quantile(accuracy, 0.1) - 3, 0) if len(accuracy) > 4 else None
    for ax in drawn[len(axes) :]:
        ax.set_axis_off()
    for ax, name in zip(drawn, axes, strict=False):
        at, ticks = _places([s["values"][name] for s in settings])
        ax.plot(at, accuracy, "o", color=COLOURS[0], alpha=0.45, markersize=4)
        places = np.unique(at)
        if len(places) < len(at):
            best = [accuracy[at == place].max() for place in places]
            ax.plot(places, best, "-", color=COLOURS[1], label="best there")
            ax.legend(loc="lower right")
        if ticks is None:
            ax.set_xscale("log")
        else:
            ax.set_xticks(range(len(ticks)), ticks)
        ax.set_ylim(bottom=low, top=min(accuracy.max() + 1, 100.5))
        name_axes(ax, name, "validation accuracy (%)")
    save(figure, Path(path))


def _places(values: Sequence[Any]) -> tuple[np.ndarray, list[str] | None]:
    """Where values stand on an axis, and its words; None: a logarithmic axis."""
    # none and other words before the numbers
    kinds = sorted(set(map(_key, values)), key=lambda k: (not isinstance(k, str), k))
    numbers = all(isinstance(v, (int, float)) for v in values)
    if numbers and len(kinds) > 8 and min(values) > 0:
        return np.array(values, float), None
    return (
        np.array([kinds.index(_key(v)) for v in values]),
        [f"{k:g}" if isinstance(k, (int, float)) else as_written(k) for k in kinds],
    )


def _key(value):
    if isinstance(value, (list, tuple)):
        return "+".join(value)
    return value if isinstance(value, (int, float)) else str(value)
