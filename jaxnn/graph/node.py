"""Nodes: what is computed from what. Nothing is computed before `run` or `bprop`."""

import inspect
import os
import sys
import weakref
from collections import defaultdict
from collections.abc import Callable
from itertools import count
from typing import Any, Literal

import jax
import numpy as np
from jax.tree_util import Partial

from jaxnn import rules
from jaxnn.arrays import is_whole
from jaxnn.errors import JaxnnError, lookup
from jaxnn.rules import RULES, Rule, einsum, matmul

Kind = Literal["feed", "parameter", "constant", "op"]
_HERE = os.path.dirname(__file__) + os.sep
_numbers: defaultdict[str, count] = defaultdict(lambda: count(1))


def _operator(op: str) -> tuple[Callable, Callable]:
    """An operator with the node on its left, and with the node on its right."""

    def left(self: "Node", other: Any) -> "Node":
        fits = isinstance(other, Node) or is_value(other)
        return call(op, self, other) if fits else NotImplemented

    def right(self: "Node", other: Any) -> "Node":
        return call(op, other, self) if is_value(other) else NotImplemented

    return left, right


class Node:
    """One value of a graph: a leaf (feed, parameter, constant) or a rule's output.

    Made by `feed`, `parameter`, `constant`, `apply` and the operators, never directly.
    A node holds no result: the same graph runs on any feeds, under `jit`, `vmap` and
    `scan`. Two nodes are equal only if they are the same one. Operators and methods
    are as in NumPy, each a rule of `jaxnn.rules`; numbers and arrays beside a node
    become constants. Comparisons make no nodes: they have no derivative.

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
        "__weakref__", "_consumers", "_inputs", "_made_at", "kind", "name", "rule",
        "shape", "value",
    )  # fmt: skip
    __array_ufunc__ = None  # a NumPy array on the left hands the operator to the node
    __iter__ = None  # or Python would try x[0], x[1], ... for ever

    def __init__(
        self, kind: Kind, name: str | None, *, base: str = "", rule: Rule | None = None,
        inputs: tuple["Node", ...] = (), value: Any = None,
        shape: tuple[int | None, ...] | None = None,
    ):  # fmt: skip
        if name is not None and (not isinstance(name, str) or not name):
            raise JaxnnError(f"name={name!r}: a node's name is a string, not empty")
        self.kind: Kind = kind
        base = base.split("(")[0]  # dense(128) gives dense_1
        self.name = name or f"{base}_{next(_numbers[base])}"
        self.rule, self.value, self.shape = rule, value, shape
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
            node._consumers.append(weakref.ref(self, node._consumers.remove))

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

    def _repr_svg_(self) -> str | None:
        import jaxnn.plots  # noqa: F401  first: it bears any MPLBACKEND
        from jaxnn.graph.picture import to_svg

        return to_svg(self)

    __add__, __radd__ = _operator("add")
    __sub__, __rsub__ = _operator("sub")
    __mul__, __rmul__ = _operator("mul")
    __truediv__, __rtruediv__ = _operator("div")
    __matmul__, __rmatmul__ = _operator("matmul")
    __pow__, __rpow__ = _operator("power")

    def __neg__(self) -> "Node":
        return call("mul", self, -1)  # a weakly typed -1: the dtype stays

    def __abs__(self) -> "Node":
        return call("abs", self)

    def __getitem__(self, index: Any) -> "Node":
        return call("slice", self, index=index)

    @property
    def T(self) -> "Node":  # noqa: N802 - as in NumPy
        """Axes in reverse order."""
        return call("transpose", self)

    def reshape(self, *shape: Any) -> "Node":
        """The same elements in another shape: `reshape(2, 3)` or `reshape((2, 3))`."""
        one = len(shape) == 1 and isinstance(shape[0], tuple | list)
        return call("reshape", self, shape=tuple(shape[0]) if one else shape)

    def sum(self, axis: Any = None, keepdims: bool = False) -> "Node":
        """Sum over an axis, several, or all (None)."""
        return call("sum", self, axis=axis, keepdims=keepdims)

    def mean(self, axis: Any = None, keepdims: bool = False) -> "Node":
        """Mean over an axis, several, or all (None)."""
        return call("mean", self, axis=axis, keepdims=keepdims)

    def max(self, axis: Any = None, keepdims: bool = False) -> "Node":
        """Largest element over an axis, several, or all (None)."""
        return call("max", self, axis=axis, keepdims=keepdims)


def _caller() -> tuple[str, int]:
    """File and line of the innermost frame outside this package."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_HERE):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno


# ---- leaves


def feed(name: str, shape: tuple[int | None, ...] | None = None) -> Node:
    """A placeholder: its value is given to `run` or `bprop` by `feeds`.

    Args:
      name: what `feeds` and errors call it.
      shape: what its value must have, None for an axis of any length; not checked if
        left out.
    """
    if name is None:
        raise JaxnnError("feed: needs a name, so that errors can say what is missing")
    fits = shape is None or isinstance(shape, tuple | list)
    if not fits or not all(s is None or is_whole(s, 0) for s in shape or ()):
        raise JaxnnError(
            f"feed {name}: got shape={shape!r}, expected a tuple of whole numbers, "
            "None for an axis of any length"
        )
    return Node("feed", name, shape=None if shape is None else tuple(shape))


def parameter(value: Any, name: str | None = None) -> Node:
    """A leaf to be trained: holds `value` (an array or number) unless it is fed."""
    return _leaf("parameter", value, name)


def constant(value: Any, name: str | None = None) -> Node:
    """A fixed array or number. The operators make one of every number beside a node."""
    traced = isinstance(value, jax.core.Tracer)
    if name is None and is_value(value) and not traced and np.ndim(value) == 0:
        name = f"{np.asarray(value).item():.6g}"
    return _leaf("constant", value, name)


def _leaf(kind, value, name):
    if isinstance(value, jax.core.Tracer):
        raise JaxnnError(
            f"{name or kind}: got a value that is being traced (jit, vmap, scan); a "
            "graph outlives the trace, so make it a feed and give the value to run"
        )
    if not is_value(value):
        raise JaxnnError(
            f"{name or kind}: got {type(value).__name__}, expected an array or a number"
        )
    return Node(kind, name, base=kind, value=value, shape=np.shape(value))


def is_value(value: Any) -> bool:
    """Whether it can be a constant: a number or an array."""
    return isinstance(value, int | float | np.ndarray | np.generic | jax.Array)


# ---- ops


def apply(rule: Rule | str, *inputs: Any, name: str | None = None) -> Node:
    """The node of `rule` on `inputs`: nodes, or numbers and arrays as constants.

    Args:
      rule: any `Rule`, your own too, or the name of one in `RULES`.
      inputs: one for each argument of the rule's `fwd`.
      name: what to call the node; `<rule>_<number>` if left out.
    """
    if isinstance(rule, str):
        rule = lookup("rule", rule, RULES)
    if not isinstance(rule, Rule):
        raise JaxnnError(f"apply: got {type(rule).__name__}, expected a Rule or a name")
    try:
        inspect.signature(rule.fwd).bind(*inputs)
    except TypeError as error:
        takes = ", ".join(inspect.signature(rule.fwd).parameters)
        raise JaxnnError(
            f"{name or rule.name}: got {len(inputs)} inputs, expected ({takes})"
        ) from error
    nodes = tuple(i if isinstance(i, Node) else constant(i) for i in inputs)
    return Node("op", name, base=rule.name, rule=rule, inputs=nodes)


def call(op: str, *args: Any, name: str | None = None, **settings: Any) -> Node:
    """`apply` of the rule `op` with settings: `call("leaky_relu", x, slope=0.2)`.

    What the rule's `fwd` takes are inputs; further arguments, strings and keywords are
    settings, given to the function in `jaxnn.rules` that makes the rule.
    """
    rule, make = lookup("op", op, RULES), getattr(rules, op, None)
    if op == "matmul":
        rule = make = PRODUCT
    words = [a for a in args if isinstance(a, str)]
    others = [a for a in args if not isinstance(a, str)]
    parameters = inspect.signature(rule.fwd).parameters.values()
    any_number = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    takes = len(others) if any_number else len(parameters)
    inputs, more = others[:takes], [*words, *others[takes:]]
    check_settings(name or op, dict(enumerate(more)) | settings)
    if callable(make):
        try:
            rule = make(*more, **settings)
        except TypeError as error:
            raise JaxnnError(f"{name or op}: {error}") from error
    elif more or settings:
        given = [*map(repr, more), *settings]
        raise JaxnnError(f"{name or op}: takes no settings, got {', '.join(given)}")
    return apply(rule, *inputs, name=name)


def check_settings(where: str, settings: dict) -> None:
    """Refuse nodes among the settings of an op."""
    for key, value in settings.items():
        if isinstance(value, Node):
            setting = f" {key}" if isinstance(key, str) else ""
            raise JaxnnError(
                f"{where}: the node {value.name} is given as a setting{setting}; "
                "settings are fixed when the node is made, only inputs are nodes"
            )


def _product_fwd(a, b):
    if not a.ndim or not b.ndim:
        raise JaxnnError("@ takes no scalars, write *")
    # the plain product has the faster rule; einsum knows vectors and stacks of matrices
    rule = matmul if b.ndim == 2 else einsum(_subscripts(a.ndim, b.ndim))
    y, cache = rule.fwd(a, b)
    return y, Partial(rule.bwd, cache)


def _subscripts(a_axes, b_axes):
    """What `a @ b` means in NumPy: b has one axis, or three and more."""
    if b_axes == 1:
        return "k,k->" if a_axes == 1 else "...k,k->..."
    return "k,...kn->...n" if a_axes == 1 else "...mk,...kn->...mn"


PRODUCT = Rule("matmul", _product_fwd, lambda back, dy: back(dy))
