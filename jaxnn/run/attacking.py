"""Attacking a saved run: `jaxnn attack` and `jaxnn robustness`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn import attacks, plots
from jaxnn.attacks import ATTACKS, Attack, Classifier, map_batches
from jaxnn.attacks.core import NORMS
from jaxnn.compile_cache import enable_compile_cache
from jaxnn.config import AttackConfig, RobustnessConfig
from jaxnn.data import load
from jaxnn.data.sets import stratified_sample
from jaxnn.errors import JaxnnError, lookup
from jaxnn.files import write_json
from jaxnn.robustness import Share, Threat, evaluate, page, transfer_matrix
from jaxnn.run.folder import Run, load_run
from jaxnn.run.job import probabilities


def attack_run(config: AttackConfig) -> dict[str, Any]:
    """Attack a saved run's test images; prints two lines, writes JSON and a picture.

    Raises:
      JaxnnError: no run folder, unknown attack, a setting that the attack has not.
    """
    enable_compile_cache()
    attack = lookup("attack", config.attack, ATTACKS)
    options = _options(config, attack)
    run, x, y, rows = _opened(config)
    model = _first(run)
    x_adv = map_batches(
        lambda a, b: attack.run(model, a, b, **options), x, y,
        batch=len(x) if options.get("early_stop") else None,
    )  # fmt: skip
    before, after = model.outputs(x), model.outputs(x_adv)
    right, still = before.argmax(-1) == y, after.argmax(-1) == y
    norm = options.get("norm", "linf" if "epsilon" in options else "l2")
    size = np.asarray(attacks.distance(x_adv, x, norm))
    fooled = size[right & ~still]
    found = {
        "run": str(run.folder),
        "attack": config.attack,
        "settings": {k: v for k, v in options.items() if k != "key"}
        | {"seed": config.seed},
        "images": len(y),
        "rows": rows.tolist() if config.images > 0 else "all",
        "accuracy_before": Share(int(right.sum()), len(y)).value,
        "accuracy_after": Share(int(still.sum()), len(y)).value,
        "distance_norm": norm,
        "median_distance_of_fooled": float(np.median(fooled)) if len(fooled) else None,
    }
    folder = config.out or run.folder / "attacks"
    folder.mkdir(parents=True, exist_ok=True)
    budget = f"_{config.epsilon:g}" if "epsilon" in options else ""
    name = f"{config.attack}{budget}"
    write_json(folder / f"{name}.json", found)
    plots.adversarial(
        x, x_adv, y, probabilities(before, run.config),
        probabilities(after, run.config), options.get("epsilon", float(size.max())),
        folder / f"{name}.png", count=10, norm=norm, attack=config.attack,
        budget="epsilon" in options,
    )  # fmt: skip
    shares = (Share(int(mask.sum()), len(y)) for mask in (right, still))
    clean, attacked = shares
    print(
        f"accuracy       {clean} before, {attacked} under {config.attack}, "
        f"{len(y):,} images"
    )
    if len(fooled):
        print(
            f"distance       median {np.median(fooled):.4g} in {norm} of the "
            f"{len(fooled):,} fooled"
        )
    print(f"written        {folder / name}.json, .png")
    return found


def robustness_run(config: RobustnessConfig) -> Any:
    """Evaluate a saved run by the whole battery and its checks; writes a folder.

    Raises:
      JaxnnError: no run folder, unknown level or norm.
    """
    enable_compile_cache()
    run, x, y, _ = _opened(config)
    model = _first(run)
    threat = Threat(config.norm, config.epsilon)
    print(f"attacking {len(y):,} images, {threat}", flush=True)
    others = {folder.name: _other(folder, run) for folder in config.others}
    found = evaluate(
        model, x, y, threat=threat, level=config.level, others=others,
        seed=config.seed, say=None if config.quiet else lambda line: print(
            f"  {line}", flush=True
        ),
    )  # fmt: skip
    folder = config.out or run.folder / "robustness"

    def outputs(images):
        return probabilities(model.outputs(images), run.config)

    transfer = None
    if others:
        named = {run.folder.name: model} | others
        sample = x[found.sample], y[found.sample]
        transfer = transfer_matrix(named, *sample, threat=threat, seed=config.seed)
        print(f"transfer       {transfer.check.verdict}: {transfer.check.words}")
    title = f"Robustness of {run.folder}"
    written = page.write(folder, found, x, y, outputs, title, transfer)
    print("\n".join(page.lines(found)))
    print(f"written        {written}")
    return found


def _other(folder, run):
    """The network of another run for the same images."""
    other = load_run(folder)
    if other.facts.in_shape != run.facts.in_shape:
        raise JaxnnError(
            f"--others {folder}: trained on images {other.facts.in_shape}, but "
            f"{run.folder} on {run.facts.in_shape}"
        )
    return _first(other)


def run_test(run: Run, config: Any) -> Any:
    """The test images a command is about: the run's own data, or `--data`."""
    data = load(config.data or run.config.data, validation=0)
    if data.test.x.shape[1:] != run.facts.in_shape:
        raise JaxnnError(
            f"{run.folder} was trained on images {run.facts.in_shape}, got "
            f"{data.test.x.shape[1:]} from {data.name}"
        )
    return data.test


def _opened(config):
    """The run, its test images in [0, 1] (all, or a stratified sample), their rows."""
    run = load_run(config.run)
    test = run_test(run, config)
    rows = np.arange(len(test.y))
    if 0 < config.images < len(test.y):
        rows = stratified_sample(test.y, config.images, config.seed)
    x = test.x[rows]
    scale = 255 if x.dtype == np.uint8 else 1
    return run, x.astype(np.float32) / np.float32(scale), test.y[rows], rows


def _first(run: Run) -> Classifier:
    """The run's first network."""
    first = slice(None) if run.config.seeds == 1 else 0
    params, state = jax.tree.map(
        lambda a: jnp.asarray(a[first] if a.ndim else a), (run.params, run.state)
    )
    return Classifier(run.net, params, state)


def _options(config, attack: Attack):
    """The settings this attack has, those of the command line among them."""
    known = attack.takes
    options: dict[str, Any] = {}
    if "epsilon" in known:
        options["epsilon"] = config.epsilon
    if "amount" in known:
        options |= {"amount": config.amount, "kind": config.kind or "rotation"}
    if "key" in known:
        options["key"] = jax.random.key(config.seed)
    for name in (
        "steps", "restarts", "early_stop", "norm", "queries", "kind", "step_size",
    ):  # fmt: skip
        value = getattr(config, name)
        if value is None or value is False:  # not asked for
            continue
        if name not in known:
            flag = name.replace("_", "-")
            raise JaxnnError(f"attack {config.attack} has no setting --{flag}")
        options[name] = value
    if config.norm is not None:
        lookup("norm", config.norm, dict.fromkeys(NORMS))
    return options
