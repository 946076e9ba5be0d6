"""A graph as a picture: values in the boxes, gradients on the edges."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path as Curve

from jaxnn.errors import JaxnnError
from jaxnn.graph.evaluate import inspect, run
from jaxnn.graph.layout import Layout, place, spread
from jaxnn.graph.node import Node
from jaxnn.graph.plan import Feeds, order
from jaxnn.graph.words import numbers, title
from jaxnn.plots.shared import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    RED,
    as_written,
    new_axes,
    new_figure,
    save,
    text_width,
)

MOST = 200  # nodes in a picture
MARGIN, HEAD = 0.3, 0.75  # inches around the picture, and above it
LINE, PAD = 0.165, 0.09  # inches from one line of text to the next, and around them
TITLE, TEXT = 9, 8  # points
FILL = {"feed": "#e8f1f8", "parameter": "#e4f3ee", "constant": "white", "op": "white"}
FORWARD = "black: values, computed downwards"
BACKWARD = "red: gradients, sent back upwards"
CENTRE: dict[str, Any] = {"ha": "center", "va": "center"}
BORDER = {"feed": BLUE, "parameter": GREEN, "constant": "white", "op": GREY}


def draw(root: Node, feeds: Feeds | None, path: str | Path) -> None:
    """Write a PNG of the graph of `root`: what flows forward and what flows back.

    Boxes hold names and values, labels on the edges what a consumer sends back to its
    input (`inspect`); a node with several consumers also shows their sum. Arrays of
    more than a few numbers are shown as shape, mean, least and largest.

    Args:
      root: a scalar: gradients are shown; anything else: values only.
      feeds: as in `run`.
      path: of the PNG; written whole or not at all.

    Raises:
      JaxnnError: more than 200 nodes (see `to_dot`), and as in `run`.
    """
    nodes = order(root)
    if len(nodes) > MOST:
        raise JaxnnError(
            f"draw: {root.name} has {len(nodes)} nodes, expected at most {MOST}; draw "
            "a part of it, or use to_dot with Graphviz"
        )
    values, grads, edges = _flows(root, nodes, feeds)
    texts = {node: _texts(node, values, grads) for node in nodes}
    notes = {edge: numbers(d) for edge, d in edges.items()}
    at = place(
        nodes,
        {node: _size(*text) for node, text in texts.items()},
        {edge: _size([], lines, []) for edge, lines in notes.items()},
    )
    figure, ax = _canvas(
        at, f"{as_written(root.name)} = {numbers(values[root])[0]}", bool(notes)
    )
    for edge, bends in at.bends.items():
        _draw_edge(ax, at, edge, bends, notes.get(edge))
    for node, text in texts.items():
        _draw_box(ax, at, node, text, last=node is root)
    save(figure, path)


def _canvas(at: Layout, heading, gradients):
    """A figure with its heading, and axes in inches whose origin is the layout's."""
    words = [(heading, 11, INK, 0.22), (FORWARD, TEXT, INK, 0.42)]
    words += [(BACKWARD, TEXT, RED, 0.57)] * gradients
    widest = max(text_width([line], size) for line, size, _, _ in words)
    width = max(at.width, widest) + 2 * MARGIN
    height = at.height + HEAD + MARGIN
    figure = new_figure(width, height)
    ax = new_axes(figure, 0, 0, width, height)
    ax.set_axis_off()
    left = (width - at.width) / 2
    ax.set(xlim=(-left, width - left), ylim=(height - HEAD, -HEAD))
    for line, size, colour, down in words:
        ax.text(width / 2 - left, down - HEAD, line, size=size, color=colour, **CENTRE)
    return figure, ax


def _flows(root, nodes, feeds):
    """Values, gradients and what flows on the edges, as NumPy; none without a loss."""
    values = dict(zip(nodes, run(nodes, feeds), strict=True))
    value = values[root]
    if value.ndim or not np.issubdtype(value.dtype, np.floating):
        return values, {}, {}
    return inspect(root, feeds)


def _texts(node, values, grads):
    """The lines of a box: its name, its value, its gradient where that is a sum."""
    # a constant is called by its number
    value = [] if node.kind == "constant" and not node.shape else numbers(values[node])
    parts = sum(n is node for c in node.consumers if c in grads for n in c.inputs)
    summed = [] if node not in grads or parts == 1 else numbers(grads[node])
    if summed:
        summed[0] = ("sum " if parts else "gradient ") + summed[0]
    return [as_written(title(node))], value, summed


def _size(names, values, sums):
    lines = len(names) + len(values) + len(sums)
    width = max(
        text_width(words, size) if words else 0
        for words, size in ((names, TITLE), (values, TEXT), (sums, TEXT))
    )
    return width + 2 * PAD, lines * LINE + 2 * PAD


def _draw_box(ax, at: Layout, node, text, last):
    names, values, sums = text
    width, height = _size(*text)
    row = at.row[node]
    x, y = at.x[node], at.tops[row] + at.heights[row] / 2
    ax.add_patch(
        FancyBboxPatch(
            (x - width / 2 + 0.04, y - height / 2 + 0.04),
            width - 0.08,
            height - 0.08,
            boxstyle="round,pad=0.04,rounding_size=0.07",
            facecolor="#fdf3df" if last else FILL[node.kind],
            edgecolor=ORANGE if last else BORDER[node.kind],
            linewidth=1.1,
            zorder=3,
        )
    )
    lines = [(t, TITLE, INK, "bold") for t in names]
    lines += [(t, TEXT, INK, "normal") for t in values]
    lines += [(t, TEXT, RED, "normal") for t in sums]
    for i, (line, size, colour, weight) in enumerate(lines):
        down = y - height / 2 + PAD + (i + 0.5) * LINE
        ax.text(
            x,
            down,
            line,
            ha="center",
            va="center_baseline",
            fontsize=size,
            color=colour,
            fontweight=weight,
            zorder=4,
        )


def _draw_edge(ax, at: Layout, edge, bends, note):
    """A curve through the bends of an edge, and its label on the first one."""
    stops = [_port(at, edge, below=True)]
    for bend in bends:
        x, top, height = at.x[bend], at.tops[bend.row], at.heights[bend.row]
        beside_boxes = bend.row % 2 == 0
        # straight beside boxes: a curve could touch them
        ends = (top, top + height) if beside_boxes else (top + height / 2,)
        stops += [(x, y) for y in ends]
    stops.append(_port(at, edge, below=False))
    points, codes = [stops[0]], [Curve.MOVETO]
    for (x0, y0), (x1, y1) in pairwise(stops):
        half = (y1 - y0) / 2
        points += [(x0, y0 + half), (x1, y1 - half), (x1, y1)]
        codes += [Curve.CURVE4] * 3
    ax.add_patch(
        FancyArrowPatch(
            path=Curve(points, codes),
            arrowstyle="-|>",
            mutation_scale=8,
            color=GREY if note else "#c4c4c4",
            linewidth=1.0,
            shrinkA=0,
            shrinkB=0,
            zorder=1,
        )
    )
    if note:
        row = bends[0].row
        ax.text(
            at.x[bends[0]],
            at.tops[row] + at.heights[row] / 2,
            "\n".join(note),
            size=TEXT,
            color=RED,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.2},
            zorder=2,
            **CENTRE,
        )


def _port(at: Layout, edge, below):
    """Where an edge leaves its input (below it) or enters its consumer."""
    node, i = edge
    box = node.inputs[i] if below else node
    # the edges of that side, from left to right, each straight up or down if it can
    side = [
        (at.x[bends[0 if below else -1]], e)
        for e, bends in at.bends.items()
        if (e[0].inputs[e[1]] if below else e[0]) is box
    ]
    side.sort(key=lambda pair: pair[0])
    width, height = at.sizes[box]
    most = width / 2 - 0.1
    apart = min(0.2, 2 * most / len(side))
    wish = [np.clip(x - at.x[box], -most, most) for x, _ in side]
    places = spread(wish, [apart] * (len(side) - 1), [1.0] * len(side))
    place = places[[e for _, e in side].index(edge)]
    row = at.row[box]
    middle = at.tops[row] + at.heights[row] / 2
    return at.x[box] + place, middle + (height / 2 if below else -height / 2)
