"""The main job: train, test, compare gradients, attack, and show it all."""

import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxnn.app import words
from jaxnn.app.build import DataFacts, build
from jaxnn.app.compile_cache import enable_compile_cache
from jaxnn.app.config import TrainConfig
from jaxnn.app.folder import fresh_folder, save_config, save_network, use_dtype
from jaxnn.app.job import Job
from jaxnn.app.options import resolved
from jaxnn.app.replaying import save_findings
from jaxnn.app.resuming import check_free, finished
from jaxnn.app.settings import check, check_data
from jaxnn.costs import count_parameters, summary
from jaxnn.data import load, pixel_statistics
from jaxnn.distributed.data import Spread
from jaxnn.distributed.processes import together
from jaxnn.environment import Processes, device, git_commit, versions
from jaxnn.files import draw, plain, write_json
from jaxnn.train import TrainingError

ALONE = Processes(detect=False)


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
        learnt until then is in the folder.
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
    with together(ranks, config.devices) as mesh:
        first = jax.process_index() == 0 if mesh else True
        enable_compile_cache()
        data = load(config.data, validation=config.validation)
        check_data(config, data)
        mean, std = pixel_statistics(data.train.x)
        facts = DataFacts(data.train.x.shape[1:], data.classes, mean, std)
        net = build(config, facts)
        job = Job(config, data, facts, net)  # settings are checked before any file
        if mesh is not None:
            Spread(mesh, config.batch)
        say = (lambda *_: None) if config.quiet or not first else print
        table = summary(net, facts.in_shape, batch=None)
        fresh = first and resume is None
        name = Path(data.name).name
        with fresh_folder(config.out, name) if fresh else nullcontext(resume) as folder:
            if first and folder is not None:
                check_free(folder)
                save_config(folder, config, facts)
            say(f"{words.heading(config, data, mesh)}\n{table}\n")
            history, trouble = job.train(folder, mesh, resume is not None)
    if not first:
        return {"stopped": history.stopped, "folder": None}
    assert folder is not None  # the first process has made it
    save_findings(folder, history.findings, job.steps)
    result = _describe_run(config, history, facts, table)
    if history.findings and trouble is None:
        print("\n".join(result["guard"]["report"]))
    elif history.findings and trouble is not None:
        trouble.add_note(f"see it again: {history.findings[0].replay}")
    tree = {"params": history.params, "state": history.state}
    save_network(folder, tree, config, facts)
    job.test(history, result)
    result["problems"] = job.problems(history)
    result["finite"] = job.finite
    if result["problems"] and trouble is None:
        trouble = _failed(result["problems"], history)
    words.say_accuracy(result)
    if trouble is None and history.stopped != "interrupted":
        job.compare(history, result)
        say("gradients      by hand and by jax.grad " + result["gradients"]["line"])
        if config.attack_images:
            job.attack(history, result)
            say("under attack   " + words.attack_line(result))
            if result["adversarial"]["note"]:
                say("               " + result["adversarial"]["note"])
        job.collapse(result)
        for words_of_one in result["collapse"]:
            print(f"COLLAPSED      {words_of_one}")
    seconds = {
        "import": imported - started,
        "compile": history.seconds["compile"],
        "train": history.seconds["train"],
        "to_first_step": history.seconds["first_step_at"] - started,
    }
    _write(folder, result, seconds, started)
    result["not_drawn"] = draw(folder, job.pictures(history))
    from jaxnn.app.report import write_report

    result["not_drawn"] |= draw(
        folder, {"report.md": lambda _: write_report(folder, result)}
    )
    _write(folder, result, seconds, started)
    for picture, why in result["not_drawn"].items():
        print(f"not drawn      {picture}: {why}")
    say(f"time           {words.time_line(result['seconds'])}")
    print(f"written to     {folder}  (start with {folder / 'report.md'})")
    if trouble is not None:
        raise trouble
    return result | {"folder": str(folder)}


def _write(folder, result, seconds, started):
    """result.json, with the time until now; before anything is drawn, and after."""
    seconds = seconds | {"total": time.perf_counter() - started}
    result["seconds"] = {k: round(v, 3) for k, v in seconds.items()}
    write_json(folder / "result.json", result)


def _failed(problems, history=None) -> TrainingError:
    error = TrainingError("; ".join(problems))
    error.history = history
    return error


def _describe_run(config, history, facts, table) -> dict[str, Any]:
    one = (
        history.params
        if config.seeds == 1
        else jax.tree.map(lambda a: a[0], history.params)
    )
    bad = np.asarray(history.last.skipped)
    return {
        "epochs": len(history.rows),
        "best_epoch": history.best_epoch,
        "stopped": history.stopped,
        "parameters": count_parameters(one),
        "guard": {
            "policy": config.guard,
            "findings": [finding.to_json() for finding in history.findings],
            "report": [line for found in history.findings for line in found.lines()],
        },
        "steps_skipped": (bad * (config.guard != "off")).tolist(),
        "steps_bad": bad.tolist(),
        "gradients": None,
        "adversarial": None,
        "config": plain(vars(config)),
        "network": facts._asdict(),
        "summary": table,
        "versions": versions(),
        "device": device(),
        "git": git_commit(),
    }
