"""Layers side by side, and layers that training leaves alone."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn import rules
from jaxnn.combine.parts import Parts
from jaxnn.errors import JaxnnError, lookup
from jaxnn.layers import Layer, constructor, interval
from jaxnn.layers.bounds import largest, widened
from jaxnn.rules import Rule


@constructor
def residual(inner: Layer, projection: Layer | None = None) -> Layer:
    """y = x + inner(x), or y = inner(x) + projection(x) where the shape changes.

    Two paths forward, so two cotangents are summed backward. Params and state are
    those of `inner`, or the pair (inner's, projection's).

    >>> from jaxnn.layers import dense
    >>> net = residual(dense(3), projection=dense(3, bias=False))
    >>> net.init(jax.random.key(0), (5,))[2]
    (3,)

    Source: He et al. 2016, equations 1 and 2.
    """
    if projection is not None:
        name = f"residual({inner.name}, {projection.name})"
        return _branched("residual", (inner, projection), _MERGES["sum"](), name, True)
    return _added(inner)


def _added(inner: Layer, of_ends: bool = False) -> Layer:
    """x + inner(x), of arrays or (its bounds) of both ends of them."""
    parts, name = Parts("residual", (inner,)), f"residual({inner.name})"

    def check_same(in_shape, out_shape):
        if tuple(out_shape) != tuple(in_shape):
            raise JaxnnError(
                f"{name}: x has shape {tuple(in_shape)} but inner makes "
                f"{tuple(out_shape)}, expected the same to add them; a second layer, "
                "residual(inner, projection), brings x to that shape"
            )

    def init(key, in_shape):
        params, state, out_shape = parts.init(0, key, in_shape)
        check_same(in_shape, out_shape)
        return params, state, out_shape

    def forward(params, state, x, *, key=None, train):
        y, state, cache = parts.forward(0, params, state, x, key=key, train=train)
        if not of_ends:
            check_same(x.shape, y.shape)
            return x + y, state, cache
        ends = jax.tree.map(jnp.add, x, y)
        if not train:
            ends = widened(ends, 2, largest(x) + largest(y))
        return ends, state, cache

    def backward(cache, dy):
        dx, dparams = parts.backward(0, cache, dy)
        return jax.tree.map(jnp.add, dy, dx), dparams

    def bounds():
        return _added(interval(inner), of_ends=True)

    return Layer(init, forward, backward, name, (inner,), bounds=bounds)


@constructor
def parallel(*branches: Layer, merge: str | Rule = "sum") -> Layer:
    """Give x to every branch and merge what they make; the cotangents for x are summed.

    Params and state are tuples, one entry a branch; branch i draws from
    `fold_in(key, i)`.

    Args:
      branches: at least one layer.
      merge: "sum", "multiply" or "maximum" of equal shapes, "concatenate" along the
        last axis, or a rule of as many arguments as there are branches (`rules.sub`).

    >>> from jaxnn.layers import dense
    >>> net = parallel(dense(3), dense(2), merge="concatenate")
    >>> net.init(jax.random.key(0), (4,))[2]
    (5,)

    Source: Szegedy et al. 2015, figure 2.
    """
    if not branches:
        raise JaxnnError("parallel: got no branches, expected at least one layer")
    names = ", ".join(str(getattr(b, "name", b)) for b in branches)
    # Those never fall when what they merge rises; others have no bounds.
    rises = merge in ("sum", "maximum", "concatenate")
    name = f"parallel({names})"
    return _branched("parallel", branches, merge_rule(merge), name, rises)


def merge_rule(merge: str | Rule) -> Rule:
    """The rule called `merge`, or `merge` itself if it is a rule."""
    return merge if isinstance(merge, Rule) else lookup("merge", merge, _MERGES)()


def merged_shape(merge: Rule, shapes) -> tuple[int, ...]:
    """The shape `merge` makes of `shapes`, all without the batch axis."""
    ys = [jax.ShapeDtypeStruct((1, *s), jnp.result_type(float)) for s in shapes]
    return jax.eval_shape(lambda *ys: merge.fwd(*ys)[0], *ys).shape[1:]


def merge_backward(merge: Rule, joint: Any, dy: Array) -> list[Array]:
    """A cotangent for each of the merged arrays."""
    dys = []
    for i, d in enumerate(merge.bwd(joint, dy)):
        if d is None:
            raise JaxnnError(
                f"merge {merge.name}: has no gradient for branch {i}; expected a rule "
                "that has one for every argument"
            )
        dys.append(d)
    return dys


def _branched(kind: str, branches, merge: Rule, name: str, rises: bool) -> Layer:
    parts = Parts(kind, branches)
    count = range(len(branches))

    def init(key, in_shape):
        made = [parts.init(i, jax.random.fold_in(key, i), in_shape) for i in count]
        params, state, shapes = zip(*made, strict=True)
        return params, state, merged_shape(merge, shapes)

    def forward(params, state, x, *, key=None, train):
        made = [
            parts.forward(i, p, s, x, key=k, train=train)
            for i, p, s, k in parts.children(params, state, key)
        ]
        ys, states, caches = zip(*made, strict=True)
        y, joint = merge.fwd(*ys)
        return y, states, (caches, joint)

    def backward(cache, dy):
        caches, joint = cache
        dys, dxs, grads = merge_backward(merge, joint, dy), [], []
        for i in count:
            dx, g = parts.backward(i, caches[i], dys[i])
            dxs.append(dx)
            grads.append(g)
        # None: the input of an embedding, whole numbers, has no gradient.
        return _sum([dx for dx in dxs if dx is not None]), tuple(grads)

    def bounds():
        inside, both = tuple(map(interval, branches)), _of_both_ends(merge)
        twin = _branched(kind, inside, both, f"interval {name}", False)
        return twin._replace(init=init)

    layer = Layer(init, forward, backward, name, tuple(branches))
    return layer._replace(bounds=bounds) if rises else layer


def _of_both_ends(merge: Rule) -> Rule:
    """`merge` of pairs (lower, upper), as the bounds of layers are."""

    def fwd(*pairs) -> Any:
        ends, caches = zip(
            *(merge.fwd(*ys) for ys in zip(*pairs, strict=True)), strict=True
        )
        most, _ = merge.fwd(*map(largest, pairs))
        return widened(ends, 2 * len(pairs), most), caches

    def bwd(caches, dy) -> Any:
        return tuple(zip(*map(merge.bwd, caches, dy), strict=True))

    return Rule(merge.name, fwd, bwd)


def _sum(dxs):
    total = dxs[0] if dxs else None
    for dx in dxs[1:]:
        total = jax.tree.map(jnp.add, total, dx)
    return total


def _folded(name: str, rule: Rule) -> Rule:
    """`rule` of two arguments folded over any number of them, shapes all equal."""

    def fwd(*ys):
        _check_shapes(name, ys, lambda shape: shape, "the same shape everywhere")
        total, caches = ys[0], []
        for y in ys[1:]:
            total, cache = rule.fwd(total, y)
            caches.append(cache)
        return total, tuple(caches)

    def bwd(caches, dy):
        dys = []
        for cache in reversed(caches):
            dy, d = merge_backward(rule, cache, dy)
            dys.append(d)
        return (dy, *reversed(dys))

    return Rule(name, fwd, bwd)


def _concatenated() -> Rule:
    rule = rules.concatenate()

    def fwd(*ys):
        want = "the same shape but for the last axis"
        _check_shapes("concatenate", ys, lambda shape: shape[:-1], want)
        if ys[0].ndim < 2:
            raise JaxnnError("concatenate: branches make numbers, expected a last axis")
        return rule.fwd(*ys)

    return Rule("concatenate", fwd, rule.bwd)


def _check_shapes(name, ys, part, want):
    if len({part(y.shape) for y in ys}) > 1:
        shapes = " and ".join(str(tuple(y.shape)) for y in ys)
        raise JaxnnError(
            f"{name}: the branches make shapes {shapes} (batch first), expected {want}"
        )


_MERGES: dict[str, Callable[[], Rule]] = {
    "sum": lambda: _folded("sum", rules.add),
    "multiply": lambda: _folded("multiply", rules.mul),
    "maximum": lambda: _folded("maximum", rules.maximum),
    "concatenate": _concatenated,
}


@constructor
def freeze(layer: Layer, params: Any = None, state: Any = None) -> Layer:
    """`layer` as a constant: nothing that training does can move its parameters.

    They are kept in the state, as `{"params": ..., "state": ...}`, and its own params
    are `()`. So there is no gradient to compute, no penalty, weight decay, projection
    or weight noise that reaches them, and no optimizer keeps moments for them. The
    cotangent of x passes through as ever.

    The layer runs with `train=False` always: batch norm uses its averages and leaves
    them, as a frozen batch norm in Keras does, and dropout inside is off (put dropout
    that should act outside). To train it later, take its params and state out of the
    state and hand them to the network without `freeze`.

    Args:
      layer: any layer or network.
      params: the values it keeps, trained before; None draws them.
      state: the state that goes with `params`; needed if the layer has any.

    >>> from jaxnn.layers import dense
    >>> trunk = dense(3)
    >>> params, state, _ = trunk.init(jax.random.key(0), (4,))
    >>> net = freeze(trunk, params, state)
    >>> net.init(jax.random.key(1), (4,))[0]
    ()
    """
    parts = Parts("freeze", (layer,), frozen=True)
    name = f"freeze({layer.name})"

    def init(key, in_shape):
        if params is None and state is None:
            p, s, out_shape = parts.init(0, key, in_shape)
            return (), {"params": p, "state": s}, out_shape
        shapes = []

        def traced(key):
            *trees, out_shape = parts.init(0, key, in_shape)
            shapes.append(out_shape)
            return trees

        want = jax.eval_shape(traced, key)
        given = [() if tree is None else tree for tree in (params, state)]
        for what, got, expected in zip(("params", "state"), given, want, strict=True):
            _check_alike(name, what, got, expected)
        p, s = jax.tree.map(jnp.array, given)  # copies: training donates its state
        return (), {"params": p, "state": s}, shapes[0]

    def forward(params, state, x, *, key=None, train):
        del key, train
        if params != () or not isinstance(state, dict) or set(state) != _KEPT:
            raise JaxnnError(
                f"{name}: expected params () and a state of params and state; were "
                "they made by another network, or by this one before it was frozen?"
            )
        y, _, cache = parts.forward(
            0, state["params"], state["state"], x, key=None, train=False
        )
        return y, state, cache

    def backward(cache, dy):
        dx, _ = parts.backward(0, cache, dy)
        return dx, ()

    def bounds():
        return freeze(interval(layer), params, state)

    return Layer(init, forward, backward, name, (layer,), bounds=bounds)


_KEPT = {"params", "state"}


def _check_alike(name, what, got, expected):
    def shapes(tree):
        return jax.tree.map(jnp.shape, tree)

    if jax.tree.structure(got) != jax.tree.structure(expected) or (
        jax.tree.leaves(shapes(got)) != jax.tree.leaves(shapes(expected))
    ):
        raise JaxnnError(
            f"{name}: got {what} of shapes {shapes(got)}, expected {shapes(expected)}; "
            "give the params and the state that the layer was trained to"
        )
