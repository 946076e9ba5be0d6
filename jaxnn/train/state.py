"""What a training step changes: how it begins, is averaged, and lies in memory."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnn.arrays import is_float
from jaxnn.errors import JaxnnError
from jaxnn.layers import Layer
from jaxnn.rules.products import few_outputs

NO_LIMIT = np.int32(2**31 - 1)  # as a limit of steps


class TrainState(NamedTuple):
    """All that a step changes; arrays only, so it is donated, vmapped and saved whole.

    `params` and `state` are the network's, `opt` the optimizer's; `step` counts the
    steps tried and `skipped` those the guard refused, both int32 scalars; `ema` is the
    moving average of (params, state), or `()` if none is kept; `memory` is what a
    defense keeps from step to step, or `()`; `scaling` is the scale of the loss, see
    `jaxnn.train.loss_scale`, or `()`. Steps from number `limit` on change
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
    """Targets with a weight for each sample, in the place of y: see `Step`."""

    target: Array
    weights: Array


class GradientResult(NamedTuple):
    """What a step finds out before it changes anything.

    Gradients lie as the loop keeps the parameters, see `to_layout`; `norm` is
    their 2-norm over all leaves.
    """

    loss: Any
    grads: Any
    state: Any
    memory: Any
    norm: Any
    is_finite: Any


def init_state(
    net: Layer, optimizer: Any, in_shape, key, dtype=None, *, ema: bool = False,
    memory: Any = (),
) -> TrainState:  # fmt: skip
    """Make a fresh `TrainState`: parameters from `key`, in `dtype` if one is given.

    With `ema` it has room for the moving average that `make_step(ema=...)` keeps;
    `memory` is the one that a defense begins with, `Defense.memory(x.shape, dtype)`.
    """
    params, state, _ = net.init(key, tuple(in_shape))
    if dtype is not None:
        params, state = cast_floats((params, state), dtype)
    # one array each: a buffer can be donated only once
    step, skipped = (jnp.zeros((), jnp.int32) for _ in range(2))
    limit, opt = jnp.asarray(NO_LIMIT), optimizer.init(params)
    average = start_average((params, state)) if ema else ()
    return TrainState(params, state, opt, step, skipped, average, limit, memory)


def continued(fresh: TrainState, start: Any) -> TrainState:
    """Make the state that goes on from `start`, of the form of a `fresh` one.

    Args:
      fresh: what the run would begin with.
      start: a `History` or `TrainState`: all goes on, the optimizer's moments and
        counts, too; or params, or (params, state): the rest begins anew.

    Raises:
      JaxnnError: arrays that are not of this network, optimizer and setting.
    """
    start = getattr(start, "last", start)
    if isinstance(start, TrainState):
        new = start._replace(limit=fresh.limit)
    else:
        alone = jax.tree.structure(start) == jax.tree.structure(fresh.params)
        pair = (start, fresh.state) if alone else start
        if not (isinstance(pair, tuple) and len(pair) == 2):
            raise JaxnnError(
                f"fit: got start of type {type(start).__name__}, expected a History, a "
                "TrainState, params or (params, state) of this network"
            )
        new = fresh._replace(params=pair[0], state=pair[1])
        if fresh.ema != ():
            new = new._replace(ema=pair)
    for name, old, given in zip(fresh._fields, fresh, new, strict=True):
        shapes = [jax.tree.map(jnp.shape, tree) for tree in (old, given)]
        if shapes[0] != shapes[1]:
            fix = (
                "For other classes take the last layer of new params, start="
                "(*history.params[:-1], net.init(key, in_shape)[0][-1])"
                if name == "params"
                else "start=(history.params, history.state) begins with this optimizer "
                "and these settings anew"
            )
            raise JaxnnError(
                f"fit: start has {name} of another form than this run: got "
                f"{str(shapes[1])[:200]}, expected {str(shapes[0])[:200]}. {fix}"
            )
    # copies: the loop overwrites its state, and the earlier history stays as it is
    return jax.tree.map(lambda a, b: jnp.array(b, a.dtype, copy=True), fresh, new)


# ---- the exponential moving average, evaluated instead of the raw parameters


def start_average(tree: Any) -> Any:
    """Copy `tree`, at least float32: 0.999 of a bfloat16 is that bfloat16."""

    def copy(a):
        wide = jnp.promote_types(a.dtype, jnp.float32)
        return jnp.array(a, wide if is_float(a) else a.dtype, copy=True)

    return jax.tree.map(copy, tree)


def move_average(decay: float, ts: TrainState, new: Any) -> Any:
    """Return d a + (1 - d) new, of the average and (params, state) after a step.

    Running statistics are averaged with the parameters they belong to. d =
    min(decay, (1 + t) / (10 + t)) after t good steps, so that the random start is soon
    forgotten, as in TensorFlow's ExponentialMovingAverage. Arrays that are not
    floating-point are taken as they are.

    Source: Polyak, Juditsky 1992; the exponential form, Tarvainen, Valpola 2017.
    """
    if jax.tree.structure(ts.ema) != jax.tree.structure(new):
        raise JaxnnError(
            f"ema={decay:g}: the train state keeps no average; make it by "
            "init_state(..., ema=True)"
        )
    count = ts.step - ts.skipped

    def move(old, now):
        if not is_float(old):
            return now
        t = count.astype(old.dtype)
        share = 1 - jnp.minimum(decay, (1 + t) / (10 + t))  # of what is new
        return old + share * (now.astype(old.dtype) - old)

    return jax.tree.map(move, ts.ema, new)


def evaluated(ts: TrainState) -> tuple[Any, Any]:
    """(params, state) to evaluate and keep: the average if the train state has one."""
    raw = (ts.params, ts.state)
    if jax.tree.structure(ts.ema) != jax.tree.structure(raw):
        return raw
    return jax.tree.map(lambda a, like: a.astype(like.dtype), ts.ema, raw)


# ---- types


def cast_floats(tree: Any, dtype: Any) -> Any:
    """Cast every floating-point array of `tree` to `dtype`; leave the others."""

    def cast(a):
        a = a if hasattr(a, "dtype") else jnp.asarray(a)
        return a.astype(dtype) if is_float(a) else a

    return jax.tree.map(cast, tree)


def to_unit(x: Any, dtype: Any) -> Any:
    """Pixels as floats: uint8 0..255 becomes [0, 1], floats change their type only."""
    if x.dtype == jnp.uint8:
        return x.astype(dtype) * np.asarray(1 / 255, dtype)
    return x.astype(dtype)


def float_type(params: Any) -> Any:
    """The floating type a network computes in: that of its first float parameter."""
    for leaf in jax.tree.leaves(params):
        if is_float(leaf):
            return leaf.dtype
    return jnp.result_type(float)


# ---- how weights lie in memory
#
# A dense layer's w is (inputs, outputs), as one writes x w. Where the outputs are the
# fewer, a CPU multiplies faster if each output's weights lie together: x w reads along
# the rows of w^T, and dy^T x is made as w^T lies, without a copy that transposes it. So
# the loop keeps those matrices, and what the optimizer keeps of them, transposed, and
# everything else sees w as it is: a transpose that is only read costs nothing.
#
# A dense weight is a matrix under the name "w", in the parameters as in the moments and
# averages that copy their structure.

DENSE = (jax.tree_util.DictKey("w"),)
"""How the path of a dense weight ends."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Transposed:
    """A matrix a, kept as its transpose."""

    transpose: Array


def to_layout(ts: TrainState) -> TrainState:
    """Bring parameters, optimizer's state and average into the layout of the loop.

    Every dense weight of few outputs (`rules.products.few_outputs`) is transposed.
    """
    lying = {"params": ts.params, "opt": ts.opt, "ema": ts.ema}
    turned = jax.tree.map_with_path(
        lambda path, a: (
            Transposed(a.T)
            if path[-1:] == DENSE and a.ndim == 2 and few_outputs(*a.shape)
            else a
        ),
        lying,
    )
    return ts._replace(**turned)


def from_layout(tree: Any) -> Any:
    """Return every `Transposed` of `tree` as the matrix it stands for."""
    return jax.tree.map(
        lambda a: a.transpose.T if isinstance(a, Transposed) else a,
        tree,
        is_leaf=lambda a: isinstance(a, Transposed),
    )


def layout_of(like: Any, tree: Any) -> Any:
    """Bring `tree` into the layout of `like`, which has its structure."""
    return jax.tree.map(
        lambda a, b: Transposed(b.T) if isinstance(a, Transposed) else b,
        like,
        tree,
        is_leaf=lambda a: isinstance(a, Transposed),
    )


def seed_axes(stacked: Any) -> Any:
    """Where the axis of the networks side by side lies, for each leaf.

    Second in a dense weight, (I, S, O), so that one product with (I, S * O) serves all
    of them without a copy.
    """
    return jax.tree.map_with_path(
        lambda path, a: 1 if path[-1:] == DENSE and a.ndim == 3 else 0, stacked
    )
