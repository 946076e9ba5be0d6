"""What Python's operators, and methods as in NumPy, mean for nodes."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxnn.graph.node import Node


class Operators:
    """`x @ w + b` makes nodes; each operator is a rule of `jaxnn.rules`.

    On either side there may be a number or an array: it becomes a constant.
    Comparisons make no nodes: they have no derivative.
    """

    __slots__ = ()
    __array_ufunc__ = None  # a NumPy array on the left hands the operator to the node
    __iter__ = None  # or Python would try x[0], x[1], ... for ever

    def __add__(self, other: Any) -> "Node":
        return _binary("add", self, other)

    def __radd__(self, other: Any) -> "Node":
        return _binary("add", other, self)

    def __sub__(self, other: Any) -> "Node":
        return _binary("sub", self, other)

    def __rsub__(self, other: Any) -> "Node":
        return _binary("sub", other, self)

    def __mul__(self, other: Any) -> "Node":
        return _binary("mul", self, other)

    def __rmul__(self, other: Any) -> "Node":
        return _binary("mul", other, self)

    def __truediv__(self, other: Any) -> "Node":
        return _binary("div", self, other)

    def __rtruediv__(self, other: Any) -> "Node":
        return _binary("div", other, self)

    def __matmul__(self, other: Any) -> "Node":
        return _binary("matmul", self, other)

    def __rmatmul__(self, other: Any) -> "Node":
        return _binary("matmul", other, self)

    def __pow__(self, other: Any) -> "Node":
        return _binary("power", self, other)

    def __rpow__(self, other: Any) -> "Node":
        return _binary("power", other, self)

    def __neg__(self) -> "Node":
        return _call("mul", self, -1)  # a weakly typed -1: the dtype stays

    def __abs__(self) -> "Node":
        return _call("abs", self)

    def __getitem__(self, index: Any) -> "Node":
        return _call("slice", self, index=index)

    @property
    def T(self) -> "Node":  # noqa: N802 - as in NumPy
        """Axes in reverse order."""
        return _call("transpose", self)

    def reshape(self, *shape: Any) -> "Node":
        """The same elements in another shape: `reshape(2, 3)` or `reshape((2, 3))`."""
        one = len(shape) == 1 and isinstance(shape[0], tuple | list)
        return _call("reshape", self, shape=tuple(shape[0]) if one else shape)

    def sum(self, axis: Any = None, keepdims: bool = False) -> "Node":
        """Sum over an axis, several, or all (None)."""
        return _call("sum", self, axis=axis, keepdims=keepdims)

    def mean(self, axis: Any = None, keepdims: bool = False) -> "Node":
        """Mean over an axis, several, or all (None)."""
        return _call("mean", self, axis=axis, keepdims=keepdims)

    def max(self, axis: Any = None, keepdims: bool = False) -> "Node":
        """Largest element over an axis, several, or all (None)."""
        return _call("max", self, axis=axis, keepdims=keepdims)


def _binary(op, a, b) -> Any:
    from jaxnn.graph.node import is_value

    other = b if isinstance(a, Operators) else a
    if not isinstance(other, Operators) and not is_value(other):
        return NotImplemented
    return _call(op, a, b)


def _call(op, *args, **settings) -> "Node":
    # late, as in `_binary`: nodes are made of what has these operators already
    from jaxnn.graph.make import call

    return call(op, *args, **settings)
