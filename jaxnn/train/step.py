"""One training step as a pure function of the state, a batch and a key."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from jaxnn.layers import Layer
from jaxnn.losses import Loss


class TrainState(NamedTuple):
    """All that a step changes; arrays only, so it is donated, vmapped and saved whole.

    `params` and `state` are the network's, `opt` the optimiser's; `step` counts the
    steps tried and `skipped` those the guard refused, both int32 scalars.
    """

    params: Any
    state: Any
    opt: Any
    step: Array
    skipped: Array


Step = Callable[[TrainState, Array, Array, Array], tuple[TrainState, dict[str, Array]]]


def init_state(net: Layer, optimiser: Any, in_shape, key, dtype=None) -> TrainState:
    """A fresh `TrainState`: parameters from `key`, in `dtype` if one is given."""
    params, state, _ = net.init(key, tuple(in_shape))
    if dtype is not None:
        params, state = cast_floats((params, state), dtype)
    zero = jnp.zeros((), jnp.int32)
    return TrainState(params, state, optimiser.init(params), zero, zero)


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
) -> Step:
    """The step `(train_state, x, y, key) -> (train_state, metrics)`, guard included.

    Args:
      net: the network; its hand-written `backward` gives the gradients.
      loss: `(pred, target) -> (value, dpred)`, see `jaxnn.losses`.
      optimiser: any optax gradient transformation (schedules, `optax.partition` ...).
      penalty: `params -> (value, dparams)`, added to loss and gradients.
      project: `params -> params` after the update (`max_norm`).
      augment: `(key, x) -> x` on the batch in [0, 1] (`input_noise`).

    `key` is the run's key: the step folds its own count in. x (B, ...) is uint8 or
    float, y (B,) labels or (B, N). Metrics: `loss` (penalty included), `grad_norm`
    (2-norm over all leaves) and `ok`. If loss, gradients or running statistics are not
    finite, `ok` is False and parameters, optimiser and running statistics stay as they
    were, bit for bit.
    """

    def gradients(ts, x, y, key):
        x = to_unit(x, float_type(ts.params))
        key_noise, key_net = jax.random.fold_in(key, 0), jax.random.fold_in(key, 1)
        if augment is not None:
            x = augment(key_noise, x)
        pred, state, cache = net.forward(
            ts.params, ts.state, x, key=key_net, train=True
        )
        value, dpred = loss(pred, y)
        _, grads = net.backward(cache, dpred)  # the unused dx is dropped by XLA
        if penalty is not None:
            extra, dpenalty = penalty(ts.params)
            value, grads = value + extra, jax.tree.map(jnp.add, grads, dpenalty)
        return value, grads, state

    def step(ts, x, y, key):
        value, grads, state = gradients(ts, x, y, jax.random.fold_in(key, ts.step))
        norm = jnp.sqrt(_sum_of_squares(grads))
        ok = jnp.isfinite(value) & jnp.isfinite(norm) & _all_finite(state)

        def apply(_):
            updates, opt = optimiser.update(grads, ts.opt, ts.params)
            params = optax.apply_updates(ts.params, updates)
            return params if project is None else project(params), state, opt

        def keep(_):
            return ts.params, ts.state, ts.opt

        params, state, opt = lax.cond(ok, apply, keep, None)
        skipped = ts.skipped + jnp.where(ok, 0, 1).astype(ts.skipped.dtype)
        metrics = {"loss": value, "grad_norm": norm, "ok": ok}
        return TrainState(params, state, opt, ts.step + 1, skipped), metrics

    return step


def _all_finite(state):
    """Running statistics can overflow while loss and gradients stay finite."""
    floats = [
        a for a in jax.tree.leaves(state) if jnp.issubdtype(a.dtype, jnp.floating)
    ]
    return jnp.all(jnp.stack([jnp.isfinite(a).all() for a in floats] or [True]))


def _sum_of_squares(tree):
    def one(g):
        return jnp.square(g.astype(jnp.promote_types(g.dtype, jnp.float32))).sum()

    return sum(map(one, jax.tree.leaves(tree)), jnp.zeros((), jnp.float32))
