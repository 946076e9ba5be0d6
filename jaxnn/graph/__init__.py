"""Backpropagation as graph computation, for anyone who wants to see it.

A neuron: two inputs x, two weights w, a bias b, and the squared error of its output.
Each name or operator below makes a `Node`; nothing is computed yet.

>>> import jax
>>> import numpy as np
>>> from jaxnn import graph
>>> x, t = graph.feed("x"), graph.feed("t")
>>> w = graph.parameter(np.array([0.5, -1.0]), name="w")
>>> b = graph.parameter(0.5, name="b")
>>> z = x @ w + b
>>> y = graph.sigmoid(z, name="y")
>>> loss = graph.square(y - t, name="loss")

Each node knows what it is computed from, and by what. Forward, every node is computed
once, inputs first:

>>> y.inputs == (z,), y.consumers[0].rule.name
(True, 'sub')
>>> [node.rule.name for node in graph.order(loss) if node.rule]
['matmul', 'add', 'sigmoid', 'sub', 'square']
>>> feeds = {x: np.array([1.0, 2.0]), t: 1.0}
>>> print(np.round(graph.run([z, y, loss], feeds), 4))
[-1.      0.2689  0.5344]

Backward, in reverse order, every node turns the gradient of its output into those of
its inputs, by the same hand-written `Rule` that the layers use. By hand:
dloss/dy = 2 (y - t) = -1.4621; dz = dy y (1 - y) = -0.2875; dw = x dz; db = dz.

>>> value, (dy, dz, dw, db) = graph.bprop(loss, [y, z, w, b], feeds)
>>> print(f"{dy:.4f} {dz:.4f}", np.round(dw, 4), f"{db:.4f}")
-1.4621 -0.2875 [-0.2875 -0.5749] -0.2875

`graph.draw(loss, feeds, "neuron.png")` draws all of that; a notebook shows a node as
the graph that leads to it. A node holds no results, so a graph becomes a pure function,
to be compiled and to be trained with:

>>> params = {"w": w, "b": b}
>>> step = jax.jit(graph.function(loss, params, (params, x, t)))
>>> now = {"w": w.value, "b": b.value}
>>> for _ in range(100):
...     value, grads = step(now, feeds[x], feeds[t])
...     now = jax.tree.map(lambda p, d: p - 0.5 * d, now, grads)
>>> print(f"{value:.4f}")
0.0009

Ops: the operators + - * / ** @, abs, indexing, the methods of `Node`, and one function
here for every rule (`graph.relu(x)`, `graph.conv(x, w, stride=2)`) and every loss
(`graph.softmax_cross_entropy(logits, labels)`); `graph.apply(rule, ...)` takes a rule
of your own. Arguments that are nodes, arrays or numbers are inputs; strings and
keywords are settings, passed to the function of that name in `jaxnn.rules`.
"""

from typing import TYPE_CHECKING, Any

from jaxnn.graph.dot import to_dot
from jaxnn.graph.evaluate import Inspection, bprop, function, inspect, order, run
from jaxnn.graph.node import Node, apply, constant, feed, parameter
from jaxnn.graph.ops import from_layer, loss, op, op_names, stop_gradient

if TYPE_CHECKING:
    from jaxnn.graph.picture import draw

__all__ = [
    "Inspection", "Node", "apply", "bprop", "constant", "draw", "feed", "from_layer",
    "function", "inspect", "loss", "order", "parameter", "run", "stop_gradient",
    "to_dot",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """The op of that name, or `draw`."""
    if name == "draw":  # only who wants a picture has to wait for matplotlib
        import jaxnn.plots  # noqa: F401  first: it bears any MPLBACKEND
        from jaxnn.graph.picture import draw

        return draw
    if name.startswith("_"):
        raise AttributeError(f"module 'jaxnn.graph' has no attribute {name!r}")
    try:
        return op(name)
    except ValueError as error:
        raise AttributeError(f"jaxnn.graph: {error}") from None


def __dir__() -> list[str]:
    return sorted({*__all__, *op_names()})
