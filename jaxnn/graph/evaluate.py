"""Forward and backward through a graph: the rules do the calculus, this the order."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.arrays import as_array, is_float
from jaxnn.errors import JaxnnError
from jaxnn.graph.node import Node
from jaxnn.graph.ops import STOP

Feeds = Mapping[Any, Any]  # keys are nodes or names; Mapping is invariant in them


def order(*roots: Node) -> list[Node]:
    """All nodes that `roots` are computed from, and they, inputs before consumers.

    Depth first, each node once, inputs in their order: the same graph always gives the
    same list. A loop, not recursion, so the graph may be of any depth. A node that is
    computed from itself is refused.
    """
    done: dict[Node, None] = {}
    for root in roots:
        if check_root("order", root) in done:
            continue
        path, inputs = {root: None}, [iter(root.inputs)]
        while path:
            # the next input of the innermost open node that is not done yet
            node = next((i for i in inputs[-1] if i not in done), None)
            if node is None:
                inputs.pop()
                done[path.popitem()[0]] = None
            elif node in path:
                circle = [*list(path)[list(path).index(node) :], node]
                raise JaxnnError(
                    f"graph: {node.name} is computed from itself: "
                    f"{' <- '.join(n.name for n in circle)}; were the inputs of one of "
                    f"them changed? {node!r}"
                )
            else:
                path[node] = None
                inputs.append(iter(node.inputs))
    return list(done)


def check_root(where: str, root: Any) -> Node:
    """`root`, or a `JaxnnError` that says what is no node."""
    if not isinstance(root, Node):
        raise JaxnnError(
            f"{where}: the root is {type(root).__name__}, expected one node"
        )
    return root


def run(nodes: Any, feeds: Feeds | None = None) -> Any:
    """The values of `nodes`: one node, or a list, dict ... of them, in that structure.

    Args:
      nodes: what to compute; nothing else is.
      feeds: a value for every feed they need, by node or by name. Any other node may
        be given too: it then has that value, and its inputs are not computed.

    Raises:
      JaxnnError: a feed without value, a value for a node that is not of this graph,
        a cycle, or an op that fails (says which node, its inputs and their shapes).

    >>> from jaxnn import graph
    >>> x = graph.feed("x")
    >>> float(graph.run(x * x + 1, {x: 3.0}))
    10.0
    """
    roots, structure = nodes_of("run", nodes)
    steps, fed = plan("run", roots, feeds)
    values, _ = _forward(steps, fed, needed=())
    return structure.unflatten([values[node] for node in roots])


def bprop(
    root: Node, wrt: Any, feeds: Feeds | None = None, *, dy: Any = None
) -> tuple[Array, Any]:
    """The value of `root` and its gradients with regard to `wrt`, by backpropagation.

    Forward, every node once. Backward, in reverse order, every node that lies between
    `wrt` and `root` once: its rule turns dy into one cotangent for each input, and
    what several consumers send back to a node is added up.

    Args:
      root: a scalar, such as a loss (any shape if `dy` is given).
      wrt: a node, or a list, dict ... of nodes, inner ones too; floating values only.
      feeds: as in `run`.
      dy: the cotangent of `root`, of its shape; 1 if left out.

    Returns:
      (value, gradients): the gradients in the structure of `wrt`, each with the shape
      and dtype of its node; zeros for a node that `root` does not depend on.

    Raises:
      JaxnnError: as in `run`; a root that is no scalar; a `wrt` of whole numbers; a
        path to `wrt` through an argument that its rule has no derivative for.

    >>> from jaxnn import graph
    >>> x = graph.feed("x")
    >>> value, dx = graph.bprop(x * x + 1, x, {x: 3.0})
    >>> float(value), float(dx)
    (10.0, 6.0)
    """
    targets, structure = nodes_of("bprop", wrt)
    steps, fed = plan("bprop", (check_root("bprop", root), *targets), feeds)
    needed = _between(steps, fed, targets)
    values, caches = _forward(steps, fed, needed)
    seed = _seed(root, values[root], dy)
    for node in targets:
        if not is_float(values[node]):
            raise JaxnnError(
                f"bprop: {node.describe()} has dtype {values[node].dtype}, which has "
                "no derivative; give it as floating numbers or leave it out of wrt"
            )
    grads = _backward(steps, {root: seed}, values, caches, needed, set(targets))
    return values[root], structure.unflatten(
        [grads[n] if n in grads else jnp.zeros_like(values[n]) for n in targets]
    )


def function(root: Node, wrt: Any, feeds: Sequence[Any]) -> Callable[..., Any]:
    """`bprop` as a pure function of the values of `feeds`, for jit, vmap and scan.

    Args:
      root: as in `bprop`.
      wrt: as in `bprop`, or None for the value of `root` alone (of any shape).
      feeds: what the arguments are, in order: nodes, or lists, dicts ... of nodes.

    Returns:
      `f(*values)`, values in the structures of `feeds`, giving (value, gradients).

    >>> from jaxnn import graph
    >>> x, w = graph.feed("x"), {"w": graph.feed("w"), "b": graph.feed("b")}
    >>> y = graph.tanh(x * w["w"] + w["b"])
    >>> f = jax.jit(graph.function(y, w, (w, x)))
    >>> value, dw = f({"w": 2.0, "b": -6.0}, 3.0)
    >>> float(value), float(dw["w"]), float(dw["b"])
    (0.0, 3.0, 1.0)
    """
    check_root("function", root)
    parts = [nodes_of("function", part) for part in feeds]

    def f(*values):
        if len(values) != len(parts):
            raise JaxnnError(
                f"function of {root.name}: got {len(values)} values, expected "
                f"{len(parts)}: {', '.join(names(nodes) for nodes, _ in parts)}"
            )
        fed = {}
        for (nodes, structure), value in zip(parts, values, strict=True):
            try:
                leaves = structure.flatten_up_to(value)
            except ValueError as error:
                raise JaxnnError(
                    f"function of {root.name}: the value of {names(nodes)} has "
                    f"another structure than these nodes: {error}"
                ) from error
            fed.update(zip(nodes, leaves, strict=True))
        return run(root, fed) if wrt is None else bprop(root, wrt, fed)

    return f


class Inspection(NamedTuple):
    """All that flows through a graph: what `to_dot` and `draw` show.

    Attributes:
      values: of every node.
      grads: of root with regard to every node but constants, where there is one.
      edges: what a consumer sends back to one of its inputs, by (consumer, position):
        a node's gradient is the sum over its edges.
    """

    values: dict[Node, Array]
    grads: dict[Node, Array]
    edges: dict[tuple[Node, int], Array]


def inspect(root: Node, feeds: Feeds | None = None, *, dy: Any = None) -> Inspection:
    """Every value and every gradient, with all intermediate ones; as in `bprop`."""
    steps, fed = plan("inspect", (check_root("inspect", root),), feeds)
    needed = _between(steps, fed, [n for n in steps if n.kind != "constant"])
    values, caches = _forward(steps, fed, needed)
    seed = _seed(root, values[root], dy)
    edges: dict[tuple[Node, int], Array] = {}
    grads = _backward(steps, {root: seed}, values, caches, needed, set(steps), edges)
    return Inspection(values, grads, edges)


def _between(steps, fed, targets):
    """Nodes that a gradient passes on its way to `targets`."""
    needed = set(targets)
    for node in steps:
        passes = node.rule is not None and node.rule is not STOP and node not in fed
        if passes and not needed.isdisjoint(node.inputs):
            needed.add(node)
    return needed


def _forward(steps, fed, needed):
    """Value of every node, and the cache of every op that a gradient passes."""
    values, caches = {}, {}
    for node in steps:
        if node in fed:
            values[node] = fed[node]
        elif node.rule is None:
            values[node] = jnp.asarray(node.value)
        else:
            with _blamed(node, values), jax.named_scope(f"fwd/{node.name}"):
                values[node], cache = node.rule.fwd(*(values[i] for i in node.inputs))
            if node in needed:
                caches[node] = cache
    return values, caches


def _backward(steps, grads, values, caches, needed, keep, edges=None):
    """Gradients of the nodes to `keep`, from that of the root in `grads`.

    With `edges`, what flows along each is noted there, and an argument without a
    derivative is no error: nobody asked for a gradient through just that one.
    """
    for node in reversed(steps):
        if node not in caches or node not in grads:
            continue
        dy = grads[node] if node in keep else grads.pop(node)
        with _blamed(node, values, backward=True), jax.named_scope(f"bwd/{node.name}"):
            cotangents = node.rule.bwd(caches.pop(node), dy)
            checked = _checked(node, values, cotangents, needed, edges is None)
            for i, source, d in checked:
                if edges is not None:
                    edges[node, i] = d
                # added, never assigned: a node may have many consumers
                grads[source] = grads[source] + d if source in grads else d
    return grads


def _checked(node, values, cotangents, needed, strict):
    """(position, input, cotangent) of every input that a gradient flows to."""
    if len(cotangents) != len(node.inputs):
        raise JaxnnError(
            f"{len(cotangents)} cotangents came back for {len(node.inputs)} inputs"
        )
    for i, (source, d) in enumerate(zip(node.inputs, cotangents, strict=True)):
        x = values[source]
        if source not in needed or not is_float(x) or (d is None and not strict):
            continue
        if d is None:
            raise JaxnnError(
                f"{node.rule.name} has no derivative with regard to {source.name}; "
                f"write stop_gradient({source.name}) if none shall flow there"
            )
        if d.shape != x.shape:
            raise JaxnnError(
                f"the cotangent of {source.name} has shape {d.shape}, expected "
                f"{x.shape}"
            )
        yield i, source, d.astype(x.dtype)


def _seed(root, value, dy):
    if not is_float(value):
        raise JaxnnError(
            f"bprop: {root.describe()} has dtype {value.dtype}, which has no derivative"
        )
    if dy is None and value.shape:
        raise JaxnnError(
            f"bprop: {root.describe()} has shape {value.shape}, expected a scalar such "
            "as a loss; take its sum or mean, or give dy of that shape"
        )
    if dy is None:
        return jnp.ones_like(value)
    dy = jnp.asarray(as_array(dy, "bprop", "dy"), value.dtype)
    if dy.shape != value.shape:
        raise JaxnnError(
            f"bprop: dy has shape {dy.shape}, expected {value.shape} as {root.name}"
        )
    return dy


@contextmanager
def _blamed(node, values, backward=False):
    """Say at which node an error arose, from which shapes, and where it was made."""
    try:
        yield
    except Exception as error:
        shapes = {i: values[i].shape for i in node.inputs}
        where = (
            f"graph: {'backward of ' * backward}{node.describe(shapes)}, made at "
            f"{node.made_at}"
        )
        if isinstance(error, ValueError | TypeError | IndexError):
            raise JaxnnError(f"{where}: {error}") from error
        error.add_note(where)  # not the caller's fault: keep what it is
        raise


# ---- what is computed, from which feeds: settled before any arithmetic


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
    """The nodes of a tree, and its structure."""
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
    if not isinstance(feeds, Mapping):
        raise JaxnnError(
            f"{where}: feeds is {type(feeds).__name__}, expected a dict of values by "
            "node or by name"
        )
    known: dict[str | Node, list[Node]] = {}
    for node in everything:
        known.setdefault(node.name, []).append(node)
        known[node] = [node]
    fed = {}
    for key, value in feeds.items():
        if not isinstance(key, str | Node):
            raise JaxnnError(
                f"{where}: feeds has a key {key!r} of type {type(key).__name__}, "
                "expected a node or the name of one"
            )
        found = known.get(key, [])
        if len(found) > 1:
            raise JaxnnError(
                f"{where}: {len(found)} nodes are called {key!r}; give the value by "
                "node"
            )
        if not found:
            leaves = [n for n in everything if n.kind in ("feed", "parameter")]
            raise JaxnnError(
                f"{where}: feeds has a value for {getattr(key, 'name', key)}, which is "
                f"not in this graph; its feeds and parameters: "
                f"{names(leaves) or 'none'}"
            )
        if found[0] in fed:
            raise JaxnnError(f"{where}: {found[0].name} is given twice in feeds")
        fed[found[0]] = _value(where, found[0], value)
    return fed


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
