"""The sweep: its folder, its groups one after the other, its table and picture."""

import shutil
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.app.build import build, check_experiment, facts_of
from jaxnn.app.checks import check, check_data
from jaxnn.app.compile_cache import enable_compile_cache
from jaxnn.app.config import SweepConfig, TrainConfig
from jaxnn.app.folder import fresh_folder, print_undrawn, use_dtype
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
from jaxnn.environment import surroundings
from jaxnn.errors import JaxnnError
from jaxnn.files import draw, plain, read_json, write_json
from jaxnn.text import aligned
from jaxnn.train import Snapshots, TrainingError, describe, evaluate
from jaxnn.train.checkpoint import load_params, save_params

FILE, FORMAT = "sweep.json", 1
MAX_PARALLEL = {"cpu": 8}
"""Points in one program: more do not fit the caches; elsewhere all that share one."""


def sweep_run(config: SweepConfig, started: float | None = None) -> dict:
    """Train all points of a sweep; returns what sweep.json holds, and `folder`."""
    started = time.perf_counter() if started is None else started
    folder, done = config.resume, {}
    if folder is not None:
        config, done = _read_plan(folder)
    base = config.network
    show_cpu_devices(base.devices or 1)
    use_dtype(base.dtype)
    enable_compile_cache()
    data = load(base.data, validation=base.validation, say=note)
    facts = facts_of(data)
    count = len(jax.devices()) if base.devices is None else base.devices
    mesh = data_mesh(count) if count > 1 else None
    with saved_in(folder / FILE) if folder is not None else nullcontext():
        axes = parse_axes(config.axes, config.random is not None)
        points = sweep_points(base, axes, config.random)
        groups = _parts(grouped(points), config.max_parallel, mesh)
        for group in groups:  # all settings are checked before any file
            check_data(group.points[0].config, data)
            made = [build(point.config, facts, data) for point in group.points]
            check_experiment(made[-1])
        _check_done(groups, done)
    fresh = fresh_folder(base.out, f"sweep-{Path(data.name).name}")
    with fresh if folder is None else nullcontext(folder) as folder:
        sweep = Sweep(config, groups, data, facts, mesh, folder, done)
        sweep.train()
        sweep.finish()
    result = sweep.result
    result["seconds"] = round(time.perf_counter() - started, 2)
    result |= surroundings()
    write_json(folder / FILE, result)
    failed = draw(folder, {"sweep.png": lambda path: _plots().sweep(
        result["settings_tried"], list(axes), path
    )})  # fmt: skip
    print("\n".join(table(result)))
    print_undrawn(failed)
    print(f"saved to       {folder}  (sweep.json, sweep.png)")
    if not result["best"]["trained"]:
        error = TrainingError(
            "sweep: no setting has trained: in each a network left out all its steps "
            "or gives values that are not finite"
        )
        error.history = None  # it failed at work, not at its settings
        raise error
    return result | {"folder": str(folder)}


class Sweep:
    """A sweep under way in its folder; `result` is what sweep.json holds."""

    def __init__(self, config: SweepConfig, groups, data, facts, mesh, folder, done):
        self.groups, self.data, self.facts = groups, data, facts
        self.mesh, self.folder, self.quiet = mesh, folder, config.network.quiet
        self.result: dict[str, Any] = {
            "format": FORMAT, "axes": list(config.axes), "random": config.random,
            "max_parallel": config.max_parallel,
            "settings": plain(vars(config.network)), "points": [], "groups": done,
            "compiles": 0,
        }  # fmt: skip

    def train(self) -> None:
        """Train all groups that are not done yet; sweep.json is whole after each."""
        result, programs = self.result, defaultdict(dict)
        write_json(self.folder / FILE, result)
        print(
            f"{sum(len(group.points) for group in self.groups)} points in "
            f"{len(self.groups)} groups, on {self.mesh.size if self.mesh else 1} "
            f"devices: {' '.join(result['axes'])}"
        )
        for number, group in enumerate(self.groups):
            if str(number) in result["groups"]:
                continue
            where = self._folder_of(number)
            shared = programs[str(group.values), len(group.points)]
            size = len(shared)
            history = train_group(
                group, self.data, self.facts, mesh=self.mesh, programs=shared,
                snapshots=Snapshots(where / "snapshots", 1, resume=True),
                on_epoch=partial(self._print_epoch, number),
            )  # fmt: skip
            if history.stopped == "interrupted":
                raise KeyboardInterrupt
            tree = jax.tree.map(np.asarray, (history.params, history.state))
            save_params(where / "params.npz", {"params": tree[0], "state": tree[1]})
            result["groups"][str(number)] = _rows(group, history)
            result["compiles"] += len(shared) - size
            write_json(self.folder / FILE, result)
            shutil.rmtree(where / "snapshots", ignore_errors=True)

    def finish(self) -> None:
        """Put the points together by setting, and test the best setting's networks."""
        result = self.result
        rows = [row for part in result["groups"].values() for row in part]
        result["points"] = sorted(rows, key=lambda row: row["point"])
        tried: dict[str, list[dict]] = defaultdict(list)
        for row in result["points"]:
            name = str({k: v for k, v in row["values"].items() if k != "seed"})
            tried[name].append(row)
        result["settings_tried"] = sorted(
            map(_summary, tried.values()),
            key=lambda s: (not s["trained"], -np.nan_to_num(s["validation_accuracy"])),
        )
        best = result["settings_tried"][0]
        found = [self._test(number) for number in best["points"]]
        result["best"] = best | {
            "test_accuracy": float(np.mean(found)),
            "test_accuracies": found,
            "test_images": len(self.data.test.y),
        }

    def _test(self, number: int) -> float:
        """Test accuracy of one point, from the parameters its group left."""
        i, row = next(
            (i, row)
            for i, group in enumerate(self.groups)
            for row, point in enumerate(group.points)
            if point.number == number
        )
        net = group_experiment(self.groups[i], self.facts, point=row).net
        keys = jnp.stack([jax.random.key(0)] * len(self.groups[i].points))
        init = jax.vmap(lambda key: net.init(key, self.facts.in_shape)[:2])
        params, state = jax.eval_shape(init, keys)
        path = self._folder_of(i) / "params.npz"
        tree = load_params(path, {"params": params, "state": state})
        mine = jax.tree.map(lambda a: a[row], tree)
        found = evaluate(net, mine["params"], mine["state"], *self.data.test)
        return float(found.accuracy)

    def _folder_of(self, number: int) -> Path:
        return self.folder / f"group-{number:03d}"

    def _print_epoch(self, number: int, row: dict) -> None:
        if not self.quiet:
            at = f"group {number + 1}/{len(self.groups)}  epoch {row['epoch']:>3}"
            print(f"{at}  {describe(row)}", flush=True)


class _Row(NamedTuple):
    """What became of one point."""

    point: int
    values: dict
    epoch: int
    loss: float | None
    validation_loss: float | None
    validation_accuracy: float | None
    skipped: int
    trained: bool


def _check_done(groups, done):
    """Raise unless what a folder says is done is of these groups."""
    for number, rows in done.items():
        where = f"groups, {number}"
        if number not in map(str, range(len(groups))) or not isinstance(rows, list):
            raise JaxnnError(
                f"{where}: got {rows!r:.60}, expected a list for each of the "
                f"{len(groups)} groups that are done"
            )
        found = [
            from_plain(_Row, row if isinstance(row, dict) else {}, where)
            for row in rows
        ]
        for row in found:
            if not (0 <= (row.validation_accuracy or 0) <= 1 and row.epoch >= 0
                    and row.skipped >= 0):  # fmt: skip
                raise JaxnnError(f"{where}: got {row}, expected counts and a share")
        wanted = [(p.number, plain(p.values)) for p in groups[int(number)].points]
        if [(row.point, row.values) for row in found] != wanted:
            raise JaxnnError(
                f"{where}: got points {[row.point for row in found]}, expected "
                f"{[point for point, _ in wanted]}, with the values of these axes"
            )


def _rows(group: Group, history) -> list[dict]:
    """What became of each point: of the epoch whose parameters are kept."""
    rows = []
    for i, point in enumerate(group.points):
        at = np.atleast_1d(history.best_epoch)
        epoch = int(at[i] if len(at) > 1 else at[0])
        row = history.epochs[max(epoch, 1) - 1]
        found = _Row(
            point=point.number,
            values=plain(point.values),
            epoch=epoch,
            loss=row["loss"][i],
            validation_loss=row["validation_loss"][i],
            validation_accuracy=row["validation_accuracy"][i],
            skipped=int(sum(r["skipped"][i] for r in history.epochs)),
            trained=bool(
                np.isfinite(row["validation_loss"][i])
                and history.last.skipped[i] < history.last.step[i]
            ),
        )
        rows.append(found._asdict())
    return rows


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
    }  # fmt: skip


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


def _parts(groups, max_parallel, mesh) -> list[Group]:
    """Groups cut into parts of one size where they are too large for one program."""
    usual = MAX_PARALLEL.get(jax.default_backend(), 10**9)
    most = max_parallel or usual * (mesh.size if mesh else 1)
    return [
        group._replace(points=group.points[i : i + most])
        for group in groups
        for i in range(0, len(group.points), most)
    ]


def _read_plan(folder: Path) -> tuple[SweepConfig, dict]:
    """The sweep that `folder` holds, and what is done of it."""
    path = folder / FILE
    saved = read_json(path)
    names = ("format", "settings", "axes", "random", "max_parallel", "groups")
    kinds = (int, dict, list, object, object, dict)
    if not isinstance(saved, dict) or not all(
        name in saved and isinstance(saved[name], kind)
        for name, kind in zip(names, kinds, strict=True)
    ):
        raise JaxnnError(f"{path} is not a sweep's: expected {', '.join(names)} in it")
    if saved["format"] is True or saved["format"] != FORMAT:
        raise JaxnnError(
            f"{path} has format {saved['format']}, this version reads {FORMAT}; update "
            "jaxnn"
        )
    settings = {**saved["settings"], "out": str(folder)}
    network = from_plain(TrainConfig, settings, str(path))
    axes = tuple(saved["axes"])
    with saved_in(path):
        limits = saved["random"], saved["max_parallel"]
        plan = SweepConfig(axes, *limits, network=network)
        check(plan)
    return plan, saved["groups"]


def _plots():
    from jaxnn.plots import run  # slow to import, and may fail: within `draw` only

    return run


def _as_word(value) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "+".join(value) if isinstance(value, (list, tuple)) else str(value)
