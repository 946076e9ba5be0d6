"""Beyond one device and one process: the same step on a mesh of devices."""

from jaxnn.distributed.data import Spread, data_mesh

__all__ = ["Spread", "data_mesh"]
