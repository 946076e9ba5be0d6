"""Path one to a NaN's origin: along bad values, back through the step's operations.

The step is replayed operation by operation. From a bad result the trail goes back, each
time to the input that explains it: with that input's bad elements made sound, fewer of
the result's are bad. It ends at an operation whose bad result no input explains. Scans,
loops and calls are entered on the way.
"""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnn.guard.replay import Frame, Turns, is_literal

SHAPING = {
    *("broadcast_in_dim", "convert_element_type", "reshape", "squeeze", "copy"),
    *("expand_dims", "transpose"),
}
"""Operations that make no number of their own."""


class Origin(NamedTuple):
    """The operation that made a value that is not finite.

    Attributes:
      op: the primitive, such as "log" or "div".
      scope: named scopes around it, such as "bwd/3_dense(10)".
      line: "file.py:31" of the source, "" if unknown.
      inputs: its arguments.
      output: its bad result, or what it was given of `argument`.
      turn: where in scans and loops, such as "scan step 3", "" outside.
      constant: whether a constant of the program was bad, such as the -inf of a mask.
      argument: number of the argument of the function that was bad before, or None.
    """

    op: str
    scope: str
    line: str
    inputs: tuple[Any, ...]
    output: np.ndarray
    turn: str = ""
    constant: bool = False
    argument: int | None = None


class _Outside(NamedTuple):
    """The trail leaves a body through its input `index`, met by the operation `by`."""

    index: int
    by: Origin | None


def is_bad(value: Any) -> bool:
    """Whether a value has a NaN or an infinity; whole numbers and keys have none."""
    return not bool(_finite(value).all())


def _finite(value):
    dtype = getattr(value, "dtype", None)
    if dtype is None or not jax.numpy.issubdtype(dtype, np.inexact):
        return np.ones((), bool)
    return np.isfinite(np.asarray(value))


def has_nan(value: Any) -> bool:
    """Whether a bad value has a NaN, not only infinities."""
    return bool(np.isnan(np.asarray(value)).any())


class Replay:
    """A function that was traced, to be run and searched one operation at a time.

    Args:
      function: pure and traceable.
      args: concrete pytrees of arrays.
      exact: run every operation by JAX, compiled on its own, rather than by NumPy
        where that can.
    """

    def __init__(self, function: Callable, *args: Any, exact: bool = False):
        closed, shape = jax.make_jaxpr(function, return_shape=True)(*args)
        self.closed, self.structure = closed, jax.tree.structure(shape)
        self.exact = exact
        self.frame = self._frame(args)

    def _frame(self, args):
        jaxpr, consts = self.closed.jaxpr, self.closed.consts
        return Frame(jaxpr, consts, jax.tree.leaves(args), exact=self.exact)

    def with_arguments(self, *args: Any) -> "Replay":
        """The same program, to be run with other arguments of the same shapes."""
        other = copy.copy(self)
        other.frame = self._frame(args)
        return other

    def outputs(self, pick: Callable = lambda out: out) -> Any:
        """What the function gives, or what `pick` takes of it; only that is run."""
        variables = jax.tree.unflatten(self.structure, self.frame.jaxpr.outvars)
        return jax.tree.map(self.frame.value, pick(variables))

    def origin(self, pick: Callable = lambda out: out) -> Origin | None:
        """Where the first bad output comes from, None if all are finite.

        `pick` takes, from the function's output, those to look at, in order.
        """
        variables = jax.tree.unflatten(self.structure, self.frame.jaxpr.outvars)
        for var in jax.tree.leaves(pick(variables)):
            if is_literal(var) or not is_bad(self.frame.value(var)):
                continue
            found = trail(self.frame, var, "", "")
            if isinstance(found, Origin):
                return found
            if found is not None and found.index >= 0:
                given = self.frame.value(self.frame.inputs[found.index])
                by = found.by or Origin("", "", "", (), given)
                return by._replace(argument=found.index, output=given)
        return None


def trail(frame: Frame, var, scope, turn, by=None) -> Origin | _Outside | None:
    """Back from a bad variable of a frame."""
    while True:
        if is_literal(var):
            return None
        if var not in frame.producer:
            index = frame.inputs.index(var) if var in frame.inputs else -1
            return _Outside(index, by)
        number, which = frame.producer[var]
        eqn = frame.jaxpr.eqns[number]
        frame.value(var)
        if number in frame.inside:
            found = _enter(frame, number, which, scope, turn)
            if found is None:
                return origin(frame, number, which, scope, turn)
            if isinstance(found, Origin):  # inside JAX's own there is no line
                return found._replace(line=found.line or _line(eqn))
            source = eqn.invars[found.index] if found.index >= 0 else None
            if source is None or _is_constant(frame, source):
                return (found.by or origin(frame, number, which, scope, turn))._replace(
                    constant=True
                )
            var, by = source, found.by or by
            continue
        found = _explains(frame, number, which, scope, turn)
        here = origin(frame, number, which, scope, turn)
        if found is None:
            return here
        if _is_constant(frame, found):
            return here._replace(constant=True)
        var, by = found, here


def _is_constant(frame, var):
    """Whether a value is a constant of the program, be it in another shape."""
    while not is_literal(var) and var in frame.producer:
        number, _ = frame.producer[var]
        eqn = frame.jaxpr.eqns[number]
        if eqn.primitive.name not in SHAPING:
            return False
        var = eqn.invars[0]
    return is_literal(var) or var in frame.constants


def _explains(frame, number, which, scope, turn):
    """The bad input that explains a bad output; None if the operation is to blame.

    The -inf of a mask explains no NaN: the operation that made one of it does.
    """
    eqn, values = frame.jaxpr.eqns[number], frame.inputs_of(number)
    out = frame.value(eqn.outvars[which])
    bad = [i for i, v in enumerate(values) if is_bad(v)]
    if not bad:
        return None
    if len(bad) > 1:
        alone = [i for i in bad if _fewer(frame, eqn, values, [i], which, out)]
    else:
        alone = bad
    if not alone:
        alone = bad
    if not _fewer(frame, eqn, values, alone, which, out):
        return None
    for i in sorted(alone, key=lambda i: _urgency(values[i])):
        var = eqn.invars[i]
        if has_nan(out) and _urgency(values[i]) == 2 and _masks(frame, var):
            continue
        return var
    return None


def _urgency(value):
    """0 for a value with NaN, 1 for one with +inf, 2 for one with -inf only."""
    value = np.asarray(value)
    return 0 if np.isnan(value).any() else 1 if np.isposinf(value).any() else 2


def _fewer(frame, eqn, values, which_inputs, which, out):
    """Whether fewer elements are bad when those inputs' bad elements are made 1."""
    sound = list(values)
    for i in which_inputs:
        v = np.asarray(values[i])
        sound[i] = np.where(np.isfinite(v), v, np.ones((), v.dtype)).astype(v.dtype)
    found = frame.evaluate(eqn, sound)[which]
    return _badness(found) < _badness(out)


def _badness(value):
    value = np.asarray(value)
    if not jax.numpy.issubdtype(value.dtype, np.inexact):
        return 0, 0
    return int(np.isnan(value).sum()), int(np.isinf(value).sum())


def _masks(frame, var):
    """Whether a value's infinities were put there by a constant."""
    if _is_constant(frame, var):
        return True
    found = trail(frame, var, "", "")
    return isinstance(found, Origin) and found.constant


def _enter(frame, number, which, scope, turn):
    """The trail within a call, branch, scan or loop."""
    inner = frame.inside[number]
    where = join(scope, frame.jaxpr.eqns[number])
    if isinstance(inner, Turns):
        return _enter_turns(frame, inner, which, where, turn)
    found = trail(inner, inner.jaxpr.outvars[which], where, turn)
    branch = frame.jaxpr.eqns[number].primitive.name == "cond"
    if isinstance(found, _Outside) and found.index >= 0 and branch:
        return found._replace(index=found.index + 1)
    return found


def _enter_turns(frame, turns: Turns, which, scope, turn):
    """Back through the turns of a scan or loop."""
    at = len(turns.made) - 1
    if which >= turns.carried:  # one row a turn: the first bad one
        at = next(i for i, made in enumerate(turns.made) if is_bad(made[which]))
    by = None
    while True:
        if which < turns.carried:
            at = _first_turn(turns, which, at)
        body = frame.body(turns.body, turns.given[at], turns.constant)
        now = f"{turns.kind} {turns.order[at]}"
        now = f"{turn}, {now}" if turn else now
        found = trail(body, body.jaxpr.outvars[which], scope, now)
        if not isinstance(found, _Outside):
            return found
        by = found.by or by
        carried = found.index - turns.fixed
        if found.index < 0 or not 0 <= carried < turns.carried or at == 0:
            index = found.index + turns.shift if found.index >= 0 else -1
            return _Outside(index, by)
        at, which = at - 1, carried


def _first_turn(turns, which, last):
    """The turn from which on a carried value was bad in the same way until `last`."""
    same = has_nan if has_nan(turns.made[last][which]) else is_bad
    at = last
    while at and same(turns.made[at - 1][which]):
        at -= 1
    return at


def origin(frame, number, which, scope, turn) -> Origin:
    """An equation as the origin of one of its outputs."""
    eqn = frame.jaxpr.eqns[number]
    values = tuple(frame.inputs_of(number))
    output = np.asarray(frame.value(eqn.outvars[which]))
    op = eqn.primitive.name
    return Origin(op, join(scope, eqn), _line(eqn), values, output, turn)


def join(scope, eqn) -> str:
    """The named scopes of an equation within those around it."""
    return "/".join(part for part in (scope, str(eqn.source_info.name_stack)) if part)


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
