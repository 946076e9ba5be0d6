"""Where the boxes of a graph's picture go: in layers, consumers below their inputs.

The method of Sugiyama, Tagawa and Toda 1981: (1) a row for every node, (2) an edge
over several rows bends in each of them, at a place of its own, (3) the order in a row
that crosses few edges, (4) places that make the edges straight. Every edge has one
bend just below its input, as wide as the label it carries: so no label is covered.
"""

from collections.abc import Hashable
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from jaxnn.graph.node import Node

GAP = 0.22  # inches between neighbours in a row
AIR = 0.23  # inches above and below the labels
SWEEPS = 12
SETTLED = 0.005  # inches
SIDE = 0.05  # how much leaves and long edges matter for where the others stand
Size = tuple[float, float]  # inches across, inches high
Edge = tuple[Node, int]  # a consumer and the position of the input


class Bend(NamedTuple):
    """Where an edge passes a row."""

    edge: Edge
    row: int


class Layout(NamedTuple):
    """Centres and rows, in inches from the top left.

    Attributes:
      x: centre of every node and bend.
      row: of every node and bend; those of nodes are even.
      tops: of the rows.
      heights: of the rows.
      bends: of every edge, from its input down to its consumer.
      sizes: of the boxes.
      width: of the whole.
      height: of the whole.
    """

    x: dict[Hashable, float]
    row: dict[Hashable, int]
    tops: list[float]
    heights: list[float]
    bends: dict[Edge, list[Bend]]
    sizes: dict[Node, Size]
    width: float
    height: float


def place(nodes: list[Node], sizes: dict[Node, Size], labels: dict[Edge, Size]):
    """A `Layout` of `nodes` (inputs first, the root last) from what they are to hold.

    Args:
      nodes: all nodes of the graph, as `order` gives them.
      sizes: of their boxes.
      labels: of the labels of the edges that have one.
    """
    row = _rows_of(nodes)
    bends = {
        (node, i): [Bend((node, i), r) for r in range(row[source] + 1, row[node])]
        for node in nodes
        for i, source in enumerate(node.inputs)
    }
    row |= {bend: bend.row for chain in bends.values() for bend in chain}
    rows: list[list] = [[] for _ in range(max(row.values()) + 1)]
    for item, r in row.items():
        rows[r].append(item)
    above: dict = {item: [] for item in row}
    below: dict = {item: [] for item in row}
    for (node, i), chain in bends.items():
        path = [node.inputs[i], *chain, node]
        for a, b in pairwise(path):
            below[a].append(b)
            above[b].append(a)
    size = dict.fromkeys(row, (0.0, 0.0)) | sizes
    size |= {chain[0]: labels.get(edge, (0, 0)) for edge, chain in bends.items()}
    rows = _uncrossed(rows, above, below)
    widths = {item: across for item, (across, _) in size.items()}
    x = _straightened(rows, above, below, bends, widths)
    left = min(x[item] - size[item][0] / 2 for item in row)
    x = {item: place - left for item, place in x.items()}
    heights = [max(size[item][1] for item in items) for items in rows]
    heights = [h + 2 * AIR * (r % 2) for r, h in enumerate(heights)]
    tops = [0.0, *np.cumsum(heights)[:-1].tolist()]
    width = max(x[item] + size[item][0] / 2 for item in row)
    return Layout(x, row, tops, heights, bends, sizes, width, sum(heights))


def _rows_of(nodes) -> dict[Hashable, int]:
    """Even rows, each node as far down as its consumers let it: leaves beside ops."""
    up = {nodes[-1]: 0}
    for node in reversed(nodes):
        for source in node.inputs:
            up[source] = max(up.get(source, 0), up[node] + 1)
    last = max(up.values())
    return {node: 2 * (last - up[node]) for node in nodes}


def _uncrossed(rows, above, below):
    """The order with the fewest crossings that sorting by neighbours' means finds."""
    best, fewest = rows, _crossings(rows, below)
    for sweep in range(SWEEPS):
        rows = [list(items) for items in rows]
        downwards = sweep % 2 == 0
        near = above if downwards else below
        for r in range(len(rows)) if downwards else reversed(range(len(rows))):
            other = r - 1 if downwards else r + 1
            if not 0 <= other < len(rows):
                continue
            at = {item: i for i, item in enumerate(rows[other])}
            own = {item: i * len(at) / len(rows[r]) for i, item in enumerate(rows[r])}
            rows[r].sort(
                key=lambda item, at=at, own=own, near=near: (
                    float(np.mean([at[n] for n in near[item]]))
                    if near[item]
                    else own[item]
                )
            )
        crossings = _crossings(rows, below)
        if crossings < fewest:
            best, fewest = rows, crossings
    return best


def _crossings(rows, below) -> int:
    total = 0
    for upper, lower in pairwise(rows):
        at = {item: i for i, item in enumerate(lower)}
        ends = np.array(
            [(i, at[n]) for i, item in enumerate(upper) for n in below[item]]
        ).reshape(-1, 2)
        a, b = ends[:, 0], ends[:, 1]
        total += int(((a[:, None] < a[None]) & (b[:, None] > b[None])).sum())
    return total


def _straightened(rows, above, below, bends, width):
    """x of every item: near the mean of its neighbours, never over one beside it."""
    x = {}
    for items in rows:
        centres = np.cumsum([width[item] + GAP for item in items])
        centres -= [width[item] / 2 for item in items]
        x |= dict(zip(items, (centres - centres.mean()).tolist(), strict=True))
    near = {item: _pulls(item, above, below, bends) for item in x}
    for sweep in range(12 * SWEEPS):
        before = dict(x)
        for items in rows if sweep % 2 == 0 else reversed(rows):
            wish = [_mean(near[item], x) if near[item] else x[item] for item in items]
            half = np.array([width[item] / 2 for item in items])
            apart = half[:-1] + half[1:] + GAP
            # where there is no room for both, what stands aside gives way
            weight = [SIDE if _aside(item, bends) else 1.0 for item in items]
            x |= dict(zip(items, spread(wish, apart, weight).tolist(), strict=True))
        if max(abs(x[item] - before[item]) for item in x) < SETTLED:
            break
    return x


def _mean(near, x):
    return sum(w * x[n] for n, w in near) / sum(w for _, w in near)


def _pulls(item, above, below, bends):
    """What an item would stand below or above, and how much that matters."""
    if isinstance(item, Bend):
        # the bends of one edge in one line, between what it joins
        node, i = item.edge
        chain = [(other, 1.0) for other in bends[item.edge] if other is not item]
        return [*chain, (node.inputs[i], 0.3), (node, 0.3)]
    # leaves stand beside the chain of ops, long edges pass it: they do not bend it
    near = (*above[item], *below[item])
    return [(n, SIDE if _aside(n, bends) or _aside(item, bends) else 1.0) for n in near]


def _aside(item, bends) -> bool:
    """Whether it is a leaf, or a bend of an edge that is long or from a leaf."""
    if isinstance(item, Bend):
        node, i = item.edge
        return node.inputs[i].rule is None or len(bends[item.edge]) > 1
    return item.rule is None


def spread(wish, apart, weight):
    """The places nearest to `wish`, in order, with at least `apart` between them.

    Taking off the distances leaves an isotonic regression: where neighbours are in
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
