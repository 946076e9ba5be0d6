"""A traced function run again, one operation at a time, with every value kept.

Values are made when they are asked for, so a fault in the forward pass is found before
anything is spent on the backward pass. Calls, branches, scans and loops are run the
same way: each of their bodies is a `Frame` of its own.

This stands on parts of JAX that move between versions; `jaxnn.guard.layers` finds the
layer and direction without them.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnn.guard.in_numpy import in_numpy


class Turns(NamedTuple):
    """A scan or loop that was run: how its inputs meet those of its body.

    Attributes:
      kind: "scan step" or "loop turn".
      body: its closed jaxpr.
      given: what the body was given, turn by turn in the order they were run.
      made: what it gave back.
      order: number of each turn (a reversed scan runs from the last).
      fixed: how many inputs are the same in every turn.
      carried: how many are handed on from turn to turn.
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


class Frame:
    """One run of a jaxpr.

    Args:
      jaxpr: open, with `consts` as its constants.
      consts: values of those.
      args: values of its inputs.
      constant: which inputs are constants of the program, not data.
      exact: leave every operation to JAX.
    """

    def __init__(self, jaxpr, consts, args, constant=None, exact=False):
        self.jaxpr, self.exact = jaxpr, exact
        together = getattr(jaxpr, "all_invars", None)  # newer JAX keeps one list
        variables = list(together or [*jaxpr.constvars, *jaxpr.invars])
        values = map(as_numpy, [*consts, *args])
        self.env = dict(zip(variables, values, strict=True))
        self.inputs = variables[len(consts) :]
        flags = constant or [False] * len(args)
        self.constants = set(variables[: len(consts)])
        self.constants |= {v for v, c in zip(self.inputs, flags, strict=True) if c}
        self.producer = {}
        for number, eqn in enumerate(jaxpr.eqns):
            for i, var in enumerate(eqn.outvars):
                self.producer[var] = number, i
        self.inside: dict[int, Frame | Turns] = {}

    def value(self, var: Any) -> Any:
        """The value of a variable or literal, computed if it is not there yet."""
        if is_literal(var):
            return np.asarray(var.val)
        if var not in self.env:
            self._make([var])
        return self.env[var]

    def run_all(self) -> None:
        """Run every equation, those without results too."""
        for number in range(len(self.jaxpr.eqns)):
            self._run(number)

    def results(self) -> list[Any]:
        """What the jaxpr returns, its callbacks called."""
        if any(not eqn.outvars for eqn in self.jaxpr.eqns):
            self.run_all()
        return [self.value(v) for v in self.jaxpr.outvars]

    def inputs_of(self, number: int) -> list[Any]:
        """What equation `number` was given."""
        return [self.value(v) for v in self.jaxpr.eqns[number].invars]

    def evaluate(self, eqn: Any, values: list[Any]) -> list[Any]:
        """What a simple equation makes of `values`."""
        found = None if self.exact else in_numpy(eqn, values)
        if found is None:
            params = eqn.primitive.get_bind_params(eqn.params)
            found = eqn.primitive.bind(*values, **params)
            found = found if eqn.primitive.multiple_results else [found]
        return [as_numpy(v) for v in found]

    def _make(self, wanted: Iterable[Any]) -> None:
        """Run the equations that `wanted` depends on, in their order."""
        todo, numbers = list(wanted), set()
        while todo:
            var = todo.pop()
            if is_literal(var) or var in self.env:
                continue
            number, _ = self.producer[var]
            if number not in numbers:
                numbers.add(number)
                todo += self.jaxpr.eqns[number].invars
        for number in sorted(numbers):
            self._run(number)

    def _run(self, number: int) -> None:
        eqn = self.jaxpr.eqns[number]
        if all(v in self.env for v in eqn.outvars) and eqn.outvars:
            return
        found = self._outputs(number, eqn, self.inputs_of(number))
        self.env.update(zip(eqn.outvars, found, strict=True))

    def _outputs(self, number, eqn, values):
        name, params = eqn.primitive.name, eqn.params
        constant = [is_literal(v) or v in self.constants for v in eqn.invars]
        if name == "debug_callback":
            params["callback"](*values)
            return []
        if name == "scan" and params["length"]:
            turns, found = self._scan(params, values, constant)
            self.inside[number] = turns
            return found
        if name == "while":
            turns, found = self._loop(params, values, constant)
            if turns.given:
                self.inside[number] = turns
            return found
        if name == "cond":
            closed = params["branches"][int(values[0])]
            return self._call(number, closed, values[1:], constant[1:])
        for value in params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns") and len(inner.invars) == len(values):
                return self._call(number, value, values, constant)
        return self.evaluate(eqn, values)

    def _call(self, number, closed, values, constant):
        inner = getattr(closed, "jaxpr", closed)
        consts = getattr(closed, "consts", ())
        frame = Frame(inner, consts, values, constant, self.exact)
        self.inside[number] = frame
        return frame.results()

    def body(self, closed, given, constant):
        """A run of the body of a scan or loop."""
        return Frame(closed.jaxpr, closed.consts, given, constant, self.exact)

    def _turn(self, closed, given, constant):
        return self.body(closed, given, constant).results()

    def _scan(self, params, values, constant):
        body, length = params["jaxpr"], params["length"]
        fixed, carried = _counts(params)
        consts, carry = values[:fixed], values[fixed : fixed + carried]
        rows = values[fixed + carried :]
        order = range(length)[::-1] if params["reverse"] else range(length)
        given, made = [], []
        for t in order:
            given.append([*consts, *carry, *(a[t] for a in rows)])
            made.append(self._turn(body, given[-1], constant))
            carry = made[-1][:carried]
        by_time = made[::-1] if params["reverse"] else made
        columns = [list(column) for column in zip(*by_time, strict=True)][carried:]
        turns = Turns(
            "scan step", body, given, made, order, fixed, carried, 0, constant
        )
        return turns, [*carry, *map(_stacked, columns)]

    def _loop(self, params, values, constant):
        conditions, fixed = params["cond_nconsts"], params["body_nconsts"]
        first, carry = values[:conditions], values[conditions + fixed :]
        consts = values[conditions : conditions + fixed]
        test, body = params["cond_jaxpr"], params["body_jaxpr"]
        tested = constant[:conditions] + constant[conditions + fixed :]
        given, made = [], []
        while bool(self._turn(test, [*first, *carry], tested)[0]):
            given.append([*consts, *carry])
            made.append(self._turn(body, given[-1], constant[conditions:]))
            carry = made[-1]
        turns = Turns(
            "loop turn", body, given, made, range(len(given)), fixed, len(carry),
            conditions, constant[conditions:],
        )  # fmt: skip
        return turns, list(carry)


def is_literal(var: Any) -> bool:
    """Whether it is a number written into the program."""
    return hasattr(var, "val")


def as_numpy(value: Any) -> Any:
    """A NumPy array, but a JAX key as it is."""
    dtype = getattr(value, "dtype", None)
    if dtype is not None and jax.dtypes.issubdtype(dtype, jax.dtypes.extended):
        return value
    return np.asarray(value)


def _stacked(column):
    if isinstance(column[0], np.ndarray):
        return np.stack(column)
    return jax.numpy.stack(column)


def _counts(params) -> tuple[int, int]:
    """(constants, carried values) of a scan, whichever way this JAX writes it."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    consts, carry, _ = params["ft_in"].unpack()
    return len(list(consts.vals)), len(list(carry.vals))
