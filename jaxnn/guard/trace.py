"""Path one to a NaN's origin: replay the step's jaxpr, operation by operation.

The program of a step is run as JAX traced it, one primitive at a time, and every value
is looked at. From a bad result the trail goes back along bad values to the operation
whose inputs were still sound. It goes into scans, loops and calls the same way.

The walk stands on parts of JAX that move between versions; `jaxnn.guard.layers` finds
the layer and direction without them.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import jaxpr_as_fun


class Origin(NamedTuple):
    """The first operation that made a value that is not finite.

    Attributes:
      op: the primitive, such as "log" or "div".
      scope: named scopes around it, such as "bwd/3_dense(10)".
      line: "file.py:31" of the source, "" if unknown.
      inputs: its arguments.
      output: its bad result.
    """

    op: str
    scope: str
    line: str
    inputs: tuple[Any, ...]
    output: np.ndarray


class _Record(NamedTuple):
    eqn: Any
    inputs: list[Any]
    outputs: list[Any]


def is_bad(value: Any) -> bool:
    """Whether a value has a NaN or an infinity; whole numbers and keys have none."""
    dtype = getattr(value, "dtype", None)
    if dtype is None or not jax.numpy.issubdtype(dtype, np.inexact):
        return False
    return not bool(np.isfinite(np.asarray(value, np.complex128)).all())


def has_nan(value: Any) -> bool:
    """Whether a bad value has a NaN, not only infinities."""
    return bool(np.isnan(np.asarray(value, np.complex128)).any())


def trace_origin(function: Callable, *args: Any, roots: Callable) -> Origin | None:
    """Where a bad output of `function(*args)` comes from; None if none is bad.

    Args:
      function: pure and traceable.
      args: concrete pytrees of arrays.
      roots: picks, from the output, the leaves to trace, in order of importance.
    """
    closed, shape = jax.make_jaxpr(function, return_shape=True)(*args)
    numbered = jax.tree.unflatten(
        jax.tree.structure(shape), range(len(closed.jaxpr.outvars))
    )
    wanted = jax.tree.leaves(roots(numbered))
    return _origin(closed.jaxpr, closed.consts, jax.tree.leaves(args), wanted, "")


def _origin(jaxpr, consts, args, roots: Sequence[int], scope) -> Origin | None:
    records, env = _run(jaxpr, consts, args)
    producer = {}
    for record in records:
        for i, var in enumerate(record.eqn.outvars):
            producer[var] = record, i
    for root in roots:
        var = jaxpr.outvars[root]
        if not _is_literal(var) and is_bad(env[var]) and var in producer:
            record, which = _back(var, producer, env)
            return _inside(record, which, scope)
    return None


def _run(jaxpr, consts, args):
    """Every equation's inputs and outputs, and the value of every variable."""
    together = getattr(jaxpr, "all_invars", None)  # newer JAX keeps one list
    variables = together or [*jaxpr.constvars, *jaxpr.invars]
    env = dict(zip(variables, [*consts, *args], strict=True))
    records = []
    for eqn in jaxpr.eqns:
        values = [v.val if _is_literal(v) else env[v] for v in eqn.invars]
        found = eqn.primitive.bind(*values, **eqn.primitive.get_bind_params(eqn.params))
        outputs = list(found) if eqn.primitive.multiple_results else [found]
        env.update(zip(eqn.outvars, outputs, strict=True))
        records.append(_Record(eqn, values, outputs))
    return records, env


def _is_literal(var) -> bool:
    return hasattr(var, "val")


def _back(var, producer, env):
    """From a bad variable to the record that made the first bad value on its trail."""
    while True:
        record, which = producer[var]
        later = _worth_following(record, which, producer, env)
        if later is None:
            return record, which
        var = later


def _worth_following(record, which, producer, env):
    """A bad input that explains the bad output; None if this operation is to blame.

    An infinity that was put there on purpose (the -inf of a mask) explains no NaN: the
    operation that turned it into one does.
    """
    bad = [v for v in record.eqn.invars if not _is_literal(v) and is_bad(env[v])]
    if not bad:
        return None
    made_nan = has_nan(record.outputs[which])
    for v in sorted(bad, key=lambda v: not has_nan(env[v])):
        if v not in producer:
            continue  # it came in from outside
        if made_nan and not has_nan(env[v]) and _intended(v, producer, env):
            continue
        return v
    return None


def _intended(var, producer, env) -> bool:
    """Whether the infinities of a value come from constants, not from arithmetic."""
    while var in producer:
        record, _ = producer[var]
        arrays = [v for v in record.eqn.invars if not _is_literal(v)]
        bad = [v for v in arrays if is_bad(env[v])]
        if any(_is_literal(v) and is_bad(np.asarray(v.val)) for v in record.eqn.invars):
            return True
        if not bad:
            return False
        var = bad[0]
    return True


def _inside(record, which, scope) -> Origin:
    """The origin within a call, scan, loop or branch; else the operation itself."""
    eqn = record.eqn
    where = "/".join(part for part in (scope, str(eqn.source_info.name_stack)) if part)
    looked = _look_into(record, which, where)
    if looked is not None:
        return looked
    return Origin(
        eqn.primitive.name,
        where,
        _line(eqn),
        tuple(record.inputs),
        np.asarray(record.outputs[which]),
    )


def _look_into(record, which, scope):
    eqn, name = record.eqn, record.eqn.primitive.name
    if name == "scan":
        return _look_into_scan(record, which, scope)
    if name == "while":
        return _look_into_while(record, which, scope)
    if name == "cond":
        branch = eqn.params["branches"][int(record.inputs[0])]
        return _origin(branch.jaxpr, branch.consts, record.inputs[1:], [which], scope)
    for value in eqn.params.values():
        inner = getattr(value, "jaxpr", value)
        if hasattr(inner, "eqns") and len(inner.invars) == len(record.inputs):
            consts = getattr(value, "consts", ())
            return _origin(inner, consts, record.inputs, [which], scope)
    return None


def _counts(params) -> tuple[int, int]:
    """(constants, carried values) of a scan, whichever way this JAX writes it."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    consts, carry, _ = params["ft_in"].unpack()
    return len(list(consts.vals)), len(list(carry.vals))


def _look_into_scan(record, which, scope):
    params, inner = record.eqn.params, record.eqn.params["jaxpr"]
    fixed, carried = _counts(params)
    consts, carry = record.inputs[:fixed], record.inputs[fixed : fixed + carried]
    rows = record.inputs[fixed + carried :]
    length = params["length"]
    for t in reversed(range(length)) if params["reverse"] else range(length):
        given = [*consts, *carry, *(a[t] for a in rows)]
        out = jaxpr_as_fun(inner)(*given)
        bad = [i for i, value in enumerate(out) if is_bad(value)]
        if bad and (which in bad or any(i < carried for i in bad)):
            root = [which] if which in bad else bad
            where = f"{scope}/scan step {t}"
            return _origin(inner.jaxpr, inner.consts, given, root, where)
        carry = list(out[:carried])
    return None


def _look_into_while(record, which, scope):
    params = record.eqn.params
    conditions, fixed = params["cond_nconsts"], params["body_nconsts"]
    first = record.inputs[:conditions]
    consts = record.inputs[conditions : conditions + fixed]
    carry = record.inputs[conditions + fixed :]
    condition, body = params["cond_jaxpr"], params["body_jaxpr"]
    turn = 0
    while bool(jaxpr_as_fun(condition)(*first, *carry)[0]):
        given = [*consts, *carry]
        out = jaxpr_as_fun(body)(*given)
        bad = [i for i, value in enumerate(out) if is_bad(value)]
        if bad:
            root = [which] if which in bad else bad
            where = f"{scope}/loop turn {turn}"
            return _origin(body.jaxpr, body.consts, given, root, where)
        carry, turn = list(out), turn + 1
    return None


def _line(eqn) -> str:
    """File and line where the operation was written."""
    try:
        from jax._src import source_info_util

        frame = source_info_util.user_frame(eqn.source_info.traceback)
        if frame is None:
            return ""
        return f"{frame.file_name}:{frame.start_line}"
    except (ImportError, AttributeError, TypeError):
        return ""  # this JAX keeps it elsewhere
