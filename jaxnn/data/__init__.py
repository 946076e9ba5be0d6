"""Data on the host, as NumPy arrays: files, named data sets, splits, pictures.

    idx          the IDX file format
    sources      named data sets: where they lie, mirrors, checksums
    download     one file from whichever address gives the right bytes
    formats      .npz, CSV of pixels, parquet, folders of pictures, archives
    parquet      pictures in tables, as Hugging Face keeps them
    picture      pictures from files of any kind
    datasets     training, validation and test rows
    digit_image  a picture of a mark, made like those of a set
    table        CSV files as typed columns

Nothing here imports jax, so that `jaxnn data ...` answers at once; what changes images
within a training step does, and is taken from `jaxnn.augment`.
"""

from jaxnn.data.datasets import (
    Dataset,
    Split,
    from_arrays,
    load,
    pixel_statistics,
    stratified_sample,
    unit_images,
)
from jaxnn.data.digit_image import read_digit
from jaxnn.data.idx import read_idx, stream_idx, write_idx
from jaxnn.data.sources import SOURCES, FileStatus, Source, fetch, verify

__all__ = [
    "SOURCES", "Dataset", "FileStatus", "Source", "Split", "fetch", "from_arrays",
    "load", "pixel_statistics", "read_digit", "read_idx", "stratified_sample",
    "stream_idx", "unit_images", "verify", "write_idx",
]  # fmt: skip
