"""The rules between settings, and between settings and data.

`check` is called before anything is loaded or written, so that a setting is either
obeyed or refused, and never left out in silence.
"""

import re
from collections.abc import Container
from dataclasses import replace
from typing import Any

from jaxnn.app.config import WIDTH, LRConfig, SweepConfig, TrainConfig
from jaxnn.app.settings import check_fields, check_needs, flag, given
from jaxnn.errors import JaxnnError

STEPS_MAX = 2**31 - 1  # steps are counted in int32

NO_PART_IN_LR = {
    "lr": "it is what is looked for",
    "schedule": "each network trains a few steps at one rate",
    "epochs": "--steps says how long",
    "epsilon_ramp": "each network trains a few steps",
    **dict.fromkeys(("patience", "keep"), "nothing is validated"),
    "guard": "a step that is not finite counts as a failure",
    "shuffle": "all see the same batches",
    **dict.fromkeys(("devices", "batch_stats"), "one device trains them"),
    **dict.fromkeys(("dtype", "class_weights", "attack_images"), "no run is made"),
    **dict.fromkeys(("keep_checkpoints", "checkpoint_steps"), "no run is made"),
}
"""Settings of `jaxnn train` that `jaxnn lr` refuses, and why."""

NO_PART_IN_SWEEP = {
    "guard": "a point leaves out its own bad steps and stops no other",
    "shuffle": "all points see the same batches, so that only settings differ",
    "batch_stats": "devices divide the points, not the batches",
    "attack_images": "points are compared by validation; attack one with jaxnn attack",
    "keep_checkpoints": "a sweep always goes on where it was killed",
    "checkpoint_steps": "a sweep goes on at the end of an epoch",
}
"""The same of `jaxnn sweep`."""

NO_AXIS = NO_PART_IN_SWEEP | {
    "seeds": "it is how many networks each point is trained as: --seeds",
    "devices": "they divide the points: --devices",
    "data": "points are compared on the same images; sweep each data set by itself",
    "validation": "points are compared on the same images",
    "out": "a sweep has one folder: --out",
    "dtype": "JAX's 64-bit mode is for a whole process; sweep each type by itself",
    "quiet": "it changes no network: --quiet",
}
"""Settings in which the points of a sweep cannot differ, and why."""

_OF_CLASSES = ("softmax_cross_entropy", "softmax_focal", "kl", "nll")


def check(config: Any, typed: Container[str] = ()) -> None:
    """Raise unless every setting of `config` (of `jaxnn.app.config`) can be obeyed.

    What has no effect is refused where it differs from the default; what was `typed` at
    its default too, but for a sweep, in which it may have one at some points.

    Raises:
      JaxnnError: a wrong type, a number out of its bounds, a setting that has no effect
        without another, settings that contradict each other.
    """
    check_fields(config)
    check_needs(config, typed)
    if isinstance(config, TrainConfig):
        _check_layers(config)
        _check_pairs(config)
    if isinstance(config, SweepConfig):
        _check_sweep(config, typed)
    if isinstance(config, LRConfig):
        _check_lr(config, typed)
    if getattr(config, "images", None) == 0:
        raise JaxnnError("--images: got 0, expected -1 (all) or at least 1")
    epsilon = getattr(config, "epsilon", None)
    if getattr(config, "norm", "linf") in (None, "linf") and (epsilon or 0) > 1:
        raise JaxnnError(
            f"--epsilon: got {epsilon:g}, expected 0 <= epsilon <= 1, as pixels are in "
            "[0, 1]"
        )


def check_data(config: TrainConfig, data: Any) -> None:
    """Raise unless `config` can be obeyed with this data set."""
    x = data.train.x
    if data.classes < 2:
        raise JaxnnError(
            f"{data.name}: got one class, {', '.join(data.names)}, expected two or more"
        )
    if x.ndim != 3:
        raise JaxnnError(
            f"{data.name}: got images of shape {x.shape[1:]}, expected gray ones (H, "
            "W); color goes with jaxnn.fit in Python"
        )
    if config.batch > len(x):
        raise JaxnnError(
            f"--batch: got batch={config.batch} but only {len(x)} training rows; "
            f"expected 1 <= batch <= {len(x)}"
        )
    side = min(x.shape[1:])
    for name in ("shift", "elastic"):
        amount = getattr(config, name)
        if amount is not None and amount >= side:
            raise JaxnnError(
                f"{flag(name)}: got {amount:g} pixels for images of {side}, which "
                f"leaves nothing of them; expected less than {side}"
            )
    steps = len(x) // config.batch * config.epochs * (config.free_replays or 1)
    if steps > STEPS_MAX:
        raise JaxnnError(
            f"--epochs: got {config.epochs}, which is {steps:,} steps; expected at "
            f"most {STEPS_MAX:,}"
        )


def _check_layers(config):
    """Numbers in `--layers` that no layer could have; the layers know the rest."""
    for token in config.layers:
        block = re.fullmatch(r"\d+(x\d+)?", token, re.ASCII)
        for text in token.split("x") if block else token.split(":")[1:]:
            try:
                number = float(text)
            except ValueError:
                continue  # a word
            if not abs(number) <= WIDTH.high or (block and number < 1):
                least = "1" if block else f"{-WIDTH.high:,}"
                raise JaxnnError(
                    f"--layers {token}: got {text}, expected a number from {least} to "
                    f"{WIDTH.high:,}; a width must be at least 1"
                )


def _check_pairs(config):
    """Settings that cannot both be obeyed."""
    c = config
    for wrong, words in (
        (
            c.keep == "best" and not c.validation,
            "--keep best needs --validation above 0: without there is no best epoch",
        ),
        (
            c.clip_norm is not None and c.clip_value is not None,
            "--clip-norm and --clip-value: got both, expected one of them",
        ),
        (
            c.augment == "digits" and not any(amounts(c).values()),
            "--augment digits has no effect with all its amounts 0",
        ),
        (
            c.adversarial == "trades" and c.loss not in _OF_CLASSES,
            "--adversarial trades compares probabilities of classes: it needs --loss "
            + ", ".join(_OF_CLASSES),
        ),
        (
            c.dtype == "float16" and c.adversarial != "none",
            f"--adversarial {c.adversarial} makes gradients of its own, which float16 "
            "would need scaled; use --dtype float32 or bfloat16",
        ),
        (
            c.seed + c.seeds > 2**32,
            f"--seed: got {c.seed} for {c.seeds} seeds, expected the last below 2^32",
        ),
    ):
        if wrong:
            raise JaxnnError(words)


def amounts(config: TrainConfig) -> dict[str, Any]:
    """How far training images are moved, those left to `augment` among them."""
    from jaxnn.augment import AMOUNTS  # late, as it imports jax

    names = ("rotate", "scale", "shear", "shift", "elastic")
    usual = dict.fromkeys(names, 0) | AMOUNTS[config.augment]
    given = {k: v for k in names if (v := getattr(config, k)) is not None}
    return usual | given


def check_point(config: TrainConfig) -> None:
    """Raise unless a network of these settings can be one of a sweep's points."""
    check(config)
    _check_parts("sweep", NO_PART_IN_SWEEP, config)
    for name, value in (("dtype", "float16"), ("adversarial", "free")):
        if getattr(config, name) == value:
            raise JaxnnError(
                f"sweep: {flag(name)} {value} keeps a memory of its own from step to "
                "step; train such networks one by one with jaxnn train"
            )


def _check_parts(command, refused, config, typed=()):
    """Raise for a setting of `jaxnn train` that has no part in another command."""
    for name in given(config, typed):
        if name in refused:
            why = refused[name]
            raise JaxnnError(f"{command}: {flag(name)} has no part here: {why}")


def _check_sweep(config, typed):
    network = config.network
    _check_parts("sweep", NO_PART_IN_SWEEP, network, typed)
    if not network.validation:
        raise JaxnnError("sweep: --validation 0 leaves nothing to choose by")
    where = {k: getattr(config, k) for k in ("resume", "engine", "ray_address")}
    alone = replace(SweepConfig(network=network), **where)
    if config.engine != "local" and (network.devices or 1) > 1:
        raise JaxnnError(
            f"sweep: --devices {network.devices} with --engine {config.engine}, whose "
            "tasks have a device each; leave it out"
        )
    if config.resume is not None and (config != alone or given(network)):
        raise JaxnnError(
            "sweep: --resume takes no other flag or axis but --engine; the sweep's own "
            "settings hold"
        )


def _check_lr(config, typed):
    _check_parts("lr", NO_PART_IN_LR, config.network, typed)
    check(config.network, typed)
    if config.lowest >= config.highest:
        raise JaxnnError(
            f"--lowest: got {config.lowest:g} to --highest {config.highest:g}, "
            "expected a range that rises"
        )


FREE = ("devices", "quiet", "attack_images", "keep_checkpoints")
"""Settings that do not change what is learned."""


def must_stay(config: TrainConfig) -> dict[str, Any]:
    """The settings that what was trained belongs to, so that an edit since is found.

    The number of epochs may grow: the schedule then goes over all of them.
    """
    free = {*FREE, "epochs"}
    free -= {"devices"} if config.batch_stats == "ghost" else set()
    return {name: v for name, v in vars(config).items() if name not in free}
