"""A network as a table: layers, output shapes, parameters, and what they cost."""

from typing import Any

from jaxnn.costs import LayerCost, count_parameters, layer_costs
from jaxnn.layers import Layer

__all__ = ["LayerCost", "count_parameters", "layer_costs", "summary"]


def summary(
    net: Layer,
    in_shape: tuple[int, ...],
    batch: int | None = 128,
    dtype: Any = None,
) -> str:
    """One line a layer, parts of networks indented; B is the batch.

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
        return _table([row[:3] for row in rows])
    return f"{_table(rows)}\nB = {batch}; forward and backward in FLOPs"


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


def _table(rows) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            text.ljust(width) if i < 2 else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
