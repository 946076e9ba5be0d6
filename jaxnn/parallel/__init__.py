"""Beyond one device and one process: the same step on a mesh of devices."""

from jaxnn.parallel.data import Spread, data_mesh

__all__ = ["Spread", "data_mesh"]
