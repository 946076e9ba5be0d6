"""A pair (forward, backward) run just as it is written, on NumPy arrays.

JAX traces a function once and never sees what it does beside its result: arrays changed
in place, counters, random numbers, caches outside of the cache. So a pair is first run
as it stands, more than once, and its inputs are looked at before and after.
"""

import functools
import inspect
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.arrays import is_key
from jaxnn.check.alone import argument_names
from jaxnn.check.probe import shuffled
from jaxnn.check.watch import Given, named_leaves
from jaxnn.errors import JaxnnError
from jaxnn.rules import Rule

SAME = 1e-12  # relative: two runs of one computation


class Pair(NamedTuple):
    """Two functions, the names of the arguments, and the kind of array they take."""

    rule: Rule
    names: tuple[str, ...]
    convert: Callable

    def forward(self, x: dict) -> tuple[Any, Any]:
        """(y, cache) at the named arguments; y as NumPy arrays."""
        y, cache = self.rule.fwd(*(x[name] for name in self.names))
        return jax.tree.map(np.array, y), cache

    def backward(self, cache: Any, dy: Any) -> dict[str, np.ndarray]:
        """Argument -> gradient, as NumPy arrays; those left out are not there."""
        cotangents = self.rule.bwd(cache, dy)
        if not isinstance(cotangents, tuple | list):
            cotangents = (cotangents,)
        if len(cotangents) != len(self.names):
            raise JaxnnError(
                f"its backward returned {len(cotangents)} gradients for "
                f"{len(self.names)} arguments ({', '.join(self.names)}); return one "
                "for each, None for an argument without a derivative"
            )
        named = named_leaves(dict(zip(self.names, cotangents, strict=True)))
        found = {name: np.array(d) for name, d in named}
        for name, d in found.items():
            if d.dtype.kind not in "fiub":
                raise JaxnnError(
                    f"its backward returned {d.dtype} as d{name}, expected numbers"
                )
        return found

    def copies(self, x: Any) -> Any:
        """Arrays of its kind that it may do with as it likes."""
        return jax.tree.map(lambda a: a if is_key(a) else self.convert(a), x)

    def run(self, x: dict, dy: Any) -> tuple[Any, dict[str, np.ndarray]]:
        """(y, gradients) at x."""
        y, cache = self.forward(self.copies(x))
        return y, self.backward(cache, self.copies(dy))

    def settled(self, x: dict, dy: Any) -> "Pair":
        """The same with JAX's arrays if it needs them: x.at[...] and the like."""
        try:
            self.run(x, dy)
        except AttributeError:
            return self._replace(convert=jnp.array)
        return self


def as_pair(rule: Rule, names: tuple[str, ...], x: dict) -> tuple[Pair, Any]:
    """The pair, and its result at x: in NumPy, or in JAX where it takes nothing else.

    Raises:
      Exception: whatever its forward raises; in JAX, if it tells of JAX arrays.
    """
    if all(isinstance(a, jax.Array) for a in jax.tree.leaves(x)):
        pair = Pair(rule, names, jnp.array)
        return pair, pair.forward(pair.copies(x))[0]
    pair = Pair(rule, names, np.array)
    try:
        return pair, pair.forward(pair.copies(x))[0]
    except AttributeError:  # x.at[...] and the like
        pair = pair._replace(convert=jnp.array)
        return pair, pair.forward(pair.copies(x))[0]


def misbehaviour(pair: Pair, x: dict, dy: Any) -> Iterator[tuple[str, str]]:
    """What a pair does beside computing: (what, what to do) of each."""
    given, sent = pair.copies(x), pair.copies(dy)
    y, cache = pair.forward(given)
    yield from _changed(given, x, "its forward")
    again, _ = pair.forward(pair.copies(x))
    if not _same(y, again):
        yield (
            "its forward is no function: a second call with the same arguments gives "
            "another result",
            "it uses something that changes, such as a counter, random numbers or a "
            "global",
        )
        return
    first = pair.backward(cache, sent)
    yield from _changed(sent, dy, "its backward", "dy")
    yield from _changed(given, x, "its backward")
    _, cache = pair.forward(pair.copies(x))
    other = shuffled(Given({}, (), x, None, dy)).x
    try:
        pair.forward(pair.copies(other))
    except Exception:  # other inputs may lie outside of its domain
        return
    second = pair.backward(cache, pair.copies(dy))
    if not _same(first, second):
        yield (
            "its backward is no function of (cache, dy): after a forward with other "
            "inputs it returns another gradient for the same cache",
            "it keeps something outside of the cache (a global, a closure, an array "
            "that the next forward overwrites), and so uses stale values",
        )


def in_jax(pair: Pair) -> Callable:
    """Its forward with JAX's functions in the place of NumPy's of the same names.

    So that its steps can be seen; what is written for NumPy alone still raises.
    """

    def exchanged(value: Any, known: dict) -> Any:
        if value is np:
            return jnp
        if isinstance(value, types.FunctionType) and value.__globals__ is own:
            return types.FunctionType(
                value.__code__,
                known,
                value.__name__,
                value.__defaults__,
                value.__closure__,
            )
        return value

    forward = inspect.unwrap(pair.rule.fwd)
    own = getattr(forward, "__globals__", {})
    known: dict[str, Any] = {}
    known |= {name: exchanged(value, known) for name, value in own.items()}
    twin: Callable = exchanged(forward, known)
    return lambda x: twin(*(x[name] for name in pair.names))[0]


def in_numpy(pair: Pair, got: dict) -> Rule:
    """The rule with its whole pair run as it stands when its backward is called.

    Its forward is traced for the result alone; `got` says what comes back.
    """

    @functools.wraps(pair.rule.fwd)
    def fwd(*args):
        return pair.rule.fwd(*args)[0], args

    def bwd(args, dy):
        def run(args, dy):
            x = dict(zip(pair.names, args, strict=True))
            found = pair.run(x, dy)[1]
            return {n: found[n].astype(d.dtype) for n, d in like.items()}

        dtype = jax.tree.leaves(dy)[0].dtype
        like = {n: jax.ShapeDtypeStruct(a.shape, dtype) for n, a in got.items()}
        found = jax.pure_callback(run, like, args, dy)
        x = dict(zip(pair.names, args, strict=True))
        flat = [found.get(name) for name, _ in named_leaves(x)]
        each = jax.tree.structure(x).unflatten(flat)
        return tuple(each[name] for name in pair.names)

    return Rule(pair.rule.name, fwd, bwd)


def names_of(rule: Rule, args: tuple) -> dict[str, Any]:
    """The arguments by name."""
    names = argument_names(rule.fwd, len(args))
    return dict(zip(names, args, strict=True))


def _changed(now, before, who, what=None):
    for (name, a), (_, b) in zip(named_leaves(now), named_leaves(before), strict=True):
        if not is_key(a) and not _equal(np.asarray(a), np.asarray(b)):
            yield f"{who} changes {what or name} in place", "work on a copy"


def _same(a, b) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(x.shape == y.shape and _close(x, y) for x, y in pairs)


def _close(a, b) -> bool:
    size = np.abs(np.where(np.isfinite(a), a, 0)).max(initial=0)
    return np.allclose(a, b, rtol=0, atol=SAME * size, equal_nan=True)


def _equal(a, b) -> bool:
    return np.array_equal(a, b, equal_nan=np.issubdtype(b.dtype, np.floating))
