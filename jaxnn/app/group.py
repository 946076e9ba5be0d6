"""Training a group of networks side by side: settings as arrays, one program."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxnn.app.build import build
from jaxnn.app.config import TrainConfig
from jaxnn.app.job import Job
from jaxnn.app.points import Group
from jaxnn.layers import Layer
from jaxnn.optimizers import optimizer_by_name
from jaxnn.regularize import NOISES, combined, l2
from jaxnn.train import History, Snapshots, make_step
from jaxnn.train.engine import scan_seeds
from jaxnn.train.loop import Run
from jaxnn.train.state import Weighted
from jaxnn.train.weighting import sample_weights


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
        points, self.traced = group.points, group.traced
        self.points, self.facts, self.data_set = points, facts, data
        first = points[0].config
        net = network(first, self.traced, facts)
        self.job = Job(first, data, facts, net)
        validation = data.validation if len(data.validation.x) else None
        y = data.train.y
        if first.class_weights == "balanced":
            y = Weighted(y, sample_weights(y, None, "balanced"))
        super().__init__(
            self.job.net, self.job.loss, self._step, data.train.x, y, validation,
            list(range(len(points))), "shared", first.batch,
            # each point skips its own bad steps; one that diverges stops no other
            ("off", 10),
        )  # fmt: skip
        self.takes_all = False
        self.programs = programs
        self.where: NamedSharding | None = None
        if mesh is not None and len(points) % mesh.size == 0:
            self.where = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self._begin()

    def _begin(self):
        """States and keys, one a point; those of one kind of start are made at once."""
        self._check_labels()
        self.replays = 1
        made, order = [], []
        kinds = sorted({(p.config.init, str(p.config.bias_init)) for p in self.points})
        for kind in kinds:
            rows = [
                i
                for i, p in enumerate(self.points)
                if (p.config.init, str(p.config.bias_init)) == kind
            ]
            seeds = jnp.stack(
                [jax.random.key(self.points[i].config.seed) for i in rows]
            )
            made.append(self._started(self.points[rows[0]].config, seeds))
            order += rows
        back = np.argsort(order)
        self.ts = jax.tree.map(lambda *a: jnp.concatenate(a)[back], *made)
        keys = jnp.stack([jax.random.key(p.config.seed) for p in self.points])
        dtype = jnp.dtype(self.job.config.dtype)
        hyper = {
            name: jnp.array([getattr(p.config, name) for p in self.points], dtype)
            for name in self.traced
        }
        self.keys = keys, hyper
        if self.where is not None:
            self.ts, self.keys = jax.device_put((self.ts, self.keys), self.where)
            everywhere = NamedSharding(self.where.mesh, PartitionSpec())
            self.x, self.y = jax.device_put((self.x, self.y), everywhere)

    def _started(self, config, keys):
        step = self._made(config, {})
        shape, dtype = (self.batch, *self.x.shape[1:]), jnp.dtype(config.dtype)
        return jax.jit(jax.vmap(lambda key: step.start(shape, key, dtype)))(keys)

    def _step(self, ts, x, y, key):
        key, hyper = key
        return self._made(self.job.config, hyper)(ts, x, y, key)

    def _made(self, config, hyper: dict[str, Any]):
        """The step with the settings in `hyper` as traced numbers."""
        c, options = config, dict(self.job.options)
        optimizer = self.job.optimizer
        if "lr" in self.traced:
            unit = optimizer_by_name(
                c.optimizer, 1.0, c.schedule, self.job.steps, c.weight_decay
            )
            optimizer = optax.chain(unit, optax.scale(hyper.get("lr", c.lr)))
        if "l2" in self.traced:
            others = self._without(c, l2=0.0)["penalty"]
            mine = _times(l2(1.0), hyper.get("l2", c.l2))
            options["penalty"] = mine if others is None else combined(others, mine)
        if "noise" in self.traced:
            others = self._without(c, noise=0.0, noise_shift=0.0)["augment"]
            size = hyper.get("noise", c.noise)
            options["augment"] = _noisy(
                others, NOISES[c.noise_kind or "gaussian"], size, c
            )
        net = network(c, self.traced, self.facts, hyper.get("dropout"))
        return make_step(
            net, self.loss, optimizer, **options, guard="skip", watch_update=False
        )

    def _without(self, config, **changes) -> dict:
        from jaxnn.app.options import step_options

        config = replace(config, **changes)
        return step_options(config, self.data_set.classes, self.job.steps)

    def _compiled(self, order):
        # a step made anew in each trace, from settings that are traced
        step = replace(self._made(self.job.config, {}), run=self._step)
        run = partial(scan_seeds, step)
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


def network(
    config: TrainConfig, traced: Sequence[str], facts: Any, drop_rate: Any = None
) -> Layer:
    """The network of a group, the same tree for all its points.

    Where they differ in dropout all have its layers, at rate 0 too.
    """
    if "dropout" in traced:
        config = replace(config, dropout=0.5 if drop_rate is None else drop_rate)
    return build(config, facts)


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
        config.epochs, config.patience, choose, None, False, on_epoch, snapshots
    )
    return history


def _times(penalty, strength):
    def scaled(params):
        value, grads = penalty(params)
        return strength * value, jax.tree.map(lambda g: strength * g, grads)

    return scaled


def _noisy(others, kind, size, config):
    """What `jaxnn.app.options` makes of the noise settings, with a traced size."""
    unit, shift = kind(1.0), config.noise_shift

    def change(key, x):
        if others is not None:
            x = others(key, x)
        # the key that `augment.in_turn` gives its last part
        own = jax.random.fold_in(key, 0 if others is None else 1)
        return x + size * unit(own, jnp.zeros_like(x)) + shift

    return change
