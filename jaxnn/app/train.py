"""`jaxnn train`: train, test, compare gradients, attack, and show it all."""

import sys
import time
import zlib
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn import __version__
from jaxnn.app.build import Experiment, build_for_data, check_experiment
from jaxnn.app.checks import check, must_stay
from jaxnn.app.compile_cache import enable_compile_cache
from jaxnn.app.config import EPSILON, TrainCommand, TrainConfig
from jaxnn.app.folder import (
    check_free,
    finished,
    fresh_folder,
    note,
    print_undrawn,
    sample_rows,
    save_config,
    save_network,
    use_dtype,
)
from jaxnn.app.settings import resolved
from jaxnn.app.use import save_findings
from jaxnn.attacks import Classifier
from jaxnn.check import compare_gradients
from jaxnn.costs import count_parameters, summary
from jaxnn.data import unit_images
from jaxnn.defenses import find_collapse
from jaxnn.distributed.mesh import DataParallel, same_everywhere
from jaxnn.distributed.processes import distributed_run
from jaxnn.environment import Processes, device, surroundings
from jaxnn.errors import JaxnnError
from jaxnn.files import append_line, draw, json_line, plain, write_json, write_text
from jaxnn.robustness.threat import Threat
from jaxnn.robustness.worst import worst_case
from jaxnn.train import Snapshots, TrainingError, describe, evaluate, fit
from jaxnn.train.defense import standard_training

STEPS = 40  # of PGD in the report
ALONE = Processes(detect=False)


def train_command(command: TrainCommand, started: float) -> dict:
    """Do what `jaxnn train` was asked for; see `train_run`."""
    settings = vars(command).copy()
    resume, ranks = settings.pop("resume"), settings.pop("ranks")
    return train_run(TrainConfig(**settings), started, ranks, resume)


def train_run(
    config: TrainConfig,
    started: float | None = None,
    ranks: Processes = ALONE,
    resume: Path | None = None,
) -> dict:
    """Do the main job and write the run folder.

    Args:
      config: the settings.
      started: `time.perf_counter()` when the program began, for the times reported;
        None is now.
      ranks: which of several processes this is; all but the first only train.
      resume: run folder to continue, written with the same `config`.

    Returns:
      What result.json holds, and `folder`.

    Raises:
      JaxnnError: bad settings or data; then nothing is left behind.
      TrainingError: training diverged, or ended with what is not finite; what was
        learned until then is in the folder.
    """
    started = time.perf_counter() if started is None else started
    imported = time.perf_counter()
    check(config)
    config = resolved(config)
    use_dtype(config.dtype)
    if resume is not None and (done := finished(resume, config)) is not None:
        print(f"nothing to do: {resume} is finished (see {resume / 'report.md'})")
        if done.get("problems"):
            raise _failed(done["problems"])
        return done | {"folder": str(resume)}
    with distributed_run(ranks, config.devices) as mesh:
        first = jax.process_index() == 0 if mesh else True
        enable_compile_cache()
        e = build_for_data(config)
        check_experiment(e)
        if mesh is not None:
            DataParallel(mesh, config.batch)  # is checked before any file
        log = (lambda *_: None) if config.quiet or not first else print
        table = summary(e.net, e.facts.in_shape, batch=None)
        new = fresh_folder(config.out, Path(e.data.name).name)
        with new if first and resume is None else nullcontext(resume) as folder:
            if first and folder is not None:
                check_free(folder)
                save_config(folder, e)
            log(f"{_heading(e, mesh)}\n{table}\n")
            history, trouble = train_in(folder, e, mesh, resume is not None)
    if not first:
        return {"stopped": history.stopped, "folder": None}
    assert folder is not None  # the first process has made it
    seconds = {
        "import": imported - started,
        "compile": history.seconds["compile"],
        "train": history.seconds["train"],
        "to_first_step": history.seconds["first_step_at"] - started,
    }
    result, trained = _measure(folder, e, history, trouble, table, log)
    _write(folder, result, seconds, started)
    result["not_drawn"] = draw(folder, trained.pictures())
    from jaxnn.app.report import write_report

    result["not_drawn"] |= draw(
        folder, {"report.md": lambda _: write_report(folder, result)}
    )
    _write(folder, result, seconds, started)
    print_undrawn(result["not_drawn"])
    took = result["seconds"]
    log(
        f"time           {took['total']:.1f} s: import {took['import']:.1f}, compile "
        f"{took['compile']:.1f}, train {took['train']:.1f}"
    )
    print(f"saved to       {folder}  (start with {folder / 'report.md'})")
    if trouble is None and result["problems"]:
        trouble = _failed(result["problems"], history)
    if trouble is not None:
        raise trouble
    return result | {"folder": str(folder)}


def _measure(folder, e, history, trouble, table, log) -> tuple[dict, "Trained"]:
    """Save the network and measure it, as far as training went well."""
    save_findings(folder, history.findings, e.steps)
    if history.findings and trouble is not None:
        trouble.add_note(f"see it again: {history.findings[0].replay}")
    save_network(folder, {"params": history.params, "state": history.state}, e)
    trained = Trained(e, history)
    result = trained.describe(table) | trained.test() | trained.problems()
    if history.findings and trouble is None:
        print("\n".join(result["guard"]["report"]))
    print(_accuracy_lines(result))
    if trouble or result["problems"] or history.stopped == "interrupted":
        return result, trained
    result["gradients"] = trained.compare()
    log("gradients " + result["gradients"]["line"])
    if e.config.attack_images:
        result["adversarial"] = trained.attack()
        log("adversarial accuracy: " + _attack_line(result))
        if result["adversarial"]["note"]:
            log("               " + result["adversarial"]["note"])
    result["collapse"] = collapses(e, trained.outputs, result["adversarial"])
    for line in result["collapse"]:
        print(f"COLLAPSED      {line}")
    return result, trained


def _write(folder, result, seconds, started):
    """result.json, with the time until now; before anything is drawn, and after."""
    seconds = seconds | {"total": time.perf_counter() - started}
    result["seconds"] = {k: round(v, 3) for k, v in seconds.items()}
    write_json(folder / "result.json", result)


def _failed(problems, history=None) -> TrainingError:
    error = TrainingError("; ".join(problems))
    error.history = history
    return error


# ---- training


def train_in(folder, e: Experiment, mesh=None, resume: bool = False):
    """Train and keep the run in `folder`.

    With several processes all but the first write and print nothing.

    Returns:
      (history, None), or (history so far, the error) if training diverged.
    """
    c, first = e.config, mesh is None or jax.process_index() == 0
    terminal = sys.stderr.isatty() and not c.quiet and first
    if mesh is not None:
        _check_same(e)

    def on_epoch(row):
        if not first:
            return
        append_line(folder / "metrics.jsonl", row)
        if not terminal and not c.quiet:
            print(f"epoch {row['epoch']:>3}/{c.epochs}  {describe(row)}")

    try:
        return fit(
            e.net,
            e.data.train,
            validation=e.data.validation if len(e.data.validation.x) else None,
            loss=e.loss,
            optimizer=e.optimizer,
            epochs=c.epochs,
            batch=c.batch,
            seeds=list(range(c.seed, c.seed + c.seeds)) if c.seeds > 1 else c.seed,
            shuffle=c.shuffle,
            **e.options,
            class_weights="balanced" if c.class_weights == "balanced" else None,
            patience=c.patience,
            keep=c.keep,
            guard=c.guard,
            dtype=jnp.dtype(c.dtype),
            progress=terminal,
            on_epoch=on_epoch,
            steps_per_call=c.checkpoint_steps,
            mesh=mesh,
            snapshots=_snapshots(folder, c, resume, first),
        ), None
    except TrainingError as error:
        return error.history, error


def _snapshots(folder, config, resume, first):
    """Where the run is kept, and brought back from, or None if it is not."""
    if folder is None or not (config.keep_checkpoints or resume):
        return None

    def restore_metrics(rows):
        """The snapshot's rows: one more, or half a line, may have been written."""
        write_text(folder / "metrics.jsonl", "".join(map(json_line, rows)))
        if snapshots.newest() is None:  # told here, when every check has passed
            where = snapshots.folder
            note(f"no snapshot in {where}: training starts from the beginning")

    snapshots = Snapshots(
        folder / "snapshots", max(config.keep_checkpoints, 1), config.checkpoint_steps,
        resume, must_stay(config), restore_metrics if first else None,
        say=note if first else lambda text: None,
    )  # fmt: skip
    return snapshots


def _check_same(e):
    """All processes must be started with the same settings and data."""
    crc = zlib.crc32(repr(replace(e.config, out=None, quiet=False)).encode())
    for a in (e.data.train.x, e.data.train.y, e.data.validation.x):
        crc = zlib.crc32(np.ascontiguousarray(a).data, crc)
    if not same_everywhere(crc & 0x7FFFFFFF):
        raise JaxnnError(
            "several processes: they were started with different settings or data; "
            "give all the same flags but for --process, --local-device-ids, --out and "
            "--quiet"
        )


# ---- what has become of it


class Trained:
    """A trained experiment; each method measures a part of the result."""

    def __init__(self, e: Experiment, history: Any):
        self.e, self.history, self.multi_seed = e, history, e.config.seeds > 1

    def member(self, tree: Any, i: int) -> Any:
        """The i-th seed's part of a tree."""
        return jax.tree.map(lambda a: a[i], tree) if self.multi_seed else tree

    def describe(self, table: str) -> dict[str, Any]:
        """What was trained, where, and what the guard did."""
        history, config = self.history, self.e.config
        bad = np.asarray(history.last.skipped)
        return {
            "epochs": len(history.epochs),
            "best_epoch": history.best_epoch,
            "stopped": history.stopped,
            "parameters": count_parameters(self.member(history.params, 0)),
            "guard": {
                "policy": config.guard,
                "findings": [finding.to_json() for finding in history.findings],
                "report": [line for f in history.findings for line in f.lines()],
            },
            "steps_skipped": (bad * (config.guard != "off")).tolist(),
            "steps_bad": bad.tolist(),
            "gradients": None,
            "adversarial": None,
            "config": plain(vars(config)),
            "network": self.e.facts._asdict(),
            "summary": table,
        } | surroundings()

    def test(self) -> dict[str, Any]:
        """Measure accuracy on all test images, once."""
        found = evaluate(
            self.e.net, self.history.params, self.history.state, *self.e.data.test,
            loss=self.e.loss, seeds=self.multi_seed,
        )  # fmt: skip
        self.outputs = found.outputs if self.multi_seed else found.outputs[None]
        accuracy = np.atleast_1d(found.accuracy)
        return {
            "test_accuracy": accuracy.tolist(),
            "mean": float(accuracy.mean()),
            "std": float(accuracy.std(ddof=1)) if len(accuracy) > 1 else 0.0,
            "n": len(accuracy),
            "test_images": len(self.e.data.test.y),
            "test_loss": np.atleast_1d(found.loss).tolist(),
        }

    def problems(self) -> dict[str, Any]:
        """Say what makes the result worthless."""
        config, last, said, finite = self.e.config, self.history.last, [], True
        tried = np.broadcast_to(last.step, (config.seeds,))
        bad = np.broadcast_to(last.skipped, (config.seeds,))
        for i, outputs in enumerate(self.outputs):
            of_seed = f"seed {config.seed + i}: " if self.multi_seed else ""
            end = jax.tree.leaves(self.member(last.params, i))
            lost = sum(int((~np.isfinite(np.asarray(a, float))).sum()) for a in end)
            # -inf is the log of no chance
            images = int((np.isnan(outputs) | np.isposinf(outputs)).any(-1).sum())
            if lost or images:
                finite = False
                said.append(
                    f"{of_seed}not finite: {lost:,} of {sum(a.size for a in end):,} "
                    f"parameters at the end, and the outputs of those kept for "
                    f"{images:,} of {len(outputs):,} test images"
                )
            elif config.guard != "off" and tried[i] and bad[i] == tried[i]:
                said.append(
                    f"{of_seed}not trained: each of the {tried[i]:,} steps was bad and "
                    "left out; these are the initial parameters"
                )
        return {"problems": said, "finite": finite}

    def compare(self) -> dict[str, Any]:
        """Compare hand-written with automatic gradients of the first seed's network."""
        e, train = self.e, self.e.data.train
        report = compare_gradients(
            e.net,
            e.loss,
            self.member(self.history.params, 0),
            self.member(self.history.state, 0),
            train.x[: e.config.batch],
            train.y[: e.config.batch],
            key=jax.random.key(e.config.seed),
            penalty=e.options["penalty"],
            audit=False,  # layer by layer if they differ; `jaxnn compare` always
        )
        largest = {
            f"{dtype}_max_relative": report.max_relative(dtype)
            for dtype in ("float32", "float64")
        }
        return largest | report.to_json() | {"line": report.line()}

    def attack(self) -> dict[str, Any]:
        """Measure the worst case on test images, every seed on the same ones."""
        c, test = self.e.config, self.e.data.test
        rows = sample_rows(test.y, c.attack_images or -1, c.seed)
        x, y, threat = unit_images(test.x[rows]), test.y[rows], threat_of(c)
        keys, right = attack_keys(threat.epsilon), {}
        for i in range(c.seeds):
            params, state = self.history.params, self.history.state
            model = Classifier(
                self.e.net, self.member(params, i), self.member(state, i)
            )
            key = jax.random.key(c.seed)
            found = worst_case(model, x, y, threat=threat, key=key)
            for name, stands in zip(keys, found.correct.values(), strict=True):
                right.setdefault(name, []).append(float(stands.mean()))
            right.setdefault("worst", []).append(float(found.stands.mean()))
            right.setdefault("not_attacked", []).append(int(found.not_attacked.sum()))
            if i == 0:
                x_adv = found.x_adv[f"PGD-{STEPS}"]
                self.attacked = rows, x, y, x_adv, model.outputs(x_adv)
        gap = float(np.mean(right[keys[0]]) - np.mean(right["worst"]))
        flatters = (
            f"FGSM overstates accuracy by {100 * gap:.0f} points: one step is a weak "
            "attack on this network, and only the stronger one counts"
        )
        return {
            name: each if self.multi_seed else each[0] for name, each in right.items()
        } | {
            "images": len(rows),
            "sample": "all" if len(rows) == len(test.y) else "seeded stratified sample",
            "norm": "linf", "epsilon": threat.epsilon, "box": [0, 1],
            "steps": STEPS, "step_size": 2.5 * threat.epsilon / STEPS,
            "losses": ["cross-entropy", "margin"], "seed": c.seed,
            "note": flatters if gap > 0.15 else None,  # 15 points is the custom
        }  # fmt: skip

    def pictures(self) -> dict[str, Any]:
        """Name -> function that draws to a path; the first seed's, of several."""
        data, c = self.e.data, self.e.config
        test, loss = data.test, self.e.loss
        chance = loss.as_probabilities(self.outputs[0])
        found = {
            "curves.png": lambda path: _plots().curves(self.history.epochs, path),
            "confusion.png": lambda path: _plots().confusion(
                test.y, chance.argmax(-1), data.classes, path
            ),
            "mistakes.png": lambda path: _plots().mistakes(
                test.x, test.y, chance, path
            ),
        }
        if hasattr(self, "attacked"):
            rows, x, y, x_adv, outputs = self.attacked
            found["adversarial.png"] = lambda path: _plots().adversarial(
                x, x_adv, y, chance[rows], loss.as_probabilities(outputs),
                threat_of(c).epsilon, path, count=10, attack=f"PGD, {STEPS} steps",
            )  # fmt: skip
        return found


def _plots():
    from jaxnn import plots  # slow to import, and may fail: within `draw` only

    return plots


def threat_of(config: TrainConfig) -> Threat:
    """What the report attacks with: the budget the run was trained for, or 0.1."""
    return Threat("linf", config.epsilon or EPSILON).checked()


def attack_keys(epsilon: float) -> tuple[str, str, str]:
    """What result.json calls the three attacks of `worst_case`."""
    at = f"_{epsilon:g}"
    return f"fgsm{at}", f"pgd{STEPS}{at}", f"margin_pgd{STEPS}{at}"


def collapses(
    e: Experiment, all_outputs: np.ndarray, adversarial: dict | None
) -> list[str]:
    """Whether training collapsed, seed by seed, in words; [] if none did."""
    c = e.config
    one, many, _ = attack_keys(threat_of(c).epsilon)
    pairs = (adversarial[one], adversarial[many]) if adversarial else (None, None)
    said = []
    for i, outputs in enumerate(all_outputs):
        weak, strong = (a[i] if isinstance(a, list) else a for a in pairs)
        found = find_collapse(
            outputs, e.data.test.y, defense=e.options["defense"] or standard_training,
            one_step=weak, many_steps=strong,
        )  # fmt: skip
        if found is not None:
            of_seed = f"seed {c.seed + i}: " if c.seeds > 1 else ""
            said.append(f"{of_seed}{found.kind}: {found.message}")
    return said


# ---- what a run prints


def _heading(e, mesh) -> str:
    """Versions, data and plan of the run, before it begins."""
    c, data = e.config, e.data
    spread = f", on {mesh.size} devices" if mesh is not None else ""
    if mesh is not None and (count := jax.process_count()) > 1:
        spread += f" of {count} processes"
    size = "x".join(map(str, e.facts.in_shape))
    seeds = f", {c.seeds} seeds side by side" if c.seeds > 1 else ""
    return (
        f"jaxnn {__version__}, jax {jax.__version__} on {device()}\n"
        f"data           {data.name}: {len(data.train.x):,} training, "
        f"{len(data.validation.x):,} validation, {len(data.test.x):,} test images "
        f"{size}, {data.classes} classes\n"
        f"training       {c.epochs} epochs of {len(data.train.x) // c.batch} steps, "
        f"batch {c.batch}, {c.optimizer}, lr {c.lr:g}, {c.schedule} schedule{seeds}"
        f"{spread}\n"
    )


def _accuracy_lines(result) -> str:
    """The test accuracy and which parameters it is of; what spoils it comes first."""
    lines = [f"FAILED         {problem}" for problem in result["problems"]]
    n, config = result["n"], result["config"]
    seeds = f" +- {100 * result['std']:.2f} ({n} seeds)" if n > 1 else ""
    epochs = sorted(set(np.atleast_1d(result["best_epoch"]).tolist()))
    which = f"of epoch {epochs[0]}" if len(epochs) == 1 else f"of epochs {epochs}"
    selected = config["validation"] and config["keep"] == "best"
    chosen = ", best on validation" if selected else ""
    stopped = "" if result["stopped"] == "finished" else f"; {result['stopped']}"
    lines.append(
        f"test accuracy  {100 * result['mean']:.2f}%{seeds} of all "
        f"{result['test_images']:,} test images (parameters {which}{chosen}{stopped})"
    )
    return "\n".join(lines)


def _attack_line(result) -> str:
    """Accuracy under attack, with the threat model and the images in numbers."""
    found, total = result["adversarial"], result["test_images"]
    steps, epsilon = found["steps"], found["epsilon"]
    sample = (
        f"all {total:,} test images"
        if found["sample"] == "all"
        else f"a {found['sample']} of {found['images']:,} of {total:,} test images"
    )
    fgsm, pgd, margin, worst = (
        f"{100 * np.mean(found[key]):.1f}%" for key in (*attack_keys(epsilon), "worst")
    )
    lost = np.sum(found["not_attacked"])
    lost = f"; {lost:,} NOT ATTACKED, their gradient is NaN" if lost else ""
    return (
        f"FGSM {fgsm}, PGD-{steps} {pgd}, on the margin {margin}, worst case {worst} "
        f"(every pixel within {epsilon:g} of [0, 1], {sample}){lost}"
    )
