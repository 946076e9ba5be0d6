"""Networks out of layers: the result is a Layer again, so combinators nest freely.

One after another: `serial`, `stack` (scanned). Side by side: `residual`, `parallel`.
The same weights in several places: `repeat`, `share`, `siamese`. Memory for time:
`remat`. Weights that stay: `freeze`. Ready-made: `mlp`. Every layer at work:
`observed`.
"""

from jaxnn.combine.basic import freeze, parallel, residual
from jaxnn.combine.depth import remat, repeat, stack
from jaxnn.combine.mlp import (
    activation_layer,
    chained,
    dense_block,
    mlp,
    output_layer,
    split_last,
)
from jaxnn.combine.parts import Call, Parts, observed, serial
from jaxnn.combine.sharing import share, siamese

__all__ = [
    "Call", "Parts", "activation_layer", "chained", "dense_block", "freeze", "mlp",
    "observed", "output_layer", "parallel", "remat", "repeat", "residual", "serial",
    "share", "siamese", "split_last", "stack",
]  # fmt: skip
