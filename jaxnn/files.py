"""Files that are whole or not there: write to a temporary name, then rename."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from jaxnn.errors import JaxnnError


@contextmanager
def atomic_file(path: str | Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path`; rename it to `path` only if all went well.

    A full disk, a kill or an exception leaves the earlier `path` as it was.

    Raises:
      JaxnnError: the system refused (no space, no permission, not a folder).
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"
        )
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # else a power cut may leave an empty file
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise JaxnnError(
            f"cannot write {path}: {error.strerror or error}. An earlier file of that "
            "name is untouched; free some space or choose another folder."
        ) from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    with atomic_file(path) as file:
        file.write(text.encode())


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all; NaN and inf become null."""
    text = json.dumps(plain(value), indent=2, allow_nan=False)
    write_text(path, text + "\n")


def write_with(path: str | Path, save: Callable[[BinaryIO], Any]) -> None:
    """Let `save(file)` (np.savez, savefig ...) write; whole or not at all."""
    with atomic_file(path) as file:
        save(file)


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
      JaxnnError: missing, unreadable or not JSON; names the file and the place.
    """
    try:
        return json.loads(Path(path).read_text())
    except OSError as error:
        raise JaxnnError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise JaxnnError(f"{path} is not valid JSON: {error}") from error


def plain(value: Any) -> Any:
    """`value` for JSON, which has no arrays and no NaN: lists, and None for those."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not (abs(value) < float("inf")):
        return None
    return value
