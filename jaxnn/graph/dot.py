"""A graph in the DOT language, and the words that stand in its boxes."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxnn.graph.evaluate import order
from jaxnn.graph.node import Node

SHAPES = {"feed": "box", "parameter": "box", "constant": "plaintext", "op": "ellipse"}
STYLES = {"parameter": ', style="filled", fillcolor="#e4f3ee"'}
SMALL = 4  # numbers in a row, and rows, up to which an array is written out


def to_dot(
    root: Node, values: Mapping[Node, Any] | None = None,
    grads: Mapping[Node, Any] | None = None,
    edges: Mapping[tuple[Node, int], Any] | None = None,
) -> str:  # fmt: skip
    """The graph of `root` as DOT text: `dot -Tsvg graph.dot -o graph.svg`.

    Args:
      root: the graph is what this node is computed from.
      values: shown in the nodes, where given.
      grads: shown in the nodes, as `grad ...`.
      edges: shown on the edges; `to_dot(root, *inspect(root, feeds))` shows all.

    >>> from jaxnn import graph
    >>> x = graph.feed("x")
    >>> print(graph.to_dot(graph.tanh(x, name="y")))
    digraph "y" {
      node [fontname="sans-serif", fontsize=10];
      edge [fontname="sans-serif", fontsize=9, fontcolor="#D55E00"];
      n0 [label="x", shape=box];
      n1 [label="y = tanh", shape=ellipse];
      n0 -> n1;
    }
    """
    nodes = order(root)
    ids = {node: f"n{i}" for i, node in enumerate(nodes)}
    lines = [
        f"digraph {_quoted([root.name])} {{",
        '  node [fontname="sans-serif", fontsize=10];',
        '  edge [fontname="sans-serif", fontsize=9, fontcolor="#D55E00"];',
    ]
    for node in nodes:
        label = [title(node)]
        # a constant is called by its number already
        if values is not None and node in values and node.kind != "constant":
            label += numbers(values[node])
        if grads is not None and node in grads:
            label += ["grad " + " | ".join(numbers(grads[node]))]
        style = STYLES.get(node.kind, "")
        lines.append(
            f"  {ids[node]} [label={_quoted(label)}, shape={SHAPES[node.kind]}{style}];"
        )
    for node in nodes:
        for i, source in enumerate(node.inputs):
            d = (edges or {}).get((node, i))
            label = "" if d is None else f" [label={_quoted(numbers(d))}]"
            lines.append(f"  {ids[source]} -> {ids[node]}{label};")
    return "\n".join([*lines, "}"])


def _quoted(lines) -> str:
    """A DOT string: quotes and backslashes escaped, lines centered."""
    escaped = (line.replace("\\", "\\\\").replace('"', '\\"') for line in lines)
    return '"' + "\\n".join(line.replace("\n", "\\n") for line in escaped) + '"'


def title(node: Node) -> str:
    """What a node is called: `y = tanh`, or `tanh_1` where nobody gave it a name."""
    if node.rule is None or node.name.startswith(f"{node.rule.name}_"):
        return node.name
    return f"{node.name} = {node.rule.name}"


def numbers(value: Any) -> list[str]:
    """An array in at most four lines: its numbers if few, else shape, mean and range.

    >>> numbers(0.25)
    ['0.25']
    >>> numbers(np.arange(3))
    ['0  1  2']
    >>> numbers(np.arange(12.0).reshape(3, 4) / 4)
    ['(3, 4)  mean 1.38', 'min 0  max 2.75']
    """
    value = np.asarray(value)
    if value.dtype.kind not in "fiub":
        value = value.astype(np.float64)  # bfloat16
    shape = str(value.shape)
    if value.ndim == 0:
        return [_number(value)]
    if value.size == 0:
        return [f"{shape}  empty"]
    if value.ndim == 1 and value.size <= SMALL:
        return ["  ".join(map(_number, value))]
    if value.ndim == 2 and value.shape[1] < SMALL and value.size <= SMALL:
        return ["  ".join(map(_number, row)) for row in value]
    good = value[np.isfinite(value)].astype(np.float64)
    if good.size < value.size:
        return [shape, f"{value.size - good.size} of {value.size} not finite"]
    return [
        f"{shape}  mean {_number(good.mean())}",
        f"min {_number(good.min())}  max {_number(good.max())}",
    ]


def _number(value) -> str:
    if np.asarray(value).dtype == bool:
        return str(bool(value))
    return f"{float(value):.3g}".replace("-", "\N{MINUS SIGN}")
