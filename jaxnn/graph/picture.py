"""A graph as a picture: values in the boxes, gradients on the edges.

Consumers stand below their inputs, by the method of Sugiyama, Tagawa and Toda 1981: a
row for every node; an edge over several rows bends in each of them, at a place of its
own; the order in a row that crosses few edges; places that make the edges straight.
Every edge has one bend just below its input, as wide as the label it carries, so that
no label is covered. All lengths are inches from the top left.
"""

import io
from collections.abc import Hashable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path as Curve

from jaxnn.errors import JaxnnError
from jaxnn.graph.dot import numbers, title
from jaxnn.graph.evaluate import Feeds, inspect, order, run
from jaxnn.graph.node import Node
from jaxnn.plots.panels import (
    BLUE,
    GRAY,
    GREEN,
    INK,
    ORANGE,
    RED,
    as_written,
    new_figure,
    save,
    text_width,
)

MOST = 200  # nodes in a picture
MARGIN, HEAD = 0.3, 0.75  # around the picture, and above it
LINE, PAD = 0.165, 0.09  # from one line of text to the next, and around them
GAP, AIR = 0.22, 0.23  # between neighbors in a row, above and below the labels
ASIDE = 0.05  # how much leaves and long edges matter for where the others stand
SWEEPS = 12
TITLE, TEXT = 9, 8  # points
FILL = {"feed": "#e8f1f8", "parameter": "#e4f3ee", "constant": "white", "op": "white"}
BORDER = {"feed": BLUE, "parameter": GREEN, "constant": "white", "op": GRAY}
CENTER: dict[str, Any] = {"ha": "center", "va": "center"}

Size = tuple[float, float]  # across, high
Edge = tuple[Node, int]  # a consumer and the position of the input


def draw(
    root: Node, feeds: Feeds | None = None, path: str | Path | None = None,
    dpi: int | None = None,
) -> Figure:  # fmt: skip
    """Draw the graph of `root`: what flows forward and what flows back.

    Boxes hold names and values, labels on the edges what a consumer sends back to its
    input (`inspect`); a node with several consumers also shows their sum. Arrays of
    more than a few numbers are shown as shape, mean, least and largest.

    Args:
      root: a scalar: gradients are shown; anything else: values only.
      feeds: as in `run`.
      path, dpi: see `jaxnn.plots`.

    Raises:
      JaxnnError: more than 200 nodes (see `to_dot`), and as in `run`.
    """
    nodes = order(root)
    if len(nodes) > MOST:
        raise JaxnnError(
            f"draw: {root.name} has {len(nodes)} nodes, expected at most {MOST}; draw "
            "a part of it, or use to_dot with Graphviz"
        )
    values = dict(zip(nodes, run(nodes, feeds), strict=True))
    value, flows = values[root], (values, {}, {})
    if not value.ndim and np.issubdtype(value.dtype, np.floating):
        flows = inspect(root, feeds)
    return save(_drawn(root, nodes, *flows), path, dpi)


def to_svg(root: Node) -> str | None:
    """What is computed from what, nothing being computed; None of too many nodes."""
    nodes = order(root)
    if len(nodes) > MOST:
        return None
    file = io.StringIO()
    _drawn(root, nodes, {}, {}, {}).savefig(file, format="svg")
    text = file.getvalue()
    return text[text.index("<svg") :]


def _drawn(root, nodes, values, grads, edges) -> Any:
    texts = {node: _lines(node, values, grads) for node in nodes}
    notes = {edge: numbers(d) for edge, d in edges.items()}
    sizes = {node: _size(lines) for node, lines in texts.items()}
    labels = {e: _size([(t, TEXT, RED, "normal") for t in n]) for e, n in notes.items()}
    at = place(nodes, sizes, labels)
    heading = as_written(root.name)
    if values:
        heading += f" = {numbers(values[root])[0]}"
    ax = _canvas(at, heading, bool(values), bool(notes))
    for edge in at.bends:
        _draw_edge(ax, at, edge, notes.get(edge))
    for node, lines in texts.items():
        _draw_box(ax, at, node, lines, last=node is root)
    return ax.figure


def _lines(node, values, grads):
    """The lines of a box: its name, its value, its gradient where that is a sum.

    Each is (text, points, color, weight).
    """
    # a constant is called by its number
    named = node not in values or (node.kind == "constant" and not node.shape)
    value = [] if named else numbers(values[node])
    parts = sum(n is node for c in node.consumers if c in grads for n in c.inputs)
    summed = [] if node not in grads or parts == 1 else numbers(grads[node])
    if summed:
        summed[0] = ("sum " if parts else "gradient ") + summed[0]
    return [
        (as_written(title(node)), TITLE, INK, "bold"),
        *((text, TEXT, INK, "normal") for text in value),
        *((text, TEXT, RED, "normal") for text in summed),
    ]


def _size(lines) -> Size:
    wide = max(text_width([text], points) for text, points, _, _ in lines)
    return wide + 2 * PAD, len(lines) * LINE + 2 * PAD


# ---- layout


class Bend(NamedTuple):
    """Where an edge passes a row."""

    edge: Edge
    row: int


class Layout(NamedTuple):
    """Where the boxes and bends are.

    Attributes:
      x: center of every node and bend.
      row: of every node and bend; those of nodes are even.
      tops, heights: of the rows.
      bends: of every edge, from its input down to its consumer.
      sizes: of the boxes.
      width, height: of the whole.
    """

    x: dict[Hashable, float]
    row: dict[Hashable, int]
    tops: list[float]
    heights: list[float]
    bends: dict[Edge, list[Bend]]
    sizes: dict[Node, Size]
    width: float
    height: float

    def middle(self, item: Hashable) -> float:
        """How far down the row of a node or bend has its middle."""
        row = self.row[item]
        return self.tops[row] + self.heights[row] / 2


def place(
    nodes: list[Node], sizes: dict[Node, Size], labels: dict[Edge, Size]
) -> Layout:
    """The layout of `nodes` (inputs first, the root last) from what they are to hold.

    Args:
      nodes: all nodes of the graph, as `order` gives them.
      sizes: of their boxes.
      labels: of the labels of the edges that have one.
    """
    # even rows, each node as far down as its consumers let it: leaves beside ops
    up = {nodes[-1]: 0}
    for node in reversed(nodes):
        for source in node.inputs:
            up[source] = max(up.get(source, 0), up[node] + 1)
    row: dict[Hashable, int] = {n: 2 * (max(up.values()) - up[n]) for n in nodes}
    bends = {
        (node, i): [Bend((node, i), r) for r in range(row[source] + 1, row[node])]
        for node in nodes
        for i, source in enumerate(node.inputs)
    }
    row |= {bend: bend.row for chain in bends.values() for bend in chain}
    size = dict.fromkeys(row, (0.0, 0.0)) | sizes
    size |= {chain[0]: labels.get(edge, (0, 0)) for edge, chain in bends.items()}

    near = _neighbors(bends)
    rows = _ordered(row, {a: [b for b, _ in near.get(a, ())] for a in row})
    x = _straightened(rows, near, {item: size[item][0] for item in row})
    left = min(x[item] - size[item][0] / 2 for item in row)
    x = {item: center - left for item, center in x.items()}
    heights = [max(size[item][1] for item in items) for items in rows]
    heights = [h + 2 * AIR * (r % 2) for r, h in enumerate(heights)]
    tops = [0.0, *np.cumsum(heights)[:-1].tolist()]
    width = max(x[item] + size[item][0] / 2 for item in row)
    return Layout(x, row, tops, heights, bends, sizes, width, sum(heights))


def _ordered(row, near):
    """The items of each row, in the order of few crossings: sorted by neighbors' means.

    Down and up in turn; the order with the fewest crossings that was seen is kept.
    """
    rows: list[list] = [[] for _ in range(max(row.values()) + 1)]
    for item, r in row.items():
        rows[r].append(item)
    seen = [rows]
    for sweep in range(SWEEPS):
        rows = [list(items) for items in rows]
        step = 1 if sweep % 2 == 0 else -1
        for r in range(len(rows))[::step][1:]:
            at = {item: i for i, item in enumerate(rows[r - step])}
            wish = {}
            for i, item in enumerate(rows[r]):
                found = [at[n] for n in near[item] if n in at]
                wish[item] = np.mean(found) if found else i * len(at) / len(rows[r])
            rows[r].sort(key=wish.__getitem__)
        seen.append(rows)
    return min(seen, key=lambda rows: crossings(rows, near))


def crossings(rows, near) -> int:
    """How many pairs of edges cross between neighboring rows."""
    total = 0
    for upper, lower in pairwise(rows):
        at = {item: i for i, item in enumerate(lower)}
        ends = [
            (i, at[n]) for i, item in enumerate(upper) for n in near[item] if n in at
        ]
        a, b = np.array(ends).reshape(-1, 2).T
        total += int(((a[:, None] < a[None]) & (b[:, None] > b[None])).sum())
    return total


def _neighbors(bends):
    """What stands above and below each item, and how much that matters for its place.

    Leaves stand beside the chain of ops and long edges pass it: they do not bend it.
    """
    near: dict[Hashable, list] = {}
    for (node, i), chain in bends.items():
        source = node.inputs[i]
        aside = source.rule is None or len(chain) > 1
        for a, b in pairwise([source, *chain, node]):
            near.setdefault(a, []).append((b, ASIDE if aside else 1.0))
            near.setdefault(b, []).append((a, ASIDE if aside else 1.0))
    return near


def _straightened(rows, near, width):
    """x of every item: close to the mean of its neighbors, never over one beside it."""
    x: dict = {}
    for items in rows:
        centers = np.cumsum([width[item] + GAP for item in items])
        centers -= [width[item] / 2 for item in items]
        x |= dict(zip(items, (centers - centers.mean()).tolist(), strict=True))
    # where there is no room for both, what stands aside gives way
    weight = {item: max((w for _, w in near.get(item, ())), default=1.0) for item in x}
    for sweep in range(12 * SWEEPS):
        for items in rows[:: 1 if sweep % 2 == 0 else -1]:
            wish = [
                np.average([x[n] for n, _ in found], weights=[w for _, w in found])
                if (found := near.get(item))
                else x[item]
                for item in items
            ]
            half = np.array([width[item] / 2 for item in items])
            apart = half[:-1] + half[1:] + GAP
            places = separated(wish, apart, [weight[item] for item in items])
            x |= dict(zip(items, places.tolist(), strict=True))
    return x


def separated(wish, apart, weight):
    """The places nearest to `wish`, in order, with at least `apart` between them.

    Taking off the distances leaves an isotonic regression: where neighbors are in
    the wrong order, both go to their weighted mean (pool adjacent violators).
    """
    shift = np.concatenate([[0.0], np.cumsum(apart)])
    pools: list[tuple[float, float, int]] = []  # mean, weight, how many
    for mean, w in zip(np.asarray(wish) - shift, weight, strict=True):
        count = 1
        while pools and pools[-1][0] > mean:
            before, heavy, many = pools.pop()
            mean = (before * heavy + mean * w) / (heavy + w)
            w, count = w + heavy, count + many
        pools.append((mean, w, count))
    return np.repeat([p[0] for p in pools], [p[2] for p in pools]) + shift


# ---- drawing


def _canvas(at: Layout, heading, values, gradients):
    """Axes over a whole figure, with a heading; inches whose origin is the layout's."""
    words = [
        (heading, 11, INK),
        *[("black: values, computed downwards", TEXT, INK)] * values,
        *[("orange: gradients, sent back upwards", TEXT, RED)] * gradients,
    ]
    wide = max(at.width, *(text_width([line], size) for line, size, _ in words))
    wide += 2 * MARGIN
    ax = new_figure(wide, at.height + HEAD + MARGIN).add_axes((0, 0, 1, 1))
    ax.set_axis_off()
    left = (wide - at.width) / 2
    ax.set(xlim=(-left, wide - left), ylim=(at.height + MARGIN, -HEAD))
    for (line, size, color), down in zip(words, (0.22, 0.42, 0.57), strict=False):
        ax.text(at.width / 2, down - HEAD, line, size=size, color=color, **CENTER)
    return ax


def _draw_box(ax, at: Layout, node, lines, last):
    width, height = _size(lines)
    x, y = at.x[node], at.middle(node)
    ax.add_patch(
        FancyBboxPatch(
            (x - width / 2 + 0.04, y - height / 2 + 0.04), width - 0.08, height - 0.08,
            boxstyle="round,pad=0.04,rounding_size=0.07", linewidth=1.1, zorder=3,
            facecolor="#fdf3df" if last else FILL[node.kind],
            edgecolor=ORANGE if last else BORDER[node.kind],
        )
    )  # fmt: skip
    for i, (line, size, color, weight) in enumerate(lines):
        ax.text(
            x, y - height / 2 + PAD + (i + 0.5) * LINE, line, ha="center",
            va="center_baseline", size=size, color=color, weight=weight, zorder=4,
        )  # fmt: skip


def _draw_edge(ax, at: Layout, edge, note):
    """A curve through the bends of an edge, and its label on the first one."""
    bends, (node, i) = at.bends[edge], edge
    stops = [_port(at, node.inputs[i], bends[0], below=True)]
    for bend in bends:
        x, y, half = at.x[bend], at.middle(bend), at.heights[bend.row] / 2
        beside_boxes = bend.row % 2 == 0  # straight there: a curve could touch them
        stops += [(x, y - half), (x, y + half)] if beside_boxes else [(x, y)]
    stops.append(_port(at, node, bends[-1], below=False))
    points, codes = [stops[0]], [Curve.MOVETO]
    for (x0, y0), (x1, y1) in pairwise(stops):
        half = (y1 - y0) / 2
        points += [(x0, y0 + half), (x1, y1 - half), (x1, y1)]
        codes += [Curve.CURVE4] * 3
    ax.add_patch(
        FancyArrowPatch(
            path=Curve(points, codes), arrowstyle="-|>", mutation_scale=8, shrinkA=0,
            shrinkB=0, color=GRAY if note else "#c4c4c4", linewidth=1.0, zorder=1,
        )
    )  # fmt: skip
    if note:
        ax.text(
            at.x[bends[0]], at.middle(bends[0]), "\n".join(note), size=TEXT, color=RED,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.2}, zorder=2,
            **CENTER,
        )  # fmt: skip


def _port(at: Layout, box: Node, bend: Bend, below: bool):
    """Where an edge leaves its input (below it) or enters its consumer: near a bend."""
    width, height = at.sizes[box]
    most = width / 2 - 0.1
    x = at.x[box] + np.clip(at.x[bend] - at.x[box], -most, most)
    return x, at.middle(box) + (height / 2 if below else -height / 2)
