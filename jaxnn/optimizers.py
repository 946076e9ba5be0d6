"""Optimizers and learning-rate schedules by name: optax, with the usual defaults."""

import math
from collections.abc import Callable
from typing import Any

import optax

from jaxnn.errors import JaxnnError, lookup, require
from jaxnn.programs import remembered
from jaxnn.tree import Mask, weights


def _decaying(make: Callable) -> Callable[..., Any]:
    """An optimizer with weight decay, of weights only: see `jaxnn.tree.weights`."""

    def optimizer(lr, weight_decay=None, mask=None):
        given = {} if weight_decay is None else {"weight_decay": weight_decay}
        return make(lr, mask=lambda params: weights(params, mask), **given)

    return optimizer


OPTIMIZERS: dict[str, tuple[Callable[..., Any], float]] = {
    "sgd": (optax.sgd, 0.1),
    "momentum": (lambda lr: optax.sgd(lr, momentum=0.9), 0.05),
    "nesterov": (lambda lr: optax.sgd(lr, momentum=0.9, nesterov=True), 0.05),
    "adagrad": (optax.adagrad, 0.01),
    "adadelta": (optax.adadelta, 1.0),
    "rmsprop": (optax.rmsprop, 1e-3),
    "adam": (optax.adam, 1e-3),
    "adamw": (_decaying(optax.adamw), 1e-3),
    "nadam": (optax.nadam, 1e-3),
    "lamb": (_decaying(optax.lamb), 1e-2),
    "lion": (_decaying(optax.lion), 1e-4),
}
"""Name -> (learning rate or schedule -> optimizer, its usual learning rate)."""

WEIGHT_DECAY = {"adamw": 1e-4, "lamb": 0.0, "lion": 1e-3}
"""The optimizers that have weight decay of their own, and their usual one (optax's)."""


SCHEDULES: dict[str, Callable[[float, int], Any]] = {
    "constant": lambda lr, steps: lr,
    "linear": lambda lr, steps: optax.linear_schedule(lr, 0.0, steps),
    "cosine": lambda lr, steps: optax.cosine_decay_schedule(lr, steps),
    "exponential": lambda lr, steps: optax.exponential_decay(lr, steps, 0.01),
    "step": lambda lr, steps: optax.piecewise_constant_schedule(
        lr, {steps // 2: 0.1, steps * 3 // 4: 0.1}
    ),
    "onecycle": lambda lr, steps: optax.cosine_onecycle_schedule(steps, lr),
}
"""Name -> (peak learning rate, steps of the whole run) -> constant or schedule.

`linear` and `cosine` fall to 0, `exponential` to 1% of the peak; `step` divides by 10
at half and at three quarters; `onecycle` rises for 30% of the run, then falls."""


def learning_rate(name: str, lr: float | None = None) -> float:
    """`lr`, or the usual one of the optimizer `name` if it is None.

    Raises:
      JaxnnError: unknown optimizer (lists the valid names), lr not positive.
    """
    usual = lookup("optimizer", name, OPTIMIZERS)[1]
    lr = usual if lr is None else lr
    require(0 < lr < math.inf, f"optimizer {name}", "lr", lr, "a finite lr > 0")
    return lr


def weight_decay_of(name: str, weight_decay: float | None = None) -> float | None:
    """`weight_decay`, or the usual one of the optimizer `name`; None if it has none.

    Raises:
      JaxnnError: a weight decay that is negative or not finite, or of an optimizer
        that has none.
    """
    usual = WEIGHT_DECAY.get(name)
    if weight_decay is None:
        return usual
    if usual is None:
        raise JaxnnError(
            f"optimizer {name}: got weight_decay={weight_decay:g}, but only "
            f"{', '.join(WEIGHT_DECAY)} have weight decay; take one of them, or the "
            "penalty l2"
        )
    require(
        0 <= weight_decay < math.inf, f"optimizer {name}", "weight_decay", weight_decay,
        "a finite number >= 0",
    )  # fmt: skip
    return weight_decay


@remembered
def optimizer_by_name(
    name: str,
    lr: float | None = None,
    schedule: str = "constant",
    steps: int = 1,
    weight_decay: float | None = None,
    mask: Mask = None,
) -> Any:
    """An optax optimizer whose learning rate follows `schedule` for `steps` steps.

    Args:
      name: in `OPTIMIZERS`.
      lr: learning rate at its peak; None takes the optimizer's usual one.
      schedule: in `SCHEDULES`.
      steps: of the whole run.
      weight_decay: share of each weight taken off a step, times the learning rate;
        None takes the optimizer's usual one, see `WEIGHT_DECAY`.
      mask: what decays; None: weights, so no bias, gamma or beta
        (`jaxnn.tree.weights`).

    Raises:
      JaxnnError: unknown optimizer or schedule (lists the valid names), lr <= 0, weight
        decay < 0 or of an optimizer without.
    """
    peak = learning_rate(name, lr)
    decay = weight_decay_of(name, weight_decay)
    rate = lookup("schedule", schedule, SCHEDULES)(peak, steps)
    make = OPTIMIZERS[name][0]
    return make(rate) if decay is None else make(rate, decay, mask)
