"""The exponential moving average of parameters: evaluated instead of the raw ones."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxnn.errors import JaxnnError


def moving_average(decay: float) -> Callable[[Any, Any], Any]:
    """`(train_state, new) -> average`, average <- d average + (1 - d) new.

    new is (params, state) after the step; running statistics are averaged with the
    parameters they belong to. d = min(decay, (1 + t) / (10 + t)) after t good steps, so
    that the random start is soon forgotten, as in TensorFlow's
    ExponentialMovingAverage. Arrays that are not floating-point are taken as they are.

    Source: Polyak, Juditsky 1992; the exponential form, Tarvainen, Valpola 2017.
    """
    if not 0 <= decay < 1:
        raise JaxnnError(
            f"ema: got decay {decay:g}, expected 0 <= decay < 1, such as 0.999"
        )

    def average(ts, new):
        if jax.tree.structure(ts.ema) != jax.tree.structure(new):
            raise JaxnnError(
                f"ema={decay:g}: the train state keeps no average; make it by "
                "init_state(..., ema=True)"
            )
        count = ts.step - ts.skipped

        def move(old, now):
            if not jnp.issubdtype(old.dtype, jnp.floating):
                return now
            t = count.astype(old.dtype)
            share = 1 - jnp.minimum(decay, (1 + t) / (10 + t))  # of what is new
            return old + share * (now.astype(old.dtype) - old)

        return jax.tree.map(move, ts.ema, new)

    return average


def start_average(tree: Any) -> Any:
    """A copy of `tree`, at least float32: 0.999 of a bfloat16 is that bfloat16."""

    def copy(a):
        wide = jnp.promote_types(a.dtype, jnp.float32)
        floating = jnp.issubdtype(a.dtype, jnp.floating)
        return jnp.array(a, wide if floating else a.dtype, copy=True)

    return jax.tree.map(copy, tree)


def evaluated(ts: Any) -> tuple[Any, Any]:
    """(params, state) to evaluate and keep: the average if the train state has one."""
    raw = (ts.params, ts.state)
    if jax.tree.structure(ts.ema) != jax.tree.structure(raw):
        return raw
    return jax.tree.map(lambda a, like: a.astype(like.dtype), ts.ema, raw)
