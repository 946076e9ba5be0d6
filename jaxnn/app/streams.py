"""Standard output and error that may be closed, or lose their reader, at any time.

A training run is worth more than the words it prints: it goes on without them.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO


@contextmanager
def open_streams() -> Iterator[list[OSError]]:
    """Within, `sys.stdout` and `sys.stderr` can always be written to.

    A stream that was closed before the start is the null device, also as a file
    descriptor: else the next file opened would take its number, and what libraries
    print would end up in it.

    Yields:
      The errors of streams that could not be written, but for a reader that went away
      (`jaxnn train | head`): that is nobody's error.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    errors: list[OSError] = []
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w", encoding="utf-8") as null:
        out, err = (_Outlives(null if s is None else s, errors) for s in before)
        sys.stdout, sys.stderr = out, err  # pyrefly: ignore[bad-assignment]
        try:
            yield errors
        finally:
            out.flush()
            err.flush()
            sys.stdout, sys.stderr = before


class _Outlives:
    """A text stream that is the null device from its first error on."""

    def __init__(self, stream: TextIO, errors: list[OSError]):
        self._stream, self._errors = stream, errors

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._lose(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._lose(error)

    def _lose(self, error):
        if not isinstance(error, BrokenPipeError):
            self._errors.append(error)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._stream.fileno())  # also for Python's own last flush
        os.close(null)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def note(text: str) -> None:
    """Print a note on stderr."""
    print(f"jaxnn: note: {text}", file=sys.stderr, flush=True)
