"""A network made of networks: four readers that see a quarter each, and a judge.

Whatever has `forward` and `backward` can be a part of something larger that has them
too. A layer, a network, a network of networks: one kind of thing (`Layer` in jaxnn).
On the way back each part gets the gradient of the cost with regard to its output, and
hands on the gradient with regard to its input; it need not know where it is used.

    the image (784) -+-> upper left  (14 x 14) -> reader 196-16-10 -+
                     +-> upper right (14 x 14) -> reader 196-16-10 -+-> 40 -> judge
                     +-> lower left  (14 x 14) -> reader 196-16-10 -+     40-20-10
                     +-> lower right (14 x 14) -> reader 196-16-10 -+

Beside it one plain network with as many weights. And a test that one network would not
allow: silence a reader after training. How much does the judge rely on each?
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.choices import accuracies, best_rate, digits, learner, smoothed
from experiments.common import spread
from experiments.pictures import bars
from jaxnn import Layer, compare_gradients, rules
from jaxnn.combine import mlp, parallel, serial
from jaxnn.costs import count_parameters
from jaxnn.layers import relu, reshape
from jaxnn.layers.core import shaped
from jaxnn.losses import softmax_cross_entropy
from jaxnn.plots.panels import lines, panels

QUARTERS = {
    "upper left": (slice(0, 14), slice(0, 14)),
    "upper right": (slice(0, 14), slice(14, 28)),
    "lower left": (slice(14, 28), slice(0, 14)),
    "lower right": (slice(14, 28), slice(14, 28)),
}
RATES = (0.03, 0.01, 0.003, 0.001, 0.0003)


def reader(name: str) -> Layer:
    """A network 196-16-10 that sees one quarter."""
    part = rules.slice((slice(None), *QUARTERS[name]))  # of the images (B, 28, 28)
    look = shaped(part, lambda shape: (14, 14), f"look at {name}")
    return serial(look, mlp([196, 16, 10]))


def readers_and_judge() -> Layer:
    """The four readers side by side, and the judge behind them."""
    readers = parallel(*map(reader, QUARTERS), merge="concatenate")
    return serial(reshape(28, 28), readers, relu, mlp([40, 20, 10]))


def silenced(params: Any, quarter: int) -> Any:
    """The same parameters, but one reader's last layer says 0 to everything."""
    shape, readers, between, judge = params
    look, (flat, hidden, active, last) = readers[quarter]
    mute = jax.tree.map(jnp.zeros_like, last)
    quiet = (look, (flat, hidden, active, mute))
    return shape, (*readers[:quarter], quiet, *readers[quarter + 1 :]), between, judge


def measure(args: Any) -> tuple[dict, dict]:
    data = digits(args)
    nets = {
        "four readers and a judge": readers_and_judge(),
        "one network": mlp([784, 18, 10]),
    }
    found, curves, without = {}, {}, {}
    for name, net in nets.items():
        learn = learner(net, optax.adam, data, batch=args.batch, epochs=args.epochs)
        rate = best_rate(learn, RATES)
        runs = learn([rate] * args.seeds, range(args.seeds))
        right = accuracies(net, runs.params, data.x_test, data.y_test)
        params, _, _ = net.init(jax.random.key(0), (784,))
        found[name] = {"rate": rate, "accuracy": spread(right),
                       "parameters": count_parameters(params)}  # fmt: skip
        curves[name] = runs.losses
        print(
            f"  {name:<26}{found[name]['parameters']:>7,} weights, rate {rate:g}: "
            f"{right.mean():.1%} ± {right.std(ddof=1):.1%} of the test images"
        )
        if name == "four readers and a judge":
            for i, quarter in enumerate(QUARTERS):
                mute = silenced(runs.params, i)
                shares = accuracies(net, mute, data.x_test, data.y_test)
                without[quarter] = spread(shares)
    gap = check(nets["four readers and a judge"], data)
    print(f"  gradient of the nested network against jax.grad: {gap:.0e}")
    for name, shares in without.items():
        print(f"  without the reader at the {name:<12}{shares['mean']:>7.1%}")
    values = {"networks": found, "without": without, "gradient_difference": gap}
    return values, {"nested.png": draw(curves, found, without, args)}


def check(net: Layer, data: Any) -> float:
    """Largest relative difference to `jax.grad` in float64."""
    params, state, _ = net.init(jax.random.key(0), (784,))
    report = compare_gradients(
        net, softmax_cross_entropy, params, state, data.x[:32], data.y[:32],
        dtypes=("float64",), audit=False,
    )  # fmt: skip
    assert report.passed, report.table()
    return float(report.worst.max_relative)


def draw(curves: dict, found: dict, without: dict, args: Any) -> Any:
    title = "A network of networks, and one of equal size"
    figure, (left, right) = panels(2, width=4.7, height=3.7, title=title)
    window, steps, smooth = smoothed(curves, 30)
    lines(left, steps, smooth, f"step (a batch of {args.batch})",
          f"loss, mean of {window} steps (log scale)", f"learning, {args.seeds} seeds",
          log=True)  # fmt: skip
    shares = {f"{name}": 100 * f["accuracy"]["mean"] for name, f in found.items()}
    shares |= {f"without the reader at the {name}": 100 * s["mean"]
               for name, s in without.items()}  # fmt: skip
    marked = [name for name in shares if name.startswith("without")]
    bars(right, shares, "right answers (% of 10,000 test images)", form=".1f",
         marked=marked)  # fmt: skip
    return figure
