"""How a setting is told, in one place: the marks on the fields of a configuration.

    ema: Annotated[float | None, Range(0, 1, "[)")] = None

`Range` bounds its numbers, `Needs` says without what it has no effect, `Usual` what
None stands for, `Names` lists tables in the help, `Typed` is for what is not typed as
`--name VALUE`. Nothing heavy is imported.
"""

import dataclasses
import functools
import inspect
import math
import pkgutil
import shlex
import types
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from numbers import Integral, Real
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from jaxnn.errors import JaxnnError

# of float32: a larger number is infinite there, a smaller one 0
FINITE, SMALLEST = (2 - 2.0**-23) * 2.0**127, 2.0**-126
LARGE = 1000  # a bound from here on is told to who is beyond it only


class Range(NamedTuple):
    """Numbers from low to high; `ends` says of each whether it is one of them."""

    low: float
    high: float = FINITE
    ends: str = "[]"

    def holds(self, value: float) -> bool:
        """Whether `value` is in the range, and as float32 too; NaN is in none."""
        if 0 < abs(value) < SMALLEST:
            return False
        above = self.low <= value if self.ends[0] == "[" else self.low < value
        below = value <= self.high if self.ends[1] == "]" else value < self.high
        return above and below

    def words(self, name: str, value: float) -> str:
        """What `value` had to be: `0 <= dropout < 1`, or the side it is beyond."""
        if 0 < abs(value) < SMALLEST:
            return f"at least {SMALLEST:.3g} in size (less is 0 in float32)"
        lower, upper = ("<=" if end in "[]" else "<" for end in self.ends)
        if self.high < LARGE:
            return f"{self.low:g} {lower} {name} {upper} {self.high:g}"
        if self.high < value < math.inf:
            high = f"{self.high:.3g}" if self.high == FINITE else f"{self.high:,}"
            return f"{name} {upper} {high}"
        finite = "a finite " if self.high == FINITE else ""
        return f"{finite}{name} {lower.replace('<', '>')} {self.low:g}"


class Needs(NamedTuple):
    """The setting has an effect only where `met` is true; `what` is told of that."""

    met: Callable[[Any], Any]
    what: str


class Usual(NamedTuple):
    """What None stands for where the setting has an effect, and `otherwise`."""

    value: Callable[[Any], Any]
    otherwise: Any = None


class Names(NamedTuple):
    """A table, such as `jaxnn.losses:LOSSES`, whose names its help lists, and more."""

    table: str
    more: tuple[str, ...] = ()

    def __str__(self) -> str:
        return ", ".join([*self.more, *pkgutil.resolve_name(self.table)])


class Typed(NamedTuple):
    """It is typed by its place, without a flag, or also by another one."""

    by_place: bool = False
    alias: str = ""


class Row(NamedTuple):
    """What the marks say of one setting."""

    type: Any
    bounds: Range | None = None
    needs: Needs | None = None
    usual: Usual | None = None
    names: Names | None = None
    typed: Typed = Typed()


MARKS = {
    Range: "bounds", Needs: "needs", Usual: "usual", Names: "names", Typed: "typed",
}  # fmt: skip


@functools.cache
def rows(kind: Callable[..., Any]) -> dict[str, Row]:
    """The settings of a configuration by name."""
    found = {}
    for name, hint in get_type_hints(kind, include_extras=True).items():
        annotated = get_origin(hint) is Annotated
        base, *marks = get_args(hint) if annotated else (hint,)
        found[name] = Row(base, **{MARKS[type(mark)]: mark for mark in marks})
    return found


def flag(name: str) -> str:
    """The name of a setting as it is typed: `--noise-kind`, of `from_` `--from`."""
    return "--" + name.rstrip("_").replace("_", "-")


def only_with(name: str, *values: str, also: str = "") -> Needs:
    """Has an effect only where the setting `name` is one of `values`."""
    *others, last = values
    words = f"{', '.join(others)} or {last}" if others else last
    return Needs(lambda c: getattr(c, name) in values, f"{flag(name)} {words}{also}")


def only_above(number: int, name: str) -> Needs:
    """Has an effect only where the setting `name` is above `number`."""
    return Needs(lambda c: getattr(c, name) > number, f"{flag(name)} above {number}")


# ---- what is asked of any configuration


def resolved(config: Any) -> Any:
    """`config` with what was left to a rule made explicit; the rest stays None."""
    found = {}
    for name, row in rows(type(config)).items():
        if row.usual and getattr(config, name) is None:
            met = row.needs is None or row.needs.met(config)
            found[name] = row.usual.value(config) if met else row.usual.otherwise
    return dataclasses.replace(config, **found)


def given(config: Any, typed: Container[str] = ()) -> dict[str, Any]:
    """The settings that differ from the defaults, or were `typed`."""
    return {
        f.name: value
        for f in dataclasses.fields(config)
        if (value := getattr(config, f.name)) != f.default or f.name in typed
    }


def without_effect(config: Any, typed: Container[str] = ()) -> dict[str, str]:
    """The settings of `config` that change nothing in it, each with what it needs.

    Of those at their defaults only what was `typed`.
    """
    return {
        name: needs.what
        for name, value in given(config, typed).items()
        if value not in (None, False, 0, ())
        and (needs := rows(type(config))[name].needs)
        and not needs.met(config)
    }


def check_needs(config: Any, typed: Container[str] = ()) -> None:
    """Raise for a setting that changes nothing, see `without_effect`."""
    for name, what in without_effect(config, typed).items():
        value = getattr(config, name)
        value = " ".join(map(str, value)) if isinstance(value, tuple) else value
        raise JaxnnError(f"{flag(name)} {value} has no effect here: it needs {what}")


def check_fields(config: Any) -> None:
    """Raise unless each field by itself is right: its type and its bounds."""
    for name, row in rows(type(config)).items():
        value = getattr(config, name)
        if not _fits(value, row.type):
            got = repr(value) if len(repr(value)) <= 60 else f"{value!r:.57}..."
            raise JaxnnError(f"{flag(name)}: got {got}, expected {in_words(row.type)}")
        if dataclasses.is_dataclass(value):
            check_fields(value)
        for number in value if isinstance(value, tuple) else (value,):
            if row.bounds and number is not None and not row.bounds.holds(number):
                words = row.bounds.words(name, number)
                raise JaxnnError(
                    f"{flag(name)}: got {name}={number:g}, expected {words}"
                )


def from_plain(
    kind: Callable[..., Any], settings: Mapping[str, Any], where: str | Path
) -> Any:
    """A configuration from what JSON makes of one; nothing is guessed.

    A setting that it has not, as of an earlier version, is the default.
    """
    known, parameters = rows(kind), inspect.signature(kind).parameters.values()
    needed = {p.name for p in parameters if p.default is p.empty}
    unknown, missing = settings.keys() - known.keys(), needed - settings.keys()
    with saved_in(where):
        if unknown or missing:
            what = "unknown" if unknown else "no"
            listed = ", ".join(sorted(unknown or missing))
            raise JaxnnError(f"{what} setting {listed}")
        config = kind(**{k: from_json(v, known[k].type) for k, v in settings.items()})
        check_fields(config)
    return config


def from_json(value: Any, kind: Any) -> Any:
    """A value that JSON or TOML gave, as a setting of that type has it."""
    kinds = plain_types(kind)
    if isinstance(value, list) and any(get_origin(k) is tuple for k in kinds):
        return tuple(value)
    return Path(value) if isinstance(value, str) and Path in kinds else value


USED: list[str] = []
"""What `--use` named, file or module: a command is not the same without."""


def as_command(name: str, settings: Mapping[str, Any]) -> str:
    """The words `jaxnn NAME ...` that give these settings."""
    words = ["jaxnn", name, *(w for target in USED for w in ("--use", target))]
    for setting, value in settings.items():
        words += [] if setting == "run" else [flag(setting)]
        if value is False:
            words[-1] = flag(f"no_{setting}")
        elif value is not True:
            words += map(str, value if isinstance(value, tuple) else (value,))
    return shlex.join(words)


@contextmanager
def saved_in(where: str | Path) -> Iterator[None]:
    """What is wrong with settings is said of the file that they came from."""
    try:
        yield
    except JaxnnError as error:
        foreign = str(error).startswith(("unknown layer", "unknown loss"))
        use = ", or it needs the --use of its training" if foreign else ""
        raise JaxnnError(f"{where}: {error}; it was edited or damaged{use}") from error


# ---- the types of settings


def plain_types(kind: Any) -> tuple:
    """The types among a field's: `float | None` gives (float, NoneType)."""
    if get_origin(kind) in (types.UnionType, Union):
        return get_args(kind)
    return (kind,)


def read(text: str, kind: Any) -> Any:
    """A setting from its text, a word each of a tuple's.

    Raises:
      ValueError: it is none of that type.
    """
    for one in plain_types(kind):
        if get_origin(one) is tuple:
            return tuple(read(part, get_args(one)[0]) for part in text.split("+"))
        if one is type(None) and text.lower() == "none":
            return None
        if get_origin(one) is Literal and text in get_args(one):
            return text
    for one in plain_types(kind):
        if one is bool and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if one in (int, float, str, Path):
            return one(text)
    raise ValueError(f"{text!r} is not {in_words(kind)}")


def _fits(value, kind) -> bool:
    if len(kinds := plain_types(kind)) > 1:
        return any(_fits(value, one) for one in kinds)
    if get_origin(kind) is Literal:
        return any(type(value) is type(one) and value == one for one in get_args(kind))
    if get_origin(kind) is tuple:
        item = get_args(kind)[0]
        return isinstance(value, tuple) and all(_fits(one, item) for one in value)
    if kind in (int, float):
        number = Integral if kind is int else Real
        return isinstance(value, number) and not isinstance(value, bool)
    return isinstance(value, kind) and value != ""


def in_words(kind: Any) -> str:
    """What values of a type are called."""
    if len(kinds := plain_types(kind)) > 1:
        return " or ".join(map(in_words, kinds))
    if get_origin(kind) is Literal:
        return ", ".join(map(str, get_args(kind)))
    if get_origin(kind) is tuple:
        return f"a list of {in_words(get_args(kind)[0])}"
    words = {
        int: "a whole number", float: "a number", bool: "true or false", str: "a word",
        Path: "a path", dict: "an object", type(None): "none",
    }  # fmt: skip
    return words.get(kind) or kind.__name__
