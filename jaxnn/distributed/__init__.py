"""Beyond one device and one process: the same step on a mesh of devices."""

from jaxnn.distributed.mesh import DataParallel, data_mesh

__all__ = ["DataParallel", "data_mesh"]
