"""Backward passes by hand against jax.grad: time, memory, agreement, over the zoo.

Question: what does it cost, or save, to write every backward pass by hand, from small
MLPs to a CNN and an LSTM, and do the gradients agree?

    python -m experiments.manual_vs_auto            about 3 minutes

One gradient of loss and network for all parameters, float32, batch 128, jitted, in
training mode. Both ways run by turns in one process; the ratio is the median over
rounds of by hand / automatic in that round. Memory is XLA's own count of what the
compiled program needs at once, and what is kept between the two passes: the cache by
hand, the residuals of jax.vjp, parameters not counted. It runs on whatever device JAX
finds, and its result is named after it.

Expected: agreement to 1e-12 in float64 and 1e-5 in float32; times within 10% of each
other for MLPs, where both are the same matrix products; by hand ahead where the rules
keep less or compute otherwise (convolutions), and about half the memory kept.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import main, record
from experiments.turns import in_turn, waited_for
from jaxnn import mlp, residual, serial
from jaxnn.check.adapters import automatic_loss
from jaxnn.check.compare import compare_gradients
from jaxnn.check.measurements import residual_bytes
from jaxnn.combine import remat, stack
from jaxnn.costs import count_parameters
from jaxnn.layers import (
    Layer,
    batch_norm,
    conv,
    dense,
    flatten,
    layer_norm,
    lstm,
    max_pool,
    multi_head_attention,
    relu,
    reshape,
)
from jaxnn.losses import softmax_cross_entropy


@dataclass(frozen=True)
class Args:
    """Settings."""

    batch: int = 128  # Images
    rounds: int = 15  # Counted rounds, after one that warms up
    seed: int = 0  # Of weights, images and dropout
    only: tuple[str, ...] = ()  # Networks to measure; none given: all


def cnn() -> Layer:
    return serial(
        reshape(28, 28, 1),
        conv(16, 3), batch_norm(), relu, max_pool(2),
        conv(32, 3), batch_norm(), relu, max_pool(2),
        flatten, dense(10),
    )  # fmt: skip


def attention() -> Layer:
    block = residual(serial(layer_norm(), multi_head_attention(4)))
    return serial(dense(32), block, block, flatten, dense(10))


def deep(keep: bool) -> Layer:
    block = residual(serial(layer_norm(), dense(128), relu))
    return serial(flatten, dense(128), stack(block if keep else remat(block), 24),
                  dense(10))  # fmt: skip


ZOO: dict[str, Callable[[], Layer]] = {
    "784-30-10, sigmoid": lambda: mlp([784, 30, 10], "sigmoid"),
    "784-128-10": lambda: mlp([784, 128, 10]),
    "784-512-512-10": lambda: mlp([784, 512, 512, 10]),
    "the same, batch norm and dropout": lambda: mlp(
        [784, 512, 512, 10], normalize=True, drop_rate=0.2
    ),
    "16 dense layers of 128": lambda: mlp([784, *[128] * 16, 10]),
    "24 residual blocks, scanned": lambda: deep(keep=True),
    "24 residual blocks, remat": lambda: deep(keep=False),
    "CNN 16-32, batch norm": cnn,
    "LSTM 64 over 28 rows": lambda: serial(lstm(64), dense(10)),
    "attention, 2 blocks": attention,
}


class Problem(NamedTuple):
    """A network at a batch."""

    net: Layer
    params: Any
    state: Any
    x: jax.Array
    y: jax.Array
    key: jax.Array


def problem(name: str, args: Args) -> Problem:
    draw = np.random.default_rng(args.seed)
    net = ZOO[name]()
    params, state, _ = net.init(jax.random.key(args.seed), (28, 28))
    x = jnp.asarray(draw.random((args.batch, 28, 28), dtype=np.float32))
    y = jnp.asarray(draw.integers(0, 10, args.batch), jnp.int32)
    return Problem(net, params, state, x, y, jax.random.key(args.seed))


def gradient(net: Layer, loss: Callable) -> Callable:
    """Parameters' gradient and the new state: what a training step needs of it."""

    def run(params, state, x, y, key):
        pred, state, cache = net.forward(params, state, x, key=key, train=True)
        return net.backward(cache, loss(pred, y)[1])[1], state

    return run


def both_ways(case: Problem, args: Args) -> tuple[dict[str, dict], list[float]]:
    """Time by turns, compile time, FLOPs and bytes; the ratios of the rounds."""
    found, programs = {}, {}
    for way, run in (
        ("manual", gradient(case.net, softmax_cross_entropy)),
        ("automatic", automatic_gradient(case.net)),
    ):
        start = time.perf_counter()
        program: Any = jax.jit(run).lower(*case[1:]).compile()
        found[way] = {"compile_seconds": time.perf_counter() - start}
        programs[way] = waited_for(partial(program, *case[1:]))
        memory = program.memory_analysis()
        found[way]["flops"] = float(program.cost_analysis()["flops"])
        found[way]["peak_bytes"] = int(
            memory.temp_size_in_bytes
            + memory.argument_size_in_bytes
            + memory.output_size_in_bytes
        )
    timed = in_turn(programs, args.rounds, pause=0)
    for way, times in timed.items():
        found[way] |= {key: times[key] for key in ("seconds", "median")}
    seconds = [found[way]["seconds"] for way in ("manual", "automatic")]
    return found, [a / b for a, b in zip(*seconds, strict=True)]


def automatic_gradient(net: Layer) -> Callable:
    """The same by jax.grad of the whole."""

    def run(params, state, x, y, key):
        def total(params):
            pred, new, _ = net.forward(params, state, x, key=key, train=True)
            return automatic_loss(softmax_cross_entropy)(pred, y)[0], new

        return jax.grad(total, has_aux=True)(params)

    return run


def agreement(case: Problem) -> dict[str, Any]:
    """Largest relative differences on 16 of the images, and the verdict."""
    report = compare_gradients(
        case.net, softmax_cross_entropy, case.params, case.state, case.x[:16],
        case.y[:16], key=case.key, audit=False,
    )  # fmt: skip
    return {
        "passed": report.passed,
        "float32": report.max_relative("float32"),
        "float64": report.max_relative("float64"),
    }


def measure(name: str, args: Args) -> dict:
    case = problem(name, args)
    found, ratios = both_ways(case, args)
    kept = residual_bytes(case.net, case.params, case.state, case.x, key=case.key)
    row = {
        "parameters": count_parameters(case.params), "ways": found,
        "time_ratio": float(np.median(ratios)),
        "time_ratio_quartiles": [float(q) for q in np.quantile(ratios, [0.25, 0.75])],
        "peak_ratio": found["manual"]["peak_bytes"] / found["automatic"]["peak_bytes"],
        "kept_bytes": kept, "kept_ratio": kept["manual"] / kept["automatic"],
        "agreement": agreement(case),
    }  # fmt: skip
    print(
        f"{name:<34} by hand {1e3 * found['manual']['median']:7.2f} ms, "
        f"{row['time_ratio']:.2f} of automatic; kept {row['kept_ratio']:.2f}, peak "
        f"{row['peak_ratio']:.2f}; float64 {row['agreement']['float64']:.0e}",
        flush=True,
    )
    jax.clear_caches()
    return row


def run(args: Args) -> None:
    names = [name for name in ZOO if not args.only or name in args.only]
    rows = {name: measure(name, args) for name in names}
    platform = jax.devices()[0].platform
    name = "manual_vs_auto" if platform == "cpu" else f"manual_vs_auto-{platform}"
    record(name, args, {"rows": rows}, module="manual_vs_auto")


def table(result: dict) -> list[list[str]]:
    rows = [["network", "ms a gradient by hand", "time", "kept", "peak",
             "float64", "float32"]]  # fmt: skip
    for name, row in result["values"]["rows"].items():
        rows.append([
            name, f"{1e3 * row['ways']['manual']['median']:.2f}",
            f"{row['time_ratio']:.2f}", f"{row['kept_ratio']:.2f}",
            f"{row['peak_ratio']:.2f}", f"{row['agreement']['float64']:.0e}",
            f"{row['agreement']['float32']:.0e}",
        ])  # fmt: skip
    return rows


if __name__ == "__main__":
    main(Args, run)
