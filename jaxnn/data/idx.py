"""IDX, the file format of MNIST: a small header, then one array in big-endian order.

    bytes 0-1   two zero bytes
    byte  2     type of the values: 0x08 uint8, 0x09 int8, 0x0b int16, 0x0c int32,
                0x0d float32, 0x0e float64
    byte  3     rank
    4 x rank    dimensions, unsigned 32-bit big-endian
    the rest    the values, last dimension fastest

A file may be gzipped or plain; its first bytes decide, not its name. Nothing is
allocated on the word of a header: the bytes are counted as they arrive.

Source: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits".
"""

import gzip
import hashlib
import math
import os
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np

from jaxnn.errors import JaxnnError
from jaxnn.files import atomic_file, bad_file, open_file

TYPES = {
    0x08: np.dtype("u1"), 0x09: np.dtype("i1"), 0x0B: np.dtype(">i2"),
    0x0C: np.dtype(">i4"), 0x0D: np.dtype(">f4"), 0x0E: np.dtype(">f8"),
}  # fmt: skip
_PIECE = 1 << 20  # bytes read at a time
_MAX_RANK = 64  # what NumPy can hold
# Images pack 2 to 20 times; only what was made to fill a memory packs 100 times.
_MOST_UNPACKED, _MOST_RATIO = 1 << 28, 100


class _Header(NamedTuple):
    dtype: np.dtype  # as in the file, big-endian
    shape: tuple[int, ...]

    def payload(self) -> int:
        """Bytes that must follow the header."""
        return math.prod(self.shape) * self.dtype.itemsize


def _bad(path: str | Path, got: str, expected: str) -> JaxnnError:
    return bad_file(path, got, expected, "Fetch or copy the file again.")


class _Unpacked(gzip.GzipFile):
    """The content of a gzip, as long as there is no absurd amount of it."""

    packed = 0  # bytes of the gzip itself
    count = 0

    def read(self, size: int | None = -1) -> bytes:
        piece = super().read(size)
        self.count += len(piece)
        if self.count > max(_MOST_UNPACKED, _MOST_RATIO * self.packed):
            got = f"a gzip of {self.packed:,} bytes that unpacks to more than "
            raise _bad(self.name, f"{got}{self.count:,}", "images or labels")
        return piece


@contextmanager
def open_content(path: str | Path) -> Iterator[tuple[BinaryIO, int | None]]:
    """Open a gzipped or plain file for reading its content.

    Yields:
      the stream of decompressed bytes, and their number (None when gzipped).

    Raises:
      JaxnnError: missing, a folder, not readable; a gzip that is cut or corrupt, or
        that unpacks to far more than images and labels do.
    """
    with open_file(path, "an IDX file") as raw:
        size = os.fstat(raw.fileno()).st_size
        try:
            if raw.peek(2)[:2] == b"\x1f\x8b":
                unpacked = _Unpacked(str(path), "rb", fileobj=raw)
                unpacked.packed = size
                yield cast(BinaryIO, unpacked), None
            else:
                yield raw, size
        except EOFError as error:
            raise _bad(path, "a gzip that ends too early", "a whole gzip") from error
        except (zlib.error, gzip.BadGzipFile) as error:
            raise _bad(path, f"a corrupt gzip ({error})", "an intact gzip") from error
        except MemoryError as error:
            raise _bad(path, f"more than fits into memory ({size:,} bytes)",
                       "images or labels") from error  # fmt: skip


def content_sha256(path: str | Path) -> str:
    """SHA-256 (hex) of the content of a file, decompressed if it is a gzip."""
    digest = hashlib.sha256()
    with open_content(path) as (stream, _):
        while piece := stream.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def read_idx(path: str | Path, digest: Any = None) -> np.ndarray:
    """Read one IDX file, gzipped or plain; its content goes into `digest`, if given.

    Returns:
      a writable array of the header's shape, in the machine's byte order.

    Raises:
      JaxnnError: missing, empty, damaged, or header and length disagree.
    """
    with open_content(path) as (stream, size):
        header = _read_header(path, stream, size, digest)
        data = _take(stream, header.payload(), digest)
        # the read past the end also makes gzip compare its checksum
        longer = bool(stream.read(1))
    if longer or len(data) < header.payload():
        raise _wrong_length(path, header, None if longer else len(data))
    return _array(header, data)


def read_idx_and_sha256(path: str | Path) -> tuple[np.ndarray, str]:
    """`read_idx(path)` and `content_sha256(path)`, decompressing only once."""
    digest = hashlib.sha256()
    return read_idx(path, digest), digest.hexdigest()


def stream_idx(path: str | Path, records: int) -> Iterator[np.ndarray]:
    """Read an IDX file in pieces, so that memory holds one piece at a time.

    Args:
      path: the file, gzipped or plain.
      records: entries of the first dimension in each piece (the last may have fewer).

    Yields:
      arrays (records, ...) in file order, in the machine's byte order.

    Raises:
      JaxnnError: as `read_idx`. Of a gzip the length is known only at its end, so
        pieces that come before the damage have been yielded by then.
    """
    if records < 1:
        raise JaxnnError(f"stream_idx: got records={records}, expected at least 1.")
    with open_content(path) as (stream, size):
        header = _read_header(path, stream, size)
        if not header.shape:
            raise _bad(path, "a single value (rank 0)", "at least one dimension")
        row = header._replace(shape=header.shape[1:])
        for first in range(0, header.shape[0], records):
            count = min(records, header.shape[0] - first)
            part = header._replace(shape=(count, *row.shape))
            data = _take(stream, part.payload())
            if len(data) < part.payload():
                raise _wrong_length(path, header, first * row.payload() + len(data))
            yield _array(part, data)
        if stream.read(1):
            raise _wrong_length(path, header, None)


def write_idx(path: str | Path, array: np.ndarray) -> None:
    """Write `array` as IDX, whole or not at all; gzipped if the name ends in `.gz`.

    The same array gives the same bytes (the gzip carries no time and no name).

    Raises:
      JaxnnError: IDX has no such type, or the file cannot be written.
    """
    array = np.asarray(array)
    native = {dtype.newbyteorder("="): code for code, dtype in TYPES.items()}
    code = native.get(array.dtype.newbyteorder("="))
    if code is None or any(size >= 1 << 32 for size in array.shape):
        raise bad_file(
            path, f"an array of {array.dtype} {array.shape} to write",
            f"one of {', '.join(map(str, native))} and dimensions below 2**32",
            "Convert it first, as in array.astype(np.uint8).",
        )  # fmt: skip
    header = bytes([0, 0, code, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    values = array.astype(TYPES[code], copy=False).tobytes()
    with atomic_file(path) as file:
        if Path(path).suffix == ".gz":
            with gzip.GzipFile("", "wb", 6, fileobj=file, mtime=0) as packed:
                packed.write(header + values)
        else:
            file.write(header + values)


def _take(stream: BinaryIO, count: int, digest: Any = None) -> bytearray:
    """Up to `count` bytes; piece by piece, so a lying header costs no memory."""
    data = bytearray()
    while len(data) < count:
        piece = stream.read(min(_PIECE, count - len(data)))
        if not piece:
            break
        data += piece
        if digest is not None:
            digest.update(piece)
    return data


def _read_header(
    path: str | Path, stream: BinaryIO, size: int | None, digest: Any = None
) -> _Header:
    start = bytes(_take(stream, 4, digest))
    if not start:
        raise _bad(path, "an empty file (0 bytes)", "an IDX file")
    if len(start) < 4 or start[:2] != b"\0\0":
        expected = "an IDX file, which starts with 00 00, a type byte and a rank byte"
        raise _bad(path, f"a file that starts with {start.hex(' ')}", expected)
    code, rank = start[2:]
    if code not in TYPES:
        known = ", ".join(f"0x{c:02x} ({d.name})" for c, d in TYPES.items())
        raise _bad(path, f"type byte 0x{code:02x}", f"one of {known}")
    if rank > _MAX_RANK:
        raise _bad(path, f"rank {rank}", f"at most {_MAX_RANK} dimensions")
    dims = _take(stream, 4 * rank, digest)
    if len(dims) < 4 * rank:
        expected = f"{4 * rank} ({rank} dimensions, 4 bytes each)"
        raise _bad(path, f"{len(dims)} bytes of dimensions", expected)
    shape = tuple(int(d) for d in np.frombuffer(dims, ">u4"))
    header = _Header(TYPES[code], shape)
    # no values, yet sides whose product no machine can address
    sides = math.prod(side for side in shape if side) * header.dtype.itemsize
    if header.payload() == 0 and sides > sys.maxsize:
        raise _bad(path, f"shape {shape}", "sides that fit into memory")
    if size is not None and size - 4 - 4 * rank != header.payload():
        raise _wrong_length(path, header, size - 4 - 4 * rank)
    return header


def _wrong_length(path: str | Path, header: _Header, got: int | None) -> JaxnnError:
    """`got` bytes of values, or None for more than announced."""
    count = header.payload()
    return _bad(
        path, f"{f'more than {count}' if got is None else got} bytes of values",
        f"{count} (the header announces shape {header.shape} of {header.dtype.name})",
    )  # fmt: skip


def _array(header: _Header, data: bytearray) -> np.ndarray:
    values = np.frombuffer(data, header.dtype).reshape(header.shape)
    return values.astype(header.dtype.newbyteorder("="), copy=False)
