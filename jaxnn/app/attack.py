"""Attacking a saved run: `jaxnn attack` and `jaxnn robustness`."""

import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnn import attacks
from jaxnn.app.compile_cache import enable_compile_cache
from jaxnn.app.config import EPSILON, AttackConfig, RobustnessConfig
from jaxnn.app.folder import (
    Run,
    data_of,
    drawn,
    first_of,
    open_run,
    print_undrawn,
    sample_rows,
)
from jaxnn.app.settings import as_command, flag, given
from jaxnn.attacks import ATTACKS, Attack, Classifier
from jaxnn.attacks.classifier import to_logits
from jaxnn.data import unit_images
from jaxnn.environment import surroundings, warn_if_idle, warn_if_slow
from jaxnn.errors import JaxnnError, lookup
from jaxnn.files import check_folder, draw, plain, read_json, real_path, write_json
from jaxnn.robustness import (
    Evaluation,
    Proportion,
    Threat,
    evaluate,
    report,
    transfer_matrix,
)
from jaxnn.robustness.worst import attack_suite, not_attacked
from jaxnn.tasks import engine, run_tasks
from jaxnn.text import bar
from jaxnn.tree import map_batches

AMOUNTS = {"rotation": 15.0, "translation": 3.0, "blur": 1.0, "contrast": 0.5}
"""Of corruptions, where none is given: degrees, pixels, sigma in pixels, share lost."""
NO_PART = ("out", "engine", "ray_address")
"""Settings that no result depends on."""


def attack_run(config: AttackConfig) -> dict[str, Any]:
    """Attack a saved run's test images; prints two lines, writes JSON and a picture."""
    enable_compile_cache()
    started = time.perf_counter()
    attack = lookup("attack", config.attack, ATTACKS)
    options = _options(config, attack)
    folder = _folder(config, "attacks")
    run, networks, x, y, record = _opened("attack", config)
    total = len(x) * len(networks)
    progress = bar(total=total, unit="image", disable=not sys.stderr.isatty())
    with engine(config.engine, config.ray_address, enable_compile_cache), progress:
        each = [_attacked(attack, options, n, x, y, progress.update) for n in networks]
    network, done = networks[0], each[0]  # whose picture is drawn

    def told(values):
        """A value, of several seeds a list."""
        values = [plain(v) for v in values]
        return values if run.multi_seed else values[0]

    settings = attack.takes | options | {"seed": config.seed}
    settings.pop("key", None)
    if "loss" in settings:
        settings["loss"] = settings["loss"].__name__
    found = record | {
        "attack": config.attack,
        "settings": settings,
        "images": len(y),
        "accuracy_before": told(d.before.value for d in each),
        "accuracy_after": told(d.after.value for d in each),
        "distance_norm": done.norm,
        "median_distance_of_fooled": told(d.median for d in each),
        "not_finite_images": told(d.lost for d in each),
        "not_attacked_images": told(np.flatnonzero(d.blind) for d in each),
        "seconds": time.perf_counter() - started,
    }
    path = _unused(folder, _name(config, options), ".json", found)
    write_json(path, found)
    failed = draw(path.parent, {path.with_suffix(".png").name: drawn(
        "jaxnn.plots:adversarial", x, done.x_adv, y,
        *(run.probabilities(network.outputs(a)) for a in (x, done.x_adv)),
        options.get("epsilon", float(done.size.max())), count=10, norm=done.norm,
        attack=config.attack, budget="epsilon" in options, names=run.facts.names,
    )})  # fmt: skip
    print("\n".join(_lines(each, config.attack, len(y), run)))
    print_undrawn(failed)
    print(f"saved to       {path}, .png")
    _fail_if_lost(run, [d.lost for d in each])
    return found


class _Attacked(NamedTuple):
    """What an attack did to images, an entry each."""

    x_adv: np.ndarray
    norm: str
    size: np.ndarray  # how far each was moved, in that norm
    fooled: np.ndarray  # right before, wrong after
    blind: np.ndarray  # right after, but their gradient is NaN
    lost: np.ndarray  # numbers of those whose outputs are not finite
    before: Proportion  # right
    after: Proportion  # right, and attacked

    @property
    def median(self) -> float | None:
        """How far those that were fooled were moved."""
        return float(np.median(self.size[self.fooled])) if self.fooled.any() else None


def _attacked(
    attack: Attack, options: dict, network: Classifier, x, y, tick: Callable
) -> _Attacked:
    """Attack all images; `tick` is told how many more are done."""
    model, y = to_logits(network, x, y)

    def run(*tasks):
        for number, found in run_tasks(*tasks):
            tick(len(found))
            yield number, found

    whole = len(x) if options.get("early_stop") else None
    x_adv = map_batches(
        partial(attack.run, model, **options), x, y, batch=whole, run=run
    )
    right, still = model.correct(x, y), model.correct(x_adv, y)
    lost = np.flatnonzero(~np.isfinite(model.outputs(x)).all(-1))
    blind = np.zeros(len(y), bool)
    if attack.gradients:
        blind = still & not_attacked(model, x, y)
    norm = options.get("norm", "linf" if "epsilon" in options else "l2")
    size = np.asarray(attacks.distance(x_adv, x, norm))
    before, after = map(Proportion.of, (right, still & ~blind))
    return _Attacked(x_adv, norm, size, right & ~still, blind, lost, before, after)


def _lines(each: list[_Attacked], name: str, images: int, run: Run) -> Iterator[str]:
    """What is printed of an attack, seed by seed."""
    for i, d in enumerate(each):
        yield from report.warnings(images, len(d.lost), int(d.blind.sum()))
        of_seed = f", seed {run.config.seed + i}" if run.multi_seed else ""
        yield (
            f"accuracy       {d.before} before, {d.after} under {name}, {images:,} "
            f"images{of_seed}"
        )
    if run.multi_seed:
        after = 100 * np.array([d.after.value for d in each])
        yield (
            f"accuracy       {after.mean():.2f}% +- {after.std(ddof=1):.2f} under "
            f"{name}, mean of {len(each)} seeds"
        )
    if (first := each[0]).median is not None:
        yield (
            f"distance       median {first.median:.4g} in {first.norm} of the "
            f"{first.fooled.sum():,} fooled"
        )


def robustness_run(config: RobustnessConfig) -> list[Evaluation]:
    """Evaluate a run, every seed, by the suite and its checks; writes a folder."""
    enable_compile_cache()
    folder = _folder(config, "robustness")
    run, networks, x, y, record = _opened("robustness", config)
    threat = Threat(config.norm, config.epsilon)
    print(f"attacking {len(y):,} images, {threat}", flush=True)
    name, others = _others(config, run)
    suite = attack_suite(config.level, config.norm, run.facts.classes, True)
    hidden, total = config.quiet or not sys.stderr.isatty(), len(suite) + 1
    shown = bar(total=total * len(networks), unit="attack", disable=hidden)
    with engine(config.engine, config.ray_address, enable_compile_cache), shown:

        def log(line):
            shown.update()
            if not config.quiet:
                shown.write(f"  {line}")
                sys.stdout.flush()

        each = {}
        for seed, model in enumerate(networks, run.config.seed):
            if run.multi_seed and not config.quiet:
                shown.write(f"seed {seed}")
            each[seed] = evaluate(
                model, x, y, threat=threat, level=config.level, others=others,
                seed=config.seed, log=log,
            )  # fmt: skip
    model, found, transfer = networks[0], each[run.config.seed], None
    if others:
        sample = x[found.sample], y[found.sample]
        named = {name: model} | others
        transfer = transfer_matrix(named, *sample, threat=threat, seed=config.seed)
        print(f"transfer       {transfer.check.verdict}: {transfer.check.message}")
    folder = _unused(folder.parent, folder.name, "", record, "robustness.json")
    written = report.write(
        folder, found, x, y, lambda images: run.probabilities(model.outputs(images)),
        f"Robustness of {run.folder}", transfer, record,
        each if run.multi_seed else None, run.facts.names,
    )  # fmt: skip
    told = report.seed_lines(each) if run.multi_seed else report.lines(found)
    print("\n".join(told))
    print(f"saved to       {written}")
    _fail_if_lost(run, [e.not_finite for e in each.values()])
    return [*each.values()]


def _folder(config, name):
    """Where to write; raises before anything is attacked if that cannot be a folder."""
    folder = config.out or config.run / name
    if config.out or os.path.isdir(config.run):  # else it is no run: told elsewhere
        check_folder(folder)
    return folder


def _opened(
    name: str, config: Any
) -> tuple[Run, list[Classifier], Any, Any, dict[str, Any]]:
    """The run, its network of each seed, test images in [0, 1] and labels (all, or a
    sample), and what a result depends on."""
    run = open_run(config.run)
    warn_if_idle()
    test = data_of(run, config.data).test
    rows = sample_rows(test.y, config.images, config.seed)
    settings = {k: v for k, v in given(config).items() if k not in NO_PART}
    record = {
        "run": str(run.folder),
        "command": as_command(name, settings),
        "data": config.data or run.config.data,
        "network_seed": run.config.seed,
        "rows": rows.tolist() if config.images > 0 else "all",
    } | surroundings()
    if config.precision != "float32" and run.config.dtype != "float32":
        raise JaxnnError(
            f"--precision {config.precision}: the run's type is {run.config.dtype}, "
            "expected float32"
        )
    warn_if_slow(config.precision)
    networks = [
        Classifier(run.net, *member, precision=config.precision)
        for member in run.members()
    ]
    return run, networks, unit_images(test.x[rows]), test.y[rows], record


def _unused(folder: Path, name: str, ending: str, found: dict, inside="") -> Path:
    """A path whose earlier result, if there is one, is of the same command."""
    for number in itertools.count(1):
        path = folder / (f"{name}{f'-{number}' if number > 1 else ''}{ending}")
        result = path / inside if inside else path
        if not os.path.exists(result):
            return path
        with suppress(JaxnnError, KeyError, TypeError):  # it cannot be told
            if read_json(result)["command"] == found["command"]:
                return path
    raise AssertionError  # numbers do not end


def _name(config, options):
    """The attack, and every setting that is not its own."""
    parts = [config.attack]
    for name in ("epsilon", "norm", "kind", "amount", "steps", "step_size", "restarts",
                 "queries"):  # fmt: skip
        if (value := options.get(name)) is not None:
            told = "" if name == "epsilon" else name
            shown = value if isinstance(value, str) else f"{told}{value:g}"
            parts.append(shown.replace("_", "-"))
    parts += ["early-stop"] if options.get("early_stop") else []
    parts += [config.precision] if config.precision != "float32" else []
    parts += [f"images{config.images}"] if config.images > 0 else []
    parts += [f"seed{config.seed}"] if config.seed else []
    return "_".join(parts)


def _fail_if_lost(run, lost):
    """Raise if a seed's outputs are not finite somewhere, seed by seed in `lost`."""
    if most := max(map(len, lost)):
        raise JaxnnError(
            f"{run.folder}: the network's outputs for {most:,} images are not "
            "finite; accuracy and robustness say nothing there"
        )


def _others(config, run) -> tuple[str, dict[str, Classifier]]:
    """The run's name, and name -> network of the other runs: paths where names meet."""
    paths = config.run, *config.transfer_from
    every = [real_path(path) for path in paths]
    named = {}
    for path, real in zip(paths, every, strict=True):
        if every.count(real) > 1:
            raise JaxnnError(
                f"--transfer-from: {real} is named twice, or is the run itself"
            )
        alone = [p.name for p in every].count(real.name) == 1
        named[real.name if alone else str(path)] = path
    name, *_ = named
    del named[name]
    found = {}
    for other, path in named.items():
        opened = open_run(path)
        if opened.facts.in_shape != run.facts.in_shape:
            raise JaxnnError(
                f"--transfer-from {path}: trained on images {opened.facts.in_shape}, "
                f"but {run.folder} on {run.facts.in_shape}"
            )
        found[other] = Classifier(
            opened.net, *first_of(opened), precision=config.precision
        )
    return name, found


def _options(config, attack: Attack):
    """The settings this attack has, those of the command line among them."""
    known = attack.takes
    options: dict[str, Any] = {}
    if "epsilon" in known:
        options["epsilon"] = EPSILON
    if "amount" in known:
        kind = config.kind or "rotation"
        options |= {"kind": kind, "amount": AMOUNTS.get(kind)}
    if "key" in known:
        options["key"] = jax.random.key(config.seed)
    for name, value in given(config).items():
        if name in ("run", "attack", "images", "data", "seed", *NO_PART):
            continue
        if name == "precision" and "epsilon" in known:
            continue
        if name not in known:
            raise JaxnnError(f"attack {config.attack} has no setting {flag(name)}")
        options[name] = value
    if config.early_stop and config.precision != "float32":
        raise JaxnnError(
            f"--early-stop with --precision {config.precision}: it would stop where "
            "float32 finds nothing fooled; give one of the two"
        )
    return options
