"""Continuing a run that was killed: what must be as it was, and what may change."""

import os
from pathlib import Path

from jaxnn.app.config import TrainCommand, TrainConfig
from jaxnn.app.folder import read_config
from jaxnn.app.settings import FREE, flag
from jaxnn.errors import JaxnnError
from jaxnn.files import json_line, locked, read_json, write_text


def saved_command(folder: Path) -> TrainCommand:
    """The settings of the run in `folder`, as the defaults of a command that resumes.

    Raises:
      JaxnnError: not a run folder, or one whose run never began.
    """
    if not os.path.isfile(folder / "config.json"):
        raise JaxnnError(
            f"--resume: {folder} has no config.json, so there is nothing to continue; "
            f"start the run with --out {folder}"
        )
    config, _ = read_config(folder / "config.json")
    return TrainCommand(**vars(config))


def check_resumed(
    saved: TrainCommand, asked: TrainCommand, recipe: str | None = None
) -> None:
    """Raise if a flag beside --resume would make it another run."""
    changed = ["recipe"] * (recipe is not None) + [
        name
        for name in vars(TrainConfig())
        if name not in FREE and getattr(saved, name) != getattr(asked, name)
    ]
    longer = asked.schedule == "constant" and asked.epochs > saved.epochs
    if changed == ["epochs"] and longer:
        return  # the steps so far are those of the longer run
    if saved.batch_stats == "ghost" and saved.devices != asked.devices:
        changed.append("devices")
    if changed:
        flags = ", ".join(map(flag, changed))
        raise JaxnnError(
            f"--resume: {flags} would make it another run than the one to continue; "
            "only --devices, --attack-images, --snapshots and --quiet may change, and "
            "with a constant schedule more --epochs"
        )


def finished(folder: Path, config: TrainConfig) -> dict | None:
    """result.json of the run in `folder` if nothing is left to do, else None."""
    try:
        result = read_json(folder / "result.json")
        done = result["stopped"] not in ("interrupted", "diverged")
        return result if done and result["config"]["epochs"] >= config.epochs else None
    except (JaxnnError, KeyError, TypeError):
        return None  # killed before, or while, it was written


def check_free(folder: Path) -> None:
    """Raise if another process trains the run in `folder`, before it is written to."""
    if os.path.isdir(folder / "snapshots"):
        with locked(folder / "snapshots", "run"):
            pass


def write_rows(path: Path, rows: list[dict]) -> None:
    """Write the JSON lines of `path` anew: those that the snapshot holds.

    The row of the epoch behind the snapshot, and half a line, may have been written
    before the kill, or that of its own epoch not yet.
    """
    write_text(path, "".join(map(json_line, rows)))
