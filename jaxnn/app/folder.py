"""The run folder: how it is made, read again, and continued after a kill."""

import dataclasses
import json
import math
import os
import pkgutil
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnn import layers
from jaxnn.app.build import DataFacts, Experiment, build
from jaxnn.app.checks import FREE, check, must_stay
from jaxnn.app.config import SAVED, TrainConfig
from jaxnn.app.settings import SMALLEST, flag, from_plain, saved_in
from jaxnn.app.streams import note
from jaxnn.data import Dataset, load, stratified_sample
from jaxnn.errors import JaxnnError
from jaxnn.files import locked, plain, read_json, reason, write_json
from jaxnn.layers import Layer, to_plain
from jaxnn.train.checkpoint import load_meta, load_params, save_params
from jaxnn.train.inputs import init_shapes

NETWORK = "network.json"


class Run(NamedTuple):
    """A trained network read back from its folder.

    With `config.seeds` > 1 every array of params and state has a leading axis of seeds.
    """

    folder: Path
    experiment: Experiment
    params: Any
    state: Any

    @property
    def config(self) -> TrainConfig:
        """The settings."""
        return self.experiment.config

    @property
    def facts(self) -> DataFacts:
        """What the network knows of its data."""
        return self.experiment.facts

    @property
    def net(self) -> Layer:
        """The network."""
        return self.experiment.net

    @property
    def multi_seed(self) -> bool:
        """Whether it was trained from several seeds."""
        return self.config.seeds > 1

    def probabilities(self, outputs: np.ndarray) -> np.ndarray:
        """Outputs (..., N) as probabilities, by the loss it was trained on."""
        return self.experiment.loss.as_probabilities(outputs)

    def members(self) -> list[tuple[Any, Any]]:
        """Parameters and state of each seed."""
        tree, count = (self.params, self.state), self.config.seeds
        if not self.multi_seed:
            return [tree]
        return [jax.tree.map(lambda a, i=i: a[i], tree) for i in range(count)]

    def first(self) -> tuple[Any, Any]:
        """Parameters and state of the first seed."""
        return self.members()[0]


# ---- made


def _new_folder(out: Path | None, name: str) -> Path:
    stamp = Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    tries = [out] if out else [Path(f"{stamp}{end}") for end in ("", "-2", "-3", "-4")]
    for folder in tries:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not any(folder.iterdir()):
                return folder
        except (OSError, ValueError) as error:  # ValueError: a null byte in its name
            raise JaxnnError(
                f"cannot make the run folder {str(folder)!r}: {reason(error)}; choose "
                "another with --out"
            ) from error
    raise JaxnnError(
        f"the run folder {tries[-1]} already holds files, expected a new or empty one; "
        "choose another with --out, or remove it first"
    )


@contextmanager
def fresh_folder(out: Path | None, name: str) -> Iterator[Path]:
    """Make the folder a command writes to: `out`, or runs/NAME-DATE-TIME.

    It is taken away again if an error comes before a result, so that the corrected
    command finds it free. No result is the plan alone: config.json or sweep.json.
    """
    above = ((out or Path("runs")) / "x").parents
    missing = [p for p in above if not os.path.exists(p)]
    folder = _new_folder(out, name)
    try:
        yield folder
    except BaseException:
        files = [p for p in folder.rglob("*") if not p.is_dir()]
        if {p.name for p in files} <= {"config.json", NETWORK, "sweep.json"}:
            made = sorted((p for p in folder.rglob("*") if p.is_dir()), reverse=True)
            for path in files:
                path.unlink()
            for path in (*made, *([] if out else [folder]), *missing):
                with suppress(OSError):  # not empty: something else is in it
                    path.rmdir()
        raise


def save_config(folder: Path, e: Experiment) -> None:
    """Write config.json: the settings and what the network knows of its data.

    Where the settings do not describe the network, network.json does.
    """
    if e.config.model == SAVED:
        write_json(folder / NETWORK, to_plain(e.net))
    write_json(
        folder / "config.json",
        dataclasses.asdict(e.config) | {"network": e.facts._asdict()},
    )


def save_network(folder: Path, tree: Any, e: Experiment) -> None:
    """Write params.npz: parameters, state, and the settings that they belong to."""
    save_params(folder / "params.npz", tree, {"settings": _belonging(e)})


def _belonging(e) -> dict[str, Any]:
    """The settings that parameters belong to, as JSON gives them back."""
    facts = {f"network {k}": v for k, v in e.facts._asdict().items()}
    facts |= {NETWORK: to_plain(e.net)} if e.config.model == SAVED else {}
    return json.loads(json.dumps(plain(must_stay(e.config) | facts)))


# ---- read


def load_run(folder: str | Path, say: Callable[[str], None] = warnings.warn) -> Run:
    """Read a run folder: settings, network and parameters.

    Args:
      folder: that `jaxnn train` wrote.
      say: takes what a person should know of it, a line each.

    Raises:
      JaxnnError: not a run folder, or files missing, damaged or of another network.
    """
    folder = Path(folder)
    e = read_config(folder / "config.json")
    saved = load_meta(folder / "params.npz").get("settings")
    if saved is None:
        say(
            f"{folder / 'params.npz'} holds no settings, as of an earlier version of "
            "jaxnn: config.json is taken as it is, edited or not"
        )
    for name, here in _belonging(e).items() if saved is not None else ():
        # what an earlier version did not have says nothing
        there = saved.get(name, here) if isinstance(saved, dict) else saved
        if there != here:
            raise JaxnnError(
                f"{folder / 'config.json'}: {name} is {here}, but params.npz was "
                f"trained with {there}; one of the two was edited or comes from "
                "another run"
            )
    use_dtype(e.config.dtype)
    seeds = (e.config.seeds,) if e.config.seeds > 1 else ()
    return Run(folder, e, **load_params(folder / "params.npz", shapes_of(e, *seeds)))


def shapes_of(e: Experiment, *seeds: int) -> dict[str, Any]:
    """Shapes of parameters and state, with an axis of so many `seeds` in front."""
    params, state, _ = init_shapes(e.net, e.facts.in_shape)
    return jax.tree.map(
        lambda a: jax.ShapeDtypeStruct((*seeds, *a.shape), a.dtype),
        {"params": params, "state": state},
    )


def open_run(folder: Path) -> Run:
    """Read a run folder for a command, which tells notes on stderr."""
    return load_run(folder, note)


def first_of(run: Run) -> tuple[Any, Any]:
    """Parameters and state of the run's network; of several the first, as is noted."""
    if run.multi_seed:
        note(
            f"{run.folder} holds {run.config.seeds} networks, of which this is the "
            f"first: seed {run.config.seed}"
        )
    return run.first()


def data_of(run: Run, name: str | None) -> Dataset:
    """The data set of that name, or the run's own, if its images fit the run.

    Where both name their classes, a name counts, and not its number.
    """
    data = load(name or run.config.data, validation=0, say=note)
    if data.test.x.shape[1:] != run.facts.in_shape:
        raise JaxnnError(
            f"{run.folder} was trained on images {run.facts.in_shape}, got "
            f"{data.test.x.shape[1:]} from {data.name}"
        )
    if data.classes > run.facts.classes:
        raise JaxnnError(
            f"{run.folder} knows {run.facts.classes} classes, got {data.classes} from "
            f"{data.name}"
        )
    known = run.facts.names or tuple(map(str, range(run.facts.classes)))
    if unknown := sorted(set(data.names) - set(known)):
        if not run.facts.names:  # of an earlier version, or numbered
            return data
        raise JaxnnError(
            f"{run.folder} knows the classes {', '.join(known)}; got "
            f"{', '.join(unknown)} from {data.name}"
        )
    if data.names:
        numbers = np.array([known.index(name) for name in data.names], np.int32)
        test = data.test._replace(y=numbers[data.test.y])
        data = data._replace(test=test, names=known, classes=run.facts.classes)
    return data


def use_dtype(dtype: str) -> None:
    """Switch JAX's 64-bit mode on for the type float64."""
    if dtype == "float64":
        jax.config.update("jax_enable_x64", True)


def read_config(path: Path) -> Experiment:
    """Read the settings and facts that `save_config` wrote."""
    if not os.path.isfile(path):  # which never raises
        raise JaxnnError(
            f"{path.parent} is not a run folder: it has no {path.name}; expected a "
            "folder that `jaxnn train` wrote"
        )
    settings = read_json(path)
    network = settings.pop("network", None) if isinstance(settings, dict) else None
    if not isinstance(network, dict):
        raise JaxnnError(
            f"{path} is not a jaxnn run's configuration: expected settings and network"
        )
    config = from_plain(TrainConfig, settings, path)
    facts = from_plain(DataFacts, network, f"{path}, network")
    with saved_in(path):
        check(config)
        # pixels go from 0 to 1, so their mean and deviation do
        if not (
            facts.in_shape
            and min((*facts.in_shape, facts.classes)) >= 1
            and len(facts.names) in (0, facts.classes)
            and len(facts.marks or ()) in (0, 3)
            and 0 <= facts.mean <= 1
            and SMALLEST <= facts.std <= 1
        ):
            raise JaxnnError(
                f"network: got {facts}, expected sizes >= 1, mean and std in [0, 1], "
                "no names or one for each class, marks of three numbers"
            )
        net = saved_network(path.parent) if config.model == SAVED else None
        return build(config, facts, net=net)


def saved_network(folder: Path) -> Layer:
    """The network that network.json in a run's folder tells, layer by layer."""
    return layers.from_plain(read_json(folder / NETWORK))


def sample_rows(y: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Rows of a stratified sample of `count` labels; -1, or more than all: all."""
    if 0 < count < len(y):
        return stratified_sample(y, count, seed)
    return np.arange(len(y))


def drawn(place: str, *given: Any, **options: Any) -> Callable[[Path], Any]:
    """A call of MODULE:FUNCTION with a path, for `draw`: all that fails, fails there.

    So does the import of matplotlib, which is slow.
    """
    return lambda path: pkgutil.resolve_name(place)(*given, path, **options)


def print_undrawn(failed: dict[str, str]) -> None:
    """Say which pictures `draw` could not draw, and why."""
    for name, why in failed.items():
        print(f"not drawn      {name}: {why}")


# ---- continued


def check_resumed(saved: TrainConfig, asked: TrainConfig, recipe: bool = False) -> None:
    """Raise if a flag beside --resume would make it another run."""
    changed = ["recipe"] * recipe + [
        name
        for name, value in vars(saved).items()
        if name not in FREE and value != getattr(asked, name)
    ]
    if changed == ["epochs"] and asked.epochs > saved.epochs:
        return
    if saved.batch_stats == "ghost" and saved.devices != asked.devices:
        changed.append("devices")
    if changed:
        flags = ", ".join(map(flag, changed))
        raise JaxnnError(
            f"--resume: {flags} would make it another run than the one to continue; "
            "only --devices, --attack-images, --keep-checkpoints and --quiet may "
            "change, and --epochs grow"
        )


def check_facts(folder: Path, e: Experiment) -> TrainConfig:
    """Raise unless config.json says of the data what it is; rounding is no edit.

    Returns:
      Its settings.
    """
    path = folder / "config.json"
    config, facts = read_config(path)[:2]
    saved = facts._asdict()
    usual = DataFacts._field_defaults  # what an earlier version did not save
    for name, value in e.facts._asdict().items():
        if name in usual and saved[name] == usual[name]:
            continue
        rounded = isinstance(value, float) and math.isclose(
            saved[name], value, rel_tol=1e-6
        )
        if saved[name] != value and not rounded:
            raise JaxnnError(
                f"--resume: {path}: network {name} is {saved[name]}, but of the data "
                f"it is {value}; it was edited, or the data is another"
            )
    return config


def finished(folder: Path, config: TrainConfig) -> dict | None:
    """result.json of the run in `folder` if nothing is left to do, else None."""
    try:
        result = read_json(folder / "result.json")
        done = result["stopped"] not in ("interrupted", "diverged")
        done &= "seconds" in result  # else it was killed while it was measured
        return result if done and result["config"]["epochs"] >= config.epochs else None
    except (JaxnnError, KeyError, TypeError):
        return None  # killed before, or while, it was written


def check_free(folder: Path) -> None:
    """Raise if another process trains the run in `folder`, before it is written to."""
    if os.path.isdir(folder / "snapshots"):
        with locked(folder / "snapshots", "run"):
            pass
