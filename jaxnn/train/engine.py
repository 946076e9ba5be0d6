"""The hot loop: one compiled program runs the step over many batches."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxnn.rules import products
from jaxnn.train.state import (
    GradientResult,
    TrainState,
    from_layout,
    seed_axes,
    to_layout,
)
from jaxnn.train.step import Step, apply_update, compute_gradients, count


def batch_order(count: int, batch: int, epoch: int, order_seed=0) -> np.ndarray:
    """Row numbers of an epoch's batches, int32 (steps, batch): a fresh permutation.

    Drawn on the host from (order_seed, epoch) alone: many times faster than XLA's sort
    on CPU, and the same on every device. The rows left over after
    `count // batch` whole batches are other ones each epoch.
    """
    steps = count // batch
    rows = np.random.default_rng((order_seed, epoch)).permutation(count)
    return rows[: steps * batch].astype(np.int32).reshape(steps, batch)


def scan_steps(
    step: Callable, ts: TrainState, x: Array, y: Any, order: Array, key: Array
) -> tuple[TrainState, dict[str, Array]]:
    """Run `step` over the batches that `order` (steps, batch) picks from x and y.

    The rows of a few batches are gathered at a time, as they are stored (uint8): the
    buffer stays in cache, where a permuted copy of the data set is written to fresh
    memory and read back. Without the barrier the gather would be fused into the
    conversion to float, row by row; gathered as floats it would move four times the
    bytes.

    Metrics come back as arrays with a leading axis of steps.
    """
    if isinstance(step, Step) and jax.default_backend() == "cpu":
        ts, metrics = scan_steps(step.__call__, to_layout(ts), x, y, order, key)
        return from_layout(ts), metrics
    order = jnp.asarray(order)
    steps = each = len(order)
    if jax.default_backend() == "cpu":
        # About 256 rows at once. Measured on 2 cores: for 784-30-10, batch 32, eight
        # batches are faster than one and than all; for 784-128-10, batch 128, one is
        # faster than several and than all.
        rows = math.prod(order.shape[1:])
        each = 1 if rows >= 128 else min(256 // rows, steps)
    gathers = -(-steps // each)
    short = gathers * each - steps  # the last gather's batches that are not steps
    padded = jnp.concatenate([order, order[:1].repeat(short, 0)]) if short else order
    found = jax.eval_shape(
        step, ts, take_rows(x, order[0]), take_rows(y, order[0]), key
    )
    metrics = jax.tree.map(lambda m: jnp.zeros((steps, *m.shape), m.dtype), found[1])

    def gather(i, carry):
        rows = lax.dynamic_slice_in_dim(padded, i * each, each)
        # The barrier keeps the gather out of the steps' fusions.
        xs, ys = lax.optimization_barrier((take_rows(x, rows), take_rows(y, rows)))

        def one(j, carry):
            ts, metrics = carry
            ts, new = step(ts, xs[j], jax.tree.map(lambda y: y[j], ys), key)
            at = i * each + j
            return ts, jax.tree.map(lambda a, m: a.at[at].set(m), metrics, new)

        # A known count where there is one: on GPUs it spares a look at every step.
        count = jnp.minimum(each, steps - i * each) if short else each
        return lax.fori_loop(0, count, one, carry)

    # A replay that ends at a limit need not run the steps behind it.
    wanted = jnp.max(ts.limit - ts.step)
    needed = jnp.minimum(gathers, wanted // each + (wanted % each > 0))
    return lax.fori_loop(0, needed, gather, (ts, metrics))


def scan_seeds(
    step: Callable, ts: TrainState, x: Array, y: Any, order: Array, keys: Array,
    *, all_or_nothing: bool = False, layout: bool | None = None,
) -> tuple[TrainState, dict[str, Array]]:  # fmt: skip
    """`scan_steps` of S networks at once: leading axis S on ts and keys.

    Args:
      step: of each network; not vmapped.
      ts: the states.
      x: the data's inputs, shared by all.
      y: their targets.
      order: (steps, batch), shared by all; (steps, S, batch) gives each its own.
      keys: the runs' keys.
      all_or_nothing: faster, but a step that is bad for one network (`ok` says so) is
        taken by none: the caller has to do such a call again without it, as `fit` does.
      layout: whether the step knows `to_layout`; None: if it is a `Step`.

    Metrics are (steps, S).
    """
    axes = seeds_axes(order)
    known = isinstance(step, Step) if layout is None else layout
    if not (known and jax.default_backend() == "cpu"):
        return scan_steps(jax.vmap(step, in_axes=axes), ts, x, y, order, keys)
    ts = jax.vmap(to_layout)(ts)
    if all_or_nothing and isinstance(step, Step):
        where = seed_axes(ts)
        many = _all_or_nothing(step, where, axes[1:])
    else:
        where = jax.tree.map(lambda _: 0, ts)
        many = jax.vmap(step, in_axes=axes)
    ts = jax.tree.map(lambda a, axis: jnp.moveaxis(a, 0, axis), ts, where)
    with products.policy(transposed=True):
        ts, metrics = scan_steps(many, ts, x, y, order, keys)
    ts = jax.tree.map(lambda a, axis: jnp.moveaxis(a, axis, 0), ts, where)
    return jax.vmap(from_layout)(ts), metrics


def seeds_axes(order: Any) -> tuple:
    """The axes of ts, x, y and key along which a step of many networks is vmapped."""
    return (0, None, None, 0) if order.ndim == 2 else (0, 0, 0, 0)


def _all_or_nothing(step, where, axes):
    """The step of all networks: one branch for all, where each network's own would be
    a select that writes every parameter and moment a second time."""
    found = GradientResult(0, where.params, 0, 0, 0, 0)
    compute = jax.vmap(
        partial(compute_gradients, step), in_axes=(where, *axes), out_axes=found
    )
    apply = jax.vmap(
        partial(apply_update, step), in_axes=(where, found), out_axes=where
    )

    def run(ts, x, y, key):
        seen = compute(ts, x, y, key)
        ok = seen.is_finite & (ts.step < ts.limit)
        new = lax.cond(ok.all(), lambda: apply(ts, seen), lambda: ts)
        return count(step, new, seen, ok)

    return run


def take_rows(tree: Any, rows: Array) -> Any:
    """a[rows] for row numbers known to be in range: no bounds test, no mask.

    `tree` is an array or a tree of them (targets with their weights).
    """
    return jax.tree.map(lambda a: a.at[rows].get(mode="promise_in_bounds"), tree)
