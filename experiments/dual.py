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

from collections.abc import Callable
from typing import Any

import numpy as np


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

    def __matmul__(self, other):
        a, b = self, lift(other)
        return Dual(a.value @ b.value, a.value @ b.derivative + a.derivative @ b.value)

    def __rmatmul__(self, other):
        return lift(other) @ self

    def __getitem__(self, where):
        return Dual(self.value[where], self.derivative[where])

    def sum(self, axis=None):
        """Sum over an axis; the derivative of a sum is the sum of the derivatives."""
        return Dual(np.sum(self.value, axis), np.sum(self.derivative, axis))


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


def tanh(x: Any) -> Any:
    """y = tanh x, derivative (1 + y) (1 - y), which keeps more digits than 1 - y^2."""
    x = lift(x)
    y = np.tanh(x.value)
    return Dual(y, (1 + y) * (1 - y) * x.derivative)


def derivative(f: Callable, x: Any) -> Any:
    """f'(x) of a function of one number, or of each entry of an array on its own."""
    return lift(f(Dual(x, np.ones_like(x, float)[()]))).derivative
