"""What each layer of a network costs: parameters, FLOPs, memory; as a table, too."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from jaxnn.combine.parts import Parts, observed
from jaxnn.layers import Layer
from jaxnn.text import Table


class LayerCost(NamedTuple):
    """One row of `summary`: a layer, or a network inside of another, parts included."""

    name: str  # the layer's, with "12 x" before it where a `stack` runs it 12 times
    depth: int  # how many networks it is inside of; 0 is the whole
    out_shape: tuple[int, ...]  # of its output, without the batch axis
    parameters: int  # how many scalars training moves here
    frozen: int  # how many scalars it keeps as constants (`freeze`)
    shared: bool  # whether its parameters belong to the `share` around it
    forward_flops: float  # in training mode over the whole batch
    backward_flops: float  # of dx and dparams both; of dx alone if frozen
    # kept between the two, without parameters and what an earlier layer keeps already
    cache_bytes: int


def count_parameters(params: Any) -> int:
    """Number of scalars in a params tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def summary(
    net: Layer,
    in_shape: tuple[int, ...],
    batch: int | None = 128,
    dtype: Any = None,
) -> Table:
    """One line a layer, parts of networks indented; B is the batch.

    A string, which a notebook shows as a table.

    Columns: output shape, number of parameters, FLOPs of the forward and of the
    backward pass, and bytes of the cache, for `batch` samples in training mode. Nothing
    is computed or allocated: the passes are traced and XLA counts what they would do.
    A network's line is the sum of its parts, what `remat` does again included; adding
    and joining branches is not counted. Frozen parameters are counted apart, those that
    `share` ties say "shared" and count in the line of `share`, a layer from
    `jaxnn.interop` says "by jax.vjp".

    Args:
      net: the network.
      in_shape: shape of one input, without the batch axis.
      batch: samples that FLOPs and bytes are for; None leaves these columns out, which
        is faster.
      dtype: of the inputs; None is JAX's default float.

    Raises:
      JaxnnError: an input that does not fit the network.

    >>> from jaxnn import mlp
    >>> print(summary(mlp([4, 3, 2]), (4,), batch=10))
    layer     output  parameters  forward  backward  cache
    input     (B, 4)
    flatten   (B, 4)           0        0         0    0 B
    dense(3)  (B, 3)          15      270       507  160 B
    relu      (B, 3)           0       61        31   30 B
    dense(2)  (B, 2)           8      140       258  120 B
    total                     23      471       796  310 B
    B = 10; forward and backward in FLOPs
    """
    costs = layer_costs(net, in_shape, batch, dtype)
    head = ("layer", "output", "parameters", "forward", "backward", "cache")
    rows: list[tuple[str, ...]] = [head, ("input", _batched(in_shape), *[""] * 4)]
    for cost in costs[1:] or costs:
        name = "  " * max(cost.depth - 1, 0) + cost.name
        rows.append((name, _batched(cost.out_shape), *_numbers(cost)))
    rows.append(("total", "", *_numbers(costs[0])))
    if batch is None:
        return Table.of([row[:3] for row in rows], right=[2])
    note = f"B = {batch}; forward and backward in FLOPs"
    return Table.of(rows, right=range(2, 6), note=note)


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
            outside=self.outside + parts.shared[:1],
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
            inner = outside + child.parts.shared[:1]
            total += _copies(child) * _count_own(child, inner)
        if child.parts.shared:  # its one set, however many its places
            inside, layer = child.parts.shared
            if not _is_one_of(layer, outside):
                place = next(d for d in _descendants(call) if d.layer is inside)
                total += _count_own(place, outside)
    return total


def _copies(call: _Call) -> int:
    return 1 if call.parts.tied else call.parts.times


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


def _numbers(cost: LayerCost) -> tuple[str, ...]:
    parameters = "shared" if cost.shared else f"{cost.parameters:,}"
    if cost.frozen:
        apart = "" if not cost.parameters else f"{parameters} + "
        parameters = f"{apart}{cost.frozen:,} frozen"
    flops = (_scaled(cost.forward_flops), _scaled(cost.backward_flops))
    return parameters, *flops, _scaled(cost.cache_bytes, "B")


def _scaled(value: float, unit: str = "") -> str:
    """Three digits and a prefix: 1431000000 is 1.43 G."""
    prefixes = ("", "k", "M", "G", "T", "P")
    exponent = 0
    while value >= 999.5 and exponent < len(prefixes) - 1:
        value, exponent = value / 1000, exponent + 1
    digits = f"{value:.3g}" if exponent else f"{value:.0f}"
    return f"{digits} {prefixes[exponent]}{unit}".rstrip()


def _batched(shape) -> str:
    return f"({', '.join(['B', *map(str, shape)])})"


def count_flops(function: Callable, *args: Any) -> float:
    """Floating-point operations of `function(*args)`, as XLA counts them.

    Args:
      function: anything that `jax.jit` takes.
      args: arrays or `jax.ShapeDtypeStruct`s.

    A product of (m, k) and (k, n) is 2 m k n, an elementwise operation 1 an element,
    exp and tanh too.
    XLA counts the body of a loop once; here a `scan` counts as often as it runs (a
    `while` still once, its length being unknown). What is computed but not returned is
    left out.

    >>> import jax.numpy as jnp
    >>> count_flops(jnp.dot, jnp.ones((2, 3)), jnp.ones((3, 4)))
    48.0
    """
    traced = jax.jit(function).trace(*args)
    return _counted_once(traced) + _further_rounds(traced.jaxpr)


def _counted_once(traced) -> float:
    found = traced.lower().cost_analysis() or {}
    return found.get("flops", 0.0) + found.get("transcendentals", 0.0)


def _further_rounds(jaxpr) -> float:
    """What the loops in `jaxpr` do beyond the one round that XLA counts."""
    total = 0.0
    for eqn in jaxpr.eqns:
        for inner in jax.tree.leaves([*eqn.params.values()]):
            if not isinstance(inner, ClosedJaxpr):
                continue
            more = _further_rounds(inner)
            if eqn.primitive.name == "scan" and (more or eqn.params["length"] != 1):
                length = eqn.params["length"]
                body = jax.jit(jaxpr_as_fun(inner)).trace(*inner.in_avals)
                more = length * more + (length - 1) * _counted_once(body)
            total += more
    return total
