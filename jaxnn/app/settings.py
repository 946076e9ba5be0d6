"""Every rule about settings: their types, their bounds, and which need which.

`check` is called before anything is loaded or written, so that a setting is either
obeyed or refused, and never left out in silence. `check_data` knows the rules that
need the data. Nothing heavy is imported.
"""

import dataclasses
import math
import re
import types
from collections.abc import Callable, Mapping
from dataclasses import replace
from numbers import Integral, Real
from pathlib import Path
from typing import (
    Any,
    Literal,
    NamedTuple,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from jaxnn.app.config import SweepConfig, TrainConfig
from jaxnn.errors import JaxnnError

# of float32: a larger number is infinite there, a smaller one 0
FINITE, SMALLEST = (2 - 2.0**-23) * 2.0**127, 2.0**-126
WIDEST = 10**6
LARGE = 1000  # a bound from here on is told to who is beyond it only
STEPS_MAX = 2**31 - 1  # steps are counted in int32


class Range(NamedTuple):
    """Numbers from low to high; `ends` says of each whether it is one of them."""

    low: float
    high: float = FINITE
    ends: str = "[]"

    def holds(self, value: float) -> bool:
        """Whether `value` is in the range, and as float32 too; NaN is in none."""
        if 0 < abs(value) < SMALLEST:
            return False
        above = self.low <= value if self.ends[0] == "[" else self.low < value
        below = value <= self.high if self.ends[1] == "]" else value < self.high
        return above and below

    def words(self, name: str, value: float) -> str:
        """What `value` had to be: `0 <= dropout < 1`, or the side it is beyond."""
        if 0 < abs(value) < SMALLEST:
            return f"at least {SMALLEST:.3g} in size (less is 0 in float32)"
        lower, upper = ("<=" if end in "[]" else "<" for end in self.ends)
        if self.high < LARGE:
            return f"{self.low:g} {lower} {name} {upper} {self.high:g}"
        if self.high < value < math.inf:
            high = f"{self.high:.3g}" if self.high == FINITE else f"{self.high:,}"
            return f"{name} {upper} {high}"
        finite = "a finite " if self.high == FINITE else ""
        return f"{finite}{name} {lower.replace('<', '>')} {self.low:g}"


POSITIVE, NOT_NEGATIVE = Range(0, ends="(]"), Range(0)
SHARE, COUNT = Range(0, 1), Range(1, 10**9)
# the largest that is not surely a slip: what does not fit in memory is found later
BOUNDS: dict[str, Range] = {
    # training
    "label_smoothing": Range(0, 1, "[)"), "lr": POSITIVE, "batch": COUNT,
    "epochs": Range(1, 10**6), "patience": Range(1, 10**6),
    # regularisers
    "l1": NOT_NEGATIVE, "l2": NOT_NEGATIVE, "max_norm": POSITIVE,
    "spectral_norm": NOT_NEGATIVE, "max_spectral_norm": POSITIVE,
    "weight_noise": NOT_NEGATIVE, "weight_decay": NOT_NEGATIVE,
    "clip_norm": POSITIVE, "clip_value": POSITIVE,
    "ema": Range(0, 1, "[)"), "dropout": Range(0, 1, "[)"), "mixup": Range(0, 1000),
    # training images, whose pixels are in [0, 1]
    "shift": Range(0, 1000), "rotate": Range(0, 180), "scale": Range(0, 10),
    "shear": Range(0, 10), "elastic": Range(0, 100), "noise": Range(0, 100),
    "noise_shift": Range(-100, 100), "binarise": Range(0, 1, "()"),
    # adversarial training
    "epsilon_ramp": SHARE, "attack_steps": Range(1, 10**4),
    "attack_step_size": Range(0, 100, "(]"), "alpha": SHARE, "beta": NOT_NEGATIVE,
    "replays": Range(1, 1000),
    # the run
    "seeds": Range(1, 1000), "seed": Range(0, 2**32 - 1), "devices": Range(1, 1024),
    "validation": Range(0, 10**9), "attack_images": Range(-1, 10**9),
    "snapshots": Range(0, 1000), "snapshot_steps": COUNT,
    "processes": Range(1, 10**6), "process": Range(0, 10**6),
    "local_device_ids": Range(0, 1024), "rank_timeout": Range(0, 10**6, "(]"),
    # sweeps
    "random": Range(1, 10**5), "at_once": Range(1, 10**5), "width": Range(1, WIDEST),
    # attacks on a saved run
    "epsilon": NOT_NEGATIVE, "steps": Range(1, 10**6), "restarts": Range(1, 1000),
    "queries": Range(1, 10**7), "step_size": POSITIVE, "amount": NOT_NEGATIVE,
    "images": Range(-1, 10**9),
}  # fmt: skip
"""Field -> what its number may be, in every configuration."""

LOGITS = (None,)
SCORES = (None, "tanh")  # a score may be negative
VALUES = (
    None, "relu", "leaky_relu", "elu", "selu", "gelu", "swish", "tanh", "sigmoid",
    "softplus", "softmax",
)  # fmt: skip
OUTPUTS: dict[str, tuple[str | None, ...]] = {
    "softmax_cross_entropy": LOGITS, "softmax_focal": LOGITS, "kl": LOGITS,
    "sigmoid_cross_entropy": LOGITS, "sigmoid_focal": LOGITS,
    "nll": ("log_softmax",), "margin": SCORES, "hinge": SCORES,
    "mse": VALUES, "quadratic": VALUES, "mae": VALUES, "huber": VALUES,
}  # fmt: skip
"""Loss -> what may stand after the last layer; None are logits."""

_OF_CLASSES = ("softmax_cross_entropy", "softmax_focal", "kl", "nll")


class Need(NamedTuple):
    """Settings that have an effect only where `met` is true, and `what` that is."""

    names: tuple[str, ...]
    met: Callable[[TrainConfig], Any]
    what: str


def _widths(c) -> bool:
    return c.model != "linear" and any(t.isdecimal() for t in c.layers)


def _blocks(c) -> bool:
    kernels = (t.replace("x", "", 1) for t in c.layers if "x" in t)
    return c.model != "linear" and (_widths(c) or any(t.isdecimal() for t in kernels))


NEEDS = (
    Need(("layers",), lambda c: c.model != "linear", "a model with hidden layers"),
    Need(("dropout",), _widths, "hidden layers given by width, such as --layers 128"),
    Need(
        ("activation", "batch_norm"), _blocks,
        "hidden layers given by size, such as --layers 128 or 32x5",
    ),
    Need(
        ("init", "bias_init"), lambda c: c.model != "serial" or _blocks(c),
        "layers given by size, such as --layers 128 or 32x5; of a named one it is a "
        "setting, such as dense:64:xavier",
    ),
    Need(
        ("label_smoothing",), lambda c: c.loss == "softmax_cross_entropy",
        "--loss softmax_cross_entropy",
    ),
    Need(("patience",), lambda c: c.validation, "--validation above 0"),
    Need(("noise_kind",), lambda c: c.noise, "--noise above 0"),
    Need(
        ("epsilon", "epsilon_ramp"), lambda c: c.adversarial != "none", "--adversarial"
    ),
    Need(
        ("attack_steps",), lambda c: c.adversarial in ("pgd", "trades"),
        "--adversarial pgd or trades",
    ),
    Need(
        ("attack_step_size",), lambda c: c.adversarial in ("pgd", "trades", "fgsm_rs"),
        "--adversarial pgd, trades or fgsm_rs",
    ),
    Need(
        ("alpha",), lambda c: c.adversarial in ("fgsm_mix", "ibp"),
        "--adversarial fgsm_mix or ibp",
    ),
    Need(("beta",), lambda c: c.adversarial == "trades", "--adversarial trades"),
    Need(("replays",), lambda c: c.adversarial == "free", "--adversarial free"),
    Need(
        ("weight_decay",), lambda c: c.optimizer in ("adamw", "lamb", "lion"),
        "--optimizer adamw, lamb or lion (or --l2)",
    ),
    Need(("order",), lambda c: c.seeds > 1, "--seeds above 1"),
    Need(
        ("batch_stats",), lambda c: c.batch_norm and (c.devices or 1) > 1,
        "--batch-norm and --devices above 1",
    ),
    Need(("snapshot_steps",), lambda c: c.snapshots, "--snapshots above 0"),
)  # fmt: skip


def check(config: Any) -> None:
    """Raise unless every setting of `config` can be obeyed.

    Args:
      config: one of `jaxnn.app.config`, as given or with its defaults filled in.

    Raises:
      JaxnnError: a wrong type, a number out of its bounds, a setting that has no effect
        without another, settings that contradict each other.
    """
    check_numbers(config)
    if isinstance(config, TrainConfig):
        _check_layers(config)
        _check_needs(config)
        _check_output(config)
        _check_pairs(config)
    if isinstance(config, SweepConfig):
        _check_sweep(config)
    if getattr(config, "images", None) == 0:
        raise JaxnnError("--images: got 0, expected -1 (all) or at least 1")
    if getattr(config, "norm", None) in (None, "linf"):
        _check_epsilon(config)


def check_data(config: TrainConfig, data: Any) -> None:
    """Raise unless `config` can be obeyed with this data set.

    Raises:
      JaxnnError: images that are no grey ones, a batch or a shift that is too large.
    """
    x = data.train.x
    if x.ndim != 3:
        raise JaxnnError(
            f"{data.name}: got images of shape {x.shape[1:]}, expected grey ones (H, "
            "W); colour goes with jaxnn.fit in Python"
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
    steps = len(x) // config.batch * config.epochs * (config.replays or 1)
    if steps > STEPS_MAX:
        raise JaxnnError(
            f"--epochs: got {config.epochs}, which is {steps:,} steps; expected at "
            f"most {STEPS_MAX:,}"
        )


def flag(name: str) -> str:
    """The name of a setting as it is typed: `--noise-kind`."""
    return "--" + name.replace("_", "-")


def given(config: TrainConfig) -> dict[str, Any]:
    """The settings that differ from the defaults."""
    plain = vars(TrainConfig())
    return {k: v for k, v in vars(config).items() if k in plain and v != plain[k]}


def check_numbers(config: Any) -> None:
    """Raise unless each field by itself is right: its type and its bounds.

    Raises:
      JaxnnError: names the field, what it holds and what it may hold.
    """
    check_types(config)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            check_numbers(value)
        else:
            _check_bounds(field.name, value)


def check_types(config: Any) -> None:
    """Raise unless every field holds what its annotation says.

    Raises:
      JaxnnError: names the field, what it holds and what it may hold.
    """
    for name, kind in get_type_hints(type(config)).items():
        value = getattr(config, name)
        if not dataclasses.is_dataclass(kind) and not _fits(value, kind):
            raise JaxnnError(
                f"{flag(name)}: got {_shown(value)}, expected {_kind_words(kind)}"
            )


def from_plain(
    kind: Callable[..., Any], settings: Mapping[str, Any], where: str
) -> Any:
    """A configuration from what JSON makes of one; nothing is guessed or left out.

    Raises:
      JaxnnError: names that are missing or unknown, values of a wrong type; says
        `where`.
    """
    hints = get_type_hints(kind)
    unknown, missing = settings.keys() - hints.keys(), hints.keys() - settings.keys()
    if unknown or missing:
        what = "unknown" if unknown else "no"
        names = ", ".join(sorted(unknown or missing))
        raise JaxnnError(f"{where}: {what} setting {names}; it was edited or damaged")
    values = {k: _from_plain(v, hints[k]) for k, v in settings.items()}
    config = kind(**values)
    try:
        check_types(config)
    except JaxnnError as error:
        raise JaxnnError(f"{where}: {error}; it was edited or damaged") from None
    return config


def plain_types(kind: Any) -> tuple:
    """The types among a field's: `float | None` gives (float, NoneType)."""
    if get_origin(kind) in (types.UnionType, Union):
        return get_args(kind)
    return (kind,)


def _from_plain(value, kind):
    kinds = plain_types(kind)
    if isinstance(value, list) and any(get_origin(k) is tuple for k in kinds):
        return tuple(value)
    return Path(value) if isinstance(value, str) and Path in kinds else value


def _fits(value, kind) -> bool:
    if len(kinds := plain_types(kind)) > 1:
        return any(_fits(value, one) for one in kinds)
    if get_origin(kind) is Literal:
        return any(type(value) is type(one) and value == one for one in get_args(kind))
    if get_origin(kind) is tuple:
        item = get_args(kind)[0]
        return isinstance(value, tuple) and all(_fits(one, item) for one in value)
    if kind in (int, float):
        number = Integral if kind is int else Real
        return isinstance(value, number) and not isinstance(value, bool)
    return isinstance(value, kind) and value != ""


def _kind_words(kind) -> str:
    if len(kinds := plain_types(kind)) > 1:
        return " or ".join(map(_kind_words, kinds))
    if get_origin(kind) is Literal:
        return ", ".join(map(str, get_args(kind)))
    if get_origin(kind) is tuple:
        return f"a list of {_kind_words(get_args(kind)[0])}"
    words = {
        int: "a whole number", float: "a number", bool: "true or false", str: "a word",
        Path: "a path", dict: "an object", type(None): "none",
    }  # fmt: skip
    return words[kind]


def _shown(value) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _check_bounds(name, value):
    for one in value if isinstance(value, tuple) else (value,):
        if isinstance(one, (bool, str, Path)) or one is None:
            continue
        if not BOUNDS[name].holds(one):
            raise JaxnnError(
                f"{flag(name)}: got {name}={one:g}, expected "
                + BOUNDS[name].words(name, one)
            )


FREE = ("devices", "quiet", "attack_images", "snapshots", "resume", "ranks")
"""Settings that do not change what is learnt."""


def must_stay(config: TrainConfig) -> dict[str, Any]:
    """The settings that what was trained belongs to, so that an edit since is found.

    With a constant schedule the number of epochs may grow.
    """
    free = set(FREE) | ({"epochs"} if config.schedule == "constant" else set())
    free -= {"devices"} if config.batch_stats == "ghost" else set()
    return {name: v for name, v in vars(config).items() if name not in free}


def without_effect(config: TrainConfig) -> dict[str, str]:
    """The settings of `config` that change nothing in it, each with what it needs."""
    changed = given(config)
    return {
        name: what
        for names, met, what in NEEDS
        for name in names
        if changed.get(name) not in (None, False, 0, ()) and not met(config)
    }


def _check_needs(config):
    for name, what in without_effect(config).items():
        value = getattr(config, name)
        value = " ".join(value) if isinstance(value, tuple) else value
        raise JaxnnError(f"{flag(name)} {value} has no effect here: it needs {what}")


def _check_layers(config):
    """Numbers in `--layers` that no layer could have; the layers know the rest."""
    for token in config.layers:
        block = re.fullmatch(r"\d+(x\d+)?", token, re.ASCII)
        for text in token.split("x") if block else token.split(":")[1:]:
            try:
                number = float(text)
            except ValueError:
                continue  # a word
            if not abs(number) <= WIDEST or (block and number < 1):
                raise JaxnnError(
                    f"--layers {token}: got {text}, expected a number from "
                    f"{1 if block else -WIDEST:,} to {WIDEST:,}; a width must be at "
                    "least 1"
                )


def _check_output(config):
    """The loss must be one for what the network puts out."""
    if config.loss not in OUTPUTS:
        return  # the tables of names will say so
    output, where = config.output, "--output"
    if output is None and config.model == "serial" and config.layers:
        last = config.layers[-1].partition(":")[0]
        if last in (*VALUES, "log_softmax"):
            output, where = last, "--layers ..."
    allowed = OUTPUTS[config.loss]
    if output in allowed or output not in (*VALUES, "log_softmax"):
        return
    losses = [name for name, outputs in OUTPUTS.items() if output in outputs]
    words = " or ".join("no --output (logits)" if o is None else o for o in allowed)
    raise JaxnnError(
        f"--loss {config.loss} does not fit {where} {output}: it takes {words}. Losses "
        f"for the output {output}: {', '.join(losses) or 'none'}"
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
    usual = {"rotate": 10, "scale": 0.1, "shear": 0.1, "shift": 2, "elastic": 0}
    chosen = {name: getattr(config, name) for name in usual}
    if config.augment == "none":
        usual = dict.fromkeys(usual, 0)
    return {k: usual[k] if v is None else v for k, v in chosen.items()}


def _check_epsilon(config):
    epsilon = getattr(config, "epsilon", None)
    if epsilon is not None and epsilon > 1:
        raise JaxnnError(
            f"--epsilon: got {epsilon:g}, expected 0 <= epsilon <= 1, as pixels are in "
            "[0, 1]"
        )


NOT_IN_A_SWEEP = {
    "guard": "a point leaves out its own bad steps and stops no other",
    "order": "all points see the same batches, so that only settings differ",
    "attack_images": "points are compared by validation; attack one with jaxnn attack",
    "snapshots": "a sweep always goes on where it was killed",
    "snapshot_steps": "a sweep goes on at the end of an epoch",
    "batch_stats": "devices divide the points, not the batches",
}
"""Setting -> why a sweep has no use for it."""

NO_AXIS = NOT_IN_A_SWEEP | {
    "data": "points are compared on the same images; sweep each data set by itself",
    "validation": "points are compared on the same images",
    "dtype": "JAX's 64-bit mode is for a whole process; sweep each type by itself",
    "seeds": "it is how many networks each point is trained as: --seeds",
    "devices": "they divide the points: --devices",
    "out": "a sweep has one folder: --out",
    "quiet": "it changes no network: --quiet",
}
"""Setting -> why points cannot differ in it. All others can."""


def check_point(config: TrainConfig) -> None:
    """Raise unless a network of these settings can be one of a sweep's points.

    Raises:
      JaxnnError: as `check`, and for what a sweep leaves out.
    """
    check(config)
    changed = given(config)
    for name, why in NOT_IN_A_SWEEP.items():
        if name in changed:
            raise JaxnnError(f"sweep: {flag(name)} has no effect here: {why}")
    for name, value in (("dtype", "float16"), ("adversarial", "free")):
        if changed.get(name) == value:
            raise JaxnnError(
                f"sweep: {flag(name)} {value} keeps a memory of its own from step to "
                "step; train such networks one by one with jaxnn train"
            )


def _check_sweep(config):
    network = config.network
    for name, why in NOT_IN_A_SWEEP.items():
        if name in given(network):
            raise JaxnnError(f"sweep: {flag(name)} has no effect here: {why}")
    if not network.validation:
        raise JaxnnError("sweep: --validation 0 leaves nothing to choose by")
    alone = replace(SweepConfig(network=network), resume=config.resume)
    if config.resume is not None and (config != alone or given(network)):
        raise JaxnnError(
            "sweep: --resume takes no other flag or axis; the sweep's own settings hold"
        )
