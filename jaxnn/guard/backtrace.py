"""Path one to a NaN's origin: back through the operations of a traced program.

The program is run one operation at a time, every value kept. From a bad result the
search goes back, each time to the input that explains it: with that input's bad
elements made finite, fewer of the result's are bad. It ends at an operation whose bad
result no input explains. Scans, loops and branches are entered.

This stands on parts of JAX that move between versions; `jaxnn.guard.layers` finds the
layer and direction without them.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnn.guard.in_numpy import in_numpy
from jaxnn.rules.products import policy
from jaxnn.traced import inner_program, run_operation, scan_counts, source_place

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
      argument: number of the program's input that was bad before, -1 for a constant of
        it; None if the operation is to blame. Then `op` is what was given it, "" if
        nothing was.
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
    """A traced function, to be run with every value kept, and searched.

    Args:
      function: pure and traceable.
      args: pytrees of arrays, for their shapes.
    """

    def __init__(self, function: Callable, *args: Any):
        with policy(plain=True):
            closed, shape = jax.make_jaxpr(function, return_shape=True)(*args)
        self.program = Program(closed.jaxpr, closed.consts, {})
        structure = jax.tree.structure(shape)
        self.numbers = jax.tree.unflatten(structure, self.program.outputs)

    def run(
        self, *args: Any, pick: Callable = lambda out: out, exact: bool = False
    ) -> Any:
        """What the function gives; the search is through this run from then on.

        Args:
          args: as those it was traced with.
          pick: takes, from the function's output, what is to be computed.
          exact: leave every operation to JAX, which takes longer.
        """
        picked = pick(self.numbers)
        needed = None if picked is self.numbers else self.program.needed(picked)
        leaves = jax.tree.leaves(args)
        self.frame = Frame(self.program, leaves, exact=exact, needed=needed)
        return jax.tree.map(self.frame.values.__getitem__, picked)

    def origin(self, pick: Callable = lambda out: out) -> Origin | None:
        """Where the first bad output comes from, None if all are finite.

        `pick` takes, from the function's output, those to look at, in order.
        """
        for number in jax.tree.leaves(pick(self.numbers)):
            if not is_bad(self.frame.values[number]):
                continue
            found = backtrace(self.frame, number)
            if found.argument is None:
                return found
            if found.argument >= 0:
                given = self.program.inputs[found.argument]
                return found._replace(value=self.frame.values[given])
        return None


class Op(NamedTuple):
    """An operation of a program: numbers of its values, and the calls it stands in."""

    eqn: Any
    inputs: list[int]
    outputs: list[int]
    calls: tuple[Any, ...]

    def run(self, values: list[Any], exact: bool = False) -> list[Any]:
        """What it makes of values."""
        made = None if exact else in_numpy(self.eqn, values)
        return list(
            map(as_numpy, run_operation(self.eqn, values) if made is None else made)
        )

    @property
    def scope(self) -> str:
        """The named scopes around it."""
        stacks = (str(eqn.source_info.name_stack) for eqn in (*self.calls, self.eqn))
        return "/".join(filter(None, stacks))

    @property
    def line(self) -> str:
        """Where it, or else the call around it, was written; JAX's own has no line."""
        places = map(source_place, (self.eqn, *self.calls[::-1]))
        return next((f"{file}:{line}" for file, line, _ in filter(None, places)), "")


class Program:
    """A jaxpr with its plain calls dissolved and its values numbered.

    Args:
      jaxpr: open, with `consts` as its constants.
      consts: values of those.
      known: programs of the jaxprs inside, shared by all.

    Attributes:
      ops: the operations in order.
      constants: number -> value.
      inputs: numbers.
      outputs: numbers.
      producer: number -> (which operation makes it, as which of its outputs).
    """

    def __init__(self, jaxpr: Any, consts: Sequence[Any], known: dict[Any, "Program"]):
        self.known, self.count = known, 0
        self.ops: list[Op] = []
        self.constants: dict[int, Any] = {}
        self.producer: dict[int, tuple[int, int]] = {}
        self.inputs = [self._number() for _ in _variables(jaxpr)[len(consts) :]]
        self.outputs = self._inline(jaxpr, consts, self.inputs, ())

    def _number(self, constant: Any = None) -> int:
        self.count += 1
        if constant is not None:
            self.constants[self.count] = constant
        return self.count

    def _inline(self, jaxpr, consts, inputs, calls) -> list[int]:
        """Take in the operations of a jaxpr; numbers of what it returns."""
        known = dict(
            zip(_variables(jaxpr), [*map(self._number, consts), *inputs], strict=True)
        )

        def number(v):
            literal = hasattr(v, "val")  # a number written into the program
            return (
                self._number(np.asarray(v.val, v.aval.dtype)) if literal else known[v]
            )

        for eqn in jaxpr.eqns:
            given, inner = list(map(number, eqn.invars)), None
            if eqn.primitive.name != "scan":
                inner = inner_program(eqn)
            if inner is not None:
                made = self._inline(inner.jaxpr, inner.consts, given, (*calls, eqn))
            else:
                made = [self._number() for _ in eqn.outvars]
                places = ((len(self.ops), which) for which in range(len(made)))
                self.producer |= dict(zip(made, places, strict=True))
                self.ops.append(Op(eqn, given, made, calls))
            known |= dict(zip(eqn.outvars, made, strict=True))
        return list(map(number, jaxpr.outvars))

    def needed(self, numbers: Any) -> set[int]:
        """Which operations a tree of values depends on."""
        todo, found = jax.tree.leaves(numbers), set()
        while todo:
            at, _ = self.producer.get(todo.pop(), (None, None))
            if at is not None and at not in found:
                found.add(at)
                todo += self.ops[at].inputs
        return found

    def inside(self, closed: Any) -> "Program":
        """The program of a scan's, loop's or branch's jaxpr."""
        jaxpr = getattr(closed, "jaxpr", closed)
        if jaxpr not in self.known:
            consts = getattr(closed, "consts", ())
            self.known[jaxpr] = Program(jaxpr, consts, self.known)
        return self.known[jaxpr]


class Iterations(NamedTuple):
    """A scan or loop that was run: how its inputs meet those of its body.

    Attributes:
      kind: "scan step" or "loop turn".
      body: its program.
      given: what the body was given, one after another in the order they were run.
      made: what it gave back.
      order: number of each (a reversed scan runs from the last).
      fixed: how many inputs are the same every time.
      carried: how many are handed on from one to the next.
      shift: inputs of the operation before those of the body (a loop's condition).
    """

    kind: str
    body: Program
    given: list[list[Any]]
    made: list[list[Any]]
    order: Sequence[int]
    fixed: int
    carried: int
    shift: int


class Frame:
    """One run of a program.

    Args:
      program: what is run.
      args: values of its inputs.
      constants: which inputs are constants of the whole, not data.
      scope: named scopes around it.
      turn: where in scans and loops, such as "scan step 3, loop turn 5".
      exact: leave every operation to JAX.
      needed: which operations are run; None: all.

    Attributes:
      values: number -> value.
      inner: which operation -> the run within that branch, scan or loop.
    """

    def __init__(
        self, program: Program, args: Sequence[Any], constants: Sequence[bool] = (),
        scope: str = "", turn: str = "", exact: bool = False,
        needed: set[int] | None = None,
    ):  # fmt: skip
        self.program, self.scope, self.turn, self.exact = program, scope, turn, exact
        pairs = zip(program.inputs, constants, strict=False)
        self.constants = {*program.constants, *(n for n, is_one in pairs if is_one)}
        self.values = dict(zip(program.inputs, map(as_numpy, args), strict=True))
        self.values |= program.constants
        self.inner: dict[int, Frame | Iterations] = {}
        ways = {"scan": self._scan, "while": self._loop, "cond": self._branch}
        for at in range(len(program.ops)) if needed is None else sorted(needed):
            op = program.ops[at]
            name, given = op.eqn.primitive.name, self.given(op)
            if name == "debug_callback":
                op.eqn.params["callback"](*given)
                continue
            inner, made = ways[name](op, given) if name in ways else (None, None)
            if inner is not None:
                self.inner[at] = inner
            made = op.run(given, exact) if made is None else made
            self.values |= dict(zip(op.outputs, made, strict=True))

    def results(self) -> list[Any]:
        """What the program returns."""
        return [self.values[n] for n in self.program.outputs]

    def given(self, op: Op) -> list[Any]:
        """What an operation was given."""
        return [self.values[n] for n in op.inputs]

    def is_constant(self, number: int) -> bool:
        """Whether a value is a constant of the whole, be it in another shape."""
        while number in self.program.producer:
            op = self.program.ops[self.program.producer[number][0]]
            if op.eqn.primitive.name not in SHAPING:
                return False
            number = op.inputs[0]
        return number in self.constants

    def iteration(self, op: Op, runs: Iterations, at: int) -> "Frame":
        """One run of the body of a scan or loop, again."""
        now = f"{runs.kind} {runs.order[at]}"
        turn = f"{self.turn}, {now}" if self.turn else now
        return self._within(op, runs.body, runs.given[at], runs.shift, turn)

    def _within(self, op, body, given, shift, turn):
        scope = "/".join(filter(None, (self.scope, op.scope)))
        constants = [n in self.constants for n in op.inputs][shift:]
        return Frame(body, given, constants, scope, turn, self.exact)

    def _branch(self, op, values):
        body = self.program.inside(op.eqn.params["branches"][int(values[0])])
        inner = self._within(op, body, values[1:], 1, self.turn)
        return inner, inner.results()

    def _results(self, body, given):
        return Frame(body, given, exact=self.exact).results()

    def _scan(self, op, values):
        params = op.eqn.params
        body, length = self.program.inside(params["jaxpr"]), params["length"]
        fixed, carried = scan_counts(params)
        consts, carry = values[:fixed], values[fixed : fixed + carried]
        rows = values[fixed + carried :]
        if not length:
            return None, None
        order = range(length)[::-1] if params["reverse"] else range(length)
        given, made = [], []
        for t in order:
            given.append([*consts, *carry, *(a[t] for a in rows)])
            made.append(self._results(body, given[-1]))
            carry = made[-1][:carried]
        by_time = made[::-1] if params["reverse"] else made
        columns = map(_stacked, list(zip(*by_time, strict=True))[carried:])
        runs = Iterations("scan step", body, given, made, order, fixed, carried, 0)
        return runs, [*carry, *columns]

    def _loop(self, op, values):
        params = op.eqn.params
        conditions, fixed = params["cond_nconsts"], params["body_nconsts"]
        first, carry = values[:conditions], values[conditions + fixed :]
        consts = values[conditions : conditions + fixed]
        test, body = map(
            self.program.inside, (params["cond_jaxpr"], params["body_jaxpr"])
        )
        given, made = [], []
        while bool(self._results(test, [*first, *carry])[0]):
            given.append([*consts, *carry])
            made.append(self._results(body, given[-1]))
            carry = made[-1]
        order = range(len(given))
        runs = Iterations(
            "loop turn", body, given, made, order, fixed, len(carry), conditions
        )
        return runs if given else None, carry


def _stacked(column):
    plain = isinstance(column[0], np.ndarray)
    return np.stack(column) if plain else jax.numpy.stack(column)


def _variables(jaxpr) -> list[Any]:
    """Of a jaxpr, those of its constants first; newer JAX keeps one list of both."""
    together = getattr(jaxpr, "all_invars", None)
    return list(together or [*jaxpr.constvars, *jaxpr.invars])


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


def backtrace(frame: Frame, number: int) -> Origin:
    """Back from a bad value of a frame to where it came from, or came in."""
    by, program = Origin("", "", "", (), frame.values[number]), frame.program
    while number in program.producer:
        at, which = program.producer[number]
        op = program.ops[at]
        here = _origin(frame, op, which)
        inner = frame.inner.get(at)
        if inner is None:
            source, met = _explains(frame, op, which), here
            if source is None:
                return here
        else:
            found = _inside(frame, op, inner, which)
            if found.argument is None:  # inside JAX's own there is no line
                return found._replace(line=found.line or here.line)
            source = op.inputs[found.argument] if found.argument >= 0 else None
            met = found._replace(argument=None) if found.op else by
        if source is None or frame.is_constant(source):
            return (met if met.op else here)._replace(constant=True)
        number, by = source, met
    inputs = program.inputs
    return by._replace(argument=inputs.index(number) if number in inputs else -1)


def _origin(frame, op, which) -> Origin:
    """An operation as the origin of one of its outputs."""
    value = np.asarray(frame.values[op.outputs[which]])
    scope = "/".join(filter(None, (frame.scope, op.scope)))
    given = tuple(frame.given(op))
    return Origin(op.eqn.primitive.name, scope, op.line, given, value, frame.turn)


def _explains(frame, op, which) -> int | None:
    """The bad input that explains a bad output; None if the operation is to blame.

    The -inf of a mask explains no NaN: the operation that made one of it does.
    """
    values, out = frame.given(op), frame.values[op.outputs[which]]
    bad = [i for i, v in enumerate(values) if is_bad(v)]

    def fewer_bad(finite_inputs):
        """Whether fewer elements are bad when those inputs' bad elements are 1."""
        finite = list(values)
        for i in finite_inputs:
            v = values[i]
            finite[i] = np.where(np.isfinite(v), v, np.ones((), v.dtype)).astype(
                v.dtype
            )
        return _badness(op.run(finite, frame.exact)[which]) < _badness(out)

    single = [i for i in bad if fewer_bad([i])] if len(bad) > 1 else []
    bad = single or bad
    if not bad or not (single or fewer_bad(bad)):
        return None
    for i in sorted(bad, key=lambda i: _urgency(values[i])):
        masks = has_nan(out) and _urgency(values[i]) == 2
        if not (masks and _is_mask(frame, op.inputs[i])):
            return op.inputs[i]
    return None


def _urgency(value):
    """0 for a value with NaN, 1 for one with +inf, 2 for one with -inf only."""
    return 0 if np.isnan(value).any() else 1 if np.isposinf(value).any() else 2


def _badness(value):
    value = np.asarray(value)
    if not jax.numpy.issubdtype(value.dtype, np.inexact):
        return 0, 0
    return int(np.isnan(value).sum()), int(np.isinf(value).sum())


def _is_mask(frame, number):
    """Whether a value's infinities were put there by a constant."""
    if frame.is_constant(number):
        return True
    found = backtrace(frame, number)
    return found.argument is None and found.constant


def _inside(frame, op, inner, which) -> Origin:
    """The search within a branch, scan or loop; it leaves by an argument of that."""
    if isinstance(inner, Iterations):
        return _through_iterations(frame, op, inner, which)
    found = backtrace(inner, inner.program.outputs[which])
    if found.argument is None or found.argument < 0:
        return found
    return found._replace(argument=found.argument + 1)  # the first is which branch


def _through_iterations(frame, op, runs, which) -> Origin:
    """Back through the iterations of a scan or loop."""
    at, by = len(runs.made) - 1, Origin("", "", "", (), np.zeros(()))
    if which >= runs.carried:  # one row an iteration: the first bad one
        at = next(i for i, made in enumerate(runs.made) if is_bad(made[which]))
    while True:
        if which < runs.carried:  # the first from which on it was bad in the same way
            same = has_nan if has_nan(runs.made[at][which]) else is_bad
            while at and same(runs.made[at - 1][which]):
                at -= 1
        body = frame.iteration(op, runs, at)
        found = backtrace(body, body.program.outputs[which])
        argument, by = found.argument, found if found.op else by
        if argument is None:
            return found
        carried = argument - runs.fixed
        if not 0 <= carried < runs.carried or at == 0:
            return by._replace(argument=argument + runs.shift if argument >= 0 else -1)
        at, which = at - 1, carried


def first_nan(frame: Frame) -> Origin | None:
    """The first operation, in the order they are run, that made NaN of no NaN.

    It finds the masked ones, too, which no result shows: an attack keeps the best of
    its points, and a NaN is never better.
    """
    for at, op in enumerate(frame.program.ops):
        inner = frame.inner.get(at)
        bodies: Any = () if inner is None else (inner,)  # of a branch
        if isinstance(inner, Iterations):
            bodies = (frame.iteration(op, inner, i) for i in range(len(inner.given)))
        for body in bodies:
            found = first_nan(body)
            if found is not None:
                return found
        given = any(is_bad(v) and has_nan(v) for v in frame.given(op))
        for which, number in enumerate(op.outputs):
            value = frame.values[number]
            if inner is None and not given and is_bad(value) and has_nan(value):
                found = backtrace(frame, number)
                return found if found.argument is None else _origin(frame, op, which)
    return None
