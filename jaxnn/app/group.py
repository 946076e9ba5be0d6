"""Training a group of networks side by side: settings as arrays, one program."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxnn.app.build import DataFacts, Experiment, build
from jaxnn.app.points import Group
from jaxnn.train import History, Snapshots, make_step
from jaxnn.train.engine import scan_seeds
from jaxnn.train.inputs import check_labels, sample_weights
from jaxnn.train.run import Run
from jaxnn.train.state import Weighted


def group_experiment(
    group: Group, facts: DataFacts, data: Any = None, point: int = 0, **traced: Any
) -> Experiment:
    """Build what the points of a group share, in the same trees for all of them.

    Args:
      group: the points.
      facts: of the data.
      data: what is trained on.
      point: whose settings are taken where points differ.
      traced: numbers to take instead, see `Group.traced`.
    """
    config = group.points[point].config
    numbers = {name: getattr(config, name) for name in group.traced}
    if "dropout" in numbers:
        numbers["dropout"] = 0.5  # all have its layers, at rate 0 too
    return build(config, facts, data, traced=numbers | traced)


class SideBySide(Run):
    """A run whose seeds are the points of a group.

    Args:
      group: points that differ in what runs side by side only.
      data: the data set.
      facts: what the networks know of it.
      mesh: devices over which the points are divided, if their number allows it.
      programs: compiled for another part of this group with as many points, or empty.
    """

    def __init__(self, group: Group, data, facts, mesh, programs):
        points, first = group.points, group.points[0].config
        self.group, self.facts, self.data_set = group, facts, data
        self.experiment = group_experiment(group, facts, data)
        validation = data.validation if len(data.validation.x) else None
        y = data.train.y
        if first.class_weights == "balanced":
            y = Weighted(y, sample_weights(y, None, "balanced"))
        super().__init__(
            self._step, self.experiment.net, self.experiment.loss, (data.train.x, y),
            validation, list(range(len(points))), first.batch,
            # each point skips its own bad steps; one that diverges stops no other
            policy="off",
        )  # fmt: skip
        self.takes_all = False
        self.programs = programs
        self.where: NamedSharding | None = None
        if mesh is not None and len(points) % mesh.size == 0:
            self.where = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self._begin()

    def _begin(self):
        """States and keys, one a point; those of one kind of start are made at once."""
        y = self.data_set.train.y
        check_labels("fit", self.net, self.loss, self.x, y, self.validation)
        configs = [point.config for point in self.group.points]
        starts: dict[tuple[str, str], list[int]] = {}
        for i, c in enumerate(configs):
            starts.setdefault((c.init, c.bias_init), []).append(i)
        keys = jnp.stack([jax.random.key(c.seed) for c in configs])
        shape = (self.batch, *self.x.shape[1:])
        dtype = jnp.dtype(self.experiment.config.dtype)
        made = []
        for rows in starts.values():
            start = partial(self._made(rows[0]).start, shape, dtype=dtype)
            made.append(jax.jit(jax.vmap(lambda key, start=start: start(key=key)))(
                keys[np.array(rows)]
            ))  # fmt: skip
        back = np.argsort(np.concatenate([np.array(r) for r in starts.values()]))
        self.ts = jax.tree.map(lambda *a: jnp.concatenate(a)[back], *made)
        hyper = {
            name: jnp.array([getattr(c, name) for c in configs], dtype)
            for name in self.group.traced
        }
        self.keys = keys, hyper
        if self.where is not None:
            self.ts, self.keys = jax.device_put((self.ts, self.keys), self.where)
            everywhere = NamedSharding(self.where.mesh, PartitionSpec())
            self.x, self.y = jax.device_put((self.x, self.y), everywhere)

    def _step(self, ts, x, y, key):
        key, hyper = key
        return self._made(0, **hyper)(ts, x, y, key)

    def _made(self, point: int, **traced: Any):
        """The step of a point, with `traced` numbers for its own."""
        e = group_experiment(self.group, self.facts, self.data_set, point, **traced)
        return make_step(
            e.net, self.loss, e.optimizer, **e.options, guard="skip",
            watch_update=False,
        )  # fmt: skip

    def _compiled(self, order):
        # the step is made anew in each trace, from settings that are traced
        run = partial(scan_seeds, self._step, layout=True)
        if self.where is not None:
            run = _divided(run, self.where)
        given = self.ts, self.x, self.y, order, self.keys
        return jax.jit(run, donate_argnums=0).lower(*given).compile()


def _divided(run: Callable, where: NamedSharding) -> Callable:
    """Each device runs its own points; nobody has to talk."""
    mine, whole = where.spec, PartitionSpec()
    return jax.shard_map(
        run, mesh=where.mesh, check_vma=False,
        in_specs=(mine, whole, whole, whole, mine),
        out_specs=(mine, PartitionSpec(None, *mine)),
    )  # fmt: skip


def train_group(
    group: Group,
    data: Any,
    facts: Any,
    *,
    mesh: Mesh | None = None,
    programs: dict | None = None,
    snapshots: Snapshots | None = None,
    on_epoch: Callable[[dict], None] | None = None,
) -> History:
    """Train the points of a group; the history's seeds are the points, in order.

    Args:
      group: see `SideBySide`, as all arguments but these:
      snapshots: as in `jaxnn.fit`.
      on_epoch: as in `jaxnn.fit`.
    """
    run = SideBySide(group, data, facts, mesh, {} if programs is None else programs)
    config = group.points[0].config
    choose = config.keep == "best" and run.validation is not None
    history = run.train(
        config.epochs, patience=config.patience, choose=choose, on_epoch=on_epoch,
        snapshots=snapshots,
    )  # fmt: skip
    return history
