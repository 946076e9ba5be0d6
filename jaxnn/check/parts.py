"""A combinator around other parts: how the laboratory gets inside a network.

A combinator such as `serial` holds its layers in the closures of its functions, and
nothing else knows how it wires them. To watch each layer at work, its functions are
copied with the layers in their closures exchanged. That works for every combinator that
names its layers in `Layer.parts`, those of users and of other packages too, with no
method that each of them would have to write.
"""

import copy
import functools
import types
from collections.abc import Callable, Sequence
from typing import Any

from jaxnn.combine.parts import Parts
from jaxnn.layers import Layer


def with_parts(layer: Layer, parts: Sequence[Layer]) -> Layer:
    """`layer` with `parts` in the place of `layer.parts`, in the same order.

    A part that its functions do not hold in closures, `Parts`, tuples, lists or dicts
    stays as it was; the caller can tell, since the new one is then never called.
    """
    parts = tuple(parts)
    exchange = _Exchange(layer.parts, parts)
    return layer._replace(
        init=exchange(layer.init),
        forward=exchange(layer.forward),
        backward=exchange(layer.backward),
        parts=parts,
    )


class _Exchange:
    """Copies values with old layers replaced by new ones; all else is shared."""

    def __init__(self, old, new):
        self.old, self.new = old, new
        pairs = zip(old[::-1], new[::-1], strict=True)  # the first of equal ones stays
        self.by_identity = {id(a): b for a, b in pairs}
        self.copied: dict[int, Callable] = {}

    def __call__(self, value: Any) -> Any:
        if isinstance(value, Layer):
            return self._layer(value)
        if isinstance(value, tuple | list) and type(value) in (tuple, list):
            return self._sequence(value)
        if type(value) is dict:
            new = {k: self(v) for k, v in value.items()}
            return new if any(new[k] is not v for k, v in value.items()) else value
        if isinstance(value, Parts):
            new = copy.copy(value)
            new.layers = self(value.layers)
            return new
        if isinstance(value, functools.partial):
            return functools.partial(
                self(value.func), *map(self, value.args), **self(value.keywords)
            )
        if isinstance(value, types.FunctionType) and value.__closure__:
            return self._function(value)
        return value

    def _layer(self, value):
        if id(value) in self.by_identity:
            return self.by_identity[id(value)]
        if not any(id(part) in self.by_identity for part in value.parts):
            return value
        # a combinator of the same parts, which this one wraps
        return value._replace(
            forward=self(value.forward),
            backward=self(value.backward),
            parts=self(value.parts),
        )

    def _sequence(self, value):
        # by place where it is the parts themselves: one layer may be there twice
        if len(value) == len(self.old) and all(map(_same, value, self.old)):
            return type(value)(self.new)
        new = [self(v) for v in value]
        return value if all(map(_same, new, value)) else type(value)(new)

    def _function(self, function):
        if id(function) not in self.copied:
            cells = tuple(types.CellType() for _ in function.__closure__)
            twin = types.FunctionType(
                function.__code__,
                function.__globals__,
                function.__name__,
                function.__defaults__,
                cells,
            )
            twin.__kwdefaults__ = function.__kwdefaults__
            twin.__dict__.update(function.__dict__)
            # before the cells are filled: a function may hold itself
            self.copied[id(function)] = twin
            for cell, old in zip(cells, function.__closure__, strict=True):
                try:
                    cell.cell_contents = self(old.cell_contents)
                except ValueError:  # not filled yet: stays empty
                    continue
        return self.copied[id(function)]


def _same(a, b):
    return a is b
