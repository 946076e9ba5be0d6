"""Parameters in one .npz file: the arrays, and JSON that says what they are."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.errors import JaxnnError
from jaxnn.files import write_with

FORMAT = 1
_HEADER = "__jaxnn__"


def save_params(path: str | Path, tree: Any, meta: dict | None = None) -> None:
    """Write a pytree of arrays to `path`, whole or not at all; no pickle.

    Entries are named by their place in the tree, "params/1/w"; `np.load` reads them.
    bfloat16, which NumPy's format does not know, is stored as its bits.

    Raises:
      JaxnnError: the file cannot be written.
    """
    arrays, header = {}, {"format": FORMAT, "meta": meta or {}, "arrays": {}}
    for name, leaf in _named(tree):
        a = np.asarray(leaf)
        header["arrays"][name] = {"dtype": a.dtype.name, "shape": list(a.shape)}
        arrays[name] = a.view(np.uint16) if a.dtype == jnp.bfloat16 else a
    arrays[_HEADER] = np.array(json.dumps(header))
    write_with(path, lambda file: np.savez(file, **arrays))


def load_params(path: str | Path, like: Any) -> Any:
    """Read a pytree that `save_params` wrote; `like` gives the structure expected.

    Args:
      path: the .npz file.
      like: a pytree of arrays or `jax.ShapeDtypeStruct`s; only structure and shapes
        count, the dtype is the file's.

    Raises:
      JaxnnError: missing, truncated or foreign file, a newer format, or arrays of
        another network (says which differ).
    """
    header, arrays = _read(path)
    named = _named(like)
    found = {name: tuple(a.shape) for name, a in arrays.items()}
    wanted = {name: tuple(leaf.shape) for name, leaf in named}
    if found != wanted:
        raise JaxnnError(f"{path} holds another network: {_difference(found, wanted)}")
    leaves = []
    for name, _ in named:
        about, a = header["arrays"].get(name, {}), arrays[name]
        if about.get("dtype") == "bfloat16" and a.dtype == np.uint16:
            a = a.view(jnp.bfloat16)
        if [a.dtype.name, list(a.shape)] != [about.get("dtype"), about.get("shape")]:
            raise JaxnnError(
                f"{path}: array {name} is {a.dtype}{list(a.shape)}, but the file's "
                f"header says {about}"
            )
        leaves.append(jnp.asarray(a))
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def load_meta(path: str | Path) -> dict:
    """The `meta` that `save_params` was given."""
    return _read(path)[0]["meta"]


def _read(path):
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise JaxnnError(f"{path} does not exist; expected saved parameters") from None
    except Exception as error:  # a damaged zip raises almost anything
        raise JaxnnError(
            f"{path} cannot be read as saved parameters ({error}); it may be truncated "
            "or another kind of file"
        ) from error
    if _HEADER not in arrays:
        raise JaxnnError(f"{path} was not written by jaxnn: it has no {_HEADER} entry")
    header = _header(path, arrays.pop(_HEADER))
    if header["format"] > FORMAT:
        raise JaxnnError(
            f"{path} has format {header['format']}, this version reads up to {FORMAT}; "
            "update jaxnn"
        )
    return header, arrays


def _header(path, text) -> dict:
    """The JSON entry of a file, looked through before anything relies on it."""
    try:
        header = json.loads(str(text))
        if header["format"] <= FORMAT:
            header["meta"].items(), header["arrays"].items()
        return header
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise JaxnnError(
            f"{path} has a header that jaxnn did not write ({error})"
        ) from error


def _named(tree) -> list[tuple[str, Any]]:
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
