"""`jaxnn compare`: the gradients of a run, a model, or your own code, on one page."""

import dataclasses
import os
import re
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import numpy as np

from jaxnn.app.build import Experiment, build, facts_of
from jaxnn.app.checks import check
from jaxnn.app.compile_cache import enable_compile_cache
from jaxnn.app.config import RECIPES, CompareConfig
from jaxnn.app.folder import first_of, fresh_folder, open_run, print_undrawn
from jaxnn.app.settings import flag, given
from jaxnn.app.streams import note
from jaxnn.check.compare import Comparison
from jaxnn.check.measurements import (
    STEPS,
    compare_costs,
    curvature,
    difference_errors,
    precision_errors,
    taylor_errors,
)
from jaxnn.check.methods import POLICY, compare_methods
from jaxnn.check.points import AS_CALLED
from jaxnn.check.recorder import named_leaves
from jaxnn.check.report import (
    GradientReport,
    facts,
    methods_table,
    precision_table,
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

FEW = 4  # samples that the curves are drawn for: many runs, and kinks in each
DRAWN = 2_000  # entries of a leaf that the scatter shows
USED = {
    *("model", "layers", "activation", "output", "init", "bias_init", "batch_norm"),
    *("standardize", "loss", "label_smoothing", "batch", "l1", "l2", "spectral_norm"),
    *("dropout", "precision", "seed", "data", "out", "quiet"),
}
"""Settings of `jaxnn train` that a comparison takes, of a network not yet trained."""


def compare_run(config: CompareConfig, started: float | None = None) -> dict:
    """Compare gradients; write gradients.json, which is returned, a page, pictures."""
    started = time.perf_counter() if started is None else started
    enable_compile_cache()
    say = (lambda *_: None) if config.network.quiet else print
    name, title, compare = _subject(config)
    say(f"comparing      {title}\ndevice         {device()}\n")
    with fresh_folder(config.network.out, f"compare-{name}") as folder:
        report, records, result, pictures = compare(config)
        say(report.table())
        result = {
            "title": title, "passed": report.passed, "gradients": report.to_json(),
            "evaluation": None,
        } | result  # fmt: skip
        if records:
            rows = [dataclasses.asdict(row) for row in compare_methods(records)]
            pictures["errors.png"] = partial(plots.errors_by_layer, rows, POLICY)
            result |= {"methods": rows, "policy": POLICY}
            say(f"\n{methods_table(result)}\n")
        if "precision" in result:
            say(f"{precision_table(result)}\n")
        for what, sentence in facts(result):
            say(f"{what:<14} {sentence}")
        result |= surroundings()
        result["seconds"] = round(time.perf_counter() - started, 3)
        write_json(folder / "gradients.json", result)
    print_undrawn(draw(folder, pictures))
    page = write_page(folder, result)
    print(f"verdict        {verdict(result)}")
    say(f"time           {result['seconds']:.1f} s")
    print(f"saved to       {folder}  (start with {page})")
    return result


def _compare_network(case: Comparison, precision: str, config: CompareConfig):
    """A network at a batch: compared whole, layer by layer, and timed.

    Always in float32 and float64; with another `precision` of training its gradients
    are compared with those in float32, too.

    Returns the report, records of its layers, all other measurements, pictures.
    """
    result, pictures = {}, {}
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
        result["costs"] = costs
    if precision != "float32":
        errors = [e._asdict() for e in precision_errors(case, precision)]
        result["precision"] = {"name": precision, "errors": errors}
    return report, records, result, pictures


def _compare_code(code: UserCode, config: CompareConfig):
    """A rule, layer or pair of a user's, judged alone; returns as for a network."""
    shapes = [_shape(text) for text in config.shape]
    found, records = audit_user_code(code, shapes, config.dtypes, config.network.seed)
    leaves = tuple(c.comparison for c in found.checks if c.at == AS_CALLED)
    pictures = {}
    for s in records[-1:]:
        if pairs := _sample(s.got, s.want, leaves):
            dots = partial(plots.scatter, pairs, dtype="float64")
            pictures["scatter.png"] = dots
    report = GradientReport(**vars(found), leaves=leaves)
    return report, records, {}, pictures


def _subject(config: CompareConfig) -> tuple[str, str, Callable]:
    """Name and title of what is to be compared, and what compares it."""
    target = config.target
    if target is not None and ":" in target and not os.path.isdir(target):
        used = {"seed", "out", "quiet"}
        _check_flags(config, used, "your own code has no network", shape=True)
        code, file = load_user_code(target), target.rpartition(":")[0]
        if code.inputs is not None and config.shape:
            raise JaxnnError(
                f"compare: --shape has no effect here: {file} has {code.name}_inputs"
            )
        return code.name, f"{code.name} of {file}", partial(_compare_code, code)
    if target is not None and os.path.isdir(target):
        _check_flags(config, {"out", "quiet"}, "the run has its own settings")
        run = open_run(Path(target))  # of several seeds the first
        data = load(run.config.data, validation=run.config.validation, say=note)
        name, e = real_path(target).name, run.experiment._replace(data=data)
        return _network(f"run {target}", name, e, *first_of(run))
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
    _check_flags(config, USED, "nothing is trained")
    chosen = replace(RECIPES[target or "default"], **given(config.network))
    check(chosen)
    data = load(chosen.data, validation=0, say=note)
    e = build(chosen, facts_of(data), data)
    params, state, _ = e.net.init(jax.random.key(chosen.seed), e.facts.in_shape)
    name = target or chosen.model
    return _network(f"{name}, untrained", name, e, params, state)


def _check_flags(config, used, why, shape=False):
    """Raise unless all that is given is among the settings `used`, or a `shape`."""
    for name in given(config.network).keys() - used:
        raise JaxnnError(
            f"compare: {flag(name)} has no effect here: {why}. Flags that have: "
            + ", ".join(map(flag, sorted(used)))
        )
    if config.shape and not shape:
        raise JaxnnError(
            "compare: --shape has no effect here: a network's images have their own; "
            "it is for FILE.py:name"
        )


def _network(what, name, e: Experiment, params, state) -> tuple[str, str, Callable]:
    c, train = e.config, e.data.train
    x, y, key = train.x[: c.batch], train.y[: c.batch], jax.random.key(c.seed)
    case = Comparison(
        e.net, e.loss, params, state, x, y, key, True, e.options["penalty"]
    )
    title = (
        f"{what}: {count_parameters(params):,} parameters, {c.loss}, {len(x)} images "
        f"of {e.data.name}"
    )
    return name, title, partial(_compare_network, case, c.precision)


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
    # up to nine digits, as int() takes any number of them
    if not re.fullmatch(r"\(?(\s*\d{1,9}\s*,)*(\s*\d{1,9}\s*)?\)?", text, re.ASCII):
        raise JaxnnError(f"--shape {text}: expected whole numbers such as 4,3")
    shape = tuple(map(int, re.findall(r"\d+", text)))
    if 0 in shape:
        raise JaxnnError(f"--shape {text}: nothing can be compared in an empty array")
    return shape
