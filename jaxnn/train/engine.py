"""The hot loop: one compiled program runs the step over many batches."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxnn.rules.products import weights_lie_transposed
from jaxnn.train.state import Changed, Found, TrainState
from jaxnn.train.step import Step
from jaxnn.train.turned import straight, turned


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
    step: Step, ts: TrainState, x: Array, y: Any, order: Array, key: Array
) -> tuple[TrainState, dict[str, Array]]:
    """Run `step` over the batches that `order` (steps, batch) picks from x and y.

    The rows of a few batches are gathered at a time, as they are stored (uint8): the
    buffer stays in cache, where a permuted copy of the data set is written to fresh
    memory and read back. Without the barrier the gather would be fused into the
    conversion to float, row by row; gathered as floats it would move four times the
    bytes.

    Metrics come back as arrays with a leading axis of steps.
    """
    if not _turns(step):
        return _scan(step, ts, x, y, order, key)
    ts, metrics = _scan(step, _turned(ts), x, y, order, key)
    return straight(ts), metrics


def _scan(step, ts, x, y, order, key):
    order = jnp.asarray(order)
    steps, each = order.shape[0], _batches_a_gather(order)
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
    step: Step, ts: TrainState, x: Array, y: Any, order: Array, keys: Array,
    *, together: bool = False,
) -> tuple[TrainState, dict[str, Array]]:  # fmt: skip
    """`scan_steps` of S networks at once: leading axis S on ts and keys.

    An order (steps, batch) is shared by all; (steps, S, batch) gives each its own.
    Metrics are (steps, S).

    `together` is faster, but then a step that is bad for one network (`ok` says so) is
    taken by none: the caller has to do such a call again without it, as `fit` does.
    """
    shared = order.ndim == 2
    axes = (0, None, None, 0) if shared else (0, 0, 0, 0)
    if not _turns(step):
        return _scan(jax.vmap(step, in_axes=axes), ts, x, y, order, keys)
    ts = jax.vmap(_turned)(ts)
    if together:
        where = jax.tree.map_with_path(_seed_axis, ts)
        many = _together(step, where, axes[1:])
    else:
        where = jax.tree.map(lambda _: 0, ts)
        many = jax.vmap(step, in_axes=axes)
    ts = jax.tree.map(lambda a, axis: jnp.moveaxis(a, 0, axis), ts, where)
    with weights_lie_transposed():
        ts, metrics = _scan(many, ts, x, y, order, keys)
    ts = jax.tree.map(lambda a, axis: jnp.moveaxis(a, axis, 0), ts, where)
    return jax.vmap(straight)(ts), metrics


def _together(step, where, axes):
    """The step of all networks: one branch for all, where each network's own would be
    a select that writes every parameter and moment a second time."""
    found = Found(0, where.params, 0, 0, 0, 0)
    look = jax.vmap(step.look, in_axes=(where, *axes), out_axes=found)
    take = jax.vmap(step.take, in_axes=(where, found), out_axes=Changed.of(where))

    def run(ts, x, y, key):
        seen = look(ts, x, y, key)
        ok = seen.sound & (ts.step < ts.limit)
        new = lax.cond(ok.all(), lambda: take(ts, seen), lambda: Changed.of(ts))
        return step.finish(ts, seen, new, ok)

    return run


def _seed_axis(path, a):
    """Where the networks' axis lies: second in a dense weight, (I, S, O), so that one
    product with (I, S * O) serves all of them without a copy."""
    return 1 if getattr(path[-1], "key", None) == "w" and a.ndim == 3 else 0


def _turns(step):
    """Whether the loop keeps matrices transposed, see `jaxnn.train.turned`."""
    return isinstance(step, Step) and jax.default_backend() == "cpu"


def _turned(ts):
    params, opt, ema = turned((ts.params, ts.opt, ts.ema))
    return ts._replace(params=params, opt=opt, ema=ema)


def _batches_a_gather(order: Array) -> int:
    """Batches gathered at once: about 256 rows on CPU, all of them elsewhere.

    Measured on 2 CPU cores: for 784-30-10, batch 32, eight batches are faster than one
    and than all; for 784-128-10, batch 128, one is faster than several and than all.
    """
    if jax.default_backend() != "cpu":
        return len(order)
    rows = math.prod(order.shape[1:])
    return 1 if rows >= 128 else min(256 // rows, len(order))


def take_rows(tree: Any, rows: Array) -> Any:
    """a[rows] for row numbers known to be in range: no bounds test, no mask.

    `tree` is an array or a tree of them (targets with their weights).
    """
    return jax.tree.map(lambda a: a.at[rows].get(mode="promise_in_bounds"), tree)
