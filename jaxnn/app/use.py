"""Using a saved run: measure it again, read digits from pictures, see its bad step."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from jaxnn.app.build import build
from jaxnn.app.compile_cache import enable_compile_cache
from jaxnn.app.config import EvalConfig, PredictConfig, ReplayConfig
from jaxnn.app.folder import data_of, open_run
from jaxnn.data import read_digit
from jaxnn.errors import JaxnnError
from jaxnn.guard.report import Finding
from jaxnn.guard.repro import replay, save_case
from jaxnn.text import aligned, spread
from jaxnn.train import evaluate, make_step, predict
from jaxnn.train.checkpoint import load_meta
from jaxnn.train.loss_scale import is_half
from jaxnn.train.policy import slowable

REPRO = "repro.npz"
NAN_CAUSE = (
    "its parameters may hold NaN. Train it again, with --guard raise to see where it "
    "begins."
)


def evaluate_run(config: EvalConfig) -> dict:
    """Test loss and accuracy of a saved run on all test images; prints one line."""
    enable_compile_cache()
    run = open_run(config.run)
    data = data_of(run, config.data)
    loss = run.experiment.loss
    found = evaluate(
        run.net, run.params, run.state, *data.test, loss=loss, seeds=run.multi_seed
    )
    if bad := int((~_finite_rows(found.outputs, run.multi_seed)).sum()):
        raise JaxnnError(
            f"{run.folder}: the network's outputs are not finite for {bad:,} of "
            f"{len(data.test.y):,} test images, so it has no accuracy; {NAN_CAUSE}"
        )
    print(
        f"test accuracy  {spread(found.accuracy)}, loss {np.mean(found.loss):.4f}, on "
        f"all {len(data.test.y):,} test images of {data.name}"
    )
    accuracy = np.atleast_1d(found.accuracy).tolist()
    return {"test_accuracy": accuracy, "loss": found.loss.tolist()}


def predict_run(config: PredictConfig) -> np.ndarray:
    """Class probabilities (images, classes) of picture files; prints a table.

    Several seeds vote with the mean of their probabilities.
    """
    if not config.images:
        raise JaxnnError("predict: got no pictures; expected RUN IMAGE.png [...]")
    enable_compile_cache()
    run = open_run(config.run)
    if tuple(run.facts.in_shape) != (28, 28):
        raise JaxnnError(
            f"{run.folder} was trained on inputs {run.facts.in_shape}; pictures can be "
            "read for 28x28 networks only"
        )
    paths, pictures, bad = [], [], []
    for path in config.images:
        try:
            pictures.append(read_digit(path))
            paths.append(path)
        except JaxnnError as error:
            bad.append(str(error))
    if not pictures:
        raise JaxnnError("\n".join(bad))
    x = np.stack(pictures)
    outputs = predict(run.net, run.params, run.state, x, seeds=run.multi_seed)
    finite = _finite_rows(outputs, run.multi_seed)
    chance = np.full((len(x), outputs.shape[-1]), np.nan)
    each = run.probabilities(outputs[..., finite, :])
    chance[finite] = each.mean(0) if run.multi_seed else each
    print(_table(paths, chance))
    if not finite.all():
        bad.append(
            f"{run.folder}: the network's outputs are not finite for "
            f"{int((~finite).sum())} of these pictures; {NAN_CAUSE}"
        )
    if bad:
        raise JaxnnError("\n".join(bad))
    return chance


def _finite_rows(outputs: np.ndarray, multi_seed: bool) -> np.ndarray:
    """Which rows of (N, C), or of (S, N, C) for S seeds, are finite in every entry."""
    finite = np.isfinite(outputs)
    return np.asarray(finite.all((0, -1) if multi_seed else -1))


def _table(paths: Sequence[Path], chance: np.ndarray) -> str:
    rows = [["picture", "reads", *map(str, range(chance.shape[-1]))]]
    for path, row in zip(paths, chance, strict=True):
        finite = np.isfinite(row).all()
        shares = [f"{100 * p:.1f}%" if finite else "not finite" for p in row]
        rows.append([str(path), str(row.argmax()) if finite else "nothing", *shares])
    return aligned(rows, right=range(1, len(rows[0])))


# ---- the bad step of a run


def save_findings(folder: Path, findings: Sequence[Finding], steps: int) -> None:
    """Write repro.npz for the first finding, and tell it the command.

    Schedules need the steps of the whole run.
    """
    for finding in findings[:1]:
        if finding.case is not None:
            save_case(folder / REPRO, finding.case, steps=steps)
            finding.replay = f"jaxnn replay {shlex.quote(str(folder))}"


def replay_run(config: ReplayConfig) -> Finding | None:
    """Run the bad step again and print what is found; None if all is finite now."""
    path = config.run / REPRO
    run = open_run(config.run)
    if not os.path.isfile(path):
        raise JaxnnError(
            f"{config.run} has no {REPRO}: the run had no bad step that was located"
        )
    e = build(run.config, run.facts, steps=load_meta(path).get("steps", 1))
    rollback = e.config.guard == "rollback"
    finding = replay(path, make_step(
        e.net, e.loss, slowable(e.optimizer) if rollback else e.optimizer,
        half=is_half(jnp.dtype(e.config.dtype)), **e.options,
    ))  # fmt: skip
    finite = ["every value of that step is finite now"]
    print("\n".join(finding.lines() if finding else finite))
    return finding
