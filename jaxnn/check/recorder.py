"""Every layer of a network at work: what it was given, gave back, and should have.

Each layer, the combinators included, is fed the exact cotangent from above: whatever
its backward pass returns is noted, and what `jax.vjp` of its forward says is passed
on. So an error shows in the one layer that makes it and in none before it; a combinator
is judged with exact parts, so only its own wiring can be wrong.
"""

import re
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxnn
from jaxnn import programs
from jaxnn.arrays import call_back, is_key
from jaxnn.combine.parts import observed
from jaxnn.layers import Layer
from jaxnn.rules.products import policy

LIBRARIES = (
    "<",  # code of no file
    str(Path(jaxnn.__file__).parent),
    *(str(Path(module.__file__).parent) for module in (jax, np, jax.lib, traceback)),
)
FLOAT0 = jax.dtypes.float0  # what JAX calls the cotangent of whole numbers


class LayerInputs(NamedTuple):
    """What a layer was given. `key` is None where there was none."""

    params: Any
    state: Any
    x: Any
    key: Any
    dy: Any

    def arrays(self) -> dict[str, Any]:
        """Argument -> its array, whole numbers too."""
        return arguments((self.x, self.params))

    def changed(self, changes: Mapping[str, Any]) -> "LayerInputs":
        """The same with arguments replaced: name -> array."""
        x, params = jax.tree.structure((self.x, self.params)).unflatten(
            [changes.get(name, a) for name, a in self.arrays().items()]
        )
        return self._replace(x=x, params=params)


@jax.tree_util.register_static
class LayerPath(NamedTuple):
    """Which layer of the network this is, and in which mode it ran.

    Attributes:
      path: its number in each combinator from the outside in; () is the network, and
        what stands beside it, such as the loss, has a word for a path.
      label: such as "3 residual(serial(2 layers)) > 0 dense(4)".
      layer: the layer.
      train: the mode.
      leaves: pairs (path of a parameter in the layer, in the network).
    """

    path: tuple[Any, ...]
    label: str
    layer: Layer
    train: bool
    leaves: tuple[tuple[str, str], ...] = ()

    def leaf(self, argument: str) -> str:
        """The path of that argument in the network: "3/0/w", or "3/0/x" for x."""
        inside = "/".join([*map(str, self.path), argument])
        return dict(self.leaves).get(argument, inside)


class LayerRecord(NamedTuple):
    """A layer at work.

    Attributes:
      where: which one.
      given: parameters, state, input, key, and the exact cotangent dy.
      got: argument -> gradient, as returned by its backward.
      want: argument -> gradient, by `jax.vjp` of its forward.
      error: what backward raised, None if it did not; `got` is empty then.
    """

    where: LayerPath
    given: LayerInputs
    got: dict[str, np.ndarray]
    want: dict[str, np.ndarray]
    error: str | None


@contextmanager
def full_precision() -> Iterator[None]:
    """float64, and products of all digits: a GPU's of float32 keep ten bits only."""
    with (
        jax.enable_x64(True), jax.default_matmul_precision("highest"),
        policy(precision="float32"),
    ):  # fmt: skip
        yield


def exact(layer: Layer, given: LayerInputs, train: bool) -> tuple[Any, Any]:
    """(dx, dparams) of a layer by `jax.vjp` of its forward; of integers, float0."""

    def run(params, x):
        state, key = given.state, given.key
        return layer.forward(params, state, x, key=key, train=train)[0]

    y, pull_back = jax.vjp(run, given.params, given.x)
    dparams, dx = pull_back(_as_output(given.dy, y))
    return dx, dparams


def by_hand(layer: Layer, given: LayerInputs, train: bool) -> tuple[Any, Any]:
    """(dx, dparams) of a layer by its own backward."""
    p, s, x, key, dy = given
    y, _, cache = layer.forward(p, s, x, key=key, train=train)
    return layer.backward(cache, _as_output(dy, y))


def _as_output(dy, y):
    """dy in the precision of y: a loss of bfloat16 is float32."""
    return jax.tree.map(lambda d, like: d.astype(like.dtype), dy, y)


def arguments(gradients: tuple[Any, Any]) -> dict[str, Any]:
    """(dx, dparams) of a layer by argument: "x", and the path of each parameter.

    An input that is a dict is named by its keys alone.
    """
    dx, dparams = gradients
    named = [*named_leaves(dx, "" if isinstance(dx, dict) else "x")]
    named += named_leaves(dparams)
    return {name: leaf for name, leaf in named if jnp.result_type(leaf) != FLOAT0}


def named_leaves(tree: Any, head: str = "") -> list[tuple[str, Any]]:
    """(path, leaf) of every leaf, paths such as "1/w" behind `head`."""
    found = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        tail = jax.tree_util.keystr(path, simple=True, separator="/")
        found.append(("/".join(part for part in (head, tail) if part), leaf))
    return found


class LayerRecorder:
    """A program whose layers are recorded at work.

    Args:
      program: `(net, beside, params, *rest) -> None`; it is given the network, and a
        dict of the layers beside it, as layers that keep records.
      net: the network.
      beside: layers that do not belong to it, such as the loss, by name.
    """

    def __init__(self, program: Callable, net: Layer, **beside: Layer):
        self.notes: list[tuple[LayerPath, str | None, Any]] = []  # made while tracing
        self.rows: list[tuple[int, Any]] = []  # made while running
        self.compiled: Callable | None = None

        def run(params, *rest):
            self.roots = {id(a): name for name, a in named_leaves(params)}
            others = {
                name: observed(layer, partial(self._recorded, (name,)))
                for name, layer in beside.items()
            }
            program(observed(net, partial(self._recorded, ())), others, params, *rest)

        self.run = run

    def __call__(self, params: Any, *rest: Any) -> list[LayerRecord]:
        """Run the program; the records of its layers, in the order in which they ran.

        Args:
          params: the network's parameters.
          rest: what else the program takes.
        """
        if self.compiled is None:
            self.compiled = programs.ahead(None, self.run, params, *rest)
        self.rows = []
        jax.block_until_ready(self.compiled(params, *rest))
        jax.effects_barrier()
        return [self._record(*row) for row in self.rows]

    def _recorded(self, head, call, inner) -> Layer:
        path = (*head, *call.path)

        def forward(params, state, x, *, key=None, train):
            y, new_state, cache = inner.forward(params, state, x, key=key, train=train)
            # named here: behind a scan the arrays are no longer the network's own
            leaves = tuple(
                (name, self.roots.get(id(a), "/".join([*map(str, path), name])))
                for name, a in named_leaves(params)
            )
            where = LayerPath(path, call.label, call.layer, train, leaves)
            return y, new_state, (cache, (params, state, x, key), where)

        def backward(cache, dy):
            cache, (p, s, x, key), where = cache
            given, error = LayerInputs(p, s, x, key, dy), None
            want = exact(where.layer, given, where.train)
            try:
                got = inner.backward(cache, dy)
            except Exception as raised:  # whatever a user's code raises
                error, got = one_line(raised), (None, ())
            self._note(where, error, given, arguments(got), arguments(want))
            return _flowing(want, got, given)

        return inner._replace(forward=forward, backward=backward)

    def _note(self, where, error, given, got, want):
        number, kind, key = len(self.notes), None, given.key
        if is_key(key):  # which cannot leave the program as it is
            kind, key = str(jax.random.key_impl(key)), jax.random.key_data(key)
        self.notes.append((where, error, kind))

        def keep(arrays):
            self.rows.append((number, arrays))

        call_back(keep, (given._replace(key=key), got, want))

    def _record(self, number, arrays) -> LayerRecord:
        where, error, kind = self.notes[number]
        given, got, want = arrays
        key = given.key
        if kind is not None:
            key = jax.random.wrap_key_data(jnp.asarray(key), impl=kind)
        return LayerRecord(where, given._replace(key=key), got, want, error)


def leaf_layers(records: Sequence[LayerRecord]) -> list[LayerRecord]:
    """Of the records, those of layers inside of which none was recorded, each once."""
    first = {s.where.path: s for s in reversed(records)}
    parts = [path for path in first if path and not isinstance(path[0], str)]
    inner = {path[:n] for path in parts for n in range(len(path))}
    return [s for path, s in reversed(first.items()) if path not in inner]


def modes(layer: Layer, params: Any, state: Any, x: Any, key: Any) -> tuple[bool, ...]:
    """The values of `train` that make different programs, forward or back."""

    def both(params, state, x, key, train):
        y, new, cache = layer.forward(params, state, x, key=key, train=train)
        try:
            back = layer.backward(cache, jax.tree.map(jnp.ones_like, y))
        except Exception:  # told by the comparison
            back = None
        return y, new, back

    texts = [
        # addresses of functions differ from trace to trace
        re.sub("0x[0-9a-f]+", "", str(jax.make_jaxpr(partial(both, train=train))(
            params, state, x, key)))
        for train in (True, False)
    ]  # fmt: skip
    return (True, False)[: len(set(texts))]


def one_line(error: BaseException) -> str:
    """Such as "TypeError: dot_general requires ... (mine.py line 7: y = x @ w)".

    Long messages are cut; the line is the last one that is not of a library.
    """
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    text = text if len(text) <= 200 else text[:197] + "..."
    if isinstance(error, SyntaxError) and error.filename:
        return f"{text} ({Path(error.filename).name} line {error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    mine = [f for f in frames if not f.filename.startswith(LIBRARIES)]
    for f in mine[-1:]:
        text += f" ({Path(f.filename).name} line {f.lineno}: {f.line})"
    return text


def _flowing(want, got, given):
    """The exact gradients, with something harmless in the place of float0.

    Where JAX itself fails, what was made by hand goes on, or nothing below could be
    judged: XLA may compute x twice with other rounding, and then `x == x.max()`, which
    the gradient of a maximum divides by, is nowhere true.
    """
    dx, dparams = want
    by_hand = arguments(got)
    repairs = {}
    for name, d in arguments(want).items():
        g = by_hand.get(name)
        repairs[id(d)] = d
        if g is not None and g.shape == d.shape:
            repairs[id(d)] = jnp.where(jnp.isfinite(d), d, g.astype(d.dtype))

    def real(d, p):
        return repairs.get(id(d), jnp.zeros_like(p))

    whole = any(jnp.result_type(d) == FLOAT0 for d in jax.tree.leaves(dx))
    dparams = jax.tree.map(real, dparams, given.params)
    return got[0] if whole else jax.tree.map(real, dx, given.x), dparams
