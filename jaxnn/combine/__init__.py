"""Networks out of layers: the result is a Layer again, so combinators nest freely.

One after another: `serial`, `stack` (scanned). Side by side: `residual`, `parallel`.
The same weights in several places: `repeat`, `share`, `siamese`. Memory for time:
`remat`. Weights that stay: `freeze`. Ready-made: `mlp`.
"""

from jaxnn.combine.branches import parallel, residual
from jaxnn.combine.chain import serial
from jaxnn.combine.depth import repeat, stack
from jaxnn.combine.frozen import freeze
from jaxnn.combine.perceptron import activation_layer, dense_block, mlp, output_layer
from jaxnn.combine.recompute import remat
from jaxnn.combine.sharing import share, siamese

__all__ = [
    "activation_layer",
    "dense_block",
    "freeze",
    "mlp",
    "output_layer",
    "parallel",
    "remat",
    "repeat",
    "residual",
    "serial",
    "share",
    "siamese",
    "stack",
]
