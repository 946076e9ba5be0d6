"""The rule of x[...]: a part of an array, and its way back into the whole."""

import builtins
import operator
from typing import Any

import jax.numpy as jnp
from jax import lax

from jaxnn.errors import JaxnnError
from jaxnn.rules.broadcast import outline
from jaxnn.rules.core import Rule


def slice(index: Any = ...) -> Rule:
    """y = x[index]; dx is dy where it was taken from and 0 elsewhere.

    Keeps the shape of x. `index` is what may stand in the brackets: numbers (which drop
    their axis), slices with any step, `...`, None for a new axis, a tuple of these.

    Raises:
      JaxnnError: a number out of range, a step of 0, more indices than axes, an index
        array (`embedding` looks rows up).

    >>> import jax.numpy as jnp
    >>> rule = slice((0, builtins.slice(None, None, 2)))
    >>> y, cache = rule.fwd(jnp.arange(10.0).reshape(2, 5))
    >>> y.tolist()
    [0.0, 2.0, 4.0]
    >>> rule.bwd(cache, y)[0].tolist()
    [[0.0, 0.0, 2.0, 0.0, 4.0], [0.0, 0.0, 0.0, 0.0, 0.0]]
    """

    def fwd(x):
        _ranges(index, x.shape)  # the errors are ours, not an array library's
        return x[index], outline(x)

    def bwd(like, dy):
        shape = like.shape[1:]
        ranges = _ranges(index, shape)
        # One axis for each of x again; then apart by the step and away from the ends.
        dx = dy.reshape([len(r) for r in ranges])
        dx = lax.rev(dx, [i for i, r in enumerate(ranges) if r.step < 0])
        config = []
        for r, n in zip(ranges, shape, strict=True):
            forward = r if r.step > 0 else r[::-1]
            if len(r):
                config.append((forward[0], n - 1 - forward[-1], forward.step - 1))
            else:
                config.append((n, 0, 0))
        return (lax.pad(dx, jnp.zeros((), dx.dtype), config),)

    return Rule("slice", fwd, bwd)


def _ranges(index, shape) -> list[range]:
    """For each axis of `shape`, the places that x[index] takes."""
    entries = index if isinstance(index, tuple) else (index,)
    entries = [e for e in entries if e is not None]
    dots = [i for i, e in enumerate(entries) if e is ...]
    missing = len(shape) - (len(entries) - len(dots))
    if len(dots) > 1 or missing < 0:
        raise JaxnnError(
            f"slice: got index {index} for shape {shape}, expected one entry an axis "
            "at most, and one '...' at most"
        )
    at = dots[0] if dots else len(entries)
    every = [builtins.slice(None)] * missing
    entries = entries[:at] + every + entries[at + 1 :]
    return [_range(e, n, index, shape) for e, n in zip(entries, shape, strict=True)]


def _range(entry, n, index, shape) -> range:
    """The places of an axis of n that `entry` takes, a single one for a number."""
    if isinstance(entry, builtins.slice) and entry.step != 0:
        return range(n)[entry]
    if hasattr(entry, "__index__") and not isinstance(entry, bool):
        at = operator.index(entry)
        if -n <= at < n:
            return range(at % n, at % n + 1)
    raise JaxnnError(
        f"slice: got {entry} in index {index} for shape {shape}, expected numbers "
        "within the axis, slices with a step other than 0, ... or None"
    )
