"""What a training step finds out and changes, and how it begins."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnn.layers import Layer
from jaxnn.train.average import start_average

NO_LIMIT = np.int32(2**31 - 1)  # as a limit of steps


class TrainState(NamedTuple):
    """All that a step changes; arrays only, so it is donated, vmapped and saved whole.

    `params` and `state` are the network's, `opt` the optimizer's; `step` counts the
    steps tried and `skipped` those the guard refused, both int32 scalars; `ema` is the
    moving average of (params, state), or `()` if none is kept; `memory` is what a
    defense keeps from step to step, or `()`; `scaling` is the scale of the loss, see
    `jaxnn.train.scaling`, or `()`. Steps from number `limit` on change
    nothing: so a replay stops before a step, and a guard that halts leaves the state as
    it was before the first bad one.
    """

    params: Any
    state: Any
    opt: Any
    step: Array
    skipped: Array
    ema: Any = ()
    limit: Any = NO_LIMIT
    memory: Any = ()
    scaling: Any = ()


class Weighted(NamedTuple):
    """Targets with a weight for each sample, in the place of y: see `make_step`."""

    target: Array
    weights: Array


class Found(NamedTuple):
    """What a step finds out before it changes anything; `sound`: all is finite.

    Gradients lie as the loop keeps the parameters, see `jaxnn.train.turned`.
    """

    loss: Any
    grads: Any
    state: Any
    memory: Any
    norm: Any
    sound: Any


class Changed(NamedTuple):
    """What an update changes: the state but for what is counted."""

    params: Any
    state: Any
    opt: Any
    ema: Any
    memory: Any

    @staticmethod
    def of(ts: TrainState) -> "Changed":
        """As it is before the update."""
        return Changed(ts.params, ts.state, ts.opt, ts.ema, ts.memory)


def init_state(
    net: Layer, optimizer: Any, in_shape, key, dtype=None, *, ema: bool = False,
    memory: Any = (),
) -> TrainState:  # fmt: skip
    """A fresh `TrainState`: parameters from `key`, in `dtype` if one is given.

    With `ema` it has room for the moving average that `make_step(ema=...)` keeps;
    `memory` is the one that a defense begins with, `Defense.memory(x.shape, dtype)`.
    """
    params, state, _ = net.init(key, tuple(in_shape))
    if dtype is not None:
        params, state = cast_floats((params, state), dtype)
    # one array each: a buffer can be donated only once
    counters = [jnp.zeros((), jnp.int32) for _ in range(2)]
    limit, opt = jnp.asarray(NO_LIMIT), optimizer.init(params)
    ts = TrainState(params, state, opt, *counters, limit=limit, memory=memory)
    return ts._replace(ema=start_average((params, state))) if ema else ts


def cast_floats(tree: Any, dtype: Any) -> Any:
    """`tree` with every floating-point array in `dtype`; the others as they are."""

    def cast(a):
        a = jnp.asarray(a)
        return a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a

    return jax.tree.map(cast, tree)


def to_unit(x: Array, dtype: Any) -> Array:
    """Pixels as floats: uint8 0..255 becomes [0, 1], floats change their type only."""
    if x.dtype == jnp.uint8:
        return x.astype(dtype) * jnp.asarray(1 / 255, dtype)
    return x.astype(dtype)


def float_type(params: Any) -> Any:
    """The floating type a network computes in: that of its first float parameter."""
    for leaf in jax.tree.leaves(params):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf.dtype
    return jnp.result_type(float)
