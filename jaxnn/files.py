"""Reading and writing files: what is read is looked at first, what is written is whole.

Read are regular files only (a pipe or a device can be waited for without end), as UTF-8
and up to a size. Written is to a temporary name beside the file, which is then renamed,
so that no link is written through. What the system refuses, and what is no such file,
is a `JaxnnError` that names the path.
"""

import json
import math
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

from jaxnn.errors import JaxnnError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

MOST_TEXT = 1 << 28  # bytes of a text
MOST_INTEGER = 1 << 63  # JSON's integers are no larger where other programs read them
# not on every system: do not wait for the other end of a pipe, follow no link
_DO_NOT_WAIT = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | _DO_NOT_WAIT


def bad_file(path: str | Path, got: str, expected: str, fix: str) -> JaxnnError:
    """The error for a file: which, what was got, what was expected, what to do."""
    return JaxnnError(f"{path}: got {got}, expected {expected}. {fix}")


def reason(error: Exception) -> str:
    """What the system said, without the number and the path that Python adds."""
    return str(getattr(error, "strerror", None) or error)


# ---- reading


@contextmanager
def open_file(path: str | Path, expected: str = "a file") -> Iterator[BufferedReader]:
    """Open a regular file for reading, in binary; never waits for a pipe or a device.

    Args:
      path: of the file.
      expected: what errors call it.
    """
    try:
        number = _descriptor(path, os.O_RDONLY | _DO_NOT_WAIT, expected)
        with open(path, "rb", opener=lambda *_: number) as file:
            yield file
    except FileNotFoundError as error:
        raise bad_file(path, "no such file", expected, "Check the path.") from error
    except OSError as error:
        expected = "a readable file" if expected == "a file" else expected
        fix = "Check the path, who owns the file and its permissions."
        raise bad_file(
            path, f"{reason(error)} from the system", expected, fix
        ) from error


def _descriptor(path: str | Path, flags: int, expected: str) -> int:
    """The descriptor of a regular file, which is open then."""
    try:
        number = os.open(path, flags, 0o666)
    except ValueError as error:  # a null byte, or letters the system cannot take
        name = repr(str(path))
        raise bad_file(name, str(error), expected, "Check the path.") from error
    kind = os.fstat(number).st_mode
    if stat.S_ISREG(kind):
        return number
    os.close(number)
    if stat.S_ISDIR(kind):
        raise bad_file(path, "a folder", "a file", "Name one file inside it.")
    raise bad_file(path, "a special file", "a file", "Name a file with content.")


def read_text(path: str | Path, expected: str = "a text file") -> str:
    """Read a text in UTF-8."""
    with open_file(path, expected) as file:
        content = file.read(MOST_TEXT + 1)
    if len(content) > MOST_TEXT:
        size = f"more than {MOST_TEXT:,} bytes"
        raise bad_file(path, size, expected, "It is not what jaxnn wrote.")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise bad_file(
            path, f"bytes that are not UTF-8 ({error})", expected, "Save it as UTF-8."
        ) from error


def read_json(path: str | Path) -> Any:
    """Read a JSON file as the standard has it: no NaN, no name twice in an object."""
    text = read_text(path, "a JSON file")
    try:
        return json.loads(
            text, object_pairs_hook=_object, parse_constant=_no_number,
            parse_float=_float, parse_int=_integer,
        )  # fmt: skip
    except (ValueError, RecursionError) as error:
        deep = isinstance(error, RecursionError)
        raise JaxnnError(
            f"{path} is not valid JSON: {'it is nested too deeply' if deep else error}"
            ". Undo the change made to it, or take a copy that is whole."
        ) from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice!r} stands twice in an object")
    return found


def _no_number(word: str) -> Any:
    raise ValueError(f"{word} is no JSON number")


def _float(word: str) -> float:
    value = float(word)
    return value if math.isfinite(value) else _no_number(word)


def _integer(word: str) -> int:
    # the length first: a million digits take minutes to read
    value = int(word) if len(word) < 21 else MOST_INTEGER + 1
    if abs(value) > MOST_INTEGER:
        raise ValueError(f"the integer {word[:20]}... is beyond 64 bits")
    return value


# ---- writing


@contextmanager
def atomic_file(path: str | Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path`; rename it to `path` only if all went well.

    A full disk, a kill or an exception leaves the earlier `path` as it was; where
    `path` is a link, the link is replaced and not the file it points to.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"
        )
    except (OSError, ValueError) as error:  # ValueError: a null byte in its name
        raise _not_written(path, error) from error
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # else a power cut may leave an empty file
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except OSError as error:
        raise _not_written(path, error) from error
    finally:
        Path(temporary).unlink(missing_ok=True)


def _not_written(path: Path, error: Exception) -> JaxnnError:
    # a name that the system cannot take may hold what cannot be printed
    name = repr(str(path)) if isinstance(error, ValueError) else path
    return JaxnnError(
        f"cannot write {name}: {reason(error)}. An earlier file of that name is "
        "untouched; free some space or choose another name or folder."
    )


@contextmanager
def locked(folder: str | Path, what: str) -> Iterator[None]:
    """Hold `folder` for this process; it is let go at the end, even by kill -9.

    The system keeps the lock (`flock` of a file `.lock` in it), so nothing stale can
    be left by a process that died. A file system that knows no locks has none.

    Args:
      folder: made if missing.
      what: for the message, such as "run".
    """
    path = Path(folder) / ".lock"
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            number = _descriptor(path, os.O_RDWR | os.O_CREAT | _NO_LINK, "a lock")
        except OSError as error:
            raise JaxnnError(f"cannot write {path}: {reason(error)}") from error
        try:
            if lock(number, path):
                break
        except BlockingIOError as error:
            os.close(number)
            raise JaxnnError(
                f"{what} {folder} is in use by another process; wait for its end, or "
                "stop it first"
            ) from error
        os.close(number)  # its last holder removed the file meanwhile: take the new one
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()  # while it is held: see `lock`
        os.close(number)


def lock(number: int, path: Path) -> bool:
    """Hold the open file `number` for this process; where there are no locks, do not.

    Returns:
      whether it still is the file at `path`: its last holder may have removed it.

    Raises:
      BlockingIOError: another process holds it.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # a file system without locks
        return True
    try:
        return os.path.samestat(os.fstat(number), os.stat(path))
    except FileNotFoundError:
        return False


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    with atomic_file(path) as file:
        # names of files may hold bytes that no text has
        file.write(text.encode(errors="backslashreplace"))


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all; NaN and inf become null."""
    text = json.dumps(plain(value), indent=2, allow_nan=False)
    write_text(path, text + "\n")


def write_with(path: str | Path, save: Callable[[BinaryIO], Any]) -> None:
    """Let `save(file)` (np.savez, savefig ...) write; whole or not at all."""
    with atomic_file(path) as file:
        save(file)


def draw(folder: Path, pictures: Mapping[str, Callable[[Path], Any]]) -> dict[str, str]:
    """Draw each of `pictures` (file name -> what draws to a path) into `folder`.

    A picture is not worth a run, which is saved before: whatever goes wrong with one
    is caught, and returned to be told.

    Returns:
      File name -> why it is not there, of those that failed.
    """
    failed = {}
    for name, make in pictures.items():
        try:
            make(folder / name)
        except Exception as error:
            words = (str(error).splitlines() or [""])[0]
            failed[name] = f"{type(error).__name__}: {words}"
    return failed


def check_folder(path: str | Path) -> None:
    """Raise unless files can be written into the folder `path`; leaves nothing behind.

    For what takes long: its result must not fail to be written at the end.
    """
    path = Path(path)
    missing = [p for p in (path, *path.parents) if not os.path.lexists(p)]
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except (OSError, ValueError) as error:  # ValueError: a null byte in its name
        why = "it is a file" if os.path.isfile(path) else reason(error)
        raise JaxnnError(
            f"cannot write into the folder {str(path)!r}: {why}; choose another"
        ) from error
    finally:
        for made in missing:
            with suppress(OSError, ValueError):
                made.rmdir()


def real_path(path: str | Path) -> Path:
    """The absolute path, links followed as far as they lead; need not exist."""
    try:
        return Path(os.path.realpath(path))
    except ValueError as error:  # a null byte
        raise JaxnnError(f"{str(path)!r}: {error}; check the path") from error


@contextmanager
def open_to_append(path: str | Path) -> Iterator[BinaryIO]:
    """Open a regular file at its end, or make it; never through a link."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | _NO_LINK
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        number = _descriptor(path, flags, "a file")
        with open(path, "ab", opener=lambda *_: number) as file:
            yield file
    except OSError as error:
        link = "it is a link" if os.path.islink(path) else reason(error)
        raise JaxnnError(
            f"cannot write {path}: {link}. Free some space, remove the link or choose "
            "another folder."
        ) from error


def append_line(path: str | Path, row: Any) -> None:
    """Append one line of JSON, and hand it to the system at once."""
    with open_to_append(path) as file:
        file.write(json_line(row).encode())


def json_line(row: Any) -> str:
    """A line of JSON; NaN and inf become null."""
    return json.dumps(plain(row), allow_nan=False) + "\n"


def plain(value: Any) -> Any:
    """`value` for JSON: lists for arrays, words for paths, and None for NaN."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not (abs(value) < float("inf")):
        return None
    return value
