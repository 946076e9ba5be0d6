"""One training step as a pure function of the state, a batch and a key."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from jaxnn.errors import JaxnnError
from jaxnn.layers import Layer
from jaxnn.layers.made import settled
from jaxnn.losses import Loss
from jaxnn.regularize import clip_gradient
from jaxnn.train.average import moving_average
from jaxnn.train.defense import Defense, standard_training
from jaxnn.train.scaling import adjusted, first_scale, overflowed, scaled, unscaled
from jaxnn.train.state import (
    Changed,
    Found,
    TrainState,
    Weighted,
    cast_floats,
    float_type,
    init_state,
    to_unit,
)
from jaxnn.train.turned import as_kept, straight


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
      optimizer: the optax transformation.
      key: what the step depends on, equal for equal networks and settings; None if
        that cannot be told.
      remade: `(**changes) -> Step`, the same step with other settings of `make_step`.
      start: `(shape of a batch, key) -> TrainState`, before the first step.
      look: `(ts, x, y, key) -> Found`, the first part of a step.
      take: `(ts, found) -> Changed`, the update itself, no guard.
      finish: `(ts, found, changed, ok) -> (ts, metrics)`: what is counted.
      settings: the arguments of `make_step` by name.
    """

    run: Callable[[TrainState, Array, Any, Array], tuple[TrainState, dict[str, Array]]]
    prepare: Callable
    everything: Callable
    net: Layer
    loss: Loss
    penalty: Callable | None
    optimizer: Any
    key: Any
    remade: Callable[..., "Step"]
    start: Callable[..., TrainState]
    look: Callable[..., Found]
    take: Callable[..., Changed]
    finish: Callable[..., tuple[TrainState, dict[str, Array]]]
    settings: dict[str, Any]

    def __call__(self, ts: TrainState, x: Array, y: Any, key: Array):
        """Run one step."""
        return self.run(ts, x, y, key)


def make_step(
    net: Layer,
    loss: Loss,
    optimizer: Any,
    *,
    penalty: Callable | None = None,
    project: Callable | None = None,
    augment: Callable | None = None,
    mixup: Callable | None = None,
    weight_noise: Callable | None = None,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    ema: float | None = None,
    defense: Defense | None = None,
    half: bool = False,
    guard: str = "skip",
    watch_update: bool = True,
) -> Step:
    """The step `(train_state, x, y, key) -> (train_state, metrics)`, guard included.

    Args:
      net: the network; its hand-written `backward` gives the gradients.
      loss: `(pred, target) -> (value, dpred)`, see `jaxnn.losses`.
      optimizer: any optax gradient transformation (schedules, `optax.partition` ...).
      penalty: `params -> (value, dparams)`, added to loss and gradients.
      project: `params -> params` after the update (`max_norm`).
      augment: `(key, x) -> x` on the batch in [0, 1] (`input_noise`,
        `jaxnn.augment`).
      mixup: `(key, x, y, weights) -> (x, y, weights)` after `augment`
        (`jaxnn.regularize.mixup`).
      weight_noise: `(key, params) -> params`: loss and gradients are taken there, the
        update and the penalty are of the parameters themselves.
      clip_norm: longest gradient, 2-norm over all leaves; a longer one is scaled back.
      clip_value: largest entry of the gradient; larger ones are cut off.
      ema: decay of the moving average of params and state in [0, 1), such as 0.999;
        needs `init_state(..., ema=True)`, see `jaxnn.train.average`.
      defense: how loss and gradients are taken, see `jaxnn.defenses`; one with a memory
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
    parameters, optimizer, running statistics and average stay as they were, bit for
    bit; the guard looks before clipping, which would spread a NaN or hide an overflow.
    """
    settings = dict(locals())
    try:
        settled_as = settled(settings)
    except TypeError:  # of an array, or of a sweep's traced value
        settled_as = None
    clip = clip_gradient(clip_norm, clip_value)
    keep_average = None if ema is None else moving_average(ema)
    if half and defense is not None:
        raise JaxnnError(
            f"make_step: defense {defense.name} makes gradients of its own, which "
            "float16 would need scaled; use float32 or bfloat16"
        )
    defense = defense or standard_training

    def prepare(ts, x, y, key):
        with jax.named_scope("data"):
            x = to_unit(x, float_type(ts.params))
            y, weights = y if isinstance(y, Weighted) else (y, None)
        if augment is not None:
            with jax.named_scope("augmentation"):
                x = augment(jax.random.fold_in(key, 0), x)
        if mixup is not None:
            with jax.named_scope("mixup"):
                x, y, weights = mixup(jax.random.fold_in(key, 2), x, y, weights)
        params = ts.params
        if weight_noise is not None:
            with jax.named_scope("weight noise"):
                params = weight_noise(jax.random.fold_in(key, 3), params)
        with jax.named_scope("data"):
            if half:
                params, x = cast_floats((params, x), jnp.float16)
        return params, x, y, weights, jax.random.fold_in(key, 1)

    def gradients(ts, x, y, key):
        params, x, y, weights, key_net = prepare(ts, x, y, key)
        weighted = loss if weights is None else partial(loss, weights=weights)
        weighted = scaled(weighted, ts.scaling.scale) if half else weighted
        value, grads, state, memory = defense.gradients(
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
        """(updates, optimizer's state) after the step."""
        ts, grads = straight((ts, grads))
        with jax.named_scope("update"):
            bounded = grads if clip is None else clip(grads, norm)
            return optimizer.update(bounded, ts.opt, ts.params)

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

    def look(ts, x, y, key):
        folded = jax.random.fold_in(key, ts.step)
        value, grads, state, memory = gradients(straight(ts), x, y, folded)
        grads = as_kept(grads, ts)
        norm = jnp.sqrt(_sum_of_squares(grads))
        sound = jnp.isfinite(value) & jnp.isfinite(norm) & _all_finite(state)
        return Found(value, grads, state, memory, norm, sound)

    # `take` and what it calls get matrices as they are kept and turn them there, where
    # the update reads them: turned before a branch they would be copied at every step.
    def take(ts, found, updates=None):
        made, opt = update(ts, found.grads, found.norm)
        params = moved(ts, made if updates is None else updates)
        average = ts.ema
        if keep_average is not None:
            average = keep_average(straight(ts), (params, found.state))
        params, opt, average = as_kept((params, opt, average), ts)
        return Changed(params, found.state, opt, average, found.memory)

    def finish(ts, found, new, ok):
        scaling, limit = ts.scaling, ts.limit
        metrics = {"loss": found.loss, "grad_norm": found.norm}
        if half:  # an overflow that a smaller scale mends is no bad step
            over = overflowed(scaling, found.loss, found.norm) & (ts.step < limit)
            scaling, ok = adjusted(scaling, over), ok | over
            norm = jnp.where(over, 0, found.norm)
            metrics |= {"grad_norm": norm, "rescaled": over}
        skipped = ts.skipped + jnp.where(ok, 0, 1).astype(ts.skipped.dtype)
        if guard == "halt":
            limit = jnp.where(ok, limit, jnp.minimum(limit, ts.step))
        counts = {"step": ts.step + 1, "skipped": skipped, "limit": limit}
        ts = TrainState(**new._asdict(), **counts, scaling=scaling)
        return ts, metrics | {"ok": ok}

    def run(ts, x, y, key):
        found = look(ts, x, y, key)

        def apply():
            if not watch_update:
                return take(ts, found), jnp.ones((), bool)
            # Moments are made again where they are kept, in place: a branch that
            # handed on those made here would copy them.
            updates = lax.optimization_barrier(update(ts, found.grads, found.norm)[0])
            good = finite(ts, updates)
            old = Changed.of(ts)
            new = lax.cond(good, lambda u: take(ts, found, u), lambda _: old, updates)
            return new, good

        if guard == "off":
            updates, _ = update(ts, found.grads, found.norm)
            ok = found.sound & finite(ts, updates) if watch_update else found.sound
            return finish(ts, found, take(ts, found, updates), ok)
        go = found.sound & (ts.step < ts.limit)
        new, ok = lax.cond(go, apply, lambda: (Changed.of(ts), jnp.zeros((), bool)))
        return finish(ts, found, new, ok)

    def remade(**changes):
        return make_step(**(settings | changes))

    def start(shape, key, dtype=None):
        ts = init_state(net, optimizer, shape[1:], key, dtype, ema=ema is not None)
        memory = defense.memory(tuple(shape), float_type(ts.params))
        return ts._replace(memory=memory, scaling=first_scale() if half else ())

    made = run, prepare, everything, net, loss, penalty, optimizer
    return Step(*made, settled_as, remade, start, look, take, finish, settings)


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
