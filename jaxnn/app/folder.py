"""The run folder: what is in it, how it is made and read again."""

import dataclasses
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnn.app.build import DataFacts, build
from jaxnn.app.config import TrainConfig
from jaxnn.app.settings import SMALLEST, check, from_plain, must_stay
from jaxnn.data import Dataset, load
from jaxnn.errors import JaxnnError
from jaxnn.files import plain, read_json, write_json
from jaxnn.layers import Layer
from jaxnn.losses import loss_by_name
from jaxnn.optimizers import optimizer_by_name
from jaxnn.train.checkpoint import load_meta, load_params, save_params
from jaxnn.train.state import cast_floats


class Run(NamedTuple):
    """A trained network read back from its folder.

    With `config.seeds` > 1 every array of params and state has a leading axis of seeds.
    """

    folder: Path
    config: TrainConfig
    facts: DataFacts
    net: Layer
    params: Any
    state: Any


def check_new(out: Path | None) -> None:
    """Raise if `out` is no folder that a run may write to, before any work is done.

    Raises:
      JaxnnError: it exists and is not an empty folder.
    """
    if out is None or not os.path.exists(out):
        return
    if not os.path.isdir(out) or any(out.iterdir()):
        raise JaxnnError(
            f"the run folder {out} already holds files, expected a new or empty one; "
            "choose another with --out, or remove it first"
        )


def new_folder(out: Path | None, name: str) -> Path:
    """Make the folder a run writes to: `out`, or runs/NAME-DATE-TIME.

    Raises:
      JaxnnError: `out` exists and is not empty (nothing is ever overwritten), or
        cannot be made.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S")
    tries = (
        [out]
        if out
        else [
            Path("runs") / f"{name}-{stamp}{suffix}"
            for suffix in ("", "-2", "-3", "-4")
        ]
    )
    for folder in tries:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not any(folder.iterdir()):
                return folder
        except (OSError, ValueError) as error:  # ValueError: a null byte in its name
            raise JaxnnError(
                f"cannot make the run folder {str(folder)!r}: "
                f"{getattr(error, 'strerror', None) or error}; choose another with "
                "--out"
            ) from error
    raise JaxnnError(
        f"the run folder {tries[-1]} already holds files, expected a new or empty one; "
        "choose another with --out, or remove it first"
    )


@contextmanager
def fresh_folder(out: Path | None, name: str) -> Iterator[Path]:
    """The folder of `new_folder`; taken away again if an error comes before a result.

    So the corrected command finds it free. What counts as no result is the plan alone:
    config.json or sweep.json.

    Raises:
      JaxnnError: as `new_folder`.
    """
    missing = [
        p for p in ((out or Path("runs")) / "x").parents if not os.path.exists(p)
    ]
    folder = new_folder(out, name)
    try:
        yield folder
    except BaseException:
        files = [p for p in folder.rglob("*") if not p.is_dir()]
        if {p.name for p in files} <= {"config.json", "sweep.json"}:
            made = sorted((p for p in folder.rglob("*") if p.is_dir()), reverse=True)
            for path in files:
                path.unlink()
            for path in (*made, *([] if out else [folder]), *missing):
                with suppress(OSError):  # not empty: something else is in it
                    path.rmdir()
        raise


def save_config(folder: Path, config: TrainConfig, facts: DataFacts) -> None:
    """Write config.json: the settings and what the network knows of its data."""
    write_json(
        folder / "config.json",
        dataclasses.asdict(config) | {"network": facts._asdict()},
    )


def save_network(
    folder: Path, tree: Any, config: TrainConfig, facts: DataFacts
) -> None:
    """Write params.npz: parameters, state, and the settings that they belong to."""
    save_params(folder / "params.npz", tree, {"settings": _belonging(config, facts)})


def _belonging(config, facts) -> dict[str, Any]:
    """The settings that parameters belong to, as JSON gives them back."""
    stay = must_stay(config) | {f"network {k}": v for k, v in facts._asdict().items()}
    return json.loads(json.dumps(plain(stay)))


def _check_belonging(folder, config, facts, say):
    """Raise unless config.json has the settings that params.npz was saved with."""
    saved = load_meta(folder / "params.npz").get("settings")
    if saved is None:
        say(
            f"{folder / 'params.npz'} holds no settings, as of an earlier version of "
            "jaxnn: config.json is taken as it is, edited or not"
        )
        return
    here = _belonging(config, facts)
    for name in here:
        if not isinstance(saved, dict) or saved.get(name) != here[name]:
            there = saved.get(name) if isinstance(saved, dict) else saved
            raise JaxnnError(
                f"{folder / 'config.json'}: {name} is {here[name]}, but params.npz was "
                f"trained with {there}; one of the two was edited or comes from "
                "another run"
            )


def load_run(folder: str | Path, say: Callable[[str], None] = warnings.warn) -> Run:
    """Read a run folder: settings, network and parameters.

    Args:
      folder: that `jaxnn train` wrote.
      say: takes what a person should know of it, a line each.

    Raises:
      JaxnnError: not a run folder, or files missing, damaged or of another network.
    """
    folder = Path(folder)
    if not os.path.isfile(folder / "config.json"):  # which never raises
        raise JaxnnError(
            f"{folder} is not a run folder: it has no config.json; expected a folder "
            "that `jaxnn train` wrote"
        )
    config, facts = read_config(folder / "config.json")
    _check_belonging(folder, config, facts, say)
    use_dtype(config.dtype)
    net = build(config, facts)
    like = jax.eval_shape(lambda: _init(net, config, facts))
    tree = load_params(folder / "params.npz", {"params": like[0], "state": like[1]})
    return Run(folder, config, facts, net, tree["params"], tree["state"])


def open_run(folder: Path) -> Run:
    """Read a run folder for a command, which tells notes on stderr."""
    return load_run(folder, say_to_user)


def say_to_user(text: str) -> None:
    """Print a note on stderr."""
    print(f"jaxnn: note: {text}", file=sys.stderr, flush=True)


def data_of(run: Run, name: str | None) -> Dataset:
    """The data set of that name, or the run's own, if its images fit the run.

    Raises:
      JaxnnError: no such data, images of another shape, classes it does not know.
    """
    data = load(name or run.config.data, validation=0)
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
    return data


def use_dtype(dtype: str) -> Any:
    """The JAX type of that name; float64 switches JAX's 64-bit mode on."""
    if dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    return jnp.dtype(dtype)


def _init(net, config, facts):
    params, state, _ = net.init(jax.random.key(0), facts.in_shape)
    tree = cast_floats((params, state), jnp.dtype(config.dtype))
    if config.seeds == 1:
        return tree
    return jax.tree.map(lambda a: jnp.broadcast_to(a, (config.seeds, *a.shape)), tree)


def read_config(path: Path) -> tuple[TrainConfig, DataFacts]:
    """The settings and facts that `save_config` wrote.

    Raises:
      JaxnnError: missing, damaged, or something else.
    """
    settings = read_json(path)
    network = settings.pop("network", None) if isinstance(settings, dict) else None
    if not isinstance(network, dict):
        raise JaxnnError(
            f"{path} is not a jaxnn run's configuration: expected settings and network"
        )
    config = from_plain(TrainConfig, settings, str(path))
    facts = from_plain(DataFacts, network, f"{path}, network")
    with saved_in(path):
        check(config)
        # pixels go from 0 to 1, so their mean and deviation do
        if not (
            facts.in_shape
            and min((*facts.in_shape, facts.classes)) >= 1
            and 0 <= facts.mean <= 1
            and SMALLEST <= facts.std <= 1
        ):
            raise JaxnnError(
                f"network: got {facts}, expected sizes >= 1, mean and std in [0, 1]"
            )
        build(config, facts)
        loss_by_name(config.loss, config.label_smoothing or 0.0)
        optimizer_by_name(config.optimizer, config.lr, config.schedule, 1)
    return config, facts


@contextmanager
def saved_in(path: Path) -> Iterator[None]:
    """What is wrong with settings is said of the file `path` that they came from."""
    try:
        yield
    except JaxnnError as error:
        raise JaxnnError(f"{path}: {error}; it was edited or damaged") from error
