"""The points of a sweep: read from words, crossed or drawn, and put into groups."""

import dataclasses
import itertools
import types
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, get_args, get_type_hints

import numpy as np

from jaxnn.config import TrainConfig
from jaxnn.errors import JaxnnError, lookup

SIDE_BY_SIDE = ("lr", "l2", "dropout", "noise", "init", "bias_init", "seed")
"""Settings whose values share one program. All others make groups that run in turn."""

_OWN = ("seeds", "out", "resume", "ranks", "quiet", "devices", "attack_images")


class Range(NamedTuple):
    """Numbers from low to high, drawn evenly, or evenly in their logarithm."""

    low: float
    high: float
    log: bool


class Point(NamedTuple):
    """One network of a sweep: what was set, and all its settings."""

    number: int
    values: dict[str, Any]
    config: TrainConfig


TRACED = ("lr", "l2", "dropout", "noise")
"""Settings that are arrays in the program where a group's points differ in them."""


class Group(NamedTuple):
    """Points that one program trains.

    `values` is what they share of the axes, `traced` which settings are arrays in the
    program. A part of a group has its `traced`, whatever its own points differ in:
    so one program serves all parts.
    """

    values: dict[str, Any]
    points: list[Point]
    traced: tuple[str, ...]


def parse_axes(words: Sequence[str], drawn: bool) -> dict[str, list | Range]:
    """Axes from words: `lr=0.001,0.01`, and for random points `lr=1e-4:1e-1:log`.

    Names are those of `jaxnn train`'s flags, and `width`, of all hidden layers.

    Raises:
      JaxnnError: unknown names, values of the wrong type, a range in a grid.
    """
    axes: dict[str, list | Range] = {}
    kinds = get_type_hints(TrainConfig)
    known = {f.name: kinds[f.name] for f in dataclasses.fields(TrainConfig)}
    known = {k: v for k, v in known.items() if k not in _OWN} | {"width": int}
    for word in words:
        name, equals, text = word.partition("=")
        name = name.lstrip("-").replace("-", "_")
        if not equals or not text:
            raise JaxnnError(
                f"sweep: got {word!r}, expected NAME=VALUE,VALUE such as lr=0.001,0.01"
            )
        kind = lookup("axis of a sweep", name, known)
        if name in axes:
            raise JaxnnError(f"sweep: axis {name} is given twice")
        if ":" in text:
            axes[name] = _range(name, text, kind, drawn)
        else:
            axes[name] = [_value(name, part, kind) for part in text.split(",")]
    if not axes:
        raise JaxnnError("sweep: got no axes, expected such as lr=0.001,0.01 l2=0,1e-4")
    return axes


def sweep_points(
    config: TrainConfig, axes: Mapping[str, list | Range], draws: int | None
) -> list[Point]:
    """Every combination of the axes' values, or `draws` random ones, by `config.seed`.

    Each is trained with `config.seeds` seeds, which makes as many points.

    Raises:
      JaxnnError: settings that do not fit together.
    """
    if draws is None:
        rows = itertools.product(*(list(values) for values in axes.values()))
    else:
        rng = np.random.default_rng(config.seed)
        rows = ([_draw(a, rng) for a in axes.values()] for _ in range(draws))
    points: list[Point] = []
    for row in rows:
        values = dict(zip(axes, row, strict=True))
        first = int(values.get("seed", config.seed))
        for seed in range(first, first + config.seeds):
            full = values | ({"seed": seed} if config.seeds > 1 else {})
            points.append(Point(len(points), full, _settings(config, full)))
    return points


def grouped(points: Sequence[Point]) -> list[Group]:
    """Points that differ only in what runs side by side, together; order is kept."""
    groups: dict[Any, list[Point]] = {}
    for point in points:
        settings = vars(point.config).items()
        key = tuple(item for item in settings if item[0] not in SIDE_BY_SIDE)
        groups.setdefault(key, []).append(point)
    found = []
    for g in groups.values():
        shared = {k: v for k, v in g[0].values.items() if k not in SIDE_BY_SIDE}
        traced = (n for n in TRACED if len({getattr(p.config, n) for p in g}) > 1)
        found.append(Group(shared, g, tuple(traced)))
    return found


def _settings(config, values) -> TrainConfig:
    values = dict(values)
    if "width" in values:
        values["layers"] = (str(values.pop("width")),) * len(config.layers)
    return replace(config, **values, seeds=1)


def _draw(axis, rng):
    if not isinstance(axis, Range):
        return axis[rng.integers(len(axis))]
    if axis.log:
        return float(np.exp(rng.uniform(np.log(axis.low), np.log(axis.high))))
    return float(rng.uniform(axis.low, axis.high))


def _range(name, text, kind, drawn) -> Range:
    parts = text.split(":")
    if not drawn or float not in _types(kind):
        raise JaxnnError(
            f"sweep: {name}={text} is a range, which --random draws from for settings "
            "that are numbers with a point; a grid needs values, such as 0.001,0.01"
        )
    low, high = (_value(name, part, float) for part in parts[:2])
    log = parts[2:] == ["log"]
    if len(parts) > 3 or (parts[2:] and not log) or low >= high or (log and low <= 0):
        raise JaxnnError(
            f"sweep: {name}={text}, expected LOW:HIGH or LOW:HIGH:log with LOW < HIGH, "
            "above 0 for log"
        )
    return Range(low, high, log)


def _types(kind) -> tuple:
    """The plain types among a field's: `float | None` gives (float, NoneType)."""
    return get_args(kind) if isinstance(kind, types.UnionType) else (kind,)


def _value(name, text, kind) -> Any:
    allowed = _types(kind)
    try:
        if text == "none" and type(None) in allowed:
            return None
        if bool in allowed:
            return {"true": True, "false": False}[text.lower()]
        for one in (int, float):
            if one in allowed:
                return one(text)
        if name == "layers":
            return tuple(text.split("+"))
        return text
    except (ValueError, KeyError):
        names = " or ".join(getattr(t, "__name__", str(t)) for t in allowed)
        raise JaxnnError(f"sweep: {name}={text}, expected {names}") from None
