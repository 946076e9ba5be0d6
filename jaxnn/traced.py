"""What a traced program holds, read in one place: versions of JAX write it differently.

For those who go through a program's operations: the guard and the gradient check.
"""

from typing import Any

from jax.extend.core import ClosedJaxpr

QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""Options of XLA for a program that runs a few times only."""

NO_CALLS = ("while", "cond", "pallas_call", "reduce", "custom_root", "shard_map")


def inner_program(eqn: Any) -> ClosedJaxpr | None:
    """The function that an operation calls, or a scan's body; None for a plain one."""
    if eqn.primitive.name in NO_CALLS:
        return None
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        found = eqn.params.get(key)
        if isinstance(found, ClosedJaxpr):
            return found
        if found is not None and hasattr(found, "eqns"):
            return ClosedJaxpr(found, ())
    return None


def source_place(eqn: Any) -> tuple[str, int, int] | None:
    """File, line and column that a step is from, None if they are not known."""
    try:
        from jax._src import source_info_util

        frame = source_info_util.user_frame(eqn.source_info.traceback)
    except (ImportError, AttributeError, TypeError):
        return None  # this JAX keeps it elsewhere
    if frame is None:
        return None
    return frame.file_name, frame.start_line, frame.start_column


def scan_counts(params: Any) -> tuple[int, int]:
    """(constants, carried values) of a scan, whichever way this JAX writes it."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    consts, carry, _ = params["ft_in"].unpack()
    return len(list(consts.vals)), len(list(carry.vals))
