"""The run folder: what is in it, how it is made and read again."""

import dataclasses
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnn.config import TrainConfig
from jaxnn.errors import JaxnnError
from jaxnn.files import read_json, write_json
from jaxnn.layers import Layer
from jaxnn.models import DataFacts, build
from jaxnn.train.checkpoint import load_params
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


def save_config(folder: Path, config: TrainConfig, facts: DataFacts) -> None:
    """Write config.json: the settings and what the network knows of its data."""
    settings = {k: _jsonable(v) for k, v in dataclasses.asdict(config).items()}
    write_json(folder / "config.json", settings | {"network": facts._asdict()})


def load_run(folder: str | Path) -> Run:
    """Read a run folder: settings, network and parameters.

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
    use_dtype(config.dtype)
    net = build(config, facts)
    like = jax.eval_shape(lambda: _init(net, config, facts))
    tree = load_params(folder / "params.npz", {"params": like[0], "state": like[1]})
    return Run(folder, config, facts, net, tree["params"], tree["state"])


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
    try:
        network = settings.pop("network")
        facts = DataFacts(**network)._replace(in_shape=tuple(network["in_shape"]))
        settings["layers"] = tuple(settings["layers"])
        settings["out"] = Path(settings["out"]) if settings.get("out") else None
        known = {f.name for f in dataclasses.fields(TrainConfig)}
        return TrainConfig(**{k: v for k, v in settings.items() if k in known}), facts
    except (KeyError, TypeError, AttributeError) as error:
        raise JaxnnError(
            f"{path} is not a jaxnn run's configuration: {error}"
        ) from error


def _jsonable(value):
    return str(value) if isinstance(value, Path) else value
