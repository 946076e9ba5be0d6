"""Settings become objects, here and nowhere else: every command starts from `build`."""

import inspect
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnn import defenses, regularize
from jaxnn.app.checks import check_data
from jaxnn.app.config import MODELS, NOISE_KIND, TrainConfig
from jaxnn.app.settings import resolved
from jaxnn.app.streams import note
from jaxnn.arrays import is_traced
from jaxnn.augment import augment_by_name
from jaxnn.augment import chain as chain_augments
from jaxnn.combine import activation_layer, dense_block, output_layer, serial
from jaxnn.data import Dataset, load, pixel_statistics
from jaxnn.data.digit_image import SAMPLE, ground_of, how_marks_lie
from jaxnn.defenses.interval import margins
from jaxnn.environment import memory, warn_if_slow
from jaxnn.errors import JaxnnError, lookup
from jaxnn.layers import (
    ACTIVATIONS,
    LAYERS,
    Layer,
    batch_norm,
    conv,
    dense,
    flatten,
    reshape,
    standardize,
)
from jaxnn.losses import RegisteredLoss, loss_by_name
from jaxnn.optimizers import optimizer_by_name
from jaxnn.train import make_step
from jaxnn.train.inputs import check_ending
from jaxnn.train.step import Defense


class DataFacts(NamedTuple):
    """What a network must know of its data; saved with it."""

    in_shape: tuple[int, ...]
    classes: int
    mean: float
    std: float
    names: tuple[str, ...] = ()  # of the classes; without, they are called 0, 1, 2 ...
    ground: float | None = None  # level in 0..255 of what images are drawn on, if any
    marks: tuple[float, ...] | None = None  # how marks lie, `jaxnn.data.digit_image`


class Experiment(NamedTuple):
    """What a configuration describes."""

    config: TrainConfig  # with what was left to a rule made explicit
    facts: DataFacts
    data: Any  # None where a saved network is used without
    net: Layer
    loss: RegisteredLoss
    optimizer: optax.GradientTransformation  # with the schedule of the whole run
    steps: int  # of the whole run
    options: dict[str, Any]  # keywords of `make_step` and `fit`; None: left out


def build(
    config: TrainConfig, facts: DataFacts, data: Dataset | None = None, steps: int = 1,
    net: Layer | None = None,
) -> Experiment:  # fmt: skip
    """Make the objects that the settings, found right by `check`, describe.

    Args:
      config: the settings; lr, l2, noise and dropout may be traced (a sweep's).
      facts: of the data.
      data: what is trained on, if anything is; tells the steps of the run.
      steps: of the whole run, where `data` is None.
      net: the network, where it is not the settings that describe it.
    """
    config = resolved(config)
    if data is not None:
        steps = max(len(data.train.x) // config.batch, 1) * config.epochs
        steps *= config.free_replays or 1
    loss: Any = loss_by_name(config.loss, config.label_smoothing or 0.0)
    lr: Any = config.lr
    optimizer = optimizer_by_name(
        config.optimizer, 1.0 if is_traced(lr) else lr, config.schedule, steps,
        config.weight_decay,
    )  # fmt: skip
    if is_traced(lr):  # which schedules cannot all take
        optimizer = optax.chain(optimizer, optax.scale(lr))
    net = network(config, facts) if net is None else net
    named = {*ACTIVATIONS, "softmax", "log_softmax"}
    ends = named & {config.output, *config.layers[-1:]}
    check_ending("--loss, --output", net, loss, {n: output_layer(n) for n in ends})
    options = step_options(config, facts.classes, steps)
    return Experiment(config, facts, data, net, loss, optimizer, steps, options)


def load_for(config: TrainConfig) -> Dataset:
    """Load the data, if `config` can be obeyed with it."""
    data = load(config.data, validation=config.validation, say=note)
    check_data(config, data)
    return data


def build_for_data(config: TrainConfig) -> Experiment:
    """Load the data and `build`."""
    data = load_for(config)
    return build(config, facts_of(data), data)


def facts_of(data: Dataset) -> DataFacts:
    """Measure what a network must know of its training images."""
    x, ground, marks = data.train.x, None, ()
    if x.ndim == 3:
        some = x[:: max(1, len(x) // SAMPLE)]
        some = some if some.dtype == np.uint8 else (255 * some).astype(np.uint8)
        ground, marks = ground_of(some), tuple(how_marks_lie(some) or ())
    facts = x.shape[1:], data.classes, *pixel_statistics(x), data.names
    return DataFacts(*facts, ground, marks)


def check_experiment(e: Experiment) -> None:
    """Raise for what cannot be trained, before any file is written."""
    make_step(e.net, e.loss, e.optimizer, **e.options)
    warn_if_slow(e.config.precision)
    if e.config.adversarial == "ibp":
        margins(e.net)
    shapes = []

    def init(key):
        params, state, out = e.net.init(key, e.facts.in_shape)
        shapes.append(out)
        return params, state

    params, _ = jax.eval_shape(init, jax.random.key(0))
    if shapes[0] != (e.facts.classes,):
        raise JaxnnError(
            f"--layers: the network puts out {shapes[0]} for an image, expected "
            f"({e.facts.classes},), a number for each class"
        )
    size = sum(math.prod(a.shape) * a.dtype.itemsize for a in jax.tree.leaves(params))
    needed, there = 3 * size * e.config.seeds, memory()
    if there and needed > there:
        raise JaxnnError(
            "--layers and --seeds: parameters, gradients and the optimizer's state "
            f"need at least {needed / 1e9:,.0f} GB, but there are {there / 1e9:,.0f}; "
            "expected fewer or narrower networks"
        )
    if e.options["augment"] is not None:
        images = jax.ShapeDtypeStruct((1, *e.facts.in_shape), jnp.float32)
        jax.eval_shape(e.options["augment"], jax.random.key(0), images)


# ---- the step


def step_options(config: TrainConfig, classes: int, steps: int = 1) -> dict[str, Any]:
    """The keywords of `make_step` for `config`; None for what it leaves out."""
    c, r = resolved(config), regularize
    pairs = (r.l1, c.l1), (r.l2, c.l2), (r.spectral_norm, c.spectral_norm)
    penalties = [make(size) for make, size in pairs if is_traced(size) or size]
    limits = (r.max_spectral_norm, c.max_spectral_norm), (r.max_norm, c.max_norm)
    projections = [make(limit) for make, limit in limits if limit is not None]
    return {
        "penalty": r.sum_penalties(*penalties) if penalties else None,
        "project": r.chain(*projections) if projections else None,
        "augment": _augment(c),
        "mixup": r.mixup(c.mixup, classes) if c.mixup else None,
        "weight_noise": r.weight_noise(c.weight_noise) if c.weight_noise else None,
        "clip_norm": c.clip_norm,
        "clip_value": c.clip_value,
        "ema": c.ema,
        "defense": _defense(c, steps),
        "precision": c.precision,
    }


def _defense(config, steps) -> Defense | None:
    c, epsilon = config, config.epsilon
    if c.adversarial == "none":
        return None
    if c.epsilon_ramp:
        epsilon = defenses.ramp(epsilon, max(1, round(c.epsilon_ramp * steps)))
    n, size = c.attack_steps, c.attack_step_size
    makers: dict[str, Callable[[], Defense]] = {
        "fgsm_mix": lambda: defenses.fgsm_mix(epsilon, c.alpha),
        "fgsm_rs": lambda: defenses.fgsm_rs(epsilon, size),
        "pgd": lambda: defenses.pgd(epsilon, n, size),
        "trades": lambda: defenses.trades(epsilon, n, size, c.beta),
        "free": lambda: defenses.free(epsilon, c.free_replays),
        "ibp": lambda: defenses.ibp(epsilon, c.alpha),
    }
    return lookup("adversarial training", c.adversarial, makers)()


def _augment(config) -> Callable | None:
    c = config
    warp = augment_by_name(
        c.augment, shift=c.shift, rotate=c.rotate, scale=c.scale, shear=c.shear,
        elastic=c.elastic,
    )  # fmt: skip
    parts: list[Callable] = [] if warp is None else [warp]
    kind = lookup("noise kind", c.noise_kind or NOISE_KIND, regularize.NOISES)
    if is_traced(c.noise) or c.noise or c.noise_shift:
        parts.append(kind(c.noise, c.noise_shift))
    return chain_augments(*parts) if parts else None


# ---- the network


def network(config: TrainConfig, facts: DataFacts) -> Layer:
    """Make the network of `config` for data like `facts`."""
    lookup("model", config.model, dict.fromkeys(MODELS))
    layers = [] if config.binarize is None else [defenses.binarize(config.binarize)]
    layers += [standardize(facts.mean, facts.std)] if config.standardize else []
    if config.model == "cnn" and len(facts.in_shape) == 2:
        layers.append(reshape(*facts.in_shape, 1))  # gray images get a channel axis
    flat = config.model == "serial"  # there the user says where
    if config.model in ("linear", "mlp"):
        layers.append(flatten)
        flat = True
    for token in () if config.model == "linear" else config.layers:
        if token.isdecimal() and not flat:
            layers.append(flatten)
            flat = True
        layers += _block(token, config)
    if config.model != "serial":
        layers += [] if flat else [flatten]
        layers.append(dense(facts.classes, config.init, config.bias_init))
    if config.output is not None:
        layers.append(output_layer(config.output))
    return serial(*layers)


def _block(token: str, config: TrainConfig) -> list[Layer]:
    """The layers that one word of `--layers` stands for."""
    if token.isdecimal():
        return dense_block(
            int(token), config.activation, init=config.init, bias=config.bias_init,
            normalize=_batch_norm(config) if config.batch_norm else False,
            drop_rate=config.dropout,
        )  # fmt: skip
    if convolution := re.fullmatch(r"(\d+)x(\d+)", token):
        channels, kernel = map(int, convolution.groups())
        bias = False if config.batch_norm else config.bias_init
        return [
            conv(channels, kernel, init=config.init, bias=bias),
            *([_batch_norm(config)] if config.batch_norm else []),
            activation_layer(config.activation),
        ]
    name, *texts = token.split(":")
    make = lookup("layer", name, LAYERS)
    # numbers, or words where they are taken: pad:2:reflect, conv:32:5:1:VALID
    takes = [p.annotation for p in inspect.signature(make).parameters.values()]
    settings = []
    for i, text in enumerate(texts):
        number = _number(text)
        wordy = i < len(takes) and str in (takes[i], *get_args(takes[i]))
        if number is None and not wordy:
            raise JaxnnError(
                f"layer setting {text!r} is not a number; expected such as dropout:0.2"
            )
        settings.append(text if number is None else number)
    try:
        return [make(*settings)]
    except TypeError as error:
        raise JaxnnError(
            f"layer {token!r}: wrong number of settings ({error}); expected a form "
            "such as 128, 32x5, relu, dense:128, dropout:0.2"
        ) from None


def _batch_norm(config: TrainConfig) -> Layer:
    ghost = config.batch_stats == "ghost"
    return batch_norm(groups=config.devices or 1) if ghost else batch_norm()


def _number(text: str) -> int | float | None:
    try:
        return int(text) if text.lstrip("-").isdecimal() else float(text)
    except ValueError:
        return None
