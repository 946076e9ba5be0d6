"""What `test_devices.py` measures: run as a script, as it needs eight devices.

Its words are the functions to call; it prints what they give as one JSON object.
"""

import json
import sys
import tempfile
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec as P

from experiments.collectives import collectives
from jaxnn import make_step, mlp
from jaxnn.distributed import data_mesh
from jaxnn.distributed.mesh import DataParallel
from jaxnn.layers import batch_norm
from jaxnn.losses import softmax_cross_entropy
from jaxnn.train import Snapshots, batch_order, fit, init_state
from tests.train.problem import pixels

NET = mlp([64, 16, 16, 3], normalize=True, drop_rate=0.2)
X, Y = pixels(80, 8)


def train(mesh=None, x=X, epochs=50, **options):
    """One epoch is one step of all 80 images but the last 16."""
    return fit(
        NET, (x, Y), validation=(X[:21], Y[:21]), epochs=epochs, batch=64, mesh=mesh,
        optimizer=optax.adam(1e-2), **options,
    )  # fmt: skip


def losses(history):
    return [row["loss"] for row in history.epochs]


def curves(meshes=(8,)):
    """On one device, on meshes; 30 steps on one and, resumed, 20 more on two."""
    alone = train()
    found = {
        "1 device": losses(alone),
        "validation": alone.epochs[-1]["validation_loss"],
    }
    for n in meshes:
        history = train(data_mesh(n))
        found[f"mesh of {n}"] = losses(history)
        found[f"validation {n}"] = history.epochs[-1]["validation_loss"]
    with tempfile.TemporaryDirectory() as folder:
        train(epochs=30, snapshots=Snapshots(folder))
        rest = train(data_mesh(2), snapshots=Snapshots(folder, resume=True))
    found["resumed"] = losses(rest)
    return found


def more_curves():
    return curves((1, 2, 4))


def seeds_and_own_orders():
    options = {"epochs": 2, "seeds": [3, 4], "shuffle": "per-seed"}
    one, four = train(None, **options), train(data_mesh(4), **options)
    return [losses(one), losses(four)]


def mixed():
    given = {"epochs": 4, "precision": "bfloat16"}
    return [losses(train(mesh, **given)) for mesh in (None, data_mesh(8))]


def bad_rows():
    """A value whose square overflows, in one device's part of the batch."""
    x = X / np.float32(255)
    x[7] = 3e38
    history = train(data_mesh(4), x, epochs=4, guard="skip")
    expected = [int(7 in batch_order(80, 64, epoch)) for epoch in (1, 2, 3, 4)]
    return [expected, [row["skipped"] for row in history.epochs]]


def bytes_a_step():
    net, opt = mlp([64, 32, 10], drop_rate=0.2), optax.adam(1e-3)
    step = make_step(net, softmax_cross_entropy, opt)
    spread = DataParallel(data_mesh(4), 64)
    ts = init_state(net, opt, (64,), jax.random.key(0))
    ts, key = spread.replicate((ts, jax.random.key(0)))
    x, y = spread.rows((X, Y), np.arange(64))
    run = jax.jit(step, out_shardings=spread.everywhere)
    found = collectives(run.lower(ts, x, y, key).compile())
    return {
        "parameters": sum(a.nbytes for a in jax.tree.leaves(ts.params)),
        "bytes": sum(sum(c.sizes) for c in found),
        "kinds": [c.kind for c in found],
    }


def sync_batch_norm():
    """By hand under shard_map, against jax.grad of the synced forward; float64."""
    jax.config.update("jax_enable_x64", True)
    found = {}
    for shape, n in (((16, 3), 8), ((8, 2, 3, 5), 2)):
        rng = np.random.default_rng(0)
        x, dy = rng.normal(size=(2, *shape)) * 3 + 2
        gamma, beta = rng.normal(size=(2, shape[-1]))
        found[f"{shape} on {n}"] = _gap(data_mesh(n), x, gamma, beta, dy)
    return found


def _gap(mesh, x, gamma, beta, dy):
    net = batch_norm(axis_name="data")
    _, state, _ = net.init(jax.random.key(0), x.shape[1:])
    split, whole = P("data"), P()

    @partial(jax.shard_map, mesh=mesh, in_specs=(split, whole, whole, split),
             out_specs=(split, whole, whole, whole), check_vma=False)  # fmt: skip
    def by_hand(x, gamma, beta, dy):
        params = {"gamma": gamma, "beta": beta}
        _, new, cache = net.forward(params, state, x, train=True)
        dx, dparams = net.backward(cache, dy)
        dparams = jax.lax.psum(dparams, "data")
        return dx, dparams["gamma"], dparams["beta"], new

    @partial(jax.shard_map, mesh=mesh, in_specs=(split, whole, whole, split),
             out_specs=whole)  # fmt: skip
    def synced(x, gamma, beta, dy):
        mean = jax.lax.pmean(x.mean(tuple(range(x.ndim - 1))), "data")
        centered = x - jnp.broadcast_to(mean, x.shape)
        var = jax.lax.pmean((centered**2).mean(tuple(range(x.ndim - 1))), "data")
        y = centered * jnp.broadcast_to(gamma / jnp.sqrt(var + 1e-5), x.shape)
        y = y + jnp.broadcast_to(beta, x.shape)
        return jax.lax.psum((y * dy).sum(), "data")

    *mine, new = jax.jit(by_hand)(x, gamma, beta, dy)
    theirs = jax.jit(jax.grad(synced, (0, 1, 2)))(x, gamma, beta, dy)
    _, alone, _ = batch_norm().forward(
        {"gamma": gamma, "beta": beta}, state, jnp.asarray(x), train=True
    )
    pairs = [*zip(mine, theirs, strict=True), (new["var"], alone["var"])]
    return max(
        float(abs(np.asarray(a) - np.asarray(b)).max() / abs(np.asarray(b)).max())
        for a, b in pairs
    )


if __name__ == "__main__":
    json.dump({name: globals()[name]() for name in sys.argv[1:]}, sys.stdout)
