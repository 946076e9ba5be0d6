"""The same search in any function: an attack, a graph, a training loop of your own."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.guard.finding import Finding, counts, likely_cause, value_range
from jaxnn.guard.locate import argument_name, scope_place
from jaxnn.guard.samples import bad_rows
from jaxnn.guard.swallowed import first_nan
from jaxnn.guard.trace import Replay
from jaxnn.train.state import float_type, to_unit


def locate_evaluation(
    net: Any, loss: Any, params: Any, state: Any, x: Any, y: Any, epoch: int, seed: int
) -> Finding | None:
    """Where evaluation mode makes what is not finite of parameters that are.

    Args:
      net: the network.
      loss: of the outputs and y.
      params: of one network.
      state: its running statistics.
      x: rows (B, ...), some of them with bad outputs.
      y: their targets.
      epoch: for the report.
      seed: for the report.
    """

    def run(kept, x, y):
        x = to_unit(jnp.asarray(x), float_type(kept["params"]))
        out = net.forward(kept["params"], kept["state"], x, train=False)[0]
        wide = out.astype(jnp.promote_types(out.dtype, jnp.float32))
        with jax.named_scope("loss"):
            return out, loss(wide, y)[0]

    args = {"params": params, "state": state}, x, y
    tried = (Replay(run, *args, exact=exact).origin() for exact in (False, True))
    origin = next((found for found in tried if found is not None), None)
    if origin is None:
        return None
    part, layer = scope_place(origin.scope)
    where = "the loss" if part == "loss" else ""
    before = argument_name(args, origin)
    words = likely_cause("forward", origin, None, before)
    return Finding(
        epoch=epoch, step=0, seed=seed, part="evaluation",
        layer=layer or where, op=origin.op, line=origin.line, turn=origin.turn,
        inputs=value_range(origin.inputs),
        cause=f"in evaluation mode only, training is finite: {words}",
        **counts(np.asarray(origin.output)),
    )  # fmt: skip


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
