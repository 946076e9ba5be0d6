"""One training step as a pure function of the state, a batch and a key."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

from jaxnn.defences.core import Defence, undefended
from jaxnn.errors import JaxnnError
from jaxnn.layers import Layer
from jaxnn.losses import Loss
from jaxnn.regularize import clip_gradient
from jaxnn.train.average import moving_average, start_average
from jaxnn.train.scaling import adjusted, first_scale, overflowed, scaled, unscaled
from jaxnn.train.turned import has_turned, straight, turned

NO_LIMIT = np.int32(2**31 - 1)  # as a limit of steps


class TrainState(NamedTuple):
    """All that a step changes; arrays only, so it is donated, vmapped and saved whole.

    `params` and `state` are the network's, `opt` the optimiser's; `step` counts the
    steps tried and `skipped` those the guard refused, both int32 scalars; `ema` is the
    moving average of (params, state), or `()` if none is kept; `memory` is what a
    defence keeps from step to step, or `()`; `scaling` is the scale of the loss, see
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


@dataclass(frozen=True, eq=False)
class Step:
    """`step(train_state, x, y, key) -> (train_state, metrics)`, and what it is made of.

    Attributes:
      run: the step itself, guard included.
      prepare: `(ts, x, y, key) -> (params, x, y, weights, key)` as the network gets
        them: pixels as floats, augmented and mixed, weights perturbed.
      everything: `(ts, x, y, key) -> (loss, grads, state, params, opt)`, no guard.
      net: the network.
      loss: the loss.
      penalty: the regulariser, or None.
      optimiser: the optax transformation.
      remade: `(**changes) -> Step`, the same step with other settings of `make_step`.
      start: `(shape of a batch, key) -> TrainState`, before the first step.
    """

    run: Callable[[TrainState, Array, Any, Array], tuple[TrainState, dict[str, Array]]]
    prepare: Callable
    everything: Callable
    net: Layer
    loss: Loss
    penalty: Callable | None
    optimiser: Any
    remade: Callable[..., "Step"]
    start: Callable[..., "TrainState"]

    def __call__(self, ts: TrainState, x: Array, y: Any, key: Array):
        """Run one step."""
        return self.run(ts, x, y, key)


def init_state(
    net: Layer, optimiser: Any, in_shape, key, dtype=None, *, ema: bool = False,
    memory: Any = (),
) -> TrainState:  # fmt: skip
    """A fresh `TrainState`: parameters from `key`, in `dtype` if one is given.

    With `ema` it has room for the moving average that `make_step(ema=...)` keeps;
    `memory` is the one that a defence begins with, `Defence.memory(x.shape, dtype)`.
    """
    params, state, _ = net.init(key, tuple(in_shape))
    if dtype is not None:
        params, state = cast_floats((params, state), dtype)
    # one array each: a buffer can be donated only once
    counters = [jnp.zeros((), jnp.int32) for _ in range(2)]
    limit, opt = jnp.asarray(NO_LIMIT), optimiser.init(params)
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


def make_step(
    net: Layer,
    loss: Loss,
    optimiser: Any,
    *,
    penalty: Callable | None = None,
    project: Callable | None = None,
    augment: Callable | None = None,
    mixup: Callable | None = None,
    weight_noise: Callable | None = None,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    ema: float | None = None,
    defence: Defence | None = None,
    half: bool = False,
    guard: str = "skip",
    watch_update: bool = True,
) -> Step:
    """The step `(train_state, x, y, key) -> (train_state, metrics)`, guard included.

    Args:
      net: the network; its hand-written `backward` gives the gradients.
      loss: `(pred, target) -> (value, dpred)`, see `jaxnn.losses`.
      optimiser: any optax gradient transformation (schedules, `optax.partition` ...).
      penalty: `params -> (value, dparams)`, added to loss and gradients.
      project: `params -> params` after the update (`max_norm`).
      augment: `(key, x) -> x` on the batch in [0, 1] (`input_noise`,
        `jaxnn.data.augment`).
      mixup: `(key, x, y, weights) -> (x, y, weights)` after `augment`
        (`jaxnn.regularize.mixup`).
      weight_noise: `(key, params) -> params`: loss and gradients are taken there, the
        update and the penalty are of the parameters themselves.
      clip_norm: longest gradient, 2-norm over all leaves; a longer one is scaled back.
      clip_value: largest entry of the gradient; larger ones are cut off.
      ema: decay of the moving average of params and state in [0, 1), such as 0.999;
        needs `init_state(..., ema=True)`, see `jaxnn.train.average`.
      defence: how loss and gradients are taken, see `jaxnn.defences`; one with a memory
        needs `init_state(..., memory=...)`. None: of the images as they are.
      half: compute in float16, see `jaxnn.train.scaling`; the parameters stay as they
        are. The state needs the first scale: `step.start(...)`.
      guard: what to do about a bad step: "skip" it; "halt" and refuse all that follow;
        "off": take it.
      watch_update: whether the guard looks at the update too before it is taken. That
        takes time, as the update is made twice; without, the caller has to look at the
        parameters afterwards, as `fit` does after each call.

    `key` is the run's key: the step folds its own count in. x (B, ...) is uint8 or
    float, y (B,) labels or (B, N), or `Weighted(y, weights (B,))`. Metrics: `loss`
    (penalty included), `grad_norm` (2-norm over all leaves, before clipping) and `ok`.
    If loss, gradients, running statistics or updates are not finite, `ok` is False and
    parameters, optimiser, running statistics and average stay as they were, bit for
    bit; the guard looks before clipping, which would spread a NaN or hide an overflow.
    """
    settings = dict(locals())
    clip = clip_gradient(clip_norm, clip_value)
    keep_average = None if ema is None else moving_average(ema)
    if half and defence is not None:
        raise JaxnnError(
            f"make_step: defence {defence.name} makes gradients of its own, which "
            "float16 would need scaled; use float32 or bfloat16"
        )
    defence = defence or undefended

    def prepare(ts, x, y, key):
        with jax.named_scope("data"):
            x = to_unit(x, float_type(ts.params))
            y, weights = y if isinstance(y, Weighted) else (y, None)
            if augment is not None:
                x = augment(jax.random.fold_in(key, 0), x)
            if mixup is not None:
                x, y, weights = mixup(jax.random.fold_in(key, 2), x, y, weights)
            params = ts.params
            if weight_noise is not None:
                params = weight_noise(jax.random.fold_in(key, 3), params)
            if half:
                params, x = cast_floats((params, x), jnp.float16)
        return params, x, y, weights, jax.random.fold_in(key, 1)

    def gradients(ts, x, y, key):
        params, x, y, weights, key_net = prepare(ts, x, y, key)
        weighted = loss if weights is None else partial(loss, weights=weights)
        weighted = scaled(weighted, ts.scaling.scale) if half else weighted
        value, grads, state, memory = defence.gradients(
            net, weighted, params, ts.state, x, y,
            key=key_net, step=ts.step, memory=ts.memory,
        )  # fmt: skip
        if half:
            grads = unscaled(grads, ts.scaling.scale, ts.params)
        if penalty is not None:
            with jax.named_scope("regulariser"):
                extra, dpenalty = penalty(ts.params)
                value, grads = value + extra, jax.tree.map(jnp.add, grads, dpenalty)
        return value, grads, state, memory

    def update(ts, grads, norm):
        """(updates, optimiser's state) after the step."""
        ts, grads = straight((ts, grads))
        with jax.named_scope("update"):
            bounded = grads if clip is None else clip(grads, norm)
            return optimiser.update(bounded, ts.opt, ts.params)

    def moved(ts, updates):
        params = straight(ts.params)
        with jax.named_scope("update"):
            params = optax.apply_updates(params, updates)
            return params if project is None else project(params)

    def finite(ts, updates):
        """Whether updates are, and what a projection makes of the parameters."""
        if project is not None:
            params = straight(ts.params)
            updates = jax.tree.map(jnp.subtract, moved(ts, updates), params)
        return jnp.isfinite(_sum_of_squares(updates))

    def everything(ts, x, y, key):
        value, grads, state, _ = gradients(ts, x, y, jax.random.fold_in(key, ts.step))
        updates, opt = update(ts, grads, jnp.sqrt(_sum_of_squares(grads)))
        return value, grads, state, moved(ts, updates), opt

    def run(ts, x, y, key):
        # The branches take matrices as they are kept and turn them there, where the
        # update reads them: turned outside they would be copied at every step.
        keep = turned if has_turned(ts.params) else _as_is
        folded = jax.random.fold_in(key, ts.step)
        value, grads, state, memory = gradients(straight(ts), x, y, folded)
        grads = keep(grads)
        norm = jnp.sqrt(_sum_of_squares(grads))
        sound = jnp.isfinite(value) & jnp.isfinite(norm) & _all_finite(state)

        def take(updates):
            params, (_, opt) = moved(ts, updates), update(ts, grads, norm)
            average = ts.ema
            if keep_average is not None:
                average = keep_average(straight(ts), (params, state))
            return *keep((params, state, opt, average)), memory

        def apply():
            if not watch_update:
                return take(update(ts, grads, norm)[0]), jnp.ones((), bool)
            # Moments are made again where they are kept, in place: a branch that
            # handed on those made here would copy them.
            updates = lax.optimization_barrier(update(ts, grads, norm)[0])
            good = finite(ts, updates)
            return lax.cond(good, take, lambda _: old, updates), good

        old = ts.params, ts.state, ts.opt, ts.ema, ts.memory
        if guard == "off":
            updates, _ = update(ts, grads, norm)
            ok = sound & finite(ts, updates) if watch_update else sound
            params, state, opt, average, memory = take(updates)
        else:
            go = sound & (ts.step < ts.limit)
            (params, state, opt, average, memory), ok = lax.cond(
                go, apply, lambda: (old, jnp.zeros((), bool))
            )
        scaling = ts.scaling
        metrics = {"loss": value, "grad_norm": norm}
        if half:  # an overflow that a smaller scale mends is no bad step
            over = overflowed(scaling, value, norm) & (ts.step < ts.limit)
            scaling, ok = adjusted(scaling, over), ok | over
            metrics |= {"grad_norm": jnp.where(over, 0, norm), "rescaled": over}
        skipped = ts.skipped + jnp.where(ok, 0, 1).astype(ts.skipped.dtype)
        limit = ts.limit
        if guard == "halt":
            limit = jnp.where(ok, limit, jnp.minimum(limit, ts.step))
        done = params, state, opt, ts.step + 1, skipped, average, limit, memory, scaling
        return TrainState(*done), metrics | {"ok": ok}

    def remade(**changes):
        return make_step(**(settings | changes))

    def start(shape, key, dtype=None):
        ts = init_state(net, optimiser, shape[1:], key, dtype, ema=ema is not None)
        memory = defence.memory(tuple(shape), float_type(ts.params))
        return ts._replace(memory=memory, scaling=first_scale() if half else ())

    made = run, prepare, everything, net, loss, penalty, optimiser, remade, start
    return Step(*made)


def _as_is(tree):
    return tree


def _all_finite(state):
    """Running statistics can overflow while loss and gradients stay finite."""
    floats = [
        a for a in jax.tree.leaves(state) if jnp.issubdtype(a.dtype, jnp.floating)
    ]
    return jnp.all(jnp.stack([jnp.isfinite(a).all() for a in floats] or [True]))


def _sum_of_squares(tree):
    def one(g):
        square = jnp.square(g.astype(jnp.promote_types(g.dtype, jnp.float32)))
        if g.ndim < 2:
            return square.sum()
        # column sums first: XLA adds up a whole array one number after the other
        return square.reshape(-1, g.shape[-1]).sum(0).sum()

    return sum(map(one, jax.tree.leaves(tree)), jnp.zeros((), jnp.float32))
