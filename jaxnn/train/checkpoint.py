"""Parameters in one .npz file: the arrays, and JSON that says what they are."""

import io
import json
import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.errors import JaxnnError
from jaxnn.files import open_file, write_with

FORMAT = 1
_HEADER = "__jaxnn__"
_START = 16 * 1024  # bytes of a member that its own header is in
_MOST = 64 * 1024 * 1024  # bytes that the JSON may unpack to, or those of the file


class _Member(NamedTuple):
    """One array of a file, before it is read."""

    shape: tuple[int, ...]
    dtype: np.dtype


def save_params(path: str | Path, tree: Any, meta: dict | None = None) -> None:
    """Write a pytree of arrays to `path`, whole or not at all; no pickle.

    Entries are named by their place in the tree, "params/1/w"; `np.load` reads them.
    bfloat16, which NumPy's format does not know, is stored as its bits.

    Raises:
      JaxnnError: the file cannot be written.
    """
    arrays, header = {}, {"format": FORMAT, "meta": meta or {}, "arrays": {}}
    for name, leaf in named(tree):
        a = np.asarray(leaf)
        header["arrays"][name] = {"dtype": a.dtype.name, "shape": list(a.shape)}
        arrays[name] = a.view(np.uint16) if a.dtype == jnp.bfloat16 else a
    arrays[_HEADER] = np.array(json.dumps(header))
    write_with(path, lambda file: np.savez(file, **arrays))


def load_params(path: str | Path, like: Any, *, same_dtype: bool = False) -> Any:
    """Read a pytree that `save_params` wrote; `like` gives the structure expected.

    Names, shapes and types are compared before any array is read, so a small file
    that would unpack to gigabytes is refused at no cost.

    Args:
      path: the .npz file.
      like: a pytree of arrays or `jax.ShapeDtypeStruct`s; structure and shapes count,
        the dtype is the file's, but floats must be floats and whole numbers such.
      same_dtype: refuse another dtype than that of `like` too.

    Raises:
      JaxnnError: missing, truncated or foreign file, a newer format, or arrays of
        another network (says which differ).
    """
    leaves = named(like)
    with _opened(path) as file:
        header, members = _checked_header(path, file), _members(file)
        found = {name: member.shape for name, member in members.items()}
        wanted = {name: tuple(leaf.shape) for name, leaf in leaves}
        if found != wanted:
            raise JaxnnError(
                f"{path} holds another network: {_difference(found, wanted)}"
            )
        for name, leaf in leaves:
            about = header["arrays"].get(name)
            _check_type(path, name, about, members[name], leaf.dtype, same_dtype)
        arrays = [_read(file, name) for name, _ in leaves]
    for i, (name, _) in enumerate(leaves):
        if header["arrays"][name]["dtype"] == "bfloat16":
            arrays[i] = arrays[i].view(jnp.bfloat16)
    return jax.tree.unflatten(jax.tree.structure(like), map(jnp.asarray, arrays))


def load_meta(path: str | Path) -> dict:
    """The `meta` that `save_params` was given."""
    with _opened(path) as file:
        return _checked_header(path, file)["meta"]


def load_shapes(path: str | Path) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and types of the arrays in a file that `save_params` wrote, by name."""
    with _opened(path) as file:
        header, members = _checked_header(path, file), _members(file)
        for name, member in members.items():
            about = header["arrays"].get(name)
            _check_type(path, name, about, member, member.dtype, False)
        types = {name: jnp.dtype(header["arrays"][name]["dtype"]) for name in members}
        return {
            name: jax.ShapeDtypeStruct(member.shape, types[name])
            for name, member in members.items()
        }


@contextmanager
def _opened(path) -> Iterator[zipfile.ZipFile]:
    """The file as a zip archive; whatever its damage raises becomes a JaxnnError."""
    try:
        with open_file(path, "saved parameters") as raw, zipfile.ZipFile(raw) as file:
            yield file
    except JaxnnError:
        raise
    except Exception as error:  # a damaged zip raises almost anything
        raise JaxnnError(
            f"{path} cannot be read as saved parameters ({error}); it may be truncated "
            "or another kind of file"
        ) from error


def _members(file) -> dict[str, _Member]:
    """Shape and type of each array by its name; no array is read.

    Raises:
      ValueError: a member is no array, or its size is not that of its shape.
    """
    names = [info.filename for info in file.infolist()]
    if len(set(names)) < len(names):
        raise ValueError("two entries have the same name")
    return {
        name.removesuffix(".npy"): _member(file, name)
        for name in names
        if name != f"{_HEADER}.npy"
    }


def _member(file, name) -> _Member:
    with file.open(name) as opened:
        start = io.BytesIO(opened.read(_START))
    version = np.lib.format.read_magic(start)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(start)
    else:
        shape, _, dtype = np.lib.format.read_array_header_2_0(start)
    size = start.tell() + math.prod(shape) * dtype.itemsize
    if dtype.hasobject or size != file.getinfo(name).file_size:
        raise ValueError(f"{name} does not have the size of {dtype}{list(shape)}")
    return _Member(tuple(shape), dtype)


def _read(file, name) -> np.ndarray:
    with file.open(f"{name}.npy") as opened:
        a = np.lib.format.read_array(opened, allow_pickle=False)
        opened.read(1)  # at its end the checksum is compared
    return a.astype(a.dtype.newbyteorder("="), copy=False)


def _check_type(path, name, about, member, wanted, same_dtype):
    """Raise unless the array is what the header says and of a type like `wanted`."""
    kept = member.dtype.name
    told = about.get("dtype") if isinstance(about, dict) else None
    if told == "bfloat16" and kept == "uint16":
        kept = told
    if about != {"dtype": kept, "shape": list(member.shape)}:
        raise JaxnnError(
            f"{path}: array {name} is {member.dtype}{list(member.shape)}, but the "
            f"file's header says {about}"
        )
    found = jnp.dtype(kept)
    alike = any(
        jnp.issubdtype(found, kind) and jnp.issubdtype(wanted, kind)
        for kind in (jnp.floating, jnp.integer, jnp.bool_)
    )
    if not alike or (same_dtype and found != wanted):
        raise JaxnnError(
            f"{path}: array {name} is of type {found}, expected {jnp.dtype(wanted)}"
        )


def _checked_header(path, file) -> dict:
    """The JSON entry of a file, looked through before anything relies on it."""
    entry = f"{_HEADER}.npy"
    if entry not in file.namelist():
        raise JaxnnError(f"{path} was not written by jaxnn: it has no {_HEADER} entry")
    if file.getinfo(entry).file_size > max(_MOST, Path(path).stat().st_size):
        raise JaxnnError(f"{path} has a header that jaxnn did not write (too large)")
    text = str(_read(file, _HEADER))
    try:
        header = json.loads(text)
        if header["format"] <= FORMAT:
            header["meta"].items(), header["arrays"].items()
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise JaxnnError(
            f"{path} has a header that jaxnn did not write ({error})"
        ) from error
    if header["format"] > FORMAT:
        raise JaxnnError(
            f"{path} has format {header['format']}, this version reads up to {FORMAT}; "
            "update jaxnn"
        )
    return header


def named(tree: Any) -> list[tuple[str, Any]]:
    """The arrays of a tree, each by its place in it: "params/1/w"."""
    pairs, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [
        (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
        for path, leaf in pairs
    ]


def _difference(found, wanted) -> str:
    lines = []
    for name in sorted(found.keys() | wanted.keys()):
        got, expected = found.get(name), wanted.get(name)
        if got != expected:
            lines.append(
                f"{name}: got {got or 'nothing'}, expected {expected or 'none'}"
            )
    more = f" and {len(lines) - 3} more" if len(lines) > 3 else ""
    return "; ".join(lines[:3]) + more
