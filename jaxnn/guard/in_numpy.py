"""JAX's most common operations in NumPy: a replay need not compile what it runs once.

XLA takes 10 to 30 ms to compile each operation that it is given alone, a hundred of
them for one training step. Whatever is missing here is run by JAX.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

NARROW = 4  # bytes: sums of narrower floats are taken in float32, as XLA does


def _logistic(x):
    return np.asarray(1 / (1 + np.exp(-x)), x.dtype)


def _rsqrt(x):
    return np.asarray(1 / np.sqrt(x), x.dtype)


def _wide(x):
    narrow = x.dtype.kind in "fV" and x.dtype.itemsize < NARROW
    return x.astype(np.float32) if narrow else x


def _power(x, y):
    # NumPy wants the sign of whole powers to be known
    return np.asarray(x ** np.asarray(y, x.dtype), x.dtype)


PLAIN: dict[str, Callable] = {
    "add": np.add, "add_any": np.add, "sub": np.subtract, "mul": np.multiply,
    "max": np.maximum, "min": np.minimum, "neg": np.negative, "abs": np.abs,
    "exp": np.exp, "exp2": np.exp2, "log": np.log, "log1p": np.log1p,
    "expm1": np.expm1, "tanh": np.tanh, "sin": np.sin, "cos": np.cos,
    "sqrt": np.sqrt, "cbrt": np.cbrt, "square": np.square, "sign": np.sign,
    "floor": np.floor, "ceil": np.ceil, "is_finite": np.isfinite,
    "eq": np.equal, "ne": np.not_equal, "gt": np.greater, "ge": np.greater_equal,
    "lt": np.less, "le": np.less_equal, "and": np.bitwise_and, "or": np.bitwise_or,
    "xor": np.bitwise_xor, "not": np.invert, "pow": _power,
    "logistic": _logistic, "rsqrt": _rsqrt,
    "copy": lambda x: x, "copy_p": lambda x: x, "stop_gradient": lambda x: x,
}  # fmt: skip
"""Operation without settings -> function of its arguments."""


def _broadcast(p, x):
    shape = [1] * len(p["shape"])
    for axis, size in zip(p["broadcast_dimensions"], x.shape, strict=True):
        shape[axis] = size
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


def _reduce(function, wide=False):
    def run(p, x):
        y = function(_wide(x) if wide else x, axis=tuple(p["axes"]))
        return np.asarray(y).astype(x.dtype)

    return run


def _select(p, which, *cases):
    del p
    if which.dtype == bool and len(cases) == 2:
        return np.where(which, cases[1], cases[0])
    raise NotImplementedError


def _slice(p, x):
    strides = p["strides"] or [1] * x.ndim
    edges = zip(p["start_indices"], p["limit_indices"], strides, strict=True)
    return x[tuple(slice(*edge) for edge in edges)]


def _integer_pow(p, x):
    if x.dtype.kind not in "fV":
        raise NotImplementedError
    y = _wide(x) ** abs(p["y"])
    return np.asarray(y if p["y"] >= 0 else 1 / y, x.dtype)


def _divide(p, a, b):
    del p
    if a.dtype.kind in "iub":  # XLA rounds towards 0, NumPy down
        raise NotImplementedError
    return np.divide(a, b)


def _reshape(p, x):
    if p.get("dimensions") is not None:
        raise NotImplementedError
    return x.reshape(p["new_sizes"])


def _iota(p):
    shape = [1] * len(p["shape"])
    shape[p["dimension"]] = -1
    line = np.arange(p["shape"][p["dimension"]], dtype=p["dtype"]).reshape(shape)
    return np.broadcast_to(line, p["shape"])


SET: dict[str, Callable] = {
    "broadcast_in_dim": _broadcast,
    "clamp": lambda p, low, x, high: np.clip(x, low, high),
    "concatenate": lambda p, *parts: np.concatenate(parts, p["dimension"]),
    "convert_element_type": lambda p, x: x.astype(p["new_dtype"]),
    "div": _divide,
    "dot_general": _dot,
    "integer_pow": _integer_pow,
    "iota": _iota,
    "reduce_and": _reduce(np.all),
    "reduce_max": _reduce(np.max),
    "reduce_min": _reduce(np.min),
    "reduce_or": _reduce(np.any),
    "reduce_sum": _reduce(np.sum, wide=True),
    "reshape": _reshape,
    "rev": lambda p, x: np.flip(x, p["dimensions"]),
    "select_n": _select,
    "slice": _slice,
    "squeeze": lambda p, x: x.squeeze(tuple(p["dimensions"])),
    "transpose": lambda p, x: x.transpose(p["permutation"]),
}
"""Operation with settings -> function of those and its arguments."""


def in_numpy(eqn: Any, values: list[Any]) -> list[np.ndarray] | None:
    """What an equation makes of values, or None if JAX has to run it."""
    name = eqn.primitive.name
    if name == "optimization_barrier":
        return list(values)
    run = PLAIN.get(name)
    if run is None and name not in SET:
        return None
    if not all(isinstance(v, np.ndarray | np.generic) for v in values):
        return None
    with np.errstate(all="ignore"):
        try:
            y = run(*values) if run else SET[name](eqn.params, *values)
        except (NotImplementedError, TypeError, ValueError, KeyError):
            return None
    y, want = np.asarray(y), eqn.outvars[0].aval
    same = y.shape == want.shape and y.dtype == want.dtype
    return [y] if same else None
