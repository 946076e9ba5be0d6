"""Networks as plain data, from which they can be made again: what JSON holds."""

import pkgutil
import sys
from contextlib import suppress
from typing import Any

from jaxnn.errors import JaxnnError, lookup
from jaxnn.layers.core import Layer, is_constructor, shortest
from jaxnn.rules.core import RULES, Rule


def to_plain(layer: Layer) -> dict[str, Any]:
    """How a layer or network was made, as dicts, lists, numbers and text.

    Parameters are not in it; `jaxnn.save_params` has them.

    Raises:
      JaxnnError: a layer written by hand, or an argument that is no plain value, such
        as a function; says which.

    >>> from jaxnn.layers import dense
    >>> to_plain(dense(3, bias=False))
    {'make': 'jaxnn.layers:dense', 'args': [3], 'kwargs': {'bias': False}}
    """
    if layer.made is None:
        raise JaxnnError(
            f"{layer.name}: written by hand, changed by _replace, or made of arrays; "
            "expected a layer as a constructor made it from plain settings"
        )
    constructor, args, kwargs = layer.made.constructor, layer.made.args, {}
    if constructor is pkgutil.resolve_name:  # a value, known by its own name
        return {"make": args[0]}
    args, kwargs = shortest(constructor, args, layer.made.kwargs)
    return {
        "make": f"{_package(constructor.__module__)}:{constructor.__qualname__}",
        "args": [_plain(layer, a) for a in args],
        "kwargs": {name: _plain(layer, a) for name, a in kwargs.items()},
    }


def from_plain(plain: Any) -> Layer:
    """The layer or network that `to_plain` told of; only constructors are called.

    Raises:
      JaxnnError: not such data, or a name that is no layer's.

    >>> from_plain({"make": "jaxnn.layers:dense", "args": [3], "kwargs": {}})
    dense(3)
    """
    name = plain.get("make") if isinstance(plain, dict) else None
    if not isinstance(name, str):
        raise JaxnnError(
            f"a network as data: got {plain!r:.60}, expected {{'make': ..., 'args': "
            "[...], 'kwargs': {...}}"
        )
    module = name.partition(":")[0]
    found: Any = None
    if module.startswith("jaxnn.") or module in sys.modules:  # data imports no others
        with suppress(ImportError, AttributeError, ValueError):
            found = pkgutil.resolve_name(name)
    if isinstance(found, Layer):
        return found
    if not is_constructor(found):
        raise JaxnnError(
            f"a network as data: {name!r} is no layer and no function that makes one; "
            "expected a name such as 'jaxnn.layers:dense', its module imported"
        )
    kwargs = {key: _made(a) for key, a in plain.get("kwargs", {}).items()}
    return found(*map(_made, plain.get("args", [])), **kwargs)


def _package(module):
    """`jaxnn.layers` of `jaxnn.layers.linear`: where a name is public, and stays."""
    return ".".join(module.split(".")[:2]) if module.startswith("jaxnn.") else module


def _plain(layer, value):
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Layer):
        return to_plain(value)
    if isinstance(value, Rule) and RULES.get(value.name) is value:
        return {"rule": value.name}
    if isinstance(value, list | tuple):
        return [_plain(layer, v) for v in value]
    name = getattr(value, "__name__", type(value).__name__)
    raise JaxnnError(
        f"{layer.name}: got the argument {name}, which has no plain form; expected "
        "numbers, text, layers, or functions by their registered name, such as 'he'"
    )


def _made(plain):
    if isinstance(plain, dict):
        rule = plain.get("rule")
        return from_plain(plain) if rule is None else lookup("rule", rule, RULES)
    return [_made(p) for p in plain] if isinstance(plain, list) else plain
