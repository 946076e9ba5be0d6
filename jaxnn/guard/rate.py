"""The learning rate that an optax optimizer used, which it does not tell."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np


def learning_rate(optimizer: Any, opt: Any) -> float | None:
    """The rate of an optimizer in a state; None if it cannot be found out.

    A rate kept in the state (`optax.inject_hyperparams`) is read there. Else it is
    looked up among what the optimizer's functions enclose: a number, or a schedule and
    the count in the state. `jaxnn.train.policy.Slowed` multiplies it.
    """
    counts, scale = [], 1.0
    for path, leaf in jax.tree_util.tree_leaves_with_path(opt):
        name = jax.tree_util.keystr(path)
        if "learning_rate" in name:
            return float(np.asarray(leaf))
        if name.endswith(".count"):
            counts.append(leaf)
        if name == ".scale":
            scale = float(np.asarray(leaf))
    try:
        for name, value in _enclosed(getattr(optimizer, "update", None)):
            if name == "step_size" and np.ndim(value) == 0:
                return abs(float(value)) * scale
            if name == "step_size_fn" and counts:
                # jit: one program to compile, not one for each operation
                return abs(float(jax.jit(value)(counts[-1]))) * scale
    except (TypeError, ValueError):
        return None
    return None


def _enclosed(function: Any, seen: set[int] | None = None) -> Iterator[tuple[str, Any]]:
    """Names and values that a function and the functions it encloses stand on."""
    seen = set() if seen is None else seen
    if id(function) in seen:
        return
    seen.add(id(function))
    if isinstance(function, tuple | list):
        for one in function:
            yield from _enclosed(one, seen)
        return
    code = getattr(function, "__code__", None)
    cells = getattr(function, "__closure__", None)
    if code is None or cells is None:
        return
    for name, cell in zip(code.co_freevars, cells, strict=True):
        try:
            value = cell.cell_contents
        except ValueError:  # not filled yet
            continue
        yield name, value
        yield from _enclosed(value, seen)
