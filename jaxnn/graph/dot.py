"""A graph in the DOT language, for Graphviz and whatever else reads it."""

from collections.abc import Mapping
from typing import Any

from jaxnn.graph.node import Node
from jaxnn.graph.plan import order
from jaxnn.graph.words import numbers, title

SHAPES = {"feed": "box", "parameter": "box", "constant": "plaintext", "op": "ellipse"}
STYLES = {"parameter": ', style="filled", fillcolor="#e4f3ee"'}


def to_dot(
    root: Node,
    values: Mapping[Node, Any] | None = None,
    grads: Mapping[Node, Any] | None = None,
    edges: Mapping[tuple[Node, int], Any] | None = None,
) -> str:
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
    """A DOT string: quotes and backslashes escaped, lines centred."""
    escaped = (line.replace("\\", "\\\\").replace('"', '\\"') for line in lines)
    return '"' + "\\n".join(line.replace("\n", "\\n") for line in escaped) + '"'
