"""Every layer of a network at work: what it was given, gave back, and should have.

Each layer, the combinators included, is fed the exact cotangent from above: whatever
its backward pass returns is noted, and what `jax.vjp` of its forward says is passed
on. So an error shows in the one layer that makes it and in none before it; a combinator
is judged with exact parts, so only its own wiring can be wrong.
"""

import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxnn
from jaxnn.arrays import is_key
from jaxnn.check.parts import with_parts
from jaxnn.layers import Layer

LIBRARIES = (
    "<",  # code of no file
    str(Path(jaxnn.__file__).parent),
    *(str(Path(module.__file__).parent) for module in (jax, np, jax.lib, traceback)),
)
FLOAT0 = jax.dtypes.float0  # what JAX calls the cotangent of whole numbers


class Given(NamedTuple):
    """What a layer was given. `key` is None where there was none."""

    params: Any
    state: Any
    x: Any
    key: Any
    dy: Any


@jax.tree_util.register_static
class Place(NamedTuple):
    """Which layer of the network this is, and in which mode it ran.

    Attributes:
      path: its number in each combinator from the outside in; () is the network, and
        what stands beside it, such as the loss, has a word for a path.
      names: of the layers on that path, the network's own first.
      layer: the layer.
      train: the mode.
      leaves: pairs (path of a parameter in the layer, in the network).
    """

    path: tuple[Any, ...]
    names: tuple[str, ...]
    layer: Layer
    train: bool
    leaves: tuple[tuple[str, str], ...] = ()

    @property
    def label(self) -> str:
        """Such as "3 residual(serial(2 layers)) > 0 dense(4)"."""
        if not self.path or isinstance(self.path[0], str):
            return self.layer.name
        inner = zip(self.path, self.names[1:], strict=True)
        return " > ".join(f"{i} {name}" for i, name in inner)

    def leaf(self, argument: str) -> str:
        """The path of that argument in the network: "3/0/w", or "3/0/x" for x."""
        inside = "/".join([*map(str, self.path), argument])
        return dict(self.leaves).get(argument, inside)


class Seen(NamedTuple):
    """A layer at work.

    Attributes:
      place: which one.
      given: parameters, state, input, key, and the exact cotangent dy.
      got: argument -> gradient, as returned by its backward.
      want: argument -> gradient, by `jax.vjp` of its forward.
      error: what backward raised, None if it did not; `got` is empty then.
    """

    place: Place
    given: Given
    got: dict[str, np.ndarray]
    want: dict[str, np.ndarray]
    error: str | None


def exact(layer: Layer, given: Given, train: bool) -> tuple[Any, Any]:
    """(dx, dparams) of a layer by `jax.vjp` of its forward; of integers, float0."""

    def run(params, x):
        state, key = given.state, given.key
        return layer.forward(params, state, x, key=key, train=train)[0]

    y, pull_back = jax.vjp(run, given.params, given.x)
    dparams, dx = pull_back(_as_output(given.dy, y))
    return dx, dparams


def by_hand(layer: Layer, given: Given, train: bool) -> tuple[Any, Any]:
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


class Watch:
    """Networks whose layers are watched at work.

    Args:
      net: the network.
      depth: how many levels of combinators to look into.
      beside: layers that do not belong to it, such as the loss, by name.
    """

    def __init__(self, net: Layer, depth: int = 99, **beside: Layer):
        self.net, self.depth, self.beside = net, depth, beside
        self.notes: list[tuple[Place, str | None, Any]] = []  # made while tracing
        self.rows: list[tuple[int, Any]] = []  # made while running

    def compile(self, program: Callable) -> Callable:
        """`(params, *rest) -> (result of program, what was seen)`.

        `program(watched, params, *rest)` is given the watched network, and a dict of
        the watched layers beside it.
        """

        @jax.jit
        def traced(params, *rest):
            self.roots = {id(a): name for name, a in named_leaves(params)}
            net = self._watched(self.net, (), (self.net.name,))
            beside = {
                name: self._watched(layer, (name,), (name, layer.name))
                for name, layer in self.beside.items()
            }
            return program(net, beside, params, *rest)

        def run(params, *rest):
            self.rows = []
            result = jax.device_get(traced(params, *rest))
            jax.effects_barrier()
            return result, [self._seen(*row) for row in self.rows]

        return run

    def _watched(self, layer, path, names) -> Layer:
        inner = layer
        if layer.parts and len(path) < self.depth:
            parts = [
                self._watched(part, (*path, i), (*names, part.name))
                for i, part in enumerate(layer.parts)
            ]
            inner = with_parts(layer, parts)

        def forward(params, state, x, *, key=None, train):
            y, new_state, cache = inner.forward(params, state, x, key=key, train=train)
            # named here: behind a scan the arrays are no longer the network's own
            leaves = tuple(self._leaves(params, path))
            place = Place(path, names, layer, train, leaves)
            return y, new_state, (cache, (params, state, x, key), place)

        def backward(cache, dy):
            cache, given, place = cache
            p, s, x, key = given
            given, error = Given(p, s, x, key, dy), None
            want = exact(layer, given, place.train)
            try:
                got = inner.backward(cache, dy)
            except Exception as raised:
                error, got = one_line(raised), (None, ())
            self._note(place, error, given, arguments(got), arguments(want))
            return _flowing(want, got, given)

        return layer._replace(forward=forward, backward=backward)

    def _leaves(self, params, path):
        for name, a in named_leaves(params):
            yield name, self.roots.get(id(a), "/".join([*map(str, path), name]))

    def _note(self, place, error, given, got, want):
        number, (kind, data) = len(self.notes), _key_data(given.key)
        self.notes.append((place, error, kind))
        arrays = given._replace(key=data), got, want
        jax.debug.callback(partial(self._keep, number), arrays, ordered=True)

    def _keep(self, number, arrays):
        self.rows.append((number, jax.tree.map(np.asarray, arrays)))

    def _seen(self, number, arrays) -> Seen:
        place, error, kind = self.notes[number]
        given, got, want = arrays
        key = given.key
        if kind is not None:
            key = jax.random.wrap_key_data(jnp.asarray(key), impl=kind)
        return Seen(place, given._replace(key=key), got, want, error)


def singles(seen: Sequence[Seen]) -> list[Seen]:
    """Of what was seen, the layers that have no parts, each once, in the same order."""
    first = {s.place.path: s for s in reversed(seen)}
    parts = [path for path in first if path and not isinstance(path[0], str)]
    inner = {path[:n] for path in parts for n in range(len(path))}
    return [s for path, s in reversed(first.items()) if path not in inner]


def one_line(error: BaseException) -> str:
    """Such as "TypeError: dot_general requires ... (mine.py line 7: y = x @ w)".

    Long messages are cut; the line is the last one that is not of a library.
    """
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    text = text if len(text) <= 200 else text[:197] + "..."
    return text + _own_line(error)


def _own_line(error) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({Path(error.filename).name} line {error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    mine = [f for f in frames if not f.filename.startswith(LIBRARIES)]
    if not mine:
        return ""
    return f" ({Path(mine[-1].filename).name} line {mine[-1].lineno}: {mine[-1].line})"


def _flowing(want, got, given):
    """The exact gradients, with something harmless in the place of float0.

    Where JAX itself fails, what was made by hand goes on, or nothing below could be
    judged: XLA may compute x twice with other rounding, and then `x == x.max()`, which
    the gradient of a maximum divides by, is nowhere true.
    """
    dx, dparams = want
    by_hand = arguments(got)
    flat = arguments(want)

    def repaired(name, d):
        if (g := by_hand.get(name)) is None or g.shape != d.shape:
            return d
        return jnp.where(jnp.isfinite(d), d, g.astype(d.dtype))

    repairs = {id(d): repaired(name, d) for name, d in flat.items()}

    def real(d, p):
        return repairs.get(id(d), jnp.zeros_like(p))

    whole = any(jnp.result_type(d) == FLOAT0 for d in jax.tree.leaves(dx))
    dparams = jax.tree.map(real, dparams, given.params)
    return got[0] if whole else jax.tree.map(real, dx, given.x), dparams


def _key_data(key):
    """(implementation, numbers) of a typed key; (None, key) of any other."""
    if is_key(key):
        return str(jax.random.key_impl(key)), jax.random.key_data(key)
    return None, key
