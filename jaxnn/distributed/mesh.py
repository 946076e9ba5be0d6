"""Data parallel training: parameters on every device, a part of each batch on each.

The step is the one of a single device. It sees the whole batch: what it sums over the
samples, gradients and batch norm's statistics alike, XLA's partitioner sums over the
devices. Random numbers are those of one device too, whatever their number.
"""

from functools import partial
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxnn.errors import JaxnnError, first_line


def data_mesh(devices: int | None = None) -> Mesh:
    """A mesh of one axis, "data", over `devices` devices; None: over all of them.

    With several processes it must be all of them: each takes part with its own.

    Raises:
      JaxnnError: more devices asked for than there are.
    """
    found = jax.devices()
    count = len(found) if devices is None else devices
    if not 1 <= count <= len(found):
        raise JaxnnError(
            f"devices: got {count}, but JAX sees {len(found)} ({found[0].platform}); "
            "a CPU shows more if XLA_FLAGS has "
            f"--xla_force_host_platform_device_count={count} before jax starts"
        )
    if jax.process_count() > 1 and count != len(found):
        raise JaxnnError(
            f"devices: got {count}, but the {jax.process_count()} processes have "
            f"{len(found)} together, and each takes part with all of its own"
        )
    return Mesh(np.array(found[:count]), ("data",))


class DataParallel:
    """How a run's arrays lie on a mesh: all but the batches are on every device.

    Args:
      mesh: its axes together divide the batch.
      batch: samples a step, over all devices.

    Raises:
      JaxnnError: the batch cannot be divided evenly.
    """

    def __init__(self, mesh: Mesh, batch: int):
        if batch % mesh.size:
            raise JaxnnError(
                f"fit: got batch={batch} on a mesh of {mesh.size} devices; expected a "
                f"multiple, such as {-(-batch // mesh.size) * mesh.size}"
            )
        # The partitioner is to choose, also where the caller's mesh has Explicit axes.
        auto = (AxisType.Auto,) * len(mesh.axis_names)
        self.mesh = Mesh(mesh.devices, mesh.axis_names, axis_types=auto)
        self.everywhere = NamedSharding(self.mesh, PartitionSpec())

    def replicate(self, tree: Any) -> Any:
        """`tree` on every device; every process must have the same one."""
        return jax.jit(lambda tree: tree, out_shardings=self.everywhere)(tree)

    def local(self, tree: Any) -> Any:
        """This process's copy of a replicated tree, on one device."""
        return jax.tree.map(lambda a: a.addressable_data(0), tree)

    def split(self, axis: int) -> NamedSharding:
        """The sharding that divides the array axis of that number."""
        spec = PartitionSpec(*(None,) * axis, self.mesh.axis_names)
        return NamedSharding(self.mesh, spec)

    def rows(self, tree: Any, order: np.ndarray) -> Any:
        """a[order] of each host array; order (..., batch) is divided by its last axis.

        A process gathers the rows of its own devices only, and sends them as they are.
        """
        sharding = self.split(order.ndim - 1)

        def one(a):
            shape = order.shape + a.shape[1:]
            return jax.make_array_from_callback(
                shape, sharding, lambda at: a[order[at[: order.ndim]]]
            )

        return jax.tree.map(one, tree)

    def gathered(self, a: Any) -> np.ndarray:
        """A divided array as a whole, on the host of every process."""
        return np.asarray(self.replicate(a))

    def program(self, step: Any, ts: Any, x: Any, y: Any, order, keys) -> Any:
        """The compiled epoch, `(ts, x, y, order, keys) -> (ts, metrics)`.

        The step is that of all networks, vmapped; x and y are host arrays, order
        (steps, batch) or (steps, S, batch).
        """
        sharding = self.split(order.ndim - 1)

        def struct(a):
            shape = order.shape + a.shape[1:]
            dtype = jax.dtypes.canonicalize_dtype(a.dtype)
            return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

        compiled = (
            jax.jit(
                partial(_scan, step, self.everywhere),
                donate_argnums=0,
                out_shardings=self.everywhere,
            )
            .lower(ts, *jax.tree.map(struct, (x, y)), keys)
            .compile()
        )

        def run(ts, x, y, order, keys):
            return compiled(ts, *self.rows((x, y), np.asarray(order)), keys)

        return run


def _scan(step, everywhere, ts, xs, ys, keys):
    """The step over batches xs (steps, B, ...): contiguous, as they were sent."""

    def one(ts, batch):
        ts, metrics = step(ts, *batch, keys)
        # Else the partitioner might divide the parameters between two steps.
        return lax.with_sharding_constraint(ts, everywhere), metrics

    return lax.scan(one, ts, (xs, ys))


def host_array(a: Any) -> np.ndarray:
    """`a` on the host in the type that JAX would give it."""
    a = np.asarray(a)
    return a.astype(jax.dtypes.canonicalize_dtype(a.dtype), copy=False)


ticks = 0


def tick() -> None:
    """Tell the watch over several processes that this one has come to its next call."""
    global ticks
    ticks += 1


class LostError(JaxnnError):
    """Another process died, or was stopped, while all were to agree on something."""


def same_everywhere(numbers: Any) -> bool:
    """Whether all processes give the same integers; all of them must ask."""
    found = _from_all(np.asarray(numbers, np.int32))
    return bool((found == found[:1]).all())


def agreed(flag: bool) -> bool:
    """Whether any process says yes; all of them must ask."""
    return bool(np.any(_from_all(np.asarray(flag))))


def _from_all(value) -> np.ndarray:
    """The values of all processes, one a row.

    Raises:
      LostError: one of them does not answer any more.
    """
    if jax.process_count() == 1:
        return value[None]
    from jax.experimental import multihost_utils

    try:
        return np.asarray(multihost_utils.process_allgather(value))
    except (RuntimeError, ValueError) as error:  # which one depends on the transport
        raise LostError(
            f"several processes: one was lost while all were to agree "
            f"({first_line(error)}); start all of them again"
        ) from error
