"""Using a saved run: measure it again, have it read pictures, see its bad step."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from jaxnn.app.build import DataFacts, build
from jaxnn.app.compile_cache import enable_compile_cache
from jaxnn.app.config import EvalConfig, PredictConfig, ReplayConfig
from jaxnn.app.folder import data_of, open_run
from jaxnn.data.digit_image import MNIST, Marks, ground_of, read_mark
from jaxnn.data.picture import ENDINGS, read_whole
from jaxnn.errors import JaxnnError
from jaxnn.guard.report import Finding
from jaxnn.guard.repro import replay, save_case
from jaxnn.text import aligned, spread
from jaxnn.train import evaluate, make_step, predict
from jaxnn.train.checkpoint import load_meta
from jaxnn.train.loss_scale import is_half
from jaxnn.train.policy import slowable

REPRO = "repro.npz"
LEAD = 0.3  # probability by which the likeliest class leads where it is sure
MANY, FEW = 10, 3  # classes up to which all are shown, and how many else
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
    paths, pictures, bad, said = [], [], [], []
    found = {given: _files(given) for given in config.images}
    empty = [path for path, inside in found.items() if not inside]
    bad += [f"{path}: got a folder without pictures, expected some" for path in empty]
    for path in (p for given in config.images for p in found[given]):
        try:
            picture, words = _read(path, run.facts)
        except JaxnnError as error:
            bad.append(str(error))
            continue
        pictures.append(picture)
        paths.append(path)
        said += [f"{path}: {words}"] if words else []
    if not pictures:
        raise JaxnnError("\n".join(bad))
    x = np.stack(pictures)
    outputs = predict(run.net, run.params, run.state, x, seeds=run.multi_seed)
    finite = _finite_rows(outputs, run.multi_seed)
    chance = np.full((len(x), outputs.shape[-1]), np.nan)
    each = run.probabilities(outputs[..., finite, :])
    chance[finite] = each.mean(0) if run.multi_seed else each
    names = run.facts.names or tuple(map(str, range(chance.shape[-1])))
    print(_table(paths, chance, names))
    for line in said + _unsure(paths, chance, names):
        print(f"take care      {line}")
    if run.multi_seed:
        print(f"of             {run.config.seeds} networks, whose mean this is")
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


def _files(path: Path) -> list[Path]:
    """The picture, or the pictures in a folder and those in it."""
    if not os.path.isdir(path):
        return [path]
    return [p for p in sorted(path.rglob("*")) if p.suffix.lower() in ENDINGS]


def _read(path: Path, facts: DataFacts) -> tuple[np.ndarray, str]:
    """A picture as the network's images are, and what is to be said of it."""
    shape, marks = tuple(facts.in_shape), facts.marks
    if marks is None and shape == (28, 28):  # of an earlier version: digits
        marks = MNIST
    if marks:
        picture, two = read_mark(path, shape[0], Marks(*marks))
        return picture, "two marks, far apart; expected one" if two else ""
    if len(shape) not in (2, 3) or shape[2:] not in ((), (1,), (3,)) or 1 in shape[:2]:
        raise JaxnnError(
            f"{path}: the network takes {shape}, expected one of pictures: (H, W), "
            "(H, W, 1) or, in color, (H, W, 3)"
        )
    picture = read_whole(path, shape[:2] if shape[2:] == (1,) else shape)
    words = ""
    if len(shape) == 2 and facts.ground is not None:
        ground = ground_of(picture[None])
        if ground is not None and abs(ground - facts.ground) > 128:
            picture, words = 255 - picture, "dark and bright exchanged, as in training"
    return picture.reshape(shape), words


def _unsure(paths, chance, names) -> list[str]:
    """Words on pictures whose likeliest class is not `LEAD` ahead of the next."""
    said = []
    for path, row in zip(paths, chance, strict=True):
        second, first = np.argsort(row)[-2:]
        if row[first] - row[second] < LEAD:  # not where it is NaN
            each = (f"{names[i]} {100 * row[i]:.0f}%" for i in (first, second))
            said.append(
                f"{path}: unsure, {' and '.join(each)}, less than {100 * LEAD:.0f} "
                "points apart"
            )
    return said


def _table(paths: Sequence[Path], chance: np.ndarray, names: Sequence[str]) -> str:
    """A row a picture: all classes, of more than `MANY` the likeliest `FEW`."""
    many = len(names) > MANY
    head = [f"{i}." for i in range(1, FEW + 1)] if many else list(names)
    rows = [["picture", "reads", *head]]
    for path, row in zip(paths, chance, strict=True):
        finite = np.isfinite(row).all()
        shares = [f"{100 * p:.1f}%" if finite else "not finite" for p in row]
        if many:
            best = np.argsort(-row, kind="stable")[:FEW]
            shares = [f"{names[i]} {shares[i]}" for i in best]
        rows.append([str(path), names[row.argmax()] if finite else "nothing", *shares])
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
