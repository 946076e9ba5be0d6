"""How a layer was made: what its `repr`, its equality and its pickle come from."""

import functools
import inspect
import pkgutil
from collections.abc import Callable
from functools import partial
from typing import Any


class Made:
    """A public constructor and the arguments it was called with.

    Two are equal if the constructor is the same and the arguments are, with their
    types: jit tells 1, 1.0 and True apart. Functions are equal only to themselves.

    Attributes:
      constructor: what makes such a layer again, `constructor(*args, **kwargs)`.
      args: its arguments by place.
      kwargs: its arguments by name.
    """

    __slots__ = ("_hash", "_key", "args", "constructor", "kwargs")

    def __init__(self, constructor: Callable, *args: Any, **kwargs: Any):
        self.constructor, self.args, self.kwargs = constructor, args, kwargs
        self._key = settled((args, kwargs))
        # hashed once: networks are asked for theirs at every call of a jitted function
        self._hash = hash((constructor, self._key))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return (
            isinstance(other, Made)
            and self._hash == other._hash
            and self.constructor == other.constructor
            and self._key == other._key
        )

    def __repr__(self) -> str:
        if self.constructor is pkgutil.resolve_name:  # a value: by its own name
            return self.args[0].partition(":")[2]
        args, kwargs = _shortest(self.constructor, self.args, self.kwargs)
        shown = [*map(_shown, args), *(f"{k}={_shown(v)}" for k, v in kwargs.items())]
        return f"{self.constructor.__name__}({', '.join(shown)})"


def made_by(constructor: Callable, args: tuple, kwargs: dict) -> Made | None:
    """How `constructor(*args, **kwargs)` came about, its defaults filled in.

    None if an argument cannot be hashed: arrays, values that a sweep traces.
    """
    bound = inspect.signature(constructor).bind(*args, **kwargs)
    bound.apply_defaults()
    try:
        return Made(constructor, *bound.args, **bound.kwargs)
    except TypeError:
        return None


def settled(value: Any) -> Any:
    """`value` in a form that is compared and hashed by content and type.

    Raises:
      TypeError: it, or something in it, cannot be hashed.

    >>> settled([1]) == settled((1,)), settled(1) == settled(1.0)
    (True, False)
    """
    if isinstance(value, partial):
        return "partial", value.func, settled((value.args, value.keywords))
    if isinstance(value, float):
        return type(value), float(value).hex()  # 0.0 is not -0.0, NaN is itself
    if type(value) in (list, tuple):
        return tuple(map(settled, value))
    if isinstance(value, dict):
        return "dict", tuple((k, settled(v)) for k, v in value.items())
    hash(value)
    return type(value), value


def _shortest(constructor, args, kwargs):
    """The arguments without those that the constructor has as defaults."""
    signature = inspect.signature(constructor)
    defaults = {n: p.default for n, p in signature.parameters.items()}

    def is_default(name, value):
        default = defaults[name]
        return default is not inspect.Parameter.empty and (
            settled(default) == settled(value)
        )

    bound = signature.bind(*args, **kwargs)
    given = dict(bound.arguments)
    for name, value in bound.arguments.items():
        if is_default(name, value):
            del given[name]
    by_place, by_name, gap = [], {}, False
    for name, value in bound.arguments.items():
        kind = signature.parameters[name].kind
        if name not in given:
            gap = True
        elif kind is inspect.Parameter.VAR_POSITIONAL:
            by_place += value
        elif kind is inspect.Parameter.VAR_KEYWORD:
            by_name |= value
        elif kind is inspect.Parameter.KEYWORD_ONLY or gap:
            by_name[name] = value
        else:
            by_place.append(value)
    return by_place, by_name


def _shown(value):
    if inspect.isroutine(value) or isinstance(value, functools.partial):
        return getattr(value, "__name__", "partial")
    return repr(value)
