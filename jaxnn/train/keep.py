"""Keeping what was learnt: the best parameters, and a clean end on Ctrl-C."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn import programs
from jaxnn.arrays import is_key
from jaxnn.train.average import evaluated


class Best:
    """The best parameters so far (of their moving average, if there is one), for each
    seed by itself."""

    def __init__(self, ts, seeds, many, patience):
        self.patience, self.many = patience, many
        self.tree = jax.tree.map(jnp.copy, evaluated(ts))
        self.score = np.full(seeds, -np.inf)
        self.epoch = np.zeros(seeds, int)
        self.stopped = np.zeros(seeds, bool)

    def offer(self, epoch, row, ts):
        """Keep the parameters of `ts` for those seeds that `row` says are better."""
        if "validation_loss" not in row:
            return
        accuracy = np.atleast_1d(row["validation_accuracy"])
        score = np.where(
            np.isnan(accuracy), -np.atleast_1d(row["validation_loss"]), accuracy
        )
        # outputs that are NaN have a label all the same, and may hit it
        score = np.where(np.isnan(row["validation_loss"]), -np.inf, score)
        # A seed that ran out of patience stays as it would be had it run alone.
        better = (score > self.score) & ~self.stopped
        self.score = np.where(better, score, self.score)
        self.epoch = np.where(better, epoch, self.epoch)
        if self.patience is not None:
            self.stopped |= epoch - self.epoch >= self.patience
        if better.any():
            mask = better if self.many else better[0]
            self.tree = chosen(mask, evaluated(ts), self.tree)

    def exhausted(self) -> bool:
        """Whether every seed has run out of patience."""
        return bool(self.stopped.all())

    def best(self):
        """((params, state), epoch) of the best, an epoch a seed if there are many."""
        return self.tree, (self.epoch if self.many else self.epoch[0]).tolist()


@programs.jit
def chosen(mask: Any, new: Any, old: Any) -> Any:
    """`new` where the mask says so, a seed or the whole."""

    def pick(a, b):
        if is_key(a):
            wide = jax.random.key_data(a), jax.random.key_data(b)
            return jax.random.wrap_key_data(pick(*wide), impl=jax.random.key_impl(a))
        return jnp.where(
            jnp.reshape(mask, mask.shape + (1,) * (a.ndim - mask.ndim)), a, b
        )

    return jax.tree.map(pick, new, old)


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; a second one interrupts as usual.

    An exception in the middle of a step would lose the donated state.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event  # only the main thread may set signal handlers
        return
    before = signal.getsignal(signal.SIGINT)

    def handler(number, frame):
        del number, frame
        event.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, handler)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)
