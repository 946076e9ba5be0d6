"""`jaxnn compare`: the gradients of a run, a model, or your own code, on one page."""

import dataclasses
import os
import time
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import numpy as np

from jaxnn.app.build import Experiment, build, facts_of
from jaxnn.app.checks import check
from jaxnn.app.compile_cache import enable_compile_cache
from jaxnn.app.config import RECIPES, CompareConfig
from jaxnn.app.folder import check_new, new_folder, open_run, print_undrawn
from jaxnn.app.settings import flag, given
from jaxnn.check.compare import Comparison
from jaxnn.check.measurements import (
    STEPS,
    compare_costs,
    curvature,
    difference_errors,
    taylor_errors,
)
from jaxnn.check.methods import POLICY, compare_methods
from jaxnn.check.points import AS_CALLED
from jaxnn.check.recorder import named_leaves
from jaxnn.check.report import (
    GradientReport,
    facts,
    methods_table,
    verdict,
    write_page,
)
from jaxnn.check.user_code import UserCode, audit_user_code, load_user_code
from jaxnn.costs import count_parameters
from jaxnn.data import load
from jaxnn.environment import device, surroundings
from jaxnn.errors import JaxnnError
from jaxnn.files import draw, real_path, write_json
from jaxnn.plots import gradients as plots
from jaxnn.streams import note

FEW = 4  # samples that the curves are drawn for: many runs, and kinks in each
DRAWN = 2_000  # entries of a leaf that the scatter shows
USED = {
    *("model", "layers", "activation", "output", "init", "bias_init", "batch_norm"),
    *("standardize", "loss", "label_smoothing", "batch", "l1", "l2", "spectral_norm"),
    *("dropout", "seed", "data", "out", "quiet"),
}
"""Settings of `jaxnn train` that a comparison takes, of a network not yet trained."""


def compare_run(config: CompareConfig, started: float | None = None) -> dict:
    """Compare gradients and write gradients.json, gradients.md and pictures.

    Args:
      config: the settings.
      started: `time.perf_counter()` when the program began; None is now.

    Returns:
      What gradients.json holds, and `folder`.

    Raises:
      JaxnnError: a target that does not exist, settings that have no effect here.
    """
    started = time.perf_counter() if started is None else started
    enable_compile_cache()
    say = (lambda *_: None) if config.network.quiet else print
    check_new(config.network.out)
    subject = _subject(config)
    say(f"comparing      {subject.title}\ndevice         {device()}\n")
    report, records, result, pictures = subject.compare(config)
    say(report.table())
    result = {
        "title": subject.title,
        "passed": report.passed,
        "gradients": report.to_json(),
        "evaluation": None,
    } | result
    if records:
        rows = [dataclasses.asdict(row) for row in compare_methods(records)]
        pictures["errors.png"] = partial(plots.errors_by_layer, rows, POLICY)
        result |= {"methods": rows, "policy": POLICY}
        say(f"\n{methods_table(result)}\n")
    for what, sentence in facts(result):
        say(f"{what:<14} {sentence}")
    result |= surroundings()
    result["seconds"] = round(time.perf_counter() - started, 3)
    # not before all else is known: what cannot be compared leaves no folder
    folder = new_folder(config.network.out, f"compare-{subject.name}")
    write_json(folder / "gradients.json", result)
    print_undrawn(draw(folder, pictures))
    page = write_page(folder, result)
    print(f"verdict        {verdict(result)}")
    say(f"time           {result['seconds']:.1f} s")
    print(f"saved to       {folder}  (start with {page})")
    return result | {"folder": str(folder)}


class _Network(NamedTuple):
    """A network at a batch: compared whole, layer by layer, and timed."""

    name: str
    title: str
    case: Comparison

    def compare(self, config):
        """The report, records of its layers, all other measurements, pictures."""
        case, result, pictures = self.case, {}, {}
        report, records = case.report(config.dtypes)
        if case.has_two_modes():
            other = replace(case, train=False).report(config.dtypes)[0]
            result["evaluation"] = other.to_json()
            result["passed"] = report.passed and other.passed
        few = case.few(FEW)
        errors = difference_errors(few)
        pictures["steps.png"] = partial(plots.step_errors, STEPS, errors)
        result["steps"] = {"steps": list(STEPS), "errors": errors}
        by_hand, by_jax, _, error = case.both_ways(config.dtypes[0])
        if error is None and not report.not_finite:  # else there are no numbers
            remainders, costs = taylor_errors(few), compare_costs(case)
            pictures["taylor.png"] = partial(plots.taylor, remainders)
            pairs = _sample(by_hand, by_jax, report.leaves)
            dots = partial(plots.scatter, pairs, dtype=config.dtypes[0])
            pictures["scatter.png"] = dots
            result["taylor"], result["curvature"] = remainders, curvature(case)
            result["costs"] = {k: dataclasses.asdict(c) for k, c in costs.items()}
        return report, records, result, pictures


class _UserCode(NamedTuple):
    """Your own rule, layer or pair, judged alone."""

    name: str
    title: str
    code: UserCode

    def compare(self, config):
        """The report, its records, no other measurements, pictures."""
        shapes = [_shape(text) for text in config.shape]
        found, records = audit_user_code(
            self.code, shapes, config.dtypes, config.network.seed
        )
        leaves = tuple(c.comparison for c in found.checks if c.at == AS_CALLED)
        pictures = {}
        for s in records[-1:]:
            if pairs := _sample(s.got, s.want, leaves):
                dots = partial(plots.scatter, pairs, dtype="float64")
                pictures["scatter.png"] = dots
        report = GradientReport(
            leaves, found.findings, found.checks, found.kinks, found.waived,
            as_one=found.as_one,
        )  # fmt: skip
        return report, records, {}, pictures


def _subject(config: CompareConfig):
    """What is to be compared.

    Raises:
      JaxnnError: it does not exist, or a setting has no effect on it.
    """
    target = config.target
    if target is not None and ":" in target and not os.path.isdir(target):
        _check_flags(config, {"seed", "out", "quiet"}, "your own code has no network")
        code = load_user_code(target)
        if code.inputs is not None and config.shape:
            raise JaxnnError(
                f"compare: --shape has no effect here: {target.rpartition(':')[0]} has "
                f"{code.name}_inputs"
            )
        return _UserCode(code.name, f"{code.name} of {target.rpartition(':')[0]}", code)
    if target is not None and os.path.isdir(target):
        _check_flags(config, {"out", "quiet"}, "the run has its own settings")
        _check_no_shape(config)
        return _of_run(config)
    if target is not None and target.endswith(".py") and os.path.isfile(target):
        raise JaxnnError(
            f"compare: {target} is a file; say what in it: {target}:NAME, a Rule, a "
            "Layer, or functions NAME_forward and NAME_backward"
        )
    if target is not None and target not in RECIPES:
        raise JaxnnError(
            f"compare: {target!r} is no run folder; expected one that `jaxnn train` "
            f"wrote, a recipe ({', '.join(RECIPES)}), or FILE.py:name"
        )
    _check_no_shape(config)
    _check_flags(config, USED, "nothing is trained")
    return _of_model(config)


def _check_flags(config, used, why):
    """Raise unless all settings of a network that are given are among those `used`."""
    for name in given(config.network).keys() - used:
        raise JaxnnError(
            f"compare: {flag(name)} has no effect here: {why}. Flags that have: "
            + ", ".join(map(flag, sorted(used)))
        )


def _check_no_shape(config):
    if config.shape:
        raise JaxnnError(
            "compare: --shape has no effect here: a network's images have their own; "
            "it is for FILE.py:name"
        )


def _of_model(config) -> _Network:
    """The untrained network that the settings describe."""
    chosen = replace(RECIPES[config.target or "default"], **given(config.network))
    check(chosen)
    data = load(chosen.data, validation=0, say=note)
    e = build(chosen, facts_of(data), data)
    params, state, _ = e.net.init(jax.random.key(chosen.seed), e.facts.in_shape)
    name = config.target or chosen.model
    return _network(f"{name}, untrained", name, e, params, state)


def _of_run(config) -> _Network:
    """A trained network; of several seeds the first."""
    run = open_run(config.target)
    data = load(run.config.data, validation=run.config.validation, say=note)
    e = run.experiment._replace(data=data)
    return _network(
        f"run {config.target}", real_path(config.target).name, e, *run.first()
    )


def _network(what, name, e: Experiment, params, state) -> _Network:
    c, train = e.config, e.data.train
    x, y, key = train.x[: c.batch], train.y[: c.batch], jax.random.key(c.seed)
    case = Comparison(
        e.net, e.loss, params, state, x, y, key, True, e.options["penalty"]
    )
    title = (
        f"{what}: {count_parameters(params):,} parameters, {c.loss}, {len(x)} images "
        f"of {e.data.name}"
    )
    return _Network(name, title, case)


def _sample(by_hand, by_jax, leaves) -> dict[str, tuple[np.ndarray, np.ndarray, bool]]:
    """Leaf -> (by hand, by JAX, passed), of large leaves every so many entries."""
    passed = {c.leaf: c.passed for c in leaves}
    ours = dict(named_leaves(by_hand))
    found = {}
    for path, want in named_leaves(by_jax):
        got, name = ours.get(path), path.removeprefix("params/")
        if got is None or np.shape(got) != np.shape(want):
            continue
        every = max(1, np.size(want) // DRAWN)
        mine, theirs = (np.ravel(a)[::every].astype(np.float64) for a in (got, want))
        found[name] = mine, theirs, passed.get(name, True)
    return found


def _shape(text: str) -> tuple[int, ...]:
    """ "4,3" as (4, 3); "()" or "" as a number's."""
    words = [w.strip() for w in text.strip("()").split(",") if w.strip()]
    # up to nine digits: int() takes the digits of all scripts, and any number of them
    if not all(w.isascii() and w.isdigit() and 0 < len(w) < 10 for w in words):
        raise JaxnnError(f"--shape {text}: expected whole numbers such as 4,3")
    shape = tuple(map(int, words))
    if 0 in shape:
        raise JaxnnError(f"--shape {text}: nothing can be compared in an empty array")
    return shape
