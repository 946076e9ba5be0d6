"""What is computed, in which order, from which feeds: settled before any arithmetic."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxnn.errors import JaxnnError
from jaxnn.graph.node import Node

Feeds = Mapping[Any, Any]  # keys are nodes or names; Mapping is invariant in them


def order(*roots: Node) -> list[Node]:
    """All nodes that `roots` are computed from, and they, inputs before consumers.

    Depth first, each node once, inputs in their order: the same graph always gives the
    same list. A loop, not recursion, so the graph may be of any depth.

    Raises:
      JaxnnError: a node is computed from itself; says by which way.
    """
    done: dict[Node, None] = {}
    for root in roots:
        if root in done:
            continue
        path, inputs = {root: None}, [iter(root.inputs)]
        while path:
            # the next input of the innermost open node that is not done yet
            node = next((i for i in inputs[-1] if i not in done), None)
            if node is None:
                inputs.pop()
                done[path.popitem()[0]] = None
            elif node in path:
                raise _cycle([*path], node)
            else:
                path[node] = None
                inputs.append(iter(node.inputs))
    return list(done)


def plan(
    where: str, nodes: Iterable[Node], feeds: Feeds | None
) -> tuple[list[Node], dict[Node, Any]]:
    """The nodes to compute for `nodes`, in order, and the values given; both checked.

    A node that is fed needs no inputs, so what only it depends on is left out.
    """
    everything = order(*nodes)
    fed = _values(where, everything, feeds or {})
    wanted = set(nodes)
    for node in reversed(everything):
        if node in wanted and node not in fed:
            wanted.update(node.inputs)
    steps = [node for node in everything if node in wanted]
    missing = [n for n in steps if n.kind == "feed" and n not in fed]
    if missing:
        raise JaxnnError(
            f"{where}: no value for {names(missing)}; give "
            f"feeds={{{', '.join(f'{n.name}: ...' for n in missing)}}}"
        )
    return steps, fed


def nodes_of(where: str, tree: Any) -> tuple[list[Node], Any]:
    """The nodes of a tree, and its structure.

    Raises:
      JaxnnError: a leaf that is no node.
    """
    nodes, structure = jax.tree.flatten(tree)
    for node in nodes:
        if not isinstance(node, Node):
            raise JaxnnError(
                f"{where}: got {type(node).__name__}, expected a node, or a list, "
                "tuple or dict of nodes"
            )
    return nodes, structure


def names(nodes: Iterable[Node]) -> str:
    """The nodes' names as words."""
    return ", ".join(node.name for node in nodes)


def _values(where, everything, feeds):
    """Value by node: the keys found, by node or by name, and the values checked."""
    named: dict[str, list[Node]] = {}
    for node in everything:
        named.setdefault(node.name, []).append(node)
    inside, fed = set(everything), {}
    for key, value in feeds.items():
        if isinstance(key, str):
            found = named.get(key, [])
        elif isinstance(key, Node):
            found = [key] if key in inside else []
        else:
            raise JaxnnError(
                f"{where}: feeds has a key {key!r} of type {type(key).__name__}, "
                "expected a node or the name of one"
            )
        if len(found) != 1:
            raise _unknown(where, key, found, everything)
        if found[0] in fed:
            raise JaxnnError(f"{where}: {found[0].name} is given twice in feeds")
        fed[found[0]] = _value(where, found[0], value)
    return fed


def _unknown(where, key, found, everything):
    if found:
        return JaxnnError(
            f"{where}: {len(found)} nodes are called {key!r}; give the value by node"
        )
    name = key.name if isinstance(key, Node) else key
    leaves = [n for n in everything if n.kind in ("feed", "parameter")]
    return JaxnnError(
        f"{where}: feeds has a value for {name}, which is not in this graph; its "
        f"feeds and parameters: {names(leaves) or 'none'}"
    )


def _value(where, node, value):
    try:
        value = jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise JaxnnError(
            f"{where}: the value of {node.name} is {type(value).__name__}, expected "
            "an array or a number"
        ) from error
    if node.kind == "feed" and node.shape is not None:
        got, want = value.shape, node.shape
        if len(got) != len(want) or any(
            w not in (None, g) for w, g in zip(want, got, strict=True)
        ):
            raise JaxnnError(
                f"{where}: the value of {node.name} has shape {got}, expected {want} "
                f"as declared at {node.made_at}"
            )
    return value


def _cycle(path, node):
    circle = [*path[path.index(node) :], node]
    return JaxnnError(
        f"graph: {node.name} is computed from itself: "
        f"{' <- '.join(n.name for n in circle)}; were the inputs of one of them "
        f"changed? {node!r}"
    )
