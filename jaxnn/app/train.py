"""`jaxnn train`: train, test, compare gradients, attack, and show it all."""

import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn import __version__, programs
from jaxnn.app import report
from jaxnn.app.build import Experiment, build, check_experiment, facts_of, load_for
from jaxnn.app.checks import check, must_stay
from jaxnn.app.compile_cache import enable_compile_cache
from jaxnn.app.config import SAVED, TrainCommand, TrainConfig
from jaxnn.app.folder import (
    check_facts,
    check_free,
    finished,
    fresh_folder,
    print_undrawn,
    save_config,
    save_network,
    saved_network,
    shapes_of,
    use_dtype,
)
from jaxnn.app.settings import as_command, given, resolved
from jaxnn.app.streams import note
from jaxnn.app.trained import Trained, accuracy_lines, attack_line, collapses
from jaxnn.app.use import save_findings
from jaxnn.costs import summary
from jaxnn.distributed.mesh import DataParallel, same_everywhere
from jaxnn.distributed.processes import distributed_run
from jaxnn.environment import device, warn_if_idle
from jaxnn.errors import JaxnnError
from jaxnn.files import append_line, draw, json_line, write_json, write_text
from jaxnn.optimizers import SCHEDULES
from jaxnn.train import History, Snapshots, TrainingError, describe, fit
from jaxnn.train.state import cast_floats

TRAIN_SAMPLE = 1000  # training images measured after each epoch, beside validation


def train_run(asked: TrainConfig, started: float | None = None) -> dict:
    """Do the main job and write the run folder.

    Args:
      asked: the settings; a `TrainCommand` also says which of several processes this is
        (all but the first only train), and what to go on or start from.
      started: `time.perf_counter()` when the program began; None is now.

    Returns:
      What result.json holds.

    Raises:
      JaxnnError: bad settings or data; then nothing is left behind.
      TrainingError: training diverged, or ended with what is not finite; what was
        learned until then is in the folder.
    """
    started = time.perf_counter() if started is None else started
    imported = time.perf_counter()
    check(asked)
    own = {field.name: getattr(asked, field.name) for field in fields(TrainConfig)}
    plain = TrainConfig(**own)
    if not isinstance(asked, TrainCommand):
        asked = TrainCommand(**own, detect=False)
    resume, start = asked.resume, asked.from_
    if resume is not None and start is not None:
        raise JaxnnError("--from and --resume: got both, expected one of them")
    more = {name: v for name in ("from_", "freeze") if (v := getattr(asked, name))}
    command = as_command("train", given(plain) | more)
    config = resolved(plain)
    use_dtype(config.dtype)
    if resume is not None and (done := finished(resume, config)) is not None:
        print(f"nothing to do: {resume} is finished (see {resume / 'report.md'})")
        if done.get("problems"):
            raise _failed(done["problems"])
        return done
    with distributed_run(asked, config.devices) as mesh:
        first = mesh is None or jax.process_index() == 0
        enable_compile_cache()
        e, begin = _experiment(plain, asked)  # what starts has other usual settings
        before = check_facts(resume, e).epochs if resume is not None else config.epochs
        if mesh is not None:
            DataParallel(mesh, config.batch)  # is checked before any file
        log = (lambda *_: None) if config.quiet or not first else print
        table = summary(e.net, e.facts.in_shape, batch=None)
        new = fresh_folder(config.out, Path(e.data.name).name)
        with new if first and resume is None else nullcontext(resume) as folder:
            if first and folder is not None:
                check_free(folder)
                save_config(folder, e)
            log(f"{_heading(e, mesh)}{_longer(e, before)}\n{table}\n")
            alone = mesh is None and config.devices is None
            if first:
                warn_if_idle(1 if alone else None)
            with ThreadPoolExecutor(1) as beside:
                if first:
                    beside.submit(_rehearse, e)
                history, trouble = train_in(folder, e, mesh, resume is not None, begin)
    if not first:
        return {"stopped": history.stopped}
    assert folder is not None  # the first process has made it
    result, trained = _measure(folder, e, history, trouble, table, log)
    result |= {"command": command} | ({"from": str(start)} if start else {})
    _keep(folder, result, trained, started, imported, log)
    if trouble is None and result["problems"]:
        trouble = _failed(result["problems"], history)
    if trouble is not None:
        raise trouble
    return result


def _experiment(config, asked) -> tuple[Experiment, Any]:
    """What is trained, found right, and the (params, state) it starts from, if any."""
    data = load_for(config)
    facts, net, begin = facts_of(data), None, None
    if asked.from_ is not None:
        from jaxnn.app.start import start_from  # with importers of all kinds

        config, found = start_from(asked.from_, asked.freeze, config, facts)
        net, begin = found.net, (found.params, found.state)
        if config.seeds > 1:
            begin = jax.tree.map(lambda a: jnp.stack([a] * config.seeds), begin)
    elif asked.resume is not None and config.model == SAVED:
        net = saved_network(asked.resume)
    e = build(config, facts, data, net=net)
    check_experiment(e)
    return e, begin


def _longer(e, before) -> str:
    """How the learning rate goes on in a run that is made longer; "" if it is not."""
    c, schedule = e.config, SCHEDULES[e.config.schedule]
    if c.epochs <= before or c.schedule == "constant":
        return ""
    at = e.steps * before // c.epochs
    new, old = (float(schedule(c.lr, n)(at)) for n in (e.steps, at))
    return (
        f"schedule       {c.schedule}, now over all {c.epochs} epochs: it goes on from "
        f"epoch {before} with a rate of {new:.3g}, where it had ended at {old:.3g}\n"
    )


def _keep(folder, result, trained, started, imported, log):
    """Write result.json, before the last picture is drawn and after, and the page."""

    def write():
        times = trained.history.seconds
        seconds = {
            "import": imported - started, "compile": times["compile"],
            "train": times["train"], "to_first_step": times["first_step_at"] - started,
            "total": time.perf_counter() - started,
        }  # fmt: skip
        result["seconds"] = {k: round(v, 3) for k, v in seconds.items()}
        write_json(folder / "result.json", result)

    write()
    result["not_drawn"] |= draw(folder, trained.attack_picture())
    page = {"report.md": lambda _: report.write_report(folder, result)}
    result["not_drawn"] |= draw(folder, page)
    write()
    print_undrawn(result["not_drawn"])
    log(
        "time           {total:.1f} s: import {import:.1f}, compile {compile:.1f}, "
        "train {train:.1f}".format(**result["seconds"])
    )
    print(f"saved to       {folder}  (start with {folder / 'report.md'})")


def _rehearse(e: Experiment) -> None:
    """Compile what the trained network is measured by, while it is trained."""
    seeds = (e.config.seeds,) if e.config.seeds > 1 else ()
    dtype = "float32" if e.config.dtype == "float16" else e.config.dtype
    zeros = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), shapes_of(e, *seeds))
    zeros = cast_floats(zeros, jnp.dtype(dtype))
    # what fails here fails again, and is told, when its turn comes
    with suppress(Exception), programs.rehearsal():
        unknown: Any = None
        trained = Trained(e, History(**zeros, last=unknown, best_epoch=0))
        trained.test()
        if e.config.attack_images:
            trained.attack()
        import jaxnn.plots  # noqa: F401

        # kept on disk: what compares is made anew for each comparison
        for dtype in ("float64", "float32"):
            trained.comparison().both_ways(dtype)


def _measure(folder, e, history, trouble, table, log) -> tuple[dict, Trained]:
    """Save the network and measure it, as far as training went well."""
    save_findings(folder, history.findings, e.steps)
    if history.findings and trouble is not None:
        trouble.add_note(f"see it again: {history.findings[0].replay}")
    save_network(folder, {"params": history.params, "state": history.state}, e)
    trained = Trained(e, history)
    result = trained.describe(table) | trained.test() | trained.problems()
    if history.findings and trouble is None:
        print("\n".join(result["guard"]["report"]))
    print(accuracy_lines(result))
    write_json(folder / "result.json", result)  # without its times: not finished
    pictures = partial(draw, folder, trained.pictures())
    if trouble or result["problems"] or history.stopped == "interrupted":
        return result | {"not_drawn": pictures()}, trained
    with ThreadPoolExecutor(2) as beside:  # one core's work each
        compared, undrawn = beside.submit(trained.compare), beside.submit(pictures)
        attacked = trained.attack() if e.config.attack_images else None
    result["gradients"], result["not_drawn"] = compared.result(), undrawn.result()
    log("gradients " + result["gradients"]["line"])
    if attacked is not None:
        result["adversarial"] = attacked
        log("adversarial accuracy: " + attack_line(result))
        if result["adversarial"]["note"]:
            log("               " + result["adversarial"]["note"])
    result["collapse"] = collapses(e, trained.outputs, result["adversarial"])
    for line in result["collapse"]:
        print(f"COLLAPSED      {line}")
    return result, trained


def _failed(problems, history=None) -> TrainingError:
    error = TrainingError("; ".join(problems))
    error.history = history
    return error


# ---- training


def train_in(folder, e: Experiment, mesh=None, resume: bool = False, start=None):
    """Train and keep the run in `folder`; of several processes the first writes.

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
            e.net, e.data.train, loss=e.loss, optimizer=e.optimizer, epochs=c.epochs,
            validation=e.data.validation if len(e.data.validation.x) else None,
            batch=c.batch, shuffle=c.shuffle, patience=c.patience, keep=c.keep,
            guard=c.guard, dtype=jnp.dtype(c.dtype), mesh=mesh, **e.options,
            seeds=list(range(c.seed, c.seed + c.seeds)) if c.seeds > 1 else c.seed,
            class_weights="balanced" if c.class_weights == "balanced" else None,
            steps_per_call=c.checkpoint_steps, progress=terminal, on_epoch=on_epoch,
            snapshots=_snapshots(folder, c, resume, first), start=start,
            train_sample=TRAIN_SAMPLE,
        ), None  # fmt: skip
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
        log=note if first else lambda text: None,
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


def _heading(e, mesh) -> str:
    """Versions, data and plan of the run, before it begins."""
    c, data = e.config, e.data
    spread = f", on {mesh.size} devices" if mesh is not None else ""
    if mesh is not None and (count := jax.process_count()) > 1:
        spread += f" of {count} processes"
    size = "x".join(map(str, e.facts.in_shape))
    seeds = f", {c.seeds} seeds side by side" if c.seeds > 1 else ""
    measured = min(TRAIN_SAMPLE, len(data.train.x))
    if c.precision != "float32":
        seeds += f", products in {c.precision}"
    return (
        f"jaxnn {__version__}, jax {jax.__version__} on {device()}\n"
        f"data           {data.name}: {len(data.train.x):,} training ({measured:,} of "
        f"them measured after each epoch), {len(data.validation.x):,} validation, "
        f"{len(data.test.x):,} test images {size}, {data.classes} classes\n"
        f"training       {c.epochs} epochs of {len(data.train.x) // c.batch} steps, "
        f"batch {c.batch}, {c.optimizer}, lr {c.lr:g}, {c.schedule} schedule{seeds}"
        f"{spread}\n"
    )
