"""Many networks that differ in their settings, in one compiled program if they can.

What only changes numbers (learning rate, penalty, dropout, noise, start, seed) runs
side by side; what changes shapes or the program (width, batch, activation) in turn.
"""

from jaxnn.sweep.group import network, train_group
from jaxnn.sweep.points import (
    TRACED,
    Group,
    Point,
    grouped,
    parse_axes,
    sweep_points,
)

__all__ = [
    "TRACED",
    "Group",
    "Point",
    "grouped",
    "network",
    "parse_axes",
    "sweep_points",
    "train_group",
]
