"""Pictures in parquet files, as Hugging Face and torchvision's exports keep them."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from jaxnn.errors import first_line, need
from jaxnn.files import bad_file, open_file

LABELS = ("label", "class", "target", "y", "labels", "fine_label")
"""Names of the column of labels in a table."""
IMAGES = ("image", "img", "pixels", "x", "images")
"""Names of the column of pictures; else it is the first that can be one."""
PICTURES = ("struct", "binary", "large_binary")  # types of a column, as pyarrow says
LISTS = ("list", "large_list", "fixed_size_list")
_FIX = "Save it as Hugging Face's datasets does: columns image and label."
_WANTED = "columns image (a picture's bytes, or numbers) and label"


def read_parquet(path: Path) -> tuple[tuple[Any, Any], None, tuple[str, ...]]:
    """Read one file: (images, labels or None), None, the names that its schema has.

    Raises:
      JaxnnError: not such a file, or the extra `datasets` is not installed.
    """
    with open_file(path, "a parquet file"):
        need("datasets", "pyarrow")
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except Exception as error:  # pyarrow has exceptions of its own
        got = f"a file that cannot be read ({first_line(error)})"
        raise bad_file(path, got, _WANTED, "Download it again.") from error
    names = {name.lower(): name for name in table.column_names}
    label = next((names[name] for name in LABELS if name in names), None)
    likely = [names[name] for name in IMAGES if name in names] + table.column_names
    image = next((n for n in likely if _is(table[n], *PICTURES, *LISTS)), None)
    if image is None or not len(table):
        got = f"{len(table):,} rows of {', '.join(names) or 'no columns'}"
        raise bad_file(path, got, _WANTED, _FIX)
    labels = None if label is None else np.asarray(table[label].to_pylist())
    if labels is not None and labels.dtype.kind == "i" and (labels < 0).all():
        labels = None  # Hugging Face's -1: not told
    column = table[image].combine_chunks()
    read = _numbers if _is(column, *LISTS) else _pictures
    return (read(column, path), labels), None, _names(table.schema.metadata, label)


def _is(column, *kinds):
    from pyarrow import types

    return any(getattr(types, f"is_{kind}")(column.type) for kind in kinds)


def _numbers(column, path):
    """Lists, perhaps of lists, as an array."""
    from pyarrow import compute

    shape = [len(column)]
    while _is(column, *LISTS):
        lengths = compute.unique(compute.list_value_length(column)).to_pylist()
        if len(lengths) != 1 or lengths[0] is None:
            got = f"images of {len(lengths)} lengths"
            raise bad_file(path, got, "numbers of one shape in each row", _FIX)
        shape.append(lengths[0])
        column = column.flatten()
    return np.asarray(column.to_numpy(zero_copy_only=False)).reshape(shape)


def _pictures(column, path):
    """Bytes with a name, or the path of a file beside this one."""
    found = []
    for number, row in enumerate(column.to_pylist()):
        told = row if isinstance(row, dict) else {"bytes": row}
        content, name = told.get("bytes"), told.get("path")
        beside = content is None and name
        found.append(
            path.parent / name if beside else (content or b"", f"{path}, row {number}")
        )
    return found


def _names(metadata, label) -> tuple[str, ...]:
    """The names of the classes, where Hugging Face's features tell them."""
    try:
        told = json.loads((metadata or {}).get(b"huggingface", b"{}"))
        return tuple(map(str, told["info"]["features"][label]["names"]))
    except (ValueError, KeyError, TypeError):
        return ()
