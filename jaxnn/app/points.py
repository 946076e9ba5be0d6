"""The points of a sweep: read from words, crossed or drawn, and put into groups."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from jaxnn.app.checks import amounts, check_point
from jaxnn.app.config import NOISE_KIND, WIDTH, TrainConfig
from jaxnn.app.settings import (
    Row,
    flag,
    plain_types,
    resolved,
    rows,
    without_effect,
)
from jaxnn.errors import JaxnnError, lookup

TRACED = ("lr", "l2", "dropout", "noise")
"""Settings that are arrays in the program where a group's points differ in them."""

SIDE_BY_SIDE = (*TRACED, "init", "bias_init", "seed")
"""Settings whose values share one program. All others make groups that run in turn."""

MOST_POINTS = 100_000


class Interval(NamedTuple):
    """Numbers from low to high, drawn evenly, or evenly in their logarithm."""

    low: float
    high: float
    log: bool


class Point(NamedTuple):
    """One network of a sweep: what was set, and all its settings."""

    number: int
    values: dict[str, Any]
    config: TrainConfig


class Group(NamedTuple):
    """Points that one program trains.

    `values` is what they share of the axes, `traced` which settings are arrays in the
    program. A part of a group has its `traced`, whatever its own points differ in:
    so one program serves all parts.
    """

    values: dict[str, Any]
    points: list[Point]
    traced: tuple[str, ...]


def parse_axes(words: Sequence[str], drawn: bool) -> dict[str, list | Interval]:
    """Axes from words: `lr=0.001,0.01`, and for random points `lr=1e-4:1e-1:log`.

    Names are those of `jaxnn train`'s flags, and `width`, of all hidden layers.

    Raises:
      JaxnnError: unknown names, values of the wrong type, a range in a grid.
    """
    axes: dict[str, list | Interval] = {}
    known = rows(TrainConfig) | {"width": Row(int, WIDTH)}
    for word in words:
        name, equals, text = word.partition("=")
        name = name.lstrip("-").replace("-", "_")
        if not equals or not text:
            raise JaxnnError(
                f"sweep: got {word!r}, expected NAME=VALUE,VALUE such as lr=0.001,0.01"
            )
        row = lookup("axis of a sweep", name, known)
        if row.no_axis is not None:
            raise JaxnnError(f"sweep: {name} cannot be an axis: {row.no_axis.why}")
        if name in axes:
            raise JaxnnError(f"sweep: axis {name} is given twice")
        if ":" in text:
            axes[name] = _interval(name, text, row, drawn)
        else:
            axes[name] = [_value(name, part, row.type) for part in text.split(",")]
    if "width" in axes and "layers" in axes:
        raise JaxnnError("sweep: width and layers set the same; give one of them")
    if not axes:
        raise JaxnnError("sweep: got no axes, expected such as lr=0.001,0.01 l2=0,1e-4")
    return axes


def sweep_points(
    config: TrainConfig, axes: Mapping[str, list | Interval], draws: int | None
) -> list[Point]:
    """Every combination of the axes' values, or `draws` random ones, by `config.seed`.

    Each is trained with `config.seeds` seeds, which makes as many points.

    Raises:
      JaxnnError: settings that do not fit together.
    """
    count = math.prod(len(a) for a in axes.values()) if draws is None else draws
    if count * config.seeds > MOST_POINTS:
        raise JaxnnError(
            f"sweep: got {count * config.seeds:,} points, expected at most "
            f"{MOST_POINTS:,}; give fewer values, or --random N"
        )
    if draws is None:
        chosen = itertools.product(*(list(values) for values in axes.values()))
    else:
        rng = np.random.default_rng(config.seed)
        chosen = ([_draw(a, rng) for a in axes.values()] for _ in range(draws))
    points: list[Point] = []
    for row in chosen:
        values = dict(zip(axes, row, strict=True))
        first = int(values.get("seed", config.seed))
        for seed in range(first, first + config.seeds):
            full = values | ({"seed": seed} if config.seeds > 1 else {})
            points.append(Point(len(points), full, _settings(config, full)))
    _check(points, config, axes)
    return [p._replace(config=resolved(p.config)) for p in points]


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


def _check(points, base, axes):
    """Each axis must change each point, each flag some point, and no two be the same.

    A flag such as `--epsilon` beside `adversarial=none,pgd` is for the second alone.
    """
    defaults = vars(TrainConfig())
    of_axes = {"layers" if name == "width" else name for name in axes}
    unused: dict[str, str] | None = None
    seen: dict[TrainConfig, int] = {}
    for point in points:
        lost = without_effect(point.config)
        for name in lost.keys() & of_axes:
            raise JaxnnError(
                f"sweep: {name} has no effect in point {point.number} "
                f"({_words(point.values)}): it needs {lost[name]}"
            )
        unused = {k: v for k, v in (lost if unused is None else unused).items()
                  if k in lost}  # fmt: skip
        config = replace(point.config, **{name: defaults[name] for name in lost})
        check_point(config)
        if (other := seen.setdefault(_explicit(config), point.number)) != point.number:
            raise JaxnnError(
                f"sweep: points {other} and {point.number} are the same network "
                f"({_words(points[other].values)} and {_words(point.values)}); give "
                "each value once, or fewer --random points"
            )
    for name, what in (unused or {}).items():
        raise JaxnnError(
            f"{flag(name)} {getattr(base, name)} has no effect here: it needs {what}"
        )


def _explicit(config) -> TrainConfig:
    """The same for all settings of the same network: `none` is what it stands for."""
    return replace(
        resolved(config), **amounts(config), ema=config.ema or None,
        noise_kind=config.noise_kind or NOISE_KIND,
    )  # fmt: skip


def _words(values) -> str:
    return " ".join(f"{k}={v}" for k, v in values.items())


def _settings(config, values) -> TrainConfig:
    values = dict(values)
    if "width" in values:
        if config.model == "linear" or not all(t.isdecimal() for t in config.layers):
            raise JaxnnError(
                "sweep: width is of all hidden layers, which must be widths such as "
                f"--layers 30 30; got model {config.model}, {' '.join(config.layers)}"
            )
        values["layers"] = (str(values.pop("width")),) * len(config.layers)
    return replace(config, **values, seeds=1)


def _draw(axis, rng):
    if not isinstance(axis, Interval):
        return axis[rng.integers(len(axis))]
    if axis.log:
        return float(np.exp(rng.uniform(np.log(axis.low), np.log(axis.high))))
    return float(rng.uniform(axis.low, axis.high))


def _interval(name, text, row, drawn) -> Interval:
    parts = text.split(":")
    if not drawn or float not in plain_types(row.type):
        raise JaxnnError(
            f"sweep: {name}={text} is a range, which --random draws from for settings "
            "that are numbers with a point; a grid needs values, such as 0.001,0.01"
        )
    low, high = (_value(name, part, float) for part in parts[:2])
    bounds = row.bounds
    if not bounds.low <= low <= high <= bounds.high:
        words = bounds.words(name, low if low < bounds.low else high)
        raise JaxnnError(f"sweep: {name}={text}, expected {words}")
    log = parts[2:] == ["log"]
    if len(parts) > 3 or (parts[2:] and not log) or low >= high or (log and low <= 0):
        raise JaxnnError(
            f"sweep: {name}={text}, expected LOW:HIGH or LOW:HIGH:log with LOW < HIGH, "
            "above 0 for log"
        )
    return Interval(low, high, log)


def _value(name, text, kind) -> Any:
    allowed = plain_types(kind)
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
