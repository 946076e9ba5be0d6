"""The same layer many times over, compiled once; and layers that run forward twice."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxnn.arrays import is_whole
from jaxnn.combine.parts import Parts
from jaxnn.errors import JaxnnError
from jaxnn.layers import Layer, constructor, interval
from jaxnn.tree import STACKED


@constructor
def stack(layer: Layer, depth: int) -> Layer:
    """`depth` copies of `layer` one after another, each with its own parameters.

    Computes what `serial(*[layer] * depth)` does, draws included, but parameters, state
    and cache have a leading axis of `depth` and both directions are a `lax.scan`: one
    copy is traced and compiled. `stack(remat(layer), depth)` also keeps one input a
    copy. Params are `{"stacked": params of layer}`: by that name `stacked_axes` tells
    the leading axis from those of a weight.

    >>> from jaxnn.layers import dense
    >>> params, _, _ = stack(dense(4), 12).init(jax.random.key(0), (4,))
    >>> params["stacked"]["w"].shape
    (12, 4, 4)
    """
    return _scanned("stack", layer, depth, tied=False)


@constructor
def repeat(layer: Layer, depth: int) -> Layer:
    """`layer` applied `depth` times with the same parameters: y = f(f(...f(x))).

    Params are those of `layer`; its gradients over the depth are summed. State and
    cache have a leading axis of `depth`: running statistics differ from depth to depth,
    so each keeps its own. Application i draws from `fold_in(key, i)`.

    >>> from jaxnn.layers import dense
    >>> params, _, _ = repeat(dense(4), 12).init(jax.random.key(0), (4,))
    >>> params["w"].shape
    (4, 4)
    """
    return _scanned("repeat", layer, depth, tied=True)


def _scanned(kind: str, layer: Layer, depth: int, tied: bool) -> Layer:
    """`layer` in a scan, its copies with the same parameters or each with its own."""
    name = f"{kind}({getattr(layer, 'name', layer)}, {depth})"
    if not is_whole(depth):
        raise JaxnnError(f"{name}: depth must be at least 1, a whole number")
    parts = Parts(kind, (layer,), times=depth, tied=tied)

    def init(key, in_shape):
        shapes = []

        def one(key):
            params, state, out_shape = parts.init(0, key, in_shape)
            shapes.append(tuple(out_shape))
            return params, state

        if tied:
            params, state = one(key)
            state = jax.tree.map(lambda a: jnp.stack([a] * depth), state)
        else:
            params, state = jax.vmap(one)(_keys(key, depth))
            params = {STACKED: params}
        _check_same(name, "shape", tuple(in_shape), shapes[0])
        return params, state, shapes[0]

    def forward(params, state, x, *, key=None, train):
        of_each = () if tied else _stacked(name, params)
        _check_leading(name, depth, of_each, state)

        def body(x, each):
            p, s, k = each
            p = params if tied else p
            y, s, cache = parts.forward(0, p, s, x, key=k, train=train)
            _check_same_array(name, x, y)
            return y, (s, kept.once(cache))

        kept = _Kept()
        each = (of_each, state, _keys(key, depth))
        y, (state, arrays) = lax.scan(body, x, each, length=depth)
        return y, state, kept.restored(arrays)

    def backward(cache, dy):
        if tied:
            return _backward_of_all(parts, depth, cache, dy)
        dx, dparams = lax.scan(
            lambda d, c: parts.backward(0, c, d), dy, cache, depth, reverse=True
        )
        return dx, {STACKED: dparams}

    def bounds():
        return _scanned(kind, interval(layer), depth, tied)

    return Layer(init, forward, backward, name, (layer,), bounds=bounds)


def _backward_of_all(parts, depth, cache, dy):
    """dx, and the sum of the gradients of one set of parameters over the depth."""
    # the shapes of the gradients, to start their sum from zero
    last = jax.tree.map(lambda a: a[-1], cache)
    _, like = jax.eval_shape(lambda c, d: parts.backward(0, c, d), last, dy)
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), like)

    def body(carry, c):
        d, total = carry
        d, dparams = parts.backward(0, c, d)
        return (d, jax.tree.map(jnp.add, total, dparams)), None

    (dx, dparams), _ = lax.scan(body, (dy, zeros), cache, depth, reverse=True)
    return dx, dparams


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Replay:
    """Cache of `remat`: all that a forward pass takes; its mode is not an array."""

    params: Any
    state: Any
    x: Any
    key: Any
    train: bool = field(metadata={"static": True})


@constructor
def remat(layer: Layer) -> Layer:
    """`layer` that keeps its input only; backward runs forward once more.

    The cache is (params, state, x, key), so the second run draws the same dropout
    masks and takes the same batch statistics; the state it makes is dropped, running
    averages move once. Around the block of a `stack` this leaves one input a copy:
    `stack(remat(block), 12)`. Elsewhere it depends on the compiler: XLA for CPU takes
    the barrier out that should keep the second run, finds it equal to the first, and
    saves nothing.

    Source: Chen et al. 2016.
    """
    parts = Parts("remat", (layer,), recomputed=True)

    def init(key, in_shape):
        return parts.init(0, key, in_shape)

    def forward(params, state, x, *, key=None, train):
        y, new_state, _ = parts.forward(0, params, state, x, key=key, train=train)
        return y, new_state, Replay(params, state, x, key, train)

    def backward(cache, dy):
        # Without the barrier XLA sees two equal computations and keeps the first; with
        # dy inside, the second cannot start before its turn.
        c, dy = lax.optimization_barrier((cache, dy))
        _, _, cache = parts.forward(0, c.params, c.state, c.x, key=c.key, train=c.train)
        return parts.backward(0, cache, dy)

    def bounds():
        return remat(interval(layer))

    name = f"remat({layer.name})"
    return Layer(init, forward, backward, name, (layer,), bounds=bounds)


class _Kept:
    """A cache that leaves a scan with each array once.

    Layers keep what their neighbors keep (tanh its output, the dense layer after it
    its input). Stacked by the scan, the two would be two buffers.
    """

    def once(self, cache):
        """The distinct arrays of `cache`, inside the scan."""
        leaves, self.structure = jax.tree.flatten(cache)
        distinct = {id(leaf): leaf for leaf in leaves}
        order = {name: i for i, name in enumerate(distinct)}
        self.places = [order[id(leaf)] for leaf in leaves]
        return list(distinct.values())

    def restored(self, arrays):
        """The cache again, each array with the scan's leading axis."""
        return self.structure.unflatten([arrays[i] for i in self.places])


def _keys(key, depth):
    """A key for each depth, as `serial` would draw them."""
    if key is None:
        return None
    at = jnp.arange(depth, dtype=jnp.uint32)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, at)


def _check_same(name, what, was, became):
    if was != became:
        raise JaxnnError(
            f"{name}: the layer makes {what} {became} of {was}, expected the same, "
            "since its output is its next input"
        )


def _check_same_array(name, x, y):
    for was, became in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True):
        _check_same(name, "shape", was.shape, became.shape)
        _check_same(name, "dtype", was.dtype.name, became.dtype.name)


def _stacked(name, params):
    if not isinstance(params, dict) or set(params) != {STACKED}:
        raise JaxnnError(
            f"{name}: expected params of the form {{'{STACKED}': ...}}; were they "
            "made by another network?"
        )
    return params[STACKED]


def _check_leading(name, depth, *trees):
    for leaf in jax.tree.leaves(trees):
        if leaf.ndim == 0 or leaf.shape[0] != depth:
            raise JaxnnError(
                f"{name}: got an array of shape {leaf.shape} in params or state, "
                f"expected a leading axis of {depth}; were they made by another "
                "network?"
            )
