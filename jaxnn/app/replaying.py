"""`jaxnn replay`: the first bad step of a run, once more, from the run's folder."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp

from jaxnn.app.config import ReplayConfig
from jaxnn.app.folder import open_run
from jaxnn.app.options import step_options
from jaxnn.errors import JaxnnError
from jaxnn.guard.finding import Finding
from jaxnn.guard.repro import replay, save_case
from jaxnn.losses import loss_by_name
from jaxnn.optimizers import optimizer_by_name
from jaxnn.train.checkpoint import load_meta
from jaxnn.train.policy import slowable
from jaxnn.train.scaling import is_half
from jaxnn.train.step import make_step

FILE = "repro.npz"


def save_findings(folder: Path, findings: Sequence[Finding], steps: int) -> None:
    """Write repro.npz for the first finding and tell it the command.

    Args:
      folder: the run's.
      findings: what the guard located.
      steps: of the whole run, which schedules need.
    """
    for finding in findings[:1]:
        if finding.case is not None:
            save_case(folder / FILE, finding.case, steps=steps)
            finding.replay = f"jaxnn replay {shlex.quote(str(folder))}"


def replay_run(config: ReplayConfig) -> Finding | None:
    """Run the bad step again and print what is found; None if it is sound now.

    Raises:
      JaxnnError: no run folder, no repro.npz in it, or damaged files.
    """
    path = config.run / FILE
    run = open_run(config.run)
    if not os.path.isfile(path):
        raise JaxnnError(
            f"{config.run} has no {FILE}: the run had no bad step that was located"
        )
    c, steps = run.config, load_meta(path).get("steps", 1)
    optimizer = optimizer_by_name(c.optimizer, c.lr, c.schedule, steps, c.weight_decay)
    if c.guard == "rollback":
        optimizer = slowable(optimizer)
    step = make_step(
        run.net,
        loss_by_name(c.loss, c.label_smoothing or 0.0),
        optimizer,
        half=is_half(jnp.dtype(c.dtype)),
        **step_options(c, run.facts.classes, steps),
    )
    finding = replay(path, step)
    if finding is None:
        print("every value of that step is finite now")
    else:
        print("\n".join(finding.lines()))
    return finding
