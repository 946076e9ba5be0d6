"""One file from whichever address gives the right bytes: resumed, verified, renamed."""

import contextlib
import http.client
import io
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from jaxnn.errors import JaxnnError
from jaxnn.files import lock, open_to_append, reason
from jaxnn.text import bar

WINDOWS = os.name == "nt"  # where an open file cannot be renamed
TIMEOUT_SECONDS = 30.0  # without a byte
LEAST_RATE = 10_000  # bytes a second on average, else a mirror counts as failed
MOST_BYTES = 4 << 30
PIECE = 1 << 16  # bytes read at a time


class _FailedError(Exception):
    """One address failed."""

    def __init__(self, text: str, broken: bool):
        super().__init__(text)
        self.broken = broken  # by the network or a busy server: worth going on later


def download(
    urls: Sequence[str], target: Path, hash_of: Callable[[Path], str], expected: str,
    force: bool,
) -> None:  # fmt: skip
    """Bring `target` to the expected hash, or leave it as it was and raise."""
    if not force and os.path.exists(target):
        with contextlib.suppress(JaxnnError):
            if hash_of(target) == expected:
                return
    part = target.with_name(target.name + ".part")

    def wrong() -> str:
        """What is wrong with the bytes that have arrived; empty: nothing."""
        try:
            found = hash_of(part)
        except JaxnnError as error:
            return f"wrong bytes: {error}"
        return "" if found == expected else f"SHA-256 {found}, expected {expected}"

    with _claimed(part) as file:
        try:
            failures = _try_each(urls, file, wrong)
        except KeyboardInterrupt:
            text = "download stopped." + _leave(file, part, keep=True)
            raise KeyboardInterrupt(text) from None
        except BaseException:
            _leave(file, part, keep=False)
            raise
        if failures is None:
            if WINDOWS:
                file.close()
            os.replace(part, target)
            return
        rest = _leave(file, part, keep=any(f.broken for f in failures.values()))
    tried = [f"\n  {url}: {failure}" for url, failure in failures.items()]
    raise JaxnnError(
        f"could not download {target.name}; every mirror failed:"
        + "".join(tried or ["\n  (no mirror was given)"])
        + "\nCheck the network, or get the file elsewhere and put it at "
        + f"{target}.{rest}"
    )


@contextlib.contextmanager
def _claimed(part: Path) -> Iterator[BinaryIO]:
    """Open `part` for appending, for this process alone."""
    with open_to_append(part) as file:
        try:  # the other process may have finished and renamed it just before
            held = lock(file.fileno(), part)
        except BlockingIOError:
            held = False
        if not held:
            raise JaxnnError(
                f"another process is downloading {part}. Wait for it, then run again."
            )
        yield file


def _leave(file: BinaryIO, part: Path, keep: bool) -> str:
    """Keep what has arrived, and say so, or remove it."""
    if size := keep and os.fstat(file.fileno()).st_size:
        return f" {size} bytes stay in {part}: the same command goes on from there."
    if WINDOWS:
        file.close()
    part.unlink(missing_ok=True)
    return ""


def _try_each(
    urls: Sequence[str], file: BinaryIO, wrong: Callable[[], str]
) -> dict[str, _FailedError] | None:
    """None as soon as `file` has the right bytes, else what each address said."""
    failures = {}
    for url in urls:
        try:
            resumed, words = _transfer(url, file), wrong()
            if words and resumed:  # the first bytes may be another mirror's
                file.truncate(0)
                _transfer(url, file)
                words = wrong()
            if not words:
                return None
            file.truncate(0)
            raise _FailedError(words, broken=False)
        except _FailedError as failure:
            failures[url] = failure
    return failures


def _transfer(url: str, file: BinaryIO) -> bool:
    """Append what `file` still lacks; True if it went on from bytes already there."""
    have = os.fstat(file.fileno()).st_size
    headers = {"User-Agent": "jaxnn", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    resumable = True
    try:
        request = urllib.request.Request(url, headers=headers)
        open_url = urllib.request.build_opener(_TimedHandler).open
        with open_url(request, timeout=TIMEOUT_SECONDS) as answer:
            span = answer.headers.get("Content-Range", "")
            resumed = have > 0 and answer.status == 206
            resumable = resumed or answer.headers.get("Accept-Ranges") == "bytes"
            if resumed and span.startswith(f"bytes {have}-"):
                _copy(answer, file, have, url)
                return True
            file.truncate(0)
            if not resumed:
                _copy(answer, file, 0, url)
                return False
        return _transfer(url, file)  # it was not the part asked for
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and have:  # nothing is left, or the range makes no sense
            if error.headers.get("Content-Range", "").endswith(f"/{have}"):
                return True
            file.truncate(0)
            return _transfer(url, file)
        later = error.code >= 500 or error.code == 429
        raise _FailedError(f"HTTP {error.code} {error.reason}", later) from error
    except JaxnnError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        if not resumable:
            file.truncate(0)
        text = str(getattr(error, "reason", error)) or type(error).__name__
        raise _FailedError(text, not isinstance(error, ValueError)) from error


def _copy(answer: Any, file: BinaryIO, got: int, url: str) -> None:
    """Append what is answered to the `got` bytes of `file`."""
    length = answer.headers.get("Content-Length")
    total = None if length is None else got + int(length)
    with bar(
        desc=url.rsplit("/", 1)[-1], total=total, initial=got, unit="B",
        unit_scale=True, disable=None,
    ) as shown:  # fmt: skip
        while piece := answer.read1(PIECE):
            got += len(piece)
            if got > MOST_BYTES:
                raise ValueError(f"more than {MOST_BYTES:,} bytes")
            try:
                file.write(piece)
                file.flush()
            except OSError as error:
                raise JaxnnError(
                    f"cannot write {file.name}: {reason(error)}. Free some "
                    "space or choose another folder."
                ) from error
            shown.update(len(piece))
    if total is not None and got < total:
        raise ConnectionError(f"the connection ended after {got} of {total} bytes")


# ---- an answer whose header and content both arrive fast enough


class _Timed(io.RawIOBase):
    def __init__(self, raw: io.RawIOBase):
        self.raw, self.started, self.count = raw, time.monotonic(), 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        got = self.raw.readinto(buffer)
        self.count += got or 0
        seconds = time.monotonic() - self.started
        if seconds > TIMEOUT_SECONDS and self.count < LEAST_RATE * seconds:
            raise ConnectionError(
                f"too slow: {self.count:,} bytes in {seconds:.0f} s, expected at least "
                f"{LEAST_RATE:,} a second"
            )
        return got

    def close(self) -> None:
        self.raw.close()
        super().close()


class _Answer(http.client.HTTPResponse):
    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.fp = io.BufferedReader(_Timed(self.fp.detach()))


class _Plain(http.client.HTTPConnection):
    response_class = _Answer


class _Secure(http.client.HTTPSConnection):
    response_class = _Answer


class _TimedHandler(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    def http_open(self, req):
        return self.do_open(_Plain, req)

    def https_open(self, req):
        return self.do_open(_Secure, req)
