"""The same search in any function: an attack, a graph, a training loop of your own."""

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxnn.guard.finding import Finding, counts, likely_cause, value_range
from jaxnn.guard.locate import scope_place
from jaxnn.guard.samples import bad_rows
from jaxnn.guard.swallowed import first_nan
from jaxnn.guard.trace import Replay


def locate_in(
    function: Callable, *args: Any, batch: int | None = None
) -> Finding | None:
    """The first value in `function(*args)` that is not finite, and where it was made.

    The search starts at results that are bad. If there are none it goes through the
    whole program for a NaN that was swallowed on the way, as an attack does that keeps
    the best of its points: a NaN is never better.

    Args:
      function: pure and traceable, such as `lambda x: pgd(net, params, state, x, ...)`.
      args: arrays or trees of arrays; the function is traced with all of them.
      batch: samples in a batch: rows of the bad value are then named as samples.

    Returns:
      The finding, its `epoch` and `step` 0; None if there is no NaN and no bad result.
      A -inf that a constant put there, as masks do, is no fault.
    """
    for exact in (False, True):
        replay = Replay(function, *args, exact=exact)
        origin = replay.origin() or first_nan(replay.frame, "", "")
        if origin is not None:
            break
    else:
        return None
    part, layer = scope_place(origin.scope)
    part = part or "forward"
    before = "" if origin.argument is None else f"argument leaf {origin.argument}"
    found = Finding(
        epoch=0, step=0, seed=0, part=part, layer=layer, op=origin.op,
        line=origin.line, turn=origin.turn, inputs=value_range(origin.inputs),
        cause=likely_cause(part, origin, None, before),
        **counts(np.asarray(origin.output)),
    )  # fmt: skip
    rows = bad_rows(origin.output, batch) if batch else None
    found.samples = [] if rows is None else np.flatnonzero(rows).tolist()
    return found
