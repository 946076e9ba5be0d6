"""A network as a table: layers, output shapes, parameters."""

import math
from typing import Any

import jax

from jaxnn.layers import Layer


def count_parameters(params: Any) -> int:
    """Number of scalars in a params tree."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def summary(net: Layer, in_shape: tuple[int, ...]) -> str:
    """One line a layer: name, output shape (B is the batch), number of parameters.

    Nothing is computed or allocated: shapes are traced.

    >>> from jaxnn import mlp
    >>> print(summary(mlp([4, 3, 2]), (4,)))
    layer     output  parameters
    input     (B, 4)
    flatten   (B, 4)           0
    dense(3)  (B, 3)          15
    relu      (B, 3)           0
    dense(2)  (B, 2)           8
    total                     23
    """
    rows = [("layer", "output", "parameters"), ("input", _batched(in_shape), "")]
    params, out_shape = _trace(net, tuple(in_shape))
    if net.parts and _is_serial(net, params):
        shape = tuple(in_shape)
        for part in net.parts:
            part_params, shape = _trace(part, shape)
            rows.append((part.name, _batched(shape), _count(part_params)))
    else:
        rows.append((net.name, _batched(out_shape), _count(params)))
    rows.append(("total", "", _count(params)))
    first = max(len(r[0]) for r in rows)
    second = max(len(r[1]) for r in rows)
    return "\n".join(
        f"{a:<{first}}  {b:<{second}}  {c:>10}".rstrip() for a, b, c in rows
    )


def _trace(net, shape):
    """Shapes of the params, and the output shape, without computing anything."""
    out = []

    def init(key):
        params, _, out_shape = net.init(key, shape)
        out.append(tuple(out_shape))
        return params

    return jax.eval_shape(init, jax.random.key(0)), out[0]


def _is_serial(net, params):
    return isinstance(params, tuple) and len(params) == len(net.parts)


def _batched(shape):
    return f"({', '.join(['B', *map(str, shape)])})"


def _count(params):
    return f"{count_parameters(params):,}"
