"""What the settings of a run ask of each training step."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from jaxnn import augment, defenses, regularize
from jaxnn.app.config import TrainConfig
from jaxnn.errors import lookup
from jaxnn.optimizers import learning_rate, weight_decay_of
from jaxnn.train import Defense


def resolved(config: TrainConfig) -> TrainConfig:
    """`config` with what was left to a rule made explicit, so that the run says it.

    What has no effect in it stays None.
    """
    c = config
    rules: dict[str, Any] = {
        "lr": learning_rate(c.optimizer, c.lr),
        "weight_decay": weight_decay_of(c.optimizer),
        "label_smoothing": 0.1 if c.loss == "softmax_cross_entropy" else 0.0,
        "keep": "best" if c.validation else "last",
        "epsilon": None if c.adversarial == "none" else 0.1,
        "alpha": 0.5 if c.adversarial in ("fgsm_mix", "ibp") else None,
        "beta": 1.0 if c.adversarial == "trades" else None,
        "replays": 4 if c.adversarial == "free" else None,
        "attack_steps": {"pgd": 7, "trades": 10}.get(c.adversarial),
        "attack_step_size": 1.25 if c.adversarial == "fgsm_rs" else None,
        "attack_images": 2000,
    }
    left_open = {k: v for k, v in rules.items() if getattr(config, k) is None}
    return replace(config, **left_open)


def step_options(config: TrainConfig, classes: int, steps: int = 1) -> dict[str, Any]:
    """The keywords of `make_step` for `config`; None for what it leaves out.

    `steps` are those of the whole run, for what grows along it.

    Raises:
      JaxnnError: settings out of range.
    """
    c, r = resolved(config), regularize
    penalties = _made((r.l1, c.l1), (r.l2, c.l2), (r.spectral_norm, c.spectral_norm))
    projections = [
        make(limit)
        for make, limit in (
            (r.max_spectral_norm, c.max_spectral_norm),
            (r.max_norm, c.max_norm),
        )
        if limit is not None
    ]
    return {
        "penalty": r.combined(*penalties) if penalties else None,
        "project": r.in_turn(*projections) if projections else None,
        "augment": _augment(c),
        "mixup": r.mixup(c.mixup, classes) if c.mixup else None,
        "weight_noise": next(iter(_made((r.weight_noise, c.weight_noise))), None),
        "clip_norm": c.clip_norm,
        "clip_value": c.clip_value,
        "ema": c.ema,
        "defense": _defense(c, steps),
    }


def _defense(config, steps) -> Defense | None:
    c, epsilon = config, config.epsilon
    if c.adversarial == "none":
        return None
    if c.epsilon_ramp:
        epsilon = defenses.ramp(epsilon, max(1, round(c.epsilon_ramp * steps)))
    steps, size = c.attack_steps, c.attack_step_size
    makers: dict[str, Callable[[], Defense]] = {
        "fgsm_mix": lambda: defenses.fgsm_mix(epsilon, c.alpha),
        "fgsm_rs": lambda: defenses.fgsm_rs(epsilon, size),
        "pgd": lambda: defenses.pgd(epsilon, steps, size),
        "trades": lambda: defenses.trades(epsilon, steps, size, c.beta),
        "free": lambda: defenses.free(epsilon, c.replays),
        "ibp": lambda: defenses.ibp(epsilon, c.alpha),
    }
    return lookup("adversarial training", c.adversarial, makers)()


def _augment(config) -> Callable | None:
    c = config
    warp = augment.augment_by_name(
        c.augment, shift=c.shift, rotate=c.rotate, scale=c.scale, shear=c.shear,
        elastic=c.elastic,
    )  # fmt: skip
    changes = [] if warp is None else [warp]
    if c.noise or c.noise_shift:
        noise = lookup("noise kind", c.noise_kind or "gaussian", regularize.NOISES)
        changes.append(noise(c.noise, c.noise_shift))
    return augment.in_turn(*changes) if changes else None


def _made(*pairs) -> list:
    """make(strength) of each pair whose strength is not 0."""
    return [make(strength) for make, strength in pairs if strength]
