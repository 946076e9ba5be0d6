"""One set of parameters in several places of a network."""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from jaxnn.combine.basic import merge_backward, merge_rule, merged_shape
from jaxnn.combine.parts import Parts
from jaxnn.errors import JaxnnError
from jaxnn.layers import Layer, constructor, interval
from jaxnn.rules import Rule


@jax.tree_util.register_static
@dataclass(frozen=True)
class Shared:
    """Stands in a params tree where shared parameters go: a node without arrays.

    `level` tells nested shares apart; `lead` are the leading axes that a `stack` in
    between added.
    """

    level: int
    lead: tuple[int, ...]

    def broadcast(self, tree: Any) -> Any:
        """The shared arrays, once for each copy that a stack holds."""

        def broadcast(a):
            row = a.reshape((1,) * len(self.lead) + a.shape)
            return jnp.broadcast_to(row, self.lead + a.shape)

        return jax.tree.map(broadcast, tree) if self.lead else tree

    def summed(self, grads: Any) -> Any:
        """The gradient of the shared arrays, from that of all their copies."""
        axes = tuple(range(len(self.lead)))
        return jax.tree.map(lambda a: a.sum(axes), grads) if self.lead else grads


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _SharedTree:
    """What `init` makes of a shared layer, until its `share` collects it."""

    tree: Any
    tag: object = field(metadata={"static": True})
    what: str = field(metadata={"static": True})
    ndims: tuple[int, ...] = field(metadata={"static": True})

    @property
    def lead(self) -> tuple[int, ...]:
        """The axes that `stack` put before those of the arrays."""
        leaves = jax.tree.leaves(self.tree)
        return leaves[0].shape[: leaves[0].ndim - self.ndims[0]] if leaves else ()

    @property
    def first(self) -> Any:
        """The arrays of the first copy."""
        return jax.tree.map(lambda a: a[(0,) * len(self.lead)], self.tree)


@dataclass(frozen=True)
class _Slot:
    """The place of a shared layer: shares inside of each other have other numbers.

    By it, and not by the function that built the network, two shares are compared.
    """

    number: int


_under_way: ContextVar[int] = ContextVar("under_way", default=0)


def share(layer: Layer, build: Callable[[Layer], Layer]) -> Layer:
    """The network `build(layer)`, in which `layer` may occur often but has one params.

    It may stand anywhere in the network that `build` makes, inside other combinators
    too. Params are `{"shared": params of layer, "rest": params of the network}`, with a
    `Shared` mark, which holds no arrays, at each of its places in `rest`; its gradients
    from all places are summed. Only parameters are shared: each place keeps its own
    state, since running statistics differ from place to place.

    >>> from jaxnn.combine import serial
    >>> from jaxnn.layers import dense, relu
    >>> net = share(dense(4), lambda twice: serial(twice, relu, twice))
    >>> params, _, _ = net.init(jax.random.key(0), (4,))
    >>> [leaf.shape for leaf in jax.tree.leaves(params)]
    [(4,), (4, 4)]
    """
    depth = _under_way.get()
    token = _under_way.set(depth + 1)
    try:
        slot = _Slot(depth)
        inside = _placeholder(layer, slot)
        return _shared(layer, inside, slot, build(inside))
    finally:
        _under_way.reset(token)


@constructor
def _shared(layer: Layer, inside: Layer, tag: _Slot, built: Layer) -> Layer:
    parts = Parts("share", (built,), shared=(inside, layer))
    name = f"share({layer.name})"

    def init(key, in_shape):
        params, state, out_shape = parts.init(0, key, in_shape)
        shared, rest = _collect(name, params, tag)
        return {"shared": shared, "rest": rest}, _unwrap(name, state, tag), out_shape

    def forward(params, state, x, *, key=None, train):
        if not isinstance(params, dict) or set(params) != {"shared", "rest"}:
            raise JaxnnError(
                f"{name}: expected params shared and rest; were they made by another "
                "network?"
            )
        shared, rest = params["shared"], params["rest"]
        mine = _outermost_marks(rest)
        filled = jax.tree.map(
            lambda n: n.broadcast(shared) if mine(n) else n, rest, is_leaf=mine
        )
        y, state, cache = parts.forward(0, filled, state, x, key=key, train=train)
        skeleton = jax.tree.map(lambda n: n if mine(n) else None, rest, is_leaf=mine)
        return y, state, (cache, skeleton)

    def backward(cache, dy):
        cache, skeleton = cache
        dx, dparams = parts.backward(0, cache, dy)
        mine = _outermost_marks(skeleton)
        marks, structure = jax.tree.flatten(
            skeleton, is_leaf=lambda node: node is None or mine(node)
        )
        total, rest = None, []
        for mark, grad in zip(marks, structure.flatten_up_to(dparams), strict=True):
            rest.append(grad if mark is None else mark)
            if mark is not None:
                grad = mark.summed(grad)
                total = grad if total is None else jax.tree.map(jnp.add, total, grad)
        return dx, {"shared": total, "rest": structure.unflatten(rest)}

    def bounds():
        return _shared(layer, inside, tag, interval(built))._replace(init=init)

    return Layer(init, forward, backward, name, parts.layers, bounds=bounds)


@constructor
def siamese(layer: Layer, merge: str | Rule = "concatenate") -> Layer:
    """`layer` on each of n inputs with the same parameters, then `merge` of the n.

    x (B, n, ...) -> y (B, ...): a pair of images is (B, 2, H, W, C). All B n inputs go
    through `layer` as one batch, so a batch norm inside takes its statistics over all.

    Args:
      layer: what every input goes through.
      merge: see `parallel`; `rules.sub` gives the difference of a pair.

    >>> from jaxnn.layers import dense
    >>> net = siamese(dense(3))
    >>> net.init(jax.random.key(0), (2, 5))[2]
    (6,)

    Source: Bromley et al. 1993.
    """
    parts, merge = Parts("siamese", (layer,)), merge_rule(merge)
    name = f"siamese({layer.name})"

    def check(shape):
        if not shape or shape[0] < 1:
            raise JaxnnError(
                f"{name}: got inputs of shape {tuple(shape)} without the batch axis, "
                "expected (n, ...) with n at least 1"
            )

    def init(key, in_shape):
        check(in_shape)
        params, state, out_shape = parts.init(0, key, in_shape[1:])
        return params, state, merged_shape(merge, [out_shape] * in_shape[0])

    def forward(params, state, x, *, key=None, train):
        check(x.shape[1:])
        b, n = x.shape[:2]
        rows = x.reshape(b * n, *x.shape[2:])
        y, state, cache = parts.forward(0, params, state, rows, key=key, train=train)
        y = y.reshape(b, n, *y.shape[1:])
        y, joint = merge.fwd(*(y[:, i] for i in range(n)))
        return y, state, (cache, joint, x[:0])

    def backward(cache, dy):
        cache, joint, empty = cache
        dys = jnp.stack(merge_backward(merge, joint, dy), 1)  # (B, n, ...)
        b, n = dys.shape[:2]
        dx, dparams = parts.backward(0, cache, dys.reshape(b * n, *dys.shape[2:]))
        return dx.reshape(b, *empty.shape[1:]), dparams

    return Layer(init, forward, backward, name, (layer,))


@constructor
def _placeholder(layer: Layer, tag: _Slot) -> Layer:
    """`layer`, but `init` marks what it makes, for `share` to find."""
    if not isinstance(layer, Layer):
        raise JaxnnError(f"share: got {type(layer).__name__}, expected a layer")

    def init(key, in_shape):
        params, state, out_shape = layer.init(key, in_shape)

        def marked(tree, what):
            ndims = tuple(a.ndim for a in jax.tree.leaves(tree))
            return _SharedTree(tree, tag, what, ndims)

        return marked(params, "params"), marked(state, "state"), out_shape

    return layer._replace(init=init, bounds=layer.bounds)


def _collect(name, params, tag):
    """The shared parameters of the first place, and `params` with marks instead."""
    nodes, structure, shared = _found(name, params, tag, "params")
    if not shared:
        raise JaxnnError(
            f"{name}: the network that build made does not use it; expected such as "
            "share(dense(4), lambda twice: serial(twice, relu, twice))"
        )
    level = 1 + _highest_level(params)
    nodes = [Shared(level, n.lead) if isinstance(n, _SharedTree) else n for n in nodes]
    return shared[0].first, structure.unflatten(nodes)


def _unwrap(name, state, tag):
    """`state` with the first place's state in every place: all start alike."""
    nodes, structure, shared = _found(name, state, tag, "state")

    def alike(node):
        if not isinstance(node, _SharedTree):
            return node
        # copies: training donates its state, and no array can be donated twice
        return jax.tree.map(jnp.array, Shared(0, node.lead).broadcast(shared[0].first))

    return structure.unflatten(map(alike, nodes))


def _found(name, tree, tag, what):
    """The nodes of `tree`, its structure, and those nodes that `tag` is on."""

    def is_shared(node):
        return isinstance(node, _SharedTree) and node.tag is tag

    nodes, structure = jax.tree.flatten(tree, is_leaf=is_shared)
    shared = list(filter(is_shared, nodes))
    if any(node.what != what for node in shared):
        raise JaxnnError(
            f"{name}: frozen in some places only; freeze what is shared, "
            "share(freeze(layer), build), or the whole, freeze(share(layer, build))"
        )
    shapes = [jax.tree.map(jnp.shape, node.first) for node in shared]
    for other in shapes:
        if other != shapes[0]:
            raise JaxnnError(
                f"{name}: shared parameters of shapes {shapes[0]} in its first place "
                f"but {other} in another; expected inputs of the same features"
            )
    return nodes, structure, shared


def _highest_level(tree) -> int:
    """The level of the outermost share whose marks are left in a tree, 0 for none."""
    nodes = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, Shared))
    return max((n.level for n in nodes if isinstance(n, Shared)), default=0)


def _outermost_marks(rest):
    """Which nodes are marks of the outermost share in `rest`, the one they are of."""
    level = _highest_level(rest)
    return lambda node: isinstance(node, Shared) and node.level == level
