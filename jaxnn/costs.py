"""What each layer of a network costs: parameters, FLOPs, memory."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnn.combine.parts import Parts, observed
from jaxnn.flops import count_flops
from jaxnn.layers import Layer


class LayerCost(NamedTuple):
    """One row of `summary`: a layer, or a network inside of another.

    Attributes:
      name: the layer's, with "12 x" before it where a `stack` runs it 12 times.
      depth: how many networks it is inside of; 0 is the whole.
      out_shape: of its output, without the batch axis.
      parameters: how many scalars training moves here, those of its parts included.
      frozen: how many scalars it keeps as constants (`freeze`), parts included.
      shared: whether its parameters belong to the `share` around it.
      forward_flops: of the forward pass in training mode over the whole batch.
      backward_flops: of the backward pass, dx and dparams both; dx alone if frozen.
      cache_bytes: what is kept between the two, without parameters and without what
        an earlier layer keeps already.
    """

    name: str
    depth: int
    out_shape: tuple[int, ...]
    parameters: int
    frozen: int
    shared: bool
    forward_flops: float
    backward_flops: float
    cache_bytes: int


def count_parameters(params: Any) -> int:
    """Number of scalars in a params tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def layer_costs(
    net: Layer,
    in_shape: tuple[int, ...],
    batch: int | None = 128,
    dtype: Any = None,
) -> list[LayerCost]:
    """The rows of `summary` as numbers; the first is the whole network.

    Arguments as in `summary`; with `batch=None` FLOPs are 0 and bytes those of B = 2.
    """
    root = _trace(net, tuple(in_shape), 2 if batch is None else batch, dtype)
    _fill_cache_bytes(root, set())
    if batch is not None:
        _fill_flops(root, frozen=False)
    return list(_rows(root, _Where()))


@dataclass
class _Call:
    """A forward call as it was traced; its arrays are told apart by identity."""

    layer: Layer
    args: tuple  # (params, state, x, key, train)
    parts: Parts  # of the combinator that made the call
    y: Any = None
    cache: Any = None
    children: list["_Call"] = field(default_factory=list)
    cache_bytes: int = 0
    forward_flops: float = 0.0
    backward_flops: float = 0.0


def _trace(net, in_shape, batch, dtype) -> _Call:
    """The tree of calls that one forward pass in training mode makes."""
    whole = _Call(net, (), Parts("summary", (net,)))
    open_calls = [whole]

    def record(call, inner):
        def forward(params, state, x, *, key=None, train):
            args = (params, state, x, key, train)
            made = _Call(call.layer, args, call.parts or whole.parts)
            open_calls[-1].children.append(made)
            open_calls.append(made)
            out = inner.forward(params, state, x, key=key, train=train)
            made.y, _, made.cache = out
            open_calls.pop()
            return out

        return inner._replace(forward=forward)

    def run(key):
        params, state, _ = net.init(key, in_shape)
        x = jnp.zeros((batch, *in_shape), dtype)
        observed(net, record).forward(params, state, x, key=key, train=True)

    jax.eval_shape(run, jax.random.key(0))
    return whole.children[0]


def _fill_cache_bytes(call: _Call, counted: set[int]) -> None:
    """Count each array once, where it is kept first; parameters are kept anyway."""
    params, state, _, key, _ = call.args
    counted.update(map(id, jax.tree.leaves((params, state, key))))
    if not any(child.parts.recomputed for child in call.children):
        for child in call.children:
            _fill_cache_bytes(child, counted)
            call.cache_bytes += child.parts.times * child.cache_bytes
    if any(child.parts.times > 1 for child in call.children):
        return  # the same arrays again, stacked
    for leaf in jax.tree.leaves(call.cache):
        if id(leaf) not in counted:
            counted.add(id(leaf))
            call.cache_bytes += leaf.size * leaf.dtype.itemsize


class _Where(NamedTuple):
    """What a row has to know of where its layer stands."""

    depth: int = 0
    times: int = 1  # how often the call runs
    copies: int = 1  # how many sets of its parameters there are
    frozen: bool = False
    outside: tuple[Layer, ...] = ()  # layers that a `share` around it shares
    shared: bool = False  # in one of these

    def inside(self, call: _Call, child: _Call) -> "_Where":
        """Where a call stands that `call` makes."""
        parts = child.parts
        return self._replace(
            depth=self.depth + 1,
            times=self.times * parts.times,
            copies=self.copies * _copies(child),
            frozen=self.frozen or parts.frozen,
            outside=self.outside + _shared_by(child),
            shared=self.shared or _is_one_of(call.layer, self.outside),
        )


def _rows(call: _Call, where: _Where) -> Iterator[LayerCost]:
    own = 0 if where.shared else where.copies * _count_own(call, where.outside)
    frozen = where.times * _count_frozen(call) + (own if where.frozen else 0)
    runs = "" if call.parts.times == 1 else f"{call.parts.times} x "
    yield LayerCost(
        runs + call.layer.name,
        where.depth,
        tuple(call.y.shape[1:]),
        0 if where.frozen else own,
        frozen,
        own == 0 and count_parameters(call.args[0]) > 0,
        where.times * call.forward_flops,
        where.times * call.backward_flops,
        where.times * call.cache_bytes,
    )
    for child in call.children:
        yield from _rows(child, where.inside(call, child))


def _count_own(call: _Call, outside: tuple[Layer, ...]) -> int:
    """Scalars in the params of `call`, less those of the shared layers `outside`."""
    if _is_one_of(call.layer, outside):
        return 0
    if not outside or not call.children:
        return count_parameters(call.args[0])
    total = 0
    for child in call.children:
        if not child.parts.frozen:
            total += _copies(child) * _count_own(child, outside + _shared_by(child))
        if child.parts.shared:  # its one set, however many its places
            inside, layer = child.parts.shared
            if not _is_one_of(layer, outside):
                place = next(d for d in _descendants(call) if d.layer is inside)
                total += _count_own(place, outside)
    return total


def _copies(call: _Call) -> int:
    return 1 if call.parts.tied else call.parts.times


def _shared_by(call: _Call) -> tuple[Layer, ...]:
    return call.parts.shared[:1]


def _is_one_of(layer: Layer, layers) -> bool:
    return any(layer is each for each in layers)


def _descendants(call: _Call) -> Iterator[_Call]:
    for child in call.children:
        yield child
        yield from _descendants(child)


def _count_frozen(call: _Call) -> int:
    """Scalars that the `freeze`s somewhere inside of `call` keep."""
    total = 0
    for child in call.children:
        kept = count_parameters(child.args[0]) if child.parts.frozen else 0
        total += child.parts.times * (kept + _count_frozen(child))
    return total


def _fill_flops(call: _Call, frozen: bool) -> None:
    """A network does what its parts do; only a layer without parts is counted."""
    if not call.children:
        call.forward_flops, call.backward_flops = _flops(call, frozen)
    for child in call.children:
        _fill_flops(child, frozen or child.parts.frozen)
        again = child.forward_flops if child.parts.recomputed else 0.0
        call.forward_flops += child.parts.times * child.forward_flops
        call.backward_flops += child.parts.times * (child.backward_flops + again)


def _flops(call: _Call, frozen: bool) -> tuple[float, float]:
    layer, (params, state, x, key, train) = call.layer, call.args

    def forward(params, state, x, key):
        return layer.forward(params, state, x, key=key, train=train)

    def backward(cache, dy):
        dx, dparams = layer.backward(cache, dy)
        return dx if frozen else (dx, dparams)

    def shapes(*trees):
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), trees)

    return (
        count_flops(forward, *shapes(params, state, x, key)),
        count_flops(backward, *shapes(call.cache, call.y)),
    )
