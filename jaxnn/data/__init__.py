"""Data on the host, as NumPy arrays: files, named data sets, splits, pictures.

    idx       the IDX file format
    sources   named data sets: where they lie, mirrors, checksums
    sets      training, validation and test rows
    images    a picture of a digit, made like MNIST
    command   the tables of `jaxnn data`

Nothing here imports jax, so that `jaxnn data ...` answers at once; what changes images
within a training step does, and is taken from `jaxnn.augment`.
"""

from jaxnn.data.idx import read_idx, stream_idx, write_idx
from jaxnn.data.images import read_digit
from jaxnn.data.sets import (
    Dataset,
    Split,
    from_arrays,
    load,
    pixel_statistics,
    stratified_sample,
)
from jaxnn.data.sources import SOURCES, FileStatus, Source, fetch, verify

__all__ = [
    "SOURCES",
    "Dataset",
    "FileStatus",
    "Source",
    "Split",
    "fetch",
    "from_arrays",
    "load",
    "pixel_statistics",
    "read_digit",
    "read_idx",
    "stratified_sample",
    "stream_idx",
    "verify",
    "write_idx",
]
