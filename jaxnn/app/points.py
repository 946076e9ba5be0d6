"""The points of a sweep: read from words, crossed or drawn, grouped, trained together.

The points of a group are networks side by side in one program, in which settings that
differ are arrays.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxnn.app.build import DataFacts, Experiment, build
from jaxnn.app.checks import NO_AXIS, amounts, check_point
from jaxnn.app.config import NOISE_KIND, WIDTH, TrainConfig
from jaxnn.app.settings import (
    Row,
    flag,
    in_words,
    plain_types,
    read,
    resolved,
    rows,
    without_effect,
)
from jaxnn.errors import JaxnnError, lookup
from jaxnn.train import History, make_step
from jaxnn.train.engine import scan_seeds
from jaxnn.train.inputs import check_labels, sample_weights
from jaxnn.train.run import Run
from jaxnn.train.state import Weighted

TRACED = ("lr", "l2", "dropout", "noise")
"""Settings that are arrays in the program where a group's points differ in them."""

SIDE_BY_SIDE = (*TRACED, "init", "bias_init", "seed")
"""Settings whose values share one program. All others make groups that run in turn."""

MOST_POINTS = 100_000
Draw = Callable[[np.random.Generator], float]


class Point(NamedTuple):
    """One network of a sweep: what was set, and all its settings."""

    number: int
    values: dict[str, Any]
    config: TrainConfig


class Group(NamedTuple):
    """Points that one program trains.

    A part of a group has its `traced`, whatever its own points differ in: so one
    program serves all parts.
    """

    values: dict[str, Any]  # what they share of the axes
    points: list[Point]
    traced: tuple[str, ...]  # settings that are arrays in the program


def parse_axes(words: Sequence[str], drawn: bool) -> dict[str, list | Draw]:
    """Axes from words: `lr=0.001,0.01`, and for random points `lr=1e-4:1e-1:log`.

    Names are those of `jaxnn train`'s flags, and `width`, of all hidden layers.
    """
    axes: dict[str, list | Draw] = {}
    known = rows(TrainConfig) | {"width": Row(int, WIDTH)}
    for word in words:
        name, equals, text = word.partition("=")
        name = name.lstrip("-").replace("-", "_")
        if not equals or not text:
            raise JaxnnError(
                f"sweep: got {word!r}, expected NAME=VALUE,VALUE such as lr=0.001,0.01"
            )
        row = lookup("axis of a sweep", name, known)
        if name in NO_AXIS:
            raise JaxnnError(f"sweep: {name} cannot be an axis: {NO_AXIS[name]}")
        if name in axes:
            raise JaxnnError(f"sweep: axis {name} is given twice")
        if ":" in text:
            axes[name] = _interval(name, text, row, drawn)
        else:
            axes[name] = [_parsed(name, part, row.type) for part in text.split(",")]
    if "width" in axes and "layers" in axes:
        raise JaxnnError("sweep: width and layers set the same; give one of them")
    if not axes:
        raise JaxnnError("sweep: got no axes, expected such as lr=0.001,0.01 l2=0,1e-4")
    return axes


def sweep_points(
    config: TrainConfig, axes: Mapping[str, Any], draws: int | None
) -> list[Point]:
    """Every combination of the axes' values, or `draws` random ones, by `config.seed`.

    Each is trained with `config.seeds` seeds, which makes as many points.
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
        chosen = (
            [a(rng) if callable(a) else a[rng.integers(len(a))] for a in axes.values()]
            for _ in range(draws)
        )
    if "width" in axes and (
        config.model == "linear" or not all(t.isdecimal() for t in config.layers)
    ):
        raise JaxnnError(
            "sweep: width is of all hidden layers, which must be widths such as "
            f"--layers 30 30; got model {config.model}, {' '.join(config.layers)}"
        )
    points: list[Point] = []
    for row in chosen:
        values = dict(zip(axes, row, strict=True))
        first = int(values.get("seed", config.seed))
        for seed in range(first, first + config.seeds):
            full = values | ({"seed": seed} if config.seeds > 1 else {})
            change: dict[str, Any] = full | {"seeds": 1}
            if "width" in change:
                change["layers"] = (str(change.pop("width")),) * len(config.layers)
            points.append(Point(len(points), full, replace(config, **change)))
    _check_points(points, config, axes)
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


def _check_points(points, base, axes):
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
        explicit = replace(  # the same for all settings of the same network
            resolved(config), **amounts(config), ema=config.ema or None,
            noise_kind=config.noise_kind or NOISE_KIND,
        )  # fmt: skip
        if (other := seen.setdefault(explicit, point.number)) != point.number:
            raise JaxnnError(
                f"sweep: points {other} and {point.number} are the same network "
                f"({_words(points[other].values)} and {_words(point.values)}); give "
                "each value once, or fewer --random points"
            )
    for name, what in (unused or {}).items():
        raise JaxnnError(
            f"{flag(name)} {getattr(base, name)} has no effect here: it needs {what}"
        )


def _words(values) -> str:
    return " ".join(f"{k}={v}" for k, v in values.items())


def _interval(name, text, row, drawn) -> Draw:
    """Draws evenly from LOW:HIGH, or evenly in the logarithm."""
    parts = text.split(":")
    if not drawn or float not in plain_types(row.type):
        raise JaxnnError(
            f"sweep: {name}={text} is a range, which --random draws from for settings "
            "that are numbers with a point; a grid needs values, such as 0.001,0.01"
        )
    low, high = (_parsed(name, part, float) for part in parts[:2])
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
    if log:
        return lambda rng: float(np.exp(rng.uniform(np.log(low), np.log(high))))
    return lambda rng: float(rng.uniform(low, high))


def _parsed(name, text, kind) -> Any:
    try:
        return read(text, kind)
    except ValueError:
        raise JaxnnError(f"sweep: {name}={text}, expected {in_words(kind)}") from None


# ---- a group's points are trained as one program


def group_experiment(
    group: Group, facts: DataFacts, data: Any = None, point: int = 0, **traced: Any
) -> Experiment:
    """Build what the points of a group share, in the same trees for all of them.

    Where they differ, the settings are those of one `point`, or `traced` numbers.
    """
    if "dropout" in group.traced:  # all have its layers, at rate 0 too
        traced.setdefault("dropout", 0.5)
    return build(replace(group.points[point].config, **traced), facts, data)


class SideBySide(Run):
    """A run whose seeds are the points of a group.

    Args:
      group: points that differ in what runs side by side only.
      data: the data set.
      facts: what the networks know of it.
      mesh: devices over which the points are divided, if their number allows it.
      programs: compiled for another part of this group with as many points, or empty.
    """

    def __init__(self, group: Group, data, facts, mesh, programs):
        points, first = group.points, group.points[0].config
        self.group, self.facts, self.data_set = group, facts, data
        self.experiment = group_experiment(group, facts, data)
        validation = data.validation if len(data.validation.x) else None
        y = data.train.y
        if first.class_weights == "balanced":
            y = Weighted(y, sample_weights(y, None, "balanced"))
        super().__init__(
            self._made(0), (data.train.x, y), validation, list(range(len(points))),
            first.batch,
            # each point skips its own bad steps; one that diverges stops no other
            guard="off",
        )  # fmt: skip
        self.programs = programs
        self.where: NamedSharding | None = None
        if mesh is not None and len(points) % mesh.size == 0:
            self.where = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self._begin()

    def _begin(self):
        """States and keys, one a point; those of one kind of start are made at once."""
        y = self.data_set.train.y
        check_labels("fit", self.net, self.step.loss, self.x, y, self.validation)
        configs = [point.config for point in self.group.points]
        starts: dict[tuple[str, str], list[int]] = {}
        for i, c in enumerate(configs):
            starts.setdefault((c.init, c.bias_init), []).append(i)
        keys = jnp.stack([jax.random.key(c.seed) for c in configs])
        shape = (self.batch, *self.x.shape[1:])
        dtype = jnp.dtype(self.experiment.config.dtype)
        hyper = {
            name: jnp.array([getattr(c, name) for c in configs], dtype)
            for name in self.group.traced
        }
        self.keys, made = (keys, hyper), []
        for mine in map(np.array, starts.values()):

            def start(key, first=mine[0]):
                key, hyper = key
                return self._made(first, **hyper).start(shape, key, dtype)

            rows = jax.tree.map(lambda a, mine=mine: a[mine], self.keys)
            made.append(jax.jit(jax.vmap(start))(rows))
        back = np.argsort(np.concatenate([*starts.values()]))
        self.ts = jax.tree.map(lambda *a: jnp.concatenate(a)[back], *made)
        if self.where is not None:
            self.ts, self.keys = jax.device_put((self.ts, self.keys), self.where)
            everywhere = NamedSharding(self.where.mesh, PartitionSpec())
            self.x, self.y = jax.device_put((self.x, self.y), everywhere)

    def _step(self, ts, x, y, key):
        key, hyper = key
        return self._made(0, **hyper)(ts, x, y, key)

    def _made(self, point: int, **traced: Any):
        """The step of a point, with `traced` numbers for its own."""
        e = group_experiment(self.group, self.facts, self.data_set, point, **traced)
        return make_step(
            e.net, self.experiment.loss, e.optimizer, **e.options, guard="skip",
            watch_update=False,
        )  # fmt: skip

    def _compiled(self, order):
        # the step is made anew in each trace, from settings that are traced
        run = partial(scan_seeds, self._step, layout=True)
        if self.where is not None:  # each device runs its own points; nobody talks
            mine, whole = self.where.spec, PartitionSpec()
            run = jax.shard_map(
                run, mesh=self.where.mesh, check_vma=False,
                in_specs=(mine, whole, whole, whole, mine),
                out_specs=(mine, PartitionSpec(None, *mine)),
            )  # fmt: skip
        given = self.ts, self.x, self.y, order, self.keys
        return jax.jit(run, donate_argnums=0).lower(*given).compile()


def train_group(
    group: Group, data: Any, facts: DataFacts, mesh: Mesh | None = None,
    programs: dict | None = None, **options: Any,
) -> History:  # fmt: skip
    """Train the points of a group; the history's seeds are the points, in order.

    See `SideBySide`; `options` are `on_epoch` and `snapshots` of `jaxnn.fit`.
    """
    run = SideBySide(group, data, facts, mesh, {} if programs is None else programs)
    config = group.points[0].config
    choose = config.keep == "best" and run.validation is not None
    return run.train(config.epochs, patience=config.patience, choose=choose, **options)
