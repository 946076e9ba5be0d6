"""What does the guard cost?

Question: how much longer does a training step take that finds bad values before they do
harm and leaves such steps out, than the same step without any guard: gradients, update,
nothing else? For the default network and for a convolutional one, in the compiled scan.

    chrt -r 1 python -m experiments.bench_guard     about 2 minutes

The two programs take turns; the figure is the median over rounds of the ratio within a
round. Expected: at most 1.03.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.bench import scanned
from experiments.common import Line, main, record, verdicts
from experiments.turns import in_turn, ratio
from jaxnn import serial
from jaxnn.data import load
from jaxnn.layers import Layer, conv, dense, flatten, max_pool, relu, standardize
from jaxnn.layers import reshape as view
from jaxnn.losses import softmax_cross_entropy
from jaxnn.train import init_state, make_step
from jaxnn.train.policy import Guard

GOAL = 1.03


@dataclass(frozen=True)
class Args:
    """Settings."""

    rounds: int = 5
    """Counted rounds, after one that warms up."""
    mlp_steps: int = 215
    """Steps a round of 784-512-512-10: half an epoch."""
    cnn_steps: int = 12
    """Steps a round of the convolutional network."""
    batch: int = 128
    """Images a step."""


def networks(args: Args) -> dict[str, tuple[Layer, int]]:
    """Name -> (network, steps a round)."""
    mlp = serial(
        standardize(0.1307, 0.3081), flatten, dense(512), relu, dense(512), relu,
        dense(10),
    )  # fmt: skip
    cnn = serial(
        standardize(0.1307, 0.3081), view(28, 28, 1), conv(32, 5), relu, max_pool(2),
        conv(64, 5), relu, max_pool(2), flatten, dense(1024), relu, dense(10),
    )  # fmt: skip
    return {"mlp": (mlp, args.mlp_steps), "cnn": (cnn, args.cnn_steps)}


def bare(net: Layer, loss: Callable, optimizer) -> Callable:
    """The step without a guard: gradients and update, and the loss as its metric."""

    def step(ts, x, y, key):
        x = x.astype(jnp.float32) * jnp.float32(1 / 255)
        key = jax.random.fold_in(key, ts.step)
        pred, state, cache = net.forward(ts.params, ts.state, x, key=key, train=True)
        value, dpred = loss(pred, y)
        _, grads = net.backward(cache, dpred)
        updates, opt = optimizer.update(grads, ts.opt, ts.params)
        params = optax.apply_updates(ts.params, updates)
        ts = ts._replace(params=params, state=state, opt=opt, step=ts.step + 1)
        return ts, {"loss": value}

    return step


def around_a_call(net, optimizer, x) -> float:
    """Milliseconds for what the guard does before and after a call: copy and look."""
    ts = init_state(net, optimizer, x.shape[1:], jax.random.key(0))
    guard, seconds = Guard("skip", 10, [0], multi_seed=False), []
    for _ in range(10):
        start = time.perf_counter()
        guard.copy(ts)
        jax.block_until_ready(guard.before)
        assert not guard.needs_rerun(ts)
        seconds.append(time.perf_counter() - start)
    return 1000 * float(np.median(seconds))


def run(args: Args) -> None:
    """Measure both networks and write the JSON."""
    start = time.perf_counter()
    data, loss = load("mnist").train, softmax_cross_entropy
    x, y = jnp.asarray(data.x), jnp.asarray(data.y)
    values = {}
    for name, (net, steps) in networks(args).items():
        optimizer = optax.adam(1e-3)
        steppers = {
            "bare": bare(net, loss, optimizer),
            # as `fit` has it: the update is looked at once, after the call
            "skip": make_step(net, loss, optimizer, watch_update=False),
        }
        made = {
            which: scanned(step, net, optimizer, x, y, args.batch, steps)
            for which, step in steppers.items()
        }
        found = in_turn(made, args.rounds)
        times = ratio(found, "skip", "bare")
        values[name] = {"skip_over_bare": times, "programs": found, "steps": steps}
        for which in steppers:
            ms = 1000 * float(np.median(found[which]["seconds"])) / steps
            values[name][f"{which}_ms_per_step"] = ms
            print(f"{name:<5} {which:<6}{ms:8.2f} ms a step")
        once = values[name]["once_a_call_ms"] = around_a_call(net, optimizer, x)
        print(f"{name:<5} beside that, once a call (an epoch): {once:.1f} ms")
        verdicts(Line(f"{name}, guarded over bare", times, high=GOAL), percent=False)
    record("bench-guard", args, values | {"seconds": time.perf_counter() - start},
           module="bench_guard")  # fmt: skip


if __name__ == "__main__":
    main(Args, run)
