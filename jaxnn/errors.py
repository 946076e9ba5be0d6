"""The one exception for what a user can put right, and the look-up that raises it."""

import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")


class JaxnnError(ValueError):
    """Something the user can put right: the message says where, got, expected, fix.

    The command line prints the message alone; anything else keeps its traceback.
    """

    def add_note(self, note: str) -> None:
        """Keep `note`, unless it is JAX's about the frames that it left out."""
        if "JAX has removed its internal frames" not in note:
            super().add_note(note)


def first_line(error: BaseException) -> str:
    """The first line of an error's words, or its name."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def require(fits: Any, where: str, name: str, value: Any, expected: str) -> None:
    """Raise a `JaxnnError` unless the setting `name` of `where` fits.

    >>> strength = 0.1
    >>> require(strength >= 0, "l2", "strength", strength, ">= 0")
    """
    if not fits:
        shown = f"{value:g}" if isinstance(value, float) else repr(value)
        raise JaxnnError(f"{where}: got {name}={shown}, expected {expected}")


def lookup(kind: str, name: str, table: Mapping[str, T]) -> T:
    """`table[name]`, or a `JaxnnError` that lists the valid names.

    >>> lookup("loss", "mse", {"mse": 1})
    1
    """
    if name in table:
        return table[name]
    near = difflib.get_close_matches(str(name), table, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise JaxnnError(
        f"unknown {kind} {name!r}.{hint} Valid names: {', '.join(sorted(table))}"
    )
