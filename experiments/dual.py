"""Dual numbers: forward-mode differentiation in one page, to be read.

A dual number a + b e carries a value a and a derivative b, with e^2 = 0. Multiply two:

    (a + b e) (c + d e) = a c + (a d + b c) e

and the product rule falls out; each operation below knows its own derivative and the
chain rule does the rest. Start with b = 1 at one input, and b of the result is the
derivative for that input: one run for each input, which is why networks with a million
weights are trained by the reverse mode instead.

Values are Python floats or NumPy arrays. For work, use `jax.jvp`: the same idea, fast.

>>> x = Dual(2.0, 1.0)
>>> (x * x * x).derivative      # 3 x^2
12.0
>>> float(derivative(lambda x: x * exp(x), 0.0))
1.0

Source: Clifford 1873; Griewank, Walther 2008, chapter 2.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxnn.errors import JaxnnError


class Dual:
    """value + derivative e, e^2 = 0; both floats, or arrays of one shape.

    Without a derivative it is a constant.
    """

    __array_priority__ = 1000  # array * Dual asks Dual
    __array_ufunc__ = None

    def __init__(self, value: Any, derivative: Any = None):
        self.value = value
        # a constant: nothing moves
        self.derivative = (
            0.0 * np.asarray(value)[()] if derivative is None else derivative
        )

    def __repr__(self):
        return f"Dual({self.value!r}, {self.derivative!r})"

    def __add__(self, other):
        other = lift(other)
        return Dual(self.value + other.value, self.derivative + other.derivative)

    def __neg__(self):
        return Dual(-self.value, -self.derivative)

    def __sub__(self, other):
        return self + -lift(other)

    def __rsub__(self, other):
        return lift(other) - self

    def __mul__(self, other):
        a, b = self, lift(other)
        return Dual(a.value * b.value, a.value * b.derivative + a.derivative * b.value)

    __radd__, __rmul__ = __add__, __mul__

    def __truediv__(self, other):
        a, b = self, lift(other)
        y = a.value / b.value
        return Dual(y, (a.derivative - y * b.derivative) / b.value)

    def __rtruediv__(self, other):
        return lift(other) / self

    def __pow__(self, power):
        if not isinstance(power, Dual):
            slope = power * self.value ** (power - 1) if power else 0.0
            return Dual(self.value**power, slope * self.derivative)
        return exp(power * log(self))  # needs a positive base, as x^y does

    def __rpow__(self, base):
        return lift(base) ** self

    def __matmul__(self, other):
        a, b = self, lift(other)
        return Dual(a.value @ b.value, a.value @ b.derivative + a.derivative @ b.value)

    def __rmatmul__(self, other):
        return lift(other) @ self

    def __abs__(self):
        return Dual(abs(self.value), np.sign(self.value) * self.derivative)

    def __getitem__(self, where):
        return Dual(self.value[where], self.derivative[where])

    def sum(self, axis=None):
        """Sum over an axis; the derivative of a sum is the sum of the derivatives."""
        return Dual(np.sum(self.value, axis), np.sum(self.derivative, axis))

    # branches are taken by the value: the derivative is that of the branch
    def __lt__(self, other):
        return self.value < lift(other).value

    def __le__(self, other):
        return self.value <= lift(other).value

    def __gt__(self, other):
        return self.value > lift(other).value

    def __ge__(self, other):
        return self.value >= lift(other).value


def lift(x: Any) -> Dual:
    """x itself if it is dual, else a constant: derivative 0."""
    return x if isinstance(x, Dual) else Dual(x)


def exp(x: Any) -> Any:
    """e^x, its own derivative."""
    x = lift(x)
    y = np.exp(x.value)
    return Dual(y, y * x.derivative)


def log(x: Any) -> Any:
    """log x, derivative 1 / x."""
    x = lift(x)
    return Dual(np.log(x.value), x.derivative / x.value)


def sqrt(x: Any) -> Any:
    """Square root y, derivative 1 / (2 y)."""
    x = lift(x)
    y = np.sqrt(x.value)
    return Dual(y, x.derivative / (2 * y))


def sin(x: Any) -> Any:
    """sin x, derivative cos x."""
    x = lift(x)
    return Dual(np.sin(x.value), np.cos(x.value) * x.derivative)


def cos(x: Any) -> Any:
    """cos x, derivative -sin x."""
    x = lift(x)
    return Dual(np.cos(x.value), -np.sin(x.value) * x.derivative)


def tanh(x: Any) -> Any:
    """y = tanh x, derivative (1 + y) (1 - y), which keeps more digits than 1 - y^2."""
    x = lift(x)
    y = np.tanh(x.value)
    return Dual(y, (1 + y) * (1 - y) * x.derivative)


def sigmoid(x: Any) -> Any:
    """y = 1 / (1 + e^-x), derivative y (1 - y); by tanh, which cannot overflow."""
    return (tanh(lift(x) * 0.5) + 1) * 0.5


def maximum(x: Any, y: Any) -> Any:
    """The larger one, with its derivative; where they are equal, that of y.

    So `maximum(x, 0)` has derivative 0 at 0, as the relu of this library.
    """
    x, y = lift(x), lift(y)
    first = x.value > y.value
    slopes = np.where(first, x.derivative, y.derivative)[()]
    return Dual(np.where(first, x.value, y.value)[()], slopes)


def derivative(f: Callable, x: Any) -> Any:
    """f'(x) of a function of one number, or of each entry of an array on its own."""
    return lift(f(Dual(x, np.ones_like(x, float)[()]))).derivative


def gradient(f: Callable, x: Sequence[float] | np.ndarray) -> np.ndarray:
    """Gradient of a function of an array to a number: one run for each entry.

    >>> gradient(lambda x: (x * x).sum(), [1.0, 2.0, 3.0]).tolist()
    [2.0, 4.0, 6.0]

    Raises:
      JaxnnError: f does not return one number.
    """
    x = np.asarray(x, float)
    found = np.empty(x.shape)
    for index in np.ndindex(x.shape):
        seed = np.zeros(x.shape)
        seed[index] = 1.0
        slope = lift(f(Dual(x, seed))).derivative
        if np.ndim(slope):
            raise JaxnnError(
                f"dual gradient: f returned shape {np.shape(slope)}, expected one "
                "number; sum it, or differentiate one output at a time"
            )
        found[index] = slope
    return found
