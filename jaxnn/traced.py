"""What a traced program holds, read in one place: versions of JAX write it differently.

For those who go through a program's operations: the guard and the gradient check.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from jax.extend.core import ClosedJaxpr, Literal

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


def operations(jaxpr: Any, scans: bool = True) -> Iterator[Any]:
    """The operations of a program that call no other; `scans`: look inside of them."""
    for eqn in jaxpr.eqns:
        inner = inner_program(eqn)
        if inner is None or (eqn.primitive.name == "scan" and not scans):
            yield eqn
        else:
            yield from operations(inner.jaxpr, scans)


def evaluate(program: ClosedJaxpr, args: Sequence[Any], step: Callable) -> list[Any]:
    """Run a traced program one operation at a time, the functions it calls too.

    `step(eqn, values, known)` gives what an operation, or a scan, makes of values;
    `known` holds, by variable, those of the program that are there already.
    """
    jaxpr = program.jaxpr
    given = zip(
        [*jaxpr.constvars, *jaxpr.invars], [*program.consts, *args], strict=True
    )
    known: dict[Any, Any] = dict(given)
    for eqn in jaxpr.eqns:
        values = [v.val if isinstance(v, Literal) else known[v] for v in eqn.invars]
        inner = None if eqn.primitive.name == "scan" else inner_program(eqn)
        if inner is None:
            made = step(eqn, values, known)
        else:
            made = evaluate(inner, values, step)
        known |= dict(zip(eqn.outvars, made, strict=True))
    return [v.val if isinstance(v, Literal) else known[v] for v in jaxpr.outvars]


def run_operation(eqn: Any, values: Sequence[Any]) -> list[Any]:
    """What an operation of a program makes of values."""
    params = eqn.primitive.get_bind_params(eqn.params)
    made = eqn.primitive.bind(*values, **params)
    return made if eqn.primitive.multiple_results else [made]
