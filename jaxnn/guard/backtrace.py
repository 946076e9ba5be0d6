"""Path one to a NaN's origin: back through the operations of a traced program.

The program is run again with every intermediate value as a result, as far as it is
asked for. From a bad result the search goes back, each time to the input that explains
it: with that input's bad elements made sound, fewer of the result's are bad. It ends at
an operation whose bad result no input explains. Scans, loops and calls are entered.

This stands on parts of JAX that move between versions; `jaxnn.guard.layers` finds the
layer and direction without them.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnn.programs import scan_counts

QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""Options of XLA for a program that runs a few times only."""

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
      given: its arguments.
      value: its bad result, or what it was given of `argument`.
      turn: where in scans and loops, such as "scan step 3", "" outside.
      constant: whether a constant of the program was bad, such as the -inf of a mask.
      argument: number of the argument of the function that was bad before, or None.
    """

    op: str
    scope: str
    line: str
    given: tuple[Any, ...]
    value: np.ndarray
    turn: str = ""
    constant: bool = False
    argument: int | None = None


class Replay:
    """A function that was traced, run with every value kept, and searched.

    Args:
      function: pure and traceable.
      args: concrete pytrees of arrays.
    """

    def __init__(self, function: Callable, *args: Any):
        closed, shape = jax.make_jaxpr(function, return_shape=True)(*args)
        leaves = jax.tree.leaves(args)
        self.frame = Frame(closed.jaxpr, closed.consts, leaves, {})
        structure = jax.tree.structure(shape)
        self.variables = jax.tree.unflatten(structure, closed.jaxpr.outvars)

    def outputs(self) -> Any:
        """What the function gives."""
        return jax.tree.map(self.frame.value, self.variables)

    def origin(self, pick: Callable = lambda out: out) -> Origin | None:
        """Where the first bad output comes from, None if all are finite.

        `pick` takes, from the function's output, those to look at, in order.
        """
        first, *others = jax.tree.leaves(pick(self.variables))
        for variables in ([first], others):  # of a bad loss no gradients are made
            self.frame.run(variables)
            for var in variables:
                if is_literal(var) or not is_bad(self.frame.value(var)):
                    continue
                found = backtrace(self.frame, var, "", "")
                if isinstance(found, Origin):
                    return found
                if found is not None and found.index >= 0:
                    given = self.frame.value(self.frame.inputs[found.index])
                    by = found.by or Origin("", "", "", (), given)
                    return by._replace(argument=found.index, value=given)
        return None


class Iterations(NamedTuple):
    """A scan or loop that was run: how its inputs meet those of its body.

    Attributes:
      kind: "scan step" or "loop turn".
      body: its closed jaxpr.
      given: what the body was given, one after another in the order they were run.
      made: what it gave back.
      order: number of each (a reversed scan runs from the last).
      fixed: how many inputs are the same every time.
      carried: how many are handed on from one to the next.
      shift: inputs of the operation before those of the body (a loop's condition).
      constant: which inputs of the body are constants of the program.
    """

    kind: str
    body: Any
    given: list[list[Any]]
    made: list[list[Any]]
    order: Sequence[int]
    fixed: int
    carried: int
    shift: int
    constant: list[bool]

    def name(self, at: int, around: str) -> str:
        """Such as "scan step 3, loop turn 5"."""
        now = f"{self.kind} {self.order[at]}"
        return f"{around}, {now}" if around else now


class Frame:
    """One run of a jaxpr.

    Args:
      jaxpr: open, with `consts` as its constants.
      consts: values of those.
      args: values of its inputs.
      programs: those that were compiled, shared by all frames of a replay.
      constant: which inputs are constants of the program, not data.
    """

    def __init__(self, jaxpr, consts, args, programs, constant=None):
        self.jaxpr, self.programs = jaxpr, programs
        together = getattr(jaxpr, "all_invars", None)  # newer JAX keeps one list
        variables = list(together or [*jaxpr.constvars, *jaxpr.invars])
        self.inputs = variables[len(consts) :]
        flags = constant or [False] * len(args)
        self.constants = set(variables[: len(consts)])
        self.constants |= {v for v, c in zip(self.inputs, flags, strict=True) if c}
        self.producer = {
            var: (number, which)
            for number, eqn in enumerate(jaxpr.eqns)
            for which, var in enumerate(eqn.outvars)
        }
        self.env = dict(zip(variables, [*consts, *args], strict=True))
        self.inside: dict[int, Frame | Iterations | None] = {}

    def run(self, wanted: Iterable[Any]) -> None:
        """Run what these variables depend on and what has not been run yet."""
        todo, numbers = list(wanted), set()
        while todo:
            var = todo.pop()
            if is_literal(var) or var in self.env:
                continue
            number, _ = self.producer[var]
            if number not in numbers:
                numbers.add(number)
                todo += self.jaxpr.eqns[number].invars
        eqns = [self.jaxpr.eqns[number] for number in sorted(numbers)]
        if not eqns:
            return
        needed = (v for eqn in eqns for v in eqn.invars if not is_literal(v))
        given = [v for v in dict.fromkeys(needed) if v in self.env]
        key = self.jaxpr, tuple(sorted(numbers))
        if key not in self.programs:
            program = partial(_values, eqns, given)
            self.programs[key] = jax.jit(program, compiler_options=QUICK)
        made = self.programs[key](*(self.env[v] for v in given))
        self.env.update(zip((v for e in eqns for v in e.outvars), made, strict=True))

    def value(self, var: Any) -> Any:
        """The value of a variable or literal, computed if it is not there yet."""
        if is_literal(var):
            return np.asarray(var.val, var.aval.dtype)
        self.run([var])
        return as_numpy(self.env[var])

    def results(self) -> list[Any]:
        """What the jaxpr returns."""
        self.run(self.jaxpr.outvars)
        return [self.value(v) for v in self.jaxpr.outvars]

    def inputs_of(self, number: int) -> list[Any]:
        """What equation `number` was given."""
        return [self.value(v) for v in self.jaxpr.eqns[number].invars]

    def enter(self, number: int) -> "Frame | Iterations | None":
        """The run within a call, branch, scan or loop; None for a plain operation."""
        if number not in self.inside:
            self.inside[number] = self._entered(self.jaxpr.eqns[number], number)
        return self.inside[number]

    def _entered(self, eqn, number):
        name, params, values = eqn.primitive.name, eqn.params, self.inputs_of(number)
        constant = [is_literal(v) or v in self.constants for v in eqn.invars]
        if name == "scan":
            return self._scan(params, values, constant) if params["length"] else None
        if name == "while":
            return self._loop(params, values, constant)
        if name == "cond":
            branch = params["branches"][int(values[0])]
            return self.body(branch, values[1:], constant[1:])
        for closed in params.values():
            inner = getattr(closed, "jaxpr", closed)
            if hasattr(inner, "eqns") and _types(inner) == _types(eqn):
                return self.body(closed, values, constant)
        return None

    def body(self, closed, given, constant) -> "Frame":
        """A run of the body of a call, scan or loop."""
        inner, consts = getattr(closed, "jaxpr", closed), getattr(closed, "consts", ())
        return Frame(inner, consts, given, self.programs, constant)

    def _scan(self, params, values, constant):
        body, length = params["jaxpr"], params["length"]
        fixed, carried = scan_counts(params)
        consts, carry = values[:fixed], values[fixed : fixed + carried]
        rows = values[fixed + carried :]
        order = range(length)[::-1] if params["reverse"] else range(length)
        given, made = [], []
        for t in order:
            given.append([*consts, *carry, *(a[t] for a in rows)])
            made.append(self.body(body, given[-1], constant).results())
            carry = made[-1][:carried]
        return Iterations(
            "scan step", body, given, made, order, fixed, carried, 0, constant
        )

    def _loop(self, params, values, constant):
        conditions, fixed = params["cond_nconsts"], params["body_nconsts"]
        first, carry = values[:conditions], values[conditions + fixed :]
        consts = values[conditions : conditions + fixed]
        test, body = params["cond_jaxpr"], params["body_jaxpr"]
        tested = constant[:conditions] + constant[conditions + fixed :]
        given, made = [], []
        while bool(self.body(test, [*first, *carry], tested).results()[0]):
            given.append([*consts, *carry])
            made.append(self.body(body, given[-1], constant[conditions:]).results())
            carry = made[-1]
        if not given:
            return None
        return Iterations(
            "loop turn", body, given, made, range(len(given)), fixed, len(carry),
            conditions, constant[conditions:],
        )  # fmt: skip


def _values(eqns, variables, *given):
    """What these equations make, in order."""
    env, found = dict(zip(variables, given, strict=True)), []
    for eqn in eqns:
        args = [v.val if is_literal(v) else env[v] for v in eqn.invars]
        params = eqn.primitive.get_bind_params(eqn.params)
        made = eqn.primitive.bind(*args, **params)
        made = made if eqn.primitive.multiple_results else [made]
        env.update(zip(eqn.outvars, made, strict=True))
        found += made
    return found


def _types(one):
    """Shapes and dtypes of what a jaxpr or an equation takes and gives."""
    avals = [[v.aval for v in variables] for variables in (one.invars, one.outvars)]
    return [[(a.shape, a.dtype) for a in side if hasattr(a, "shape")] for side in avals]


def is_literal(var: Any) -> bool:
    """Whether it is a number written into the program."""
    return hasattr(var, "val")


def as_numpy(value: Any) -> Any:
    """A NumPy array, but a JAX key as it is."""
    dtype = getattr(value, "dtype", None)
    if dtype is not None and jax.dtypes.issubdtype(dtype, jax.dtypes.extended):
        return value
    return np.asarray(value)


def is_bad(value: Any) -> bool:
    """Whether a value has a NaN or an infinity; whole numbers and keys have none."""
    dtype = getattr(value, "dtype", None)
    if dtype is None or not jax.numpy.issubdtype(dtype, np.inexact):
        return False
    return not np.isfinite(np.asarray(value)).all()


def has_nan(value: Any) -> bool:
    """Whether a bad value has a NaN, not only infinities."""
    return bool(np.isnan(np.asarray(value)).any())


class _Outside(NamedTuple):
    """The search leaves a body through its input `index`, met by the operation `by`."""

    index: int
    by: Origin | None


def backtrace(frame: Frame, var, scope, turn, by=None) -> Origin | _Outside | None:
    """Back from a bad variable of a frame to where it came from."""
    while True:
        if is_literal(var):
            return None
        if var not in frame.producer:
            index = frame.inputs.index(var) if var in frame.inputs else -1
            return _Outside(index, by)
        number, which = frame.producer[var]
        eqn = frame.jaxpr.eqns[number]
        here = _origin(frame, number, which, scope, turn)
        if frame.enter(number):
            found = _inside(frame, number, which, scope, turn)
            if found is None:
                return here
            if isinstance(found, Origin):  # inside JAX's own there is no line
                return found._replace(line=found.line or here.line)
            source = eqn.invars[found.index] if found.index >= 0 else None
            if source is None or _is_constant(frame, source):
                return (found.by or here)._replace(constant=True)
            var, by = source, found.by or by
            continue
        explains = _explains(frame, number, which)
        if explains is None:
            return here
        if _is_constant(frame, explains):
            return here._replace(constant=True)
        var, by = explains, here


def _origin(frame, number, which, scope, turn) -> Origin:
    """An equation as the origin of one of its outputs."""
    eqn = frame.jaxpr.eqns[number]
    values = tuple(frame.inputs_of(number))
    output = np.asarray(frame.value(eqn.outvars[which]))
    op = eqn.primitive.name
    return Origin(op, _join(scope, eqn), _line(eqn), values, output, turn)


def _join(scope, eqn) -> str:
    """The named scopes of an equation within those around it."""
    return "/".join(part for part in (scope, str(eqn.source_info.name_stack)) if part)


def _line(eqn) -> str:
    """File and line where the operation was written."""
    try:
        from jax._src import source_info_util

        frame = source_info_util.user_frame(eqn.source_info.traceback)
        return "" if frame is None else f"{frame.file_name}:{frame.start_line}"
    except (ImportError, AttributeError, TypeError):
        return ""  # this JAX keeps it elsewhere


def _is_constant(frame, var):
    """Whether a value is a constant of the program, be it in another shape."""
    while not is_literal(var) and var in frame.producer:
        number, _ = frame.producer[var]
        eqn = frame.jaxpr.eqns[number]
        if eqn.primitive.name not in SHAPING:
            return False
        var = eqn.invars[0]
    return is_literal(var) or var in frame.constants


def _explains(frame, number, which):
    """The bad input that explains a bad output; None if the operation is to blame.

    The -inf of a mask explains no NaN: the operation that made one of it does.
    """
    eqn, values = frame.jaxpr.eqns[number], frame.inputs_of(number)
    out = frame.value(eqn.outvars[which])

    def fewer_bad(sound_inputs):
        """Whether fewer elements are bad when those inputs' bad elements are 1."""
        sound = list(values)
        for i in sound_inputs:
            v = values[i]
            sound[i] = np.where(np.isfinite(v), v, np.ones((), v.dtype)).astype(v.dtype)
        params = eqn.primitive.get_bind_params(eqn.params)
        made = eqn.primitive.bind(*sound, **params)
        made = made[which] if eqn.primitive.multiple_results else made
        return _badness(made) < _badness(out)

    bad = [i for i, v in enumerate(values) if is_bad(v)]
    single = [i for i in bad if fewer_bad([i])] if len(bad) > 1 else []
    bad = single or bad
    if not bad or not (single or fewer_bad(bad)):
        return None
    for i in sorted(bad, key=lambda i: _urgency(values[i])):
        masks = has_nan(out) and _urgency(values[i]) == 2
        if not (masks and _is_mask(frame, eqn.invars[i])):
            return eqn.invars[i]
    return None


def _urgency(value):
    """0 for a value with NaN, 1 for one with +inf, 2 for one with -inf only."""
    return 0 if np.isnan(value).any() else 1 if np.isposinf(value).any() else 2


def _badness(value):
    value = np.asarray(value)
    if not jax.numpy.issubdtype(value.dtype, np.inexact):
        return 0, 0
    return int(np.isnan(value).sum()), int(np.isinf(value).sum())


def _is_mask(frame, var):
    """Whether a value's infinities were put there by a constant."""
    if _is_constant(frame, var):
        return True
    found = backtrace(frame, var, "", "")
    return isinstance(found, Origin) and found.constant


def _inside(frame, number, which, scope, turn):
    """The search within a call, branch, scan or loop."""
    inner, eqn = frame.enter(number), frame.jaxpr.eqns[number]
    where = _join(scope, eqn)
    if isinstance(inner, Iterations):
        return _through_iterations(frame, inner, which, where, turn)
    found = backtrace(inner, inner.jaxpr.outvars[which], where, turn)
    if (
        isinstance(found, _Outside)
        and found.index >= 0
        and eqn.primitive.name == "cond"
    ):
        return found._replace(index=found.index + 1)
    return found


def _through_iterations(frame, runs: Iterations, which, scope, turn):
    """Back through the iterations of a scan or loop."""
    at = len(runs.made) - 1
    if which >= runs.carried:  # one row an iteration: the first bad one
        at = next(i for i, made in enumerate(runs.made) if is_bad(made[which]))
    by = None
    while True:
        if which < runs.carried:  # the first from which on it was bad in the same way
            same = has_nan if has_nan(runs.made[at][which]) else is_bad
            while at and same(runs.made[at - 1][which]):
                at -= 1
        body = frame.body(runs.body, runs.given[at], runs.constant)
        now = runs.name(at, turn)
        found = backtrace(body, body.jaxpr.outvars[which], scope, now)
        if not isinstance(found, _Outside):
            return found
        by = found.by or by
        carried = found.index - runs.fixed
        if found.index < 0 or not 0 <= carried < runs.carried or at == 0:
            index = found.index + runs.shift if found.index >= 0 else -1
            return _Outside(index, by)
        at, which = at - 1, carried


def first_nan(frame: Frame, scope: str = "", turn: str = "") -> Origin | None:
    """The first operation, in the order they are run, that made NaN of no NaN.

    It finds the masked ones, too, which no result shows: an attack keeps the best of
    its points, and a NaN is never better.
    """
    frame.run(frame.producer)
    for number, eqn in enumerate(frame.jaxpr.eqns):
        runs = _runs(frame, number, turn)
        for inner, now in runs or ():
            found = first_nan(inner, _join(scope, eqn), now)
            if found is not None:
                return found
        given = any(is_bad(v) and has_nan(v) for v in frame.inputs_of(number))
        if runs is not None or given:
            continue
        for which, var in enumerate(eqn.outvars):
            if is_bad(frame.value(var)) and has_nan(frame.value(var)):
                found = backtrace(frame, var, scope, turn)
                here = _origin(frame, number, which, scope, turn)
                return found if isinstance(found, Origin) else here
    return None


def _runs(frame, number, turn) -> Iterator[tuple[Frame, str]] | None:
    """The runs within a call, scan or loop, and where each is; None for a plain one."""
    inner = frame.enter(number)
    if isinstance(inner, Iterations):
        return (
            (frame.body(inner.body, given, inner.constant), inner.name(at, turn))
            for at, given in enumerate(inner.given)
        )
    return iter([(inner, turn)]) if inner else None
