"""The sweep: its folder, its groups one after the other, its table and picture."""

import os
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnn.app.build import Experiment, build, check_experiment, facts_of
from jaxnn.app.checks import check, check_data
from jaxnn.app.compile_cache import enable_compile_cache
from jaxnn.app.config import SweepConfig, TrainConfig
from jaxnn.app.folder import (
    drawn,
    fresh_folder,
    print_undrawn,
    save_config,
    save_network,
    shapes_of,
    use_dtype,
)
from jaxnn.app.points import (
    Group,
    group_experiment,
    grouped,
    parse_axes,
    sweep_points,
    train_group,
)
from jaxnn.app.settings import from_plain, saved_in
from jaxnn.app.streams import note
from jaxnn.data import load
from jaxnn.distributed.mesh import data_mesh
from jaxnn.distributed.processes import show_cpu_devices
from jaxnn.environment import surroundings, warn_if_idle
from jaxnn.errors import JaxnnError
from jaxnn.files import draw, plain, read_json, write_json
from jaxnn.tasks import engine, run_tasks
from jaxnn.text import aligned
from jaxnn.train import Snapshots, TrainingError, describe, evaluate
from jaxnn.train.checkpoint import load_meta, load_params, save_params

FILE, FORMAT = "sweep.json", 1
MAX_PARALLEL = {"cpu": 8}
"""Points in one program: more do not fit the caches; elsewhere all that share one."""


class Plan(NamedTuple):
    """What sweep.json must say for a sweep to go on."""

    format: int
    axes: tuple[str, ...]
    random: int | None
    max_parallel: int | None
    settings: dict


def sweep_run(config: SweepConfig, started: float | None = None) -> dict:
    """Train all points of a sweep; returns what sweep.json holds."""
    started = time.perf_counter() if started is None else started
    folder = config.resume
    if folder is not None:
        where = {name: getattr(config, name) for name in ("engine", "ray_address")}
        config = replace(_read_plan(folder), **where)
    base = config.network
    show_cpu_devices(base.devices or 1)
    use_dtype(base.dtype)
    enable_compile_cache()
    data = load(base.data, validation=base.validation, say=note)
    facts = facts_of(data)
    count = len(jax.devices()) if base.devices is None else base.devices
    mesh = data_mesh(count) if count > 1 and config.engine == "local" else None
    warn_if_idle()
    with saved_in(folder / FILE) if folder is not None else nullcontext():
        groups = _checked_groups(config, data, facts, mesh)
    fresh = fresh_folder(base.out, f"sweep-{Path(data.name).name}")
    with (
        engine(config.engine, config.ray_address, enable_compile_cache),
        fresh if folder is None else nullcontext(folder) as folder,
    ):
        sweep = Sweep(
            groups, data, facts, mesh, folder, base.quiet,
            snapshots=config.engine == "local", programs=defaultdict(dict),
        )  # fmt: skip
        plan = Plan(
            FORMAT, config.axes, config.random, config.max_parallel, plain(vars(base))
        )
        result = plan._asdict() | {"points": [], "groups": {}, "compiles": 0}
        sweep.train(result)
        sweep.finish(result)
    result["seconds"] = round(time.perf_counter() - started, 2)
    result |= surroundings()
    write_json(folder / FILE, result)
    tried = result["settings_tried"]
    picture = drawn("jaxnn.plots.run:sweep", tried, list(tried[0]["values"]))
    print("\n".join(table(result)))
    print_undrawn(draw(folder, {"sweep.png": picture}))
    print(f"saved to       {folder}  (sweep.json, sweep.png; best is a run)")
    if not result["best"]["trained"]:
        raise TrainingError(
            "sweep: no setting has trained: in each a network left out all its steps "
            "or gives values that are not finite"
        )
    return result


def _checked_groups(config, data, facts, mesh) -> list[Group]:
    """The groups, in parts where one program is too small; all settings are checked."""
    axes = parse_axes(config.axes, config.random is not None)
    usual = MAX_PARALLEL.get(jax.default_backend(), 10**9)
    most = config.max_parallel or usual * (mesh.size if mesh else 1)
    groups = [
        group._replace(points=group.points[i : i + most])
        for group in grouped(sweep_points(config.network, axes, config.random))
        for i in range(0, len(group.points), most)
    ]
    for group in groups:
        check_data(group.points[0].config, data)
        made = [build(point.config, facts, data) for point in group.points]
        check_experiment(made[-1])
    return groups


class Sweep(NamedTuple):
    """A sweep under way in its folder."""

    groups: list[Group]
    data: Any
    facts: Any
    mesh: Any
    folder: Path
    quiet: bool
    snapshots: bool  # whether a group goes on where it was killed: the folder is here
    programs: dict[Any, dict]  # of groups that share them

    def params(self, number: int) -> Path:
        """The file of a group's networks; what became of them is written in it, too."""
        return self.folder / f"group-{number:03d}" / "params.npz"

    def train(self, result: dict) -> None:
        """Train all groups that are not done yet; `result` is written after each."""
        done = [self._done(number) for number in range(len(self.groups))]
        result["groups"] |= {str(n): rows for n, rows in enumerate(done) if rows}
        write_json(self.folder / FILE, result)
        where = f"on {self.mesh.size if self.mesh else 1} devices"
        print(
            f"{sum(len(group.points) for group in self.groups)} points in "
            f"{len(self.groups)} groups, {where if self.snapshots else 'by Ray'}: "
            f"{' '.join(result['axes'])}"
        )
        waiting = [n for n, rows in enumerate(done) if rows is None]
        for at, (tree, rows, compiles) in run_tasks(_trained, waiting, self):
            path = self.params(waiting[at])
            path.parent.mkdir(exist_ok=True)
            save_params(path, tree, {"rows": rows})
            shutil.rmtree(path.parent / "snapshots", ignore_errors=True)
            result["groups"][str(waiting[at])] = rows
            result["compiles"] += compiles
            write_json(self.folder / FILE, result)

    def _done(self, number) -> list[dict] | None:
        """What became of the points of a group; None if they are not trained yet."""
        path = self.params(number)
        rows = load_meta(path).get("rows") if os.path.exists(path) else None
        wanted = [(p.number, plain(p.values)) for p in self.groups[number].points]
        if rows is not None and [(r["point"], r["values"]) for r in rows] != wanted:
            raise JaxnnError(
                f"{path} holds other points than {self.folder / FILE} says; it was "
                "edited or damaged"
            )
        return rows

    def finish(self, result: dict) -> None:
        """Put the points together by setting, and test the best setting's networks."""
        rows = [row for part in result["groups"].values() for row in part]
        result["points"] = sorted(rows, key=lambda row: row["point"])
        result["settings_tried"] = tried = _settings_tried(result["points"])
        accuracies = [self._test(number) for number in tried[0]["points"]]
        self._save(tried[0]["points"][0])
        result["best"] = tried[0] | {
            "test_accuracy": float(np.mean(accuracies)),
            "test_accuracies": accuracies,
            "test_images": len(self.data.test.y),
        }

    def _network(self, number: int) -> tuple[TrainConfig, Experiment, dict]:
        """The settings of one point, and its network as its group left it."""
        i, row = next(
            (i, row)
            for i, group in enumerate(self.groups)
            for row, point in enumerate(group.points)
            if point.number == number
        )
        e = group_experiment(self.groups[i], self.facts, point=row)
        shapes = shapes_of(e, len(self.groups[i].points))
        tree = load_params(self.params(i), shapes)
        config = self.groups[i].points[row].config
        return config, e, jax.tree.map(lambda a: a[row], tree)

    def _test(self, number: int) -> float:
        """Test accuracy of one point."""
        _, e, tree = self._network(number)
        found = evaluate(e.net, tree["params"], tree["state"], *self.data.test)
        return float(found.accuracy)

    def _save(self, number: int) -> None:
        """Make a run of one point's network, in the folder `best`."""
        config, _, tree = self._network(number)
        e = build(config, self.facts)  # without layers that only others of it have
        tree = jax.tree.unflatten(
            jax.tree.structure(shapes_of(e)), jax.tree.leaves(tree)
        )
        folder = self.folder / "best"
        folder.mkdir(exist_ok=True)
        save_config(folder, e)
        save_network(folder, tree, e)


def _trained(sweep: Sweep, number: int) -> tuple[dict, list[dict], int]:
    """Train a group: its networks, what became of its points, programs compiled."""

    def print_epoch(row):
        at = f"group {number + 1}/{len(sweep.groups)}  epoch {row['epoch']:>3}"
        print(f"{at}  {describe(row)}", flush=True)

    group, folder = sweep.groups[number], sweep.params(number).parent / "snapshots"
    shared = sweep.programs[str(group.values), len(group.points)]
    before = len(shared)
    history = train_group(
        group, sweep.data, sweep.facts, mesh=sweep.mesh, programs=shared,
        snapshots=Snapshots(folder, 1, resume=True) if sweep.snapshots else None,
        on_epoch=None if sweep.quiet else print_epoch,
    )  # fmt: skip
    if history.stopped == "interrupted":
        raise KeyboardInterrupt
    tree = {"params": history.params, "state": history.state}
    rows = plain([*_rows(group, history)])
    return jax.tree.map(np.asarray, tree), rows, len(shared) - before


def _rows(group: Group, history) -> Iterator[dict]:
    """What became of each point: of the epoch whose parameters are kept."""
    best = np.broadcast_to(history.best_epoch, len(group.points))
    for i, (point, epoch) in enumerate(zip(group.points, best, strict=True)):
        row = history.epochs[max(int(epoch), 1) - 1]
        yield {
            "point": point.number,
            "values": point.values,
            "epoch": int(epoch),
            **{
                k: row[k][i] for k in ("loss", "validation_loss", "validation_accuracy")
            },
            "skipped": int(sum(r["skipped"][i] for r in history.epochs)),
            "trained": bool(
                np.isfinite(row["validation_loss"][i])
                and history.last.skipped[i] < history.last.step[i]
            ),
        }


def _settings_tried(points: Sequence[dict]) -> list[dict]:
    """The points put together by setting, their seeds being one, best first."""
    tried: dict[str, list[dict]] = defaultdict(list)
    for row in points:
        name = str({k: v for k, v in row["values"].items() if k != "seed"})
        tried[name].append(row)
    return sorted(
        map(_summary, tried.values()),
        key=lambda s: (not s["trained"], -np.nan_to_num(s["validation_accuracy"])),
    )


def _summary(rows: Sequence[dict]) -> dict:
    # null in JSON is a number that was not finite
    accuracy, loss = (
        np.array([row[name] for row in rows], float)
        for name in ("validation_accuracy", "loss")
    )
    return {
        "values": {k: v for k, v in rows[0]["values"].items() if k != "seed"},
        "validation_accuracy": float(np.mean(accuracy)),
        "std": float(np.std(accuracy, ddof=1)) if len(rows) > 1 else 0.0,
        "n": len(rows),
        "loss": float(np.mean(loss)),
        "skipped": sum(row["skipped"] for row in rows),
        "trained": all(row["trained"] for row in rows),
        "points": [row["point"] for row in rows],
    }


def table(result: dict, most: int = 10) -> Iterator[str]:
    """The best settings, a line each, and the test accuracy of the best."""
    tried = result["settings_tried"]
    rows = [(*tried[0]["values"], "validation", "loss", "skipped", "")]
    for s in tried[:most]:
        spread = f" +-{100 * s['std']:.2f}" if s["n"] > 1 else ""
        rows.append((
            *map(_as_word, s["values"].values()),
            f"{100 * s['validation_accuracy']:.2f}%{spread}", f"{s['loss']:.4f}",
            f"{s['skipped']:,}", "" if s["trained"] else "NOT TRAINED",
        ))  # fmt: skip
    yield aligned(rows, right=range(len(rows[0]) - 1))
    if len(tried) > most:
        yield f"... and {len(tried) - most} more settings, all in sweep.json"
    best = result["best"]
    yield (
        f"test accuracy  {100 * best['test_accuracy']:.2f}% of all "
        f"{best['test_images']:,} test images: the setting best on validation, mean of "
        f"{best['n']} seed{'s' if best['n'] > 1 else ''}"
    )


def _as_word(value) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "+".join(value) if isinstance(value, (list, tuple)) else str(value)


def _read_plan(folder: Path) -> SweepConfig:
    """The sweep that `folder` holds."""
    path = folder / FILE
    saved = read_json(path)
    known = saved if isinstance(saved, dict) else {}
    plan = from_plain(Plan, {k: known[k] for k in Plan._fields if k in known}, path)
    if plan.format != FORMAT:
        raise JaxnnError(
            f"{path} has format {plan.format}, this version reads {FORMAT}; update "
            "jaxnn"
        )
    settings = {**plan.settings, "out": str(folder)}
    network = from_plain(TrainConfig, settings, path)
    with saved_in(path):
        config = SweepConfig(
            axes=plan.axes, random=plan.random, max_parallel=plan.max_parallel,
            network=network,
        )  # fmt: skip
        check(config)
    return config
