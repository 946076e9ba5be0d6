"""One training step as a pure function of its settings, the state, a batch and a key.

A step is made of five functions, which the engines compose: `compute_gradients`,
`propose`, `apply_update` and `count`; `everything` is a step for the replay of a bad
one. The guard stands between the first and the others, in `Step.__call__`. A `Defense`
says how loss and gradients are taken, by hand.
"""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, fields
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from jaxnn.arrays import is_float
from jaxnn.errors import JaxnnError, lookup, require
from jaxnn.layers import Layer
from jaxnn.layers.core import settled
from jaxnn.losses import Loss
from jaxnn.regularize import clip_gradient
from jaxnn.rules.products import PRECISIONS, policy
from jaxnn.train.loss_scale import first_scale, in_half, rescaled
from jaxnn.train.state import (
    GradientResult,
    TrainState,
    Weighted,
    float_type,
    from_layout,
    init_state,
    layout_of,
    move_average,
    to_unit,
)


def no_memory(shape: tuple[int, ...], dtype: Any) -> Any:
    """Keep nothing from step to step."""
    del shape, dtype
    return ()


class Defense(NamedTuple):
    """How the loss of a batch and its gradients are taken in training.

    Attributes:
      name: what reports call it.
      gradients: `(net, loss, params, state, x, y, *, key, step, memory) -> (value,
        dparams, state, memory)`; x (B, ...) floats, `loss` reduces to the mean by
        itself and to one value a sample with `reduction="none"`.
      memory: `(shape of x, dtype) ->` what is kept from step to step at the start.
      replays: how often each batch is used in a row.
      attack_steps: of the attack it trains on; 0 where bounds take an attack's place,
        None where images stay as they are. A single step can be hidden from.
    """

    name: str
    gradients: Callable[..., tuple[Array, Any, Any, Any]]
    memory: Callable[[tuple[int, ...], Any], Any] = no_memory
    replays: int = 1
    attack_steps: int | None = None


def value_and_gradients(
    net: Layer, loss: Loss, params: Any, state: Any, x: Array, y: Any, key: Any
) -> tuple[Array, Array, Any, Any]:
    """Mean loss in training mode, dx, dparams and the new state: one way back."""
    pred, state, cache = net.forward(params, state, x, key=key, train=True)
    with jax.named_scope("loss"):
        value, dpred = loss(pred, y)
    dx, dparams = net.backward(cache, dpred)  # XLA drops what is not used
    return value, dx, dparams, state


def _plain(net, loss, params, state, x, y, *, key, step, memory):
    del step
    value, _, dparams, state = value_and_gradients(net, loss, params, state, x, y, key)
    return value, dparams, state, memory


standard_training = Defense("standard training", _plain)
"""The loss of the images as they are."""


@dataclass(frozen=True, eq=False, repr=False)
class Step:
    """`step(train_state, x, y, key) -> (train_state, metrics)`, by its settings.

    `key` is the run's key: the step folds its own count in. x (B, ...) is uint8 or
    float, y (B,) labels or (B, N), or `Weighted(y, weights (B,))`. Metrics: `loss`
    (penalty included), `grad_norm` (2-norm over all leaves, before clipping) and `ok`.
    If loss, gradients, running statistics or updates are not finite, `ok` is False and
    parameters, optimizer, running statistics and average stay as they were, bit for
    bit; the guard looks before clipping, which would spread a NaN or hide an overflow.

    Attributes:
      net: the network; its hand-written `backward` gives the gradients.
      loss: `(pred, target) -> (value, dpred)`, see `jaxnn.losses`.
      optimizer: any optax gradient transformation (schedules, `optax.partition` ...).
      penalty: `params -> (value, dparams)`, added to loss and gradients.
      project: `params -> params` after the update (`max_norm`).
      augment: `(key, x) -> x` on the batch in [0, 1] (`input_noise`, `jaxnn.augment`).
      mixup: `(key, x, y, weights) -> (x, y, weights)` after `augment`
        (`jaxnn.regularize.mixup`).
      weight_noise: `(key, params) -> params`: loss and gradients are taken there, the
        update and the penalty are of the parameters themselves.
      clip_norm: longest gradient, 2-norm over all leaves; a longer one is scaled back.
      clip_value: largest entry of the gradient; larger ones are cut off.
      ema: decay of the moving average of params and state in [0, 1), for example 0.999.
      defense: how loss and gradients are taken; None: of the images as they are.
      half: compute in float16, see `jaxnn.train.loss_scale`; the parameters stay as
        they are.
      precision: "bfloat16": products and convolutions of loss and gradients (those of
        a defense's attack too) round their operands to it and sum in float32; all else
        stays float32. "float32": they are made as their operands come.
      guard: what to do about a bad step: "skip" it; "halt" and refuse all that follow;
        "off": take it.
      watch_update: whether the guard looks at the update too before it is taken. That
        takes time, as the update is made twice; without, the caller has to look at the
        parameters afterwards, as `fit` does after each call.
    """

    net: Layer
    loss: Loss
    optimizer: Any
    _: KW_ONLY
    penalty: Callable | None = None
    project: Callable | None = None
    augment: Callable | None = None
    mixup: Callable | None = None
    weight_noise: Callable | None = None
    clip_norm: float | None = None
    clip_value: float | None = None
    ema: float | None = None
    defense: Defense | None = None
    half: bool = False
    precision: str = "float32"
    guard: str = "skip"
    watch_update: bool = True

    __name__ = "step"  # what jax calls its program

    def __post_init__(self):
        clip_gradient(self.clip_norm, self.clip_value)
        fits = self.ema is None or 0 <= self.ema < 1
        require(fits, "ema", "decay", self.ema, "0 <= decay < 1, for example 0.999")
        lookup("precision", self.precision, dict.fromkeys(PRECISIONS))
        if self.half and self.precision != "float32":
            raise JaxnnError(
                f"make_step: got precision={self.precision!r} in float16, whose "
                "products are of 16 bits already; give one of the two"
            )
        if self.half and self.defense is not None:
            raise JaxnnError(
                f"make_step: defense {self.defense.name} makes gradients of its own, "
                "which float16 would need scaled; use float32 or bfloat16"
            )

    def __call__(self, ts: TrainState, x: Array, y: Any, key: Array):
        """Run one step, guard included."""
        found = compute_gradients(self, ts, x, y, key)
        if self.guard == "off":
            (updates, _), ok = propose(self, ts, found), found.is_finite
            if self.watch_update:
                ok = ok & _is_update_finite(self, ts, updates)
            return count(self, apply_update(self, ts, found, updates), found, ok)

        def update():
            if not self.watch_update:
                return apply_update(self, ts, found), jnp.ones((), bool)
            # Moments are made again where they are kept, in place: a branch that
            # handed on those made here would copy them.
            updates = lax.optimization_barrier(propose(self, ts, found)[0])
            good = _is_update_finite(self, ts, updates)
            take = partial(apply_update, self, ts, found)
            return lax.cond(good, take, lambda _: ts, updates), good

        go = found.is_finite & (ts.step < ts.limit)
        new, ok = lax.cond(go, update, lambda: (ts, jnp.zeros((), bool)))
        return count(self, new, found, ok)

    @property
    def key(self) -> Any:
        """What the step depends on, equal for equal settings; None if none can tell."""
        try:
            return settled({f.name: getattr(self, f.name) for f in fields(self)})
        except TypeError:  # of an array, or of a sweep's traced value
            return None

    def start(self, shape: tuple[int, ...], key: Array, dtype: Any = None):
        """Make the `TrainState` before the first step, for batches of that shape."""
        ema = self.ema is not None
        ts = init_state(self.net, self.optimizer, shape[1:], key, dtype, ema=ema)
        defense, kind = self.defense or standard_training, float_type(ts.params)
        if self.precision != "float32" and kind != jnp.float32:
            raise JaxnnError(
                f"precision: got {self.precision!r} with parameters of type {kind}, "
                "expected float32 ones; leave dtype and JAX's 64-bit mode as they are"
            )
        memory = defense.memory(tuple(shape), kind)
        scaling = first_scale() if self.half else ()
        return ts._replace(memory=memory, scaling=scaling)


def make_step(net: Layer, loss: Loss, optimizer: Any, **settings: Any) -> Step:
    """Make the step `(train_state, x, y, key) -> (train_state, metrics)`.

    Args:
      net: the network.
      loss: `(pred, target) -> (value, dpred)`.
      optimizer: an optax gradient transformation.
      settings: the other attributes of `Step`. The state begins as `step.start` says.
    """
    return Step(net, loss, optimizer, **settings)


def compute_gradients(
    s: Step, ts: TrainState, x: Array, y: Any, key: Array
) -> GradientResult:
    """Find loss and gradients of a batch, in the layout that `ts` is in."""
    key, like, ts = jax.random.fold_in(key, ts.step), ts.params, from_layout(ts)
    with jax.named_scope("data"):
        x = to_unit(x, float_type(ts.params))
        y, weights = y if isinstance(y, Weighted) else (y, None)
    if s.augment is not None:
        with jax.named_scope("augmentation"):
            x = s.augment(jax.random.fold_in(key, 0), x)
    if s.mixup is not None:
        with jax.named_scope("mixup"):
            x, y, weights = s.mixup(jax.random.fold_in(key, 2), x, y, weights)
    params = ts.params
    if s.weight_noise is not None:
        with jax.named_scope("weight noise"):
            params = s.weight_noise(jax.random.fold_in(key, 3), params)
    loss = s.loss if weights is None else partial(s.loss, weights=weights)
    gradients = (s.defense or standard_training).gradients
    if s.half:
        gradients = in_half(gradients, ts.scaling.scale)
    with policy(precision=s.precision):
        value, grads, state, memory = gradients(
            s.net, loss, params, ts.state, x, y,
            key=jax.random.fold_in(key, 1), step=ts.step, memory=ts.memory,
        )  # fmt: skip
    if s.penalty is not None:
        with jax.named_scope("regularizer"):
            extra, dpenalty = s.penalty(ts.params)
            value, grads = value + extra, jax.tree.map(jnp.add, grads, dpenalty)
    grads = layout_of(like, grads)
    norm = jnp.sqrt(_sum_of_squares(grads))
    # running statistics can overflow while loss and gradients stay finite
    floats = filter(is_float, jax.tree.leaves(state))
    finite = jnp.stack([jnp.isfinite(a).all() for a in floats] or [True])
    is_finite = jnp.isfinite(value) & jnp.isfinite(norm) & jnp.all(finite)
    return GradientResult(value, grads, state, memory, norm, is_finite)


def propose(s: Step, ts: TrainState, found: GradientResult) -> tuple[Any, Any]:
    """Ask the optimizer: (updates, its state after the step)."""
    ts, grads = from_layout((ts, found.grads))
    with jax.named_scope("update"):
        if s.clip_norm is not None or s.clip_value is not None:
            clip: Any = clip_gradient(s.clip_norm, s.clip_value)
            grads = clip(grads, found.norm)
        return s.optimizer.update(grads, ts.opt, ts.params)


# It gets matrices as they are kept and turns them here, where the update reads them:
# turned before a branch they would be copied at every step.
def apply_update(
    s: Step, ts: TrainState, found: GradientResult, updates: Any = None
) -> TrainState:
    """Take the `updates`, or those that `propose` would make; look at nothing."""
    made, opt = propose(s, ts, found)
    updates = made if updates is None else updates
    params = _moved(s, from_layout(ts.params), updates)
    new = {"params": params, "opt": opt}
    if s.ema is not None:
        new["ema"] = move_average(s.ema, from_layout(ts), (params, found.state))
    new = layout_of({name: getattr(ts, name) for name in new}, new)
    return ts._replace(**new, state=found.state, memory=found.memory)


def count(
    s: Step, ts: TrainState, found: GradientResult, ok: Array
) -> tuple[TrainState, dict[str, Array]]:
    """Count a step, good or bad; elementwise, so of one network or of many."""
    scaling, limit = ts.scaling, ts.limit
    metrics = {"loss": found.loss, "grad_norm": found.norm}
    if s.half:  # an overflow that a smaller scale mends is no bad step
        scaling, over = rescaled(ts, found)
        ok = ok | over
        metrics |= {"grad_norm": jnp.where(over, 0, found.norm), "rescaled": over}
    skipped = ts.skipped + jnp.where(ok, 0, 1).astype(ts.skipped.dtype)
    if s.guard == "halt":
        limit = jnp.where(ok, limit, jnp.minimum(limit, ts.step))
    ts = ts._replace(step=ts.step + 1, skipped=skipped, limit=limit, scaling=scaling)
    return ts, metrics | {"ok": ok}


def everything(s: Step, ts: TrainState, x: Array, y: Any, key: Array):
    """(loss, grads, state, params, opt) of a step without guard or branch."""
    found = compute_gradients(s, ts, x, y, key)
    updates, opt = propose(s, ts, found)
    return found.loss, found.grads, found.state, _moved(s, ts.params, updates), opt


def _moved(s, params, updates):
    with jax.named_scope("update"):
        params = optax.apply_updates(params, updates)
        return params if s.project is None else s.project(params)


def _is_update_finite(s, ts, updates):
    """Whether updates are, and what a projection makes of the parameters."""
    if s.project is not None:
        params = from_layout(ts.params)
        updates = jax.tree.map(jnp.subtract, _moved(s, params, updates), params)
    return jnp.isfinite(_sum_of_squares(updates))


def _sum_of_squares(tree):
    total = jnp.zeros((), jnp.float32)
    for g in jax.tree.leaves(tree):
        square = jnp.square(g.astype(jnp.promote_types(g.dtype, jnp.float32)))
        if g.ndim > 1:
            # column sums first: XLA adds up a whole array one number after the other
            square = square.reshape(-1, g.shape[-1]).sum(0)
        total = total + square.sum()
    return total
