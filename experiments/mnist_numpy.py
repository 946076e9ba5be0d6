"""Is JAX faster than NumPy? The same network in both, step for step, and a clock.

Questions: does a network written in NumPy learn the same as ours, number for number?
And what is faster: NumPy, JAX in a Python loop, JAX with the whole loop compiled, or 32
networks side by side?

    python -m experiments.mnist_numpy       about 60 seconds

Expected: the same losses, to 1e-9 in float64 and 1e-4 in float32. On the small network
784-30-10 a good NumPy loop is hard to beat: an epoch is 1,718 steps of a few small
matrix products, which NumPy does well; on quiet cores ours takes 0.7 of its time, on
784-512-512-10 0.6, where the matrix products alone take 0.5. Beside other
programs the clock says nothing: run it on a quiet machine.

The NumPy network is `experiments/rivals/numpy_twin.py`: forward, backward and step by
hand, every result written into memory that is already there. Both programs start from
the same weights and see the same batches in the same order. What is left is rounding:
sums are added up in another order, and (a + b) + c is not quite a + (b + c).

Four ways to run the same step:

    NumPy               a Python loop; each operation a call into NumPy
    JAX, Python loop    the step is one compiled program, called once a batch; every
                        call costs something before anything is calculated
    JAX, compiled loop  jaxnn's engine: the epoch is one program (`lax.fori_loop`)
    JAX, 32 networks    `vmap`: the same, on arrays with one axis more, for 32 starts

For the last we ask how many networks a second it trains, against one after another.
That depends on what the processor waits for. In a tiny network (7 x 7 pixels, 10
units) most of a step is the cost of starting operations: 32 networks share it, and
gain much. In 784-30-10 two cores are busy multiplying already: the larger the batch,
the better the products of 32 networks use them. The yardstick "products alone" says
how long the matrix products would take on their own: more than they allow no program
can gain.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import rivals
from experiments.bench import ours, products_alone
from experiments.common import conclude, main
from experiments.pictures import bars
from experiments.rivals import numpy_twin
from experiments.turns import Program, in_turn, ratio, spread
from jaxnn import make_step, mlp
from jaxnn.data import load
from jaxnn.losses import softmax_cross_entropy
from jaxnn.plots.panels import lines, panels
from jaxnn.train import batch_order, init_state, scan_steps

SMALL, WIDE, TINY = (784, 30, 10), (784, 512, 512, 10), (49, 10, 10)
RATE = 0.1
NAMES = ("NumPy", "JAX, Python loop", "JAX, compiled loop")


@dataclass(frozen=True)
class Args:
    """Settings."""

    images: int = 55_000  # Images of an epoch of the small network
    wide_images: int = 25_600  # Images of an epoch of the wide network
    many_images: int = 6_400  # Images of an epoch of 32 networks
    seeds: int = 32  # Networks side by side
    rounds: int = 5  # Timed rounds; programs take turns in each


# ---- the same numbers


def losses_in_numpy(dtype: Any, x: np.ndarray, y: np.ndarray, order: np.ndarray):
    """The mean loss of each batch, by the NumPy network."""
    batch = order.shape[1]
    net = numpy_twin.network(SMALL, batch, seed=0, dtype=dtype)
    images, labels, losses = x.astype(dtype) / dtype(255), y.astype(np.intp), []
    for rows in order:
        loss = net.gradient(images[rows], labels[rows], dtype(1 / batch))
        np.subtract(net.params, dtype(RATE) * net.grads, out=net.params)
        losses.append(loss / batch)
    return np.array(losses)


def losses_in_jax(dtype: Any, x: np.ndarray, y: np.ndarray, order: np.ndarray):
    """The same by jaxnn's engine."""
    net, optimizer, key = mlp(SMALL), optax.sgd(RATE), jax.random.key(0)
    ts = init_state(net, optimizer, (784,), key, dtype)
    layers = iter(rivals.start(SMALL, seed=0))

    def replaced(params):  # dense layers have weights, relu and flatten do not
        if not params:
            return params
        w, b = next(layers)
        return {"w": jnp.asarray(w, dtype), "b": jnp.asarray(b, dtype)}

    ts = ts._replace(params=tuple(map(replaced, ts.params)))
    step = make_step(net, softmax_cross_entropy, optimizer)
    program = jax.jit(scan_steps, static_argnums=0)
    _, metrics = program(step, ts, jnp.asarray(x), jnp.asarray(y), order, key)
    return np.asarray(metrics["loss"])


def same_numbers(x: np.ndarray, y: np.ndarray) -> tuple[dict, dict]:
    """Losses of one epoch, four ways; the largest differences."""
    order, found = batch_order(len(x), 32, 0), {}
    for name, dtype in (("float32", np.float32), ("float64", np.float64)):
        found[f"NumPy, {name}"] = losses_in_numpy(dtype, x, y, order)
        with jax.enable_x64(name == "float64"):
            found[f"jaxnn, {name}"] = losses_in_jax(dtype, x, y, order)
    gaps = {
        name: float(abs(found[f"NumPy, {name}"] - found[f"jaxnn, {name}"]).max())
        for name in ("float32", "float64")
    }
    between = abs(found["NumPy, float32"] - found["NumPy, float64"]).max()
    gaps["float32 and float64"] = float(between)
    print(
        f"losses of {len(order):,} steps, NumPy against jaxnn: largest difference "
        f"{gaps['float32']:.0e} in float32, {gaps['float64']:.0e} in float64"
    )
    assert gaps["float64"] < 1e-9, "NumPy and jaxnn must walk the same path"
    assert gaps["float32"] < 1e-3, "NumPy and jaxnn must walk the same path"
    return found, gaps


# ---- the clock


def python_loop(widths, batch: int, optimizer, x, y) -> Program:
    """jaxnn's step compiled, but called from Python for every batch."""
    net, key = mlp(widths), jax.random.key(0)
    step = jax.jit(make_step(net, softmax_cross_entropy, optimizer), donate_argnums=0)
    ts = init_state(net, optimizer, x.shape[1:], key)

    def epoch(number: int) -> float:
        nonlocal ts
        total = []
        for rows in batch_order(len(x), batch, number):
            ts, metrics = step(ts, x[rows], y[rows], key)
            total.append(metrics["loss"])
        return float(np.mean(jax.device_get(total)))

    return epoch


def three_ways(widths, batch: int, adam: bool, x, y, rounds: int) -> dict:
    """Seconds an epoch in NumPy and in JAX, in turn."""
    name, rate = ("adam", 1e-3) if adam else ("sgd", RATE)
    optimizer, net = {"adam": optax.adam, "sgd": optax.sgd}[name](rate), mlp(widths)
    programs: dict[str, Program] = {
        "NumPy": numpy_twin.make(rivals.Task(batch, name, rate, x, y, widths)).epoch,
        "JAX, Python loop": python_loop(widths, batch, optimizer, x, y),
        "JAX, compiled loop": ours(net, softmax_cross_entropy, batch, optimizer, x, y),
        "products alone": products_alone(widths, batch, len(x) // batch),
    }
    found = in_turn(programs, rounds)
    for way in found:
        found[way]["times_numpy"] = ratio(found, way, "NumPy")
        times = spread(found[way]["seconds"])
        print(f"  {way:<20}{times:>24} s for {len(x):,} images, "
              f"{found[way]['times_numpy']:.2f} of NumPy's time")  # fmt: skip
    return found


def side_by_side(widths, batch: int, seeds: int, x, y, rounds: int) -> dict:
    """How many times as many networks a second `vmap` trains as one after another."""
    net, sgd, steps = mlp(widths), optax.sgd(RATE), (batch, len(x) // batch)
    programs: dict[str, Callable] = {
        "one": ours(net, softmax_cross_entropy, batch, sgd, x, y),
        "many": ours(net, softmax_cross_entropy, batch, sgd, x, y, seeds=seeds),
        "one, products alone": products_alone(widths, *steps),
        "many, products alone": products_alone(widths, *steps, seeds=seeds),
    }
    found = in_turn(programs, rounds, pause=0)
    gain = seeds / ratio(found, "many", "one")
    share = ratio(found, "one, products alone", "one")
    bound = seeds / ratio(found, "many, products alone", "one")
    one, many = (spread(found[name]["seconds"]) for name in ("one", "many"))
    name = "-".join(map(str, widths))
    print(f"  {name:<10} batch {batch:<4} one {one} s, {seeds} side by side {many} s: "
          f"{gain:.1f} times the throughput")  # fmt: skip
    print(f"  {'':<20} products alone: {share:.0%} of one network's time; {seeds} of "
          f"them side by side {bound:.1f} times the throughput")  # fmt: skip
    return {"programs": found, "throughput": gain, "allowed_by_products": bound,
            "products_share_of_one": share}  # fmt: skip


def smaller(x: np.ndarray) -> np.ndarray:
    """Images (N, 784) at a quarter of the resolution: (N, 49)."""
    blocks = x.reshape(-1, 7, 4, 7, 4).mean((2, 4))
    return blocks.reshape(len(x), 49).astype(np.uint8)


def run(args: Args) -> None:
    data = load("mnist").train
    x, y = data.x.reshape(-1, 784), data.y
    few = args.images
    losses, gaps = same_numbers(x[:few], y[:few])

    print("784-30-10, batch 32, SGD")
    small = three_ways(SMALL, 32, False, x[:few], y[:few], args.rounds)
    print("784-512-512-10, batch 128, Adam")
    wide_x, wide_y = x[: args.wide_images], y[: args.wide_images]
    wide = three_ways(WIDE, 128, True, wide_x, wide_y, args.rounds)
    print(f"{args.seeds} networks side by side, against one after another")
    few_x, few_y, many = x[: args.many_images], y[: args.many_images], {}
    for name, widths, batch, images in (
        ("784-30-10, batch 32", SMALL, 32, few_x),
        ("784-30-10, batch 128", SMALL, 128, few_x),
        ("49-10-10, batch 32", TINY, 32, smaller(few_x)),
    ):
        many[name] = side_by_side(widths, batch, args.seeds, images, few_y, args.rounds)

    figure = draw(losses, small, wide, many, args)
    values = {
        "largest_difference": gaps, "small": small, "wide": wide, "side_by_side": many,
    }  # fmt: skip
    conclude(
        "mnist_numpy", args, values, {"mnist_numpy.png": figure},
        """\
  Left: four curves, one line: NumPy and JAX learn the same, in float32 and in float64.
  Middle: what an epoch takes. Compiling the whole loop saves the Python between the
  steps; the wide network is nearly all matrix products, and there nobody can be faster
  than "products alone". Right: 32 networks at once pay where a single one leaves the
  processor idle; where it is busy already, the products set the limit (blue).""",
    )  # fmt: skip


def draw(losses: dict, small: dict, wide: dict, many: dict, args: Args) -> Any:
    figure, (left, middle, right) = panels(
        3, width=4.3, height=4.1, title="One network in NumPy and in JAX, on two cores"
    )
    window = max(len(losses["NumPy, float32"]) // 60, 1)
    size = len(losses["NumPy, float32"]) // window * window
    curves = {n: v[:size].reshape(-1, window).mean(1) for n, v in losses.items()}
    steps = window * (1 + np.arange(size // window))
    lines(left, steps, curves, "step (a batch of 32)", f"loss, mean of {window} steps",
          "the same numbers")  # fmt: skip
    ways = (*NAMES, "products alone")
    relative = {
        f"{net}: {way}": found[way]["times_numpy"]
        for net, found in (("784-30-10", small), ("784-512-512-10", wide))
        for way in ways
    }
    ours_ = [name for name in relative if name.endswith("compiled loop")]
    bars(middle, relative, "time of an epoch (NumPy = 1)", "speed", form=".2f",
         marked=ours_)  # fmt: skip
    gains: dict[str, float] = {}
    for name, found in many.items():
        gains[f"{name}: vmap"] = found["throughput"]
        gains[f"{name}: if products were all"] = found["allowed_by_products"]
    marked = [name for name in gains if name.endswith("vmap")]
    bars(right, gains, "networks a second (one after another = 1)",
         f"{args.seeds} networks side by side", form=".1f", marked=marked)  # fmt: skip
    return figure


if __name__ == "__main__":
    main(Args, run)
