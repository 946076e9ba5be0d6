"""Which learning rate? Many rates side by side, a few steps each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnn.errors import JaxnnError, known_words, lookup
from jaxnn.layers import Layer
from jaxnn.losses import Loss, softmax_cross_entropy
from jaxnn.optimizers import OPTIMIZERS
from jaxnn.train.engine import batch_order, scan_steps
from jaxnn.train.inputs import FORMS, as_loss, check_arguments, checked_data, seed_list
from jaxnn.train.step import Step, make_step

RATES = tuple(float(f"{r:.3g}") for r in np.geomspace(1e-5, 10, 25))
"""The rates that are tried: four a decade."""
SETTINGS = {f.name: f for f in fields(Step) if f"{f.name}?" in FORMS}
"""Those of a step that a search can have."""


@dataclass(frozen=True)
class RateSearch:
    """What `find_lr` found.

    Attributes:
      rates: (R,) those tried, rising.
      losses: (R, S) mean training loss over the last fifth of the steps, a column a
        seed; inf where a step was not finite.
      start: mean loss before the first step.
      suggestion: the rate of the lowest loss, median over the seeds.
      low, high: rates from here to there are as good: their median is not above the
        worst seed's loss at the suggestion.
      breaks: the least rate above it at which a seed fails: a step that is not finite,
        or a loss above `start`; None if no rate did.
      why: the same in one sentence.
    """

    rates: np.ndarray
    losses: np.ndarray
    start: float
    suggestion: float
    low: float
    high: float
    breaks: float | None
    why: str

    def __repr__(self) -> str:
        return f"<RateSearch: {self.why}>"

    def plot(self, path: str | Path | None = None, dpi: int | None = None) -> Any:
        """Draw the losses over the rates; see `jaxnn.plots`."""
        from jaxnn.plots.run import rates  # matplotlib, only where something is drawn

        return rates(self, path, dpi)


@known_words
def find_lr(
    net: Layer, data: Any, targets: Any = None, *,
    optimizer: str | Callable[[Any], Any] = "adam",
    loss: Loss | str = softmax_cross_entropy, rates: Sequence[float] = RATES,
    seeds: int | Sequence[int] = (0, 1, 2, 3, 4), steps: int = 100, batch: int = 128,
    **options: Any,
) -> RateSearch:  # fmt: skip
    """Train a network `steps` steps at each rate, all in one program; suggest a rate.

    A short run flatters large rates a little: where the rate is not lowered during
    training, stay below the suggestion rather than above it.

    Args:
      net: the network.
      data, targets: `(x, y)`, or x and y, as `fit` takes them.
      optimizer: a name, or a function from the rate to an optax transformation.
      loss: see `jaxnn.losses`; ours also by name.
      rates: those to try.
      seeds: each has its own initial weights; all see the same batches.
      steps: of each network; the last fifth is judged.
      batch: samples a step.
      options: of each step, as `fit` and `jaxnn.train.Step` have them.

    Raises:
      JaxnnError: what `fit` refuses; rates that are not positive, or fewer than two.
    """
    data = data if targets is None else (data, targets)
    loss, seeds = as_loss("find_lr", loss), seed_list(seeds)
    x, y, _ = checked_data("find_lr", net, loss, data, None, batch)
    for name in options:
        lookup("option of find_lr", name, SETTINGS)
    check_arguments("find_lr", steps=steps, **options)
    tried = np.unique(np.asarray(rates, np.float32))
    if len(tried) < 2 or not 0 < tried[0] <= tried[-1] < np.inf:
        raise JaxnnError(
            f"find_lr: got rates {tried}, expected at least two finite ones > 0"
        )
    if isinstance(optimizer, str):
        optimizer = lookup("optimizer", optimizer, OPTIMIZERS)[0]
    epochs = range(-(-steps // (len(x) // batch)))
    order = np.concatenate([batch_order(len(x), batch, e) for e in epochs])[:steps]
    make = partial(make_step, net, loss, watch_update=False, **options)
    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    found = _train(make, optimizer, jnp.asarray(x), jnp.asarray(y), order, tried, keys)
    return judge(tried, *map(np.asarray, found))


@partial(jax.jit, static_argnums=(0, 1))
def _train(make, optimizer, x, y, order, rates, keys):
    """Loss and soundness of every step, (R, S, steps) each."""

    def train(rate, key):
        step = make(optimizer(rate))
        ts = step.start((order.shape[1], *x.shape[1:]), key)
        metrics = scan_steps(step, ts, x, y, order, key)[1]
        return metrics["loss"], metrics["ok"]

    # a rate after the other: the networks of all rates would not fit the caches
    return lax.map(lambda rate: jax.vmap(partial(train, rate))(keys), rates)


def judge(rates: np.ndarray, losses: np.ndarray, ok: np.ndarray) -> RateSearch:
    """Suggest one of `rates` (R,) from the losses and soundness of steps (R, S, T)."""
    tail = max(losses.shape[-1] // 5, 1)
    start = float(np.mean(losses[:, :, 0]))
    sound = ok.all(-1) & np.isfinite(losses).all(-1)
    final = np.where(sound, losses[:, :, -tail:].astype(np.float64).mean(-1), np.inf)
    middle = np.median(final, 1)
    best = int(middle.argmin())
    if not middle[best] < start:
        raise JaxnnError(
            f"find_lr: no rate from {rates[0]:g} to {rates[-1]:g} lowers the loss of "
            f"{start:.3g}; try other rates, more steps, or look at the data"
        )
    good = middle <= final[best].max()
    low = high = best
    while low and good[low - 1]:
        low -= 1
    while high + 1 < len(rates) and good[high + 1]:
        high += 1
    failing = np.flatnonzero(~(final[best:] <= start).all(1)) + best
    breaks = float(rates[failing[0]]) if len(failing) else None
    edge = best in (0, len(rates) - 1)
    why = (
        f"{rates[best]:.3g}: the lowest loss after {losses.shape[-1]} steps, "
        f"{middle[best]:.3g} (median of {losses.shape[1]} seeds)"
        + (f"; from {rates[low]:.3g} to {rates[high]:.3g} is as good" * (low < high))
        + (f"; from {breaks:.3g} on a seed fails" if breaks else "")
        + ("; it is the last one tried: try beyond it" * edge)
    )
    return RateSearch(
        rates, final, start, float(rates[best]), float(rates[low]), float(rates[high]),
        breaks, why,
    )  # fmt: skip
