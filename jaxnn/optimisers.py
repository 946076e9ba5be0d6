"""Optimisers and learning-rate schedules by name: optax, with the usual defaults."""

from collections.abc import Callable
from typing import Any

import optax

from jaxnn.errors import JaxnnError, lookup

OPTIMISERS: dict[str, tuple[Callable[[Any], Any], float]] = {
    "sgd": (optax.sgd, 0.1),
    "momentum": (lambda lr: optax.sgd(lr, momentum=0.9), 0.05),
    "nesterov": (lambda lr: optax.sgd(lr, momentum=0.9, nesterov=True), 0.05),
    "adagrad": (optax.adagrad, 0.01),
    "adadelta": (optax.adadelta, 1.0),
    "rmsprop": (optax.rmsprop, 1e-3),
    "adam": (optax.adam, 1e-3),
    "adamw": (optax.adamw, 1e-3),
    "nadam": (optax.nadam, 1e-3),
    "lamb": (optax.lamb, 1e-2),
    "lion": (optax.lion, 1e-4),
}
"""Name -> (learning rate or schedule -> optimiser, its usual learning rate)."""


def _onecycle(lr, steps):
    return optax.cosine_onecycle_schedule(steps, lr)


SCHEDULES: dict[str, Callable[[float, int], Any]] = {
    "constant": lambda lr, steps: lr,
    "linear": lambda lr, steps: optax.linear_schedule(lr, 0.0, steps),
    "cosine": lambda lr, steps: optax.cosine_decay_schedule(lr, steps),
    "exponential": lambda lr, steps: optax.exponential_decay(lr, steps, 0.01),
    "step": lambda lr, steps: optax.piecewise_constant_schedule(
        lr, {steps // 2: 0.1, steps * 3 // 4: 0.1}
    ),
    "onecycle": _onecycle,
}
"""Name -> (peak learning rate, steps of the whole run) -> constant or schedule.

`linear` and `cosine` fall to 0, `exponential` to 1% of the peak; `step` divides by 10
at half and at three quarters; `onecycle` rises for 30% of the run, then falls."""


def learning_rate(name: str, lr: float | None = None) -> float:
    """`lr`, or the usual one of the optimiser `name` if it is None.

    Raises:
      JaxnnError: unknown optimiser (lists the valid names), lr not positive.
    """
    usual = lookup("optimiser", name, OPTIMISERS)[1]
    lr = usual if lr is None else lr
    if not lr > 0:
        raise JaxnnError(f"optimiser {name}: got lr={lr:g}, expected lr > 0")
    return lr


def optimiser_by_name(
    name: str, lr: float | None = None, schedule: str = "constant", steps: int = 1
) -> Any:
    """An optax optimiser whose learning rate follows `schedule` for `steps` steps.

    `lr=None` takes the optimiser's usual one (see `OPTIMISERS`).

    Raises:
      JaxnnError: unknown optimiser or schedule (lists the valid names), lr <= 0.
    """
    peak = learning_rate(name, lr)
    make = OPTIMISERS[name][0]
    return make(lookup("schedule", schedule, SCHEDULES)(peak, steps))
