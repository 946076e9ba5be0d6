"""Nodes: what is computed from what. Nothing is computed before `run` or `bprop`."""

import os
import sys
import weakref
from collections import defaultdict
from itertools import count
from typing import Any, Literal

import jax
import numpy as np

from jaxnn.errors import JaxnnError
from jaxnn.graph.operators import Operators
from jaxnn.rules import Rule

Kind = Literal["feed", "parameter", "constant", "op"]
_HERE = os.path.dirname(__file__) + os.sep
_numbers: defaultdict[str, count] = defaultdict(lambda: count(1))


class Node(Operators):
    """One value of a graph: a leaf (feed, parameter, constant) or a rule's output.

    Made by `feed`, `parameter`, `constant`, the operators and `jaxnn.graph.apply`,
    never directly. A node holds no result: the same graph runs on any feeds, under
    `jit`, `vmap` and `scan`. Two nodes are equal only if they are the same one.

    Attributes:
      name: what errors and pictures call it: the caller's, or like `add_3`.
      kind: "feed", "parameter", "constant" or "op".
      rule: how an op is computed and differentiated; None for a leaf.
      value: what a parameter or constant holds unless it is fed.
      shape: of a leaf, if known (None for an axis of any length); None for an op.
      inputs: the nodes it is computed from, in the order of the rule's arguments.
      consumers: the nodes computed from it, in the order they were made. They are
        held weakly: a graph that nobody keeps is gone from here too.
      made_at: file:line of the caller that made it.
    """

    __slots__ = (
        "__weakref__",
        "_consumers",
        "_inputs",
        "_made_at",
        "kind",
        "name",
        "rule",
        "shape",
        "value",
    )

    def __init__(
        self,
        kind: Kind,
        name: str | None,
        *,
        base: str = "",
        rule: Rule | None = None,
        inputs: tuple["Node", ...] = (),
        value: Any = None,
        shape: tuple[int | None, ...] | None = None,
    ):
        if name is not None and (not isinstance(name, str) or not name):
            raise JaxnnError(f"name={name!r}: a node's name is a string, not empty")
        self.kind: Kind = kind
        base = base.split("(")[0]  # dense(128) gives dense_1
        self.name = name or f"{base}_{next(_numbers[base])}"
        self.rule = rule
        self.value = value
        self.shape = shape
        self._made_at = _caller()
        self._consumers: list[weakref.ref[Node]] = []
        self._inputs: tuple[Node, ...] = ()
        self.inputs = inputs

    @property
    def inputs(self) -> tuple["Node", ...]:
        """The nodes this one is computed from; assign a tuple to rewire it."""
        return self._inputs

    @inputs.setter
    def inputs(self, inputs):
        for node in inputs:
            if not isinstance(node, Node):
                raise JaxnnError(
                    f"{self.name}.inputs: got {type(node).__name__}, expected nodes"
                )
        for node in self._inputs:
            node._consumers = [r for r in node._consumers if r() is not self]
        self._inputs = tuple(inputs)
        for node in dict.fromkeys(self._inputs):  # x * x consumes x once
            gone = node._consumers.remove
            node._consumers.append(weakref.ref(self, gone))

    @property
    def consumers(self) -> tuple["Node", ...]:
        """The nodes computed from this one, in the order they were made."""
        alive = (reference() for reference in self._consumers)
        return tuple(node for node in alive if node is not None)

    @property
    def made_at(self) -> str:
        """Where the caller made it: file:line."""
        file, line = self._made_at
        inside = os.path.relpath(file) if os.path.exists(file) else file
        return f"{file if inside.startswith('..') else inside}:{line}"

    def describe(self, shapes: dict["Node", tuple] | None = None) -> str:
        """What it is, `h = matmul(x (4, 2), w (2, 3))`, with the shapes known."""

        def shaped(node):
            shape = (shapes or {}).get(node)
            return node.name if shape is None else f"{node.name} {shape}"

        if self.rule is None:
            return f"{self.kind} {shaped(self)}"
        return f"{self.name} = {self.rule.name}({', '.join(map(shaped, self.inputs))})"

    def __repr__(self):
        return f"<{self.describe()}, made at {self.made_at}>"


def feed(name: str, shape: tuple[int | None, ...] | None = None) -> Node:
    """A placeholder: its value is given to `run` or `bprop` by `feeds`.

    Args:
      name: what `feeds` and errors call it.
      shape: what its value must have, None for an axis of any length; not checked if
        left out.
    """
    if name is None:
        raise JaxnnError("feed: needs a name, so that errors can say what is missing")
    return Node("feed", name, shape=None if shape is None else tuple(shape))


def parameter(value: Any, name: str | None = None) -> Node:
    """A leaf to be trained: holds `value` (an array or number) unless it is fed."""
    return _leaf("parameter", value, name, "parameter")


def constant(value: Any, name: str | None = None) -> Node:
    """A fixed array or number. The operators make one of every number beside a node."""
    traced = isinstance(value, jax.core.Tracer)
    if name is None and is_value(value) and not traced and np.ndim(value) == 0:
        name = f"{np.asarray(value).item():.6g}"
    return _leaf("constant", value, name, "constant")


def _leaf(kind, value, name, base):
    if isinstance(value, jax.core.Tracer):
        raise JaxnnError(
            f"{name or kind}: got a value that is being traced (jit, vmap, scan); a "
            "graph outlives the trace, so make it a feed and give the value to run"
        )
    if not is_value(value):
        raise JaxnnError(
            f"{name or kind}: got {type(value).__name__}, expected an array or a number"
        )
    return Node(kind, name, base=base, value=value, shape=np.shape(value))


def is_value(value: Any) -> bool:
    """Whether it can be a constant: a number or an array."""
    return isinstance(value, int | float | np.ndarray | np.generic | jax.Array)


def as_node(value: Any) -> Node:
    """The node itself, or a constant of a number or an array."""
    return value if isinstance(value, Node) else constant(value)


def _caller() -> tuple[str, int]:
    """File and line of the innermost frame outside this package."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_HERE):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno
