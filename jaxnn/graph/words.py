"""Values and gradients in a few words, for pictures."""

from typing import Any

import numpy as np

from jaxnn.graph.node import Node

SMALL = 4  # numbers in a row, and rows, up to which an array is written out


def numbers(value: Any) -> list[str]:
    """An array in at most four lines: its numbers if few, else shape, mean and range.

    >>> numbers(0.25)
    ['0.25']
    >>> numbers(np.arange(3))
    ['0  1  2']
    >>> numbers(np.arange(12.0).reshape(3, 4) / 4)
    ['(3, 4)  mean 1.38', 'min 0  max 2.75']
    """
    value = np.asarray(value)
    if value.dtype.kind not in "fiub":
        value = value.astype(np.float64)  # bfloat16
    if value.ndim == 0:
        return [_number(value)]
    shape = str(value.shape)
    if value.size == 0:
        return [f"{shape}  empty"]
    if value.ndim == 1 and value.size <= SMALL:
        return ["  ".join(map(_number, value))]
    if value.ndim == 2 and value.shape[1] < SMALL and value.size <= SMALL:
        return ["  ".join(map(_number, row)) for row in value]
    good = value[np.isfinite(value)].astype(np.float64)
    if good.size < value.size:
        wrong = f"{value.size - good.size} of {value.size} not finite"
        return [shape, wrong]
    return [
        f"{shape}  mean {_number(good.mean())}",
        f"min {_number(good.min())}  max {_number(good.max())}",
    ]


def title(node: Node) -> str:
    """What a node is called: `y = tanh`, or `tanh_1` where nobody gave it a name."""
    if node.rule is None or node.name.startswith(f"{node.rule.name}_"):
        return node.name
    return f"{node.name} = {node.rule.name}"


def _number(value) -> str:
    if isinstance(value, np.bool_ | bool) or np.asarray(value).dtype == bool:
        return str(bool(value))
    return f"{float(value):.3g}".replace("-", "\N{MINUS SIGN}")
