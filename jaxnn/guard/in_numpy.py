"""JAX's most common operations in NumPy: a replay need not compile what it runs once.

XLA takes 10 to 70 ms to compile an operation that it is given alone, and 2 s for a
whole step of which every value is asked for. Whatever is missing here is run by JAX.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

NARROW = 4  # bytes: sums of narrower floats are taken in float32, as XLA does

ALIKE = {
    *("exp", "exp2", "log", "log1p", "expm1", "tanh", "sin", "cos", "sqrt", "cbrt"),
    *("square", "sign", "floor", "ceil", "abs"),
}
"""Operations of that name in NumPy, too."""

PLAIN: dict[str, Callable] = {name: getattr(np, name) for name in ALIKE} | {
    "add": np.add, "add_any": np.add, "sub": np.subtract, "mul": np.multiply,
    "max": np.maximum, "min": np.minimum, "neg": np.negative, "is_finite": np.isfinite,
    "eq": np.equal, "ne": np.not_equal, "gt": np.greater, "ge": np.greater_equal,
    "lt": np.less, "le": np.less_equal, "and": np.bitwise_and, "or": np.bitwise_or,
    "xor": np.bitwise_xor, "not": np.invert,
    "div": np.divide,  # of whole numbers floats, which are not taken: XLA rounds them
    # NumPy wants the sign of whole powers to be known
    "pow": lambda x, y: np.asarray(x ** np.asarray(y, x.dtype), x.dtype),
    "logistic": lambda x: np.asarray(1 / (1 + np.exp(-x)), x.dtype),
    "rsqrt": lambda x: np.asarray(1 / np.sqrt(x), x.dtype),
    "copy": lambda x: x, "copy_p": lambda x: x, "stop_gradient": lambda x: x,
}  # fmt: skip
"""Operation without settings -> function of its arguments."""


def _wide(x):
    narrow = x.dtype.kind in "fV" and x.dtype.itemsize < NARROW
    return x.astype(np.float32) if narrow else x


def _broadcast(p, x):
    shape = np.ones(len(p["shape"]), int)
    shape[list(p["broadcast_dimensions"])] = x.shape
    return np.broadcast_to(x.reshape(shape), p["shape"])


def _dot(p, a, b):
    """Axes as in `lax.dot_general`: batch first, then what is left of a, and of b."""
    (contract_a, contract_b), (batch_a, batch_b) = p["dimension_numbers"]

    def arranged(x, contract, batch, last):
        free = [i for i in range(x.ndim) if i not in (*contract, *batch)]
        middle = (*free, *contract) if last else (*contract, *free)
        sizes = [x.shape[i] for i in batch], [x.shape[i] for i in free]
        depth = int(np.prod([x.shape[i] for i in contract]))
        width = int(np.prod(sizes[1]))
        x = _wide(x).transpose((*batch, *middle))
        flat = (width, depth) if last else (depth, width)
        return x.reshape((*sizes[0], *flat)), sizes

    left, (batch, free_a) = arranged(a, contract_a, batch_a, True)
    right, (_, free_b) = arranged(b, contract_b, batch_b, False)
    out = p.get("preferred_element_type") or np.result_type(a, b)
    return (left @ right).reshape((*batch, *free_a, *free_b)).astype(out)


def _reduced(function):
    return lambda p, x: np.asarray(function(_wide(x), axis=tuple(p["axes"])), x.dtype)


def _select(p, which, *cases):
    del p
    if which.dtype != bool or len(cases) != 2:
        raise NotImplementedError
    return np.where(which, cases[1], cases[0])


def _slice(p, x):
    strides = p["strides"] or [1] * x.ndim
    edges = zip(p["start_indices"], p["limit_indices"], strides, strict=True)
    return x[tuple(slice(*edge) for edge in edges)]


def _integer_pow(p, x):
    if x.dtype.kind not in "fV":
        raise NotImplementedError
    y = _wide(x) ** abs(p["y"])
    return np.asarray(y if p["y"] >= 0 else 1 / y, x.dtype)


def _iota(p):
    line = np.arange(p["shape"][p["dimension"]], dtype=p["dtype"])
    return _broadcast(p | {"broadcast_dimensions": (p["dimension"],)}, line)


def _bits(p, x):
    if x.dtype.itemsize != 8 or np.dtype(p["new_dtype"]) != np.uint32:
        raise NotImplementedError
    return np.ascontiguousarray(x)[..., None].view(np.uint32)


SET: dict[str, Callable] = {
    "bitcast_convert_type": _bits,
    "broadcast_in_dim": _broadcast,
    "clamp": lambda p, low, x, high: np.clip(x, low, high),
    "concatenate": lambda p, *parts: np.concatenate(parts, p["dimension"]),
    "convert_element_type": lambda p, x: x.astype(p["new_dtype"]),
    "dot_general": _dot,
    "integer_pow": _integer_pow,
    "iota": _iota,
    "reduce_and": _reduced(np.all), "reduce_or": _reduced(np.any),
    "reduce_max": _reduced(np.max), "reduce_min": _reduced(np.min),
    "reduce_sum": _reduced(np.sum),
    "reshape": lambda p, x: x.reshape(p["new_sizes"]),
    "rev": lambda p, x: np.flip(x, p["dimensions"]),
    "select_n": _select,
    "slice": _slice,
    "squeeze": lambda p, x: x.squeeze(tuple(p["dimensions"])),
    "transpose": lambda p, x: x.transpose(p["permutation"]),
}  # fmt: skip
"""Operation with settings -> function of those and its arguments."""


def in_numpy(eqn: Any, values: list[Any]) -> list[np.ndarray] | None:
    """What an operation makes of values, or None if JAX has to run it."""
    name, params = eqn.primitive.name, eqn.params
    if name == "optimization_barrier":
        return list(values)
    run = PLAIN.get(name) or (name in SET and partial(SET[name], params))
    if not run or not all(isinstance(v, np.ndarray | np.generic) for v in values):
        return None
    with np.errstate(all="ignore"):
        try:
            y = np.asarray(run(*values))
        except (NotImplementedError, TypeError, ValueError, KeyError):
            return None
    want = eqn.outvars[0].aval
    return [y] if y.shape == want.shape and y.dtype == want.dtype else None
