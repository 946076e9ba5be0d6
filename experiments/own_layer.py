"""Write a layer of your own, and have it checked before you trust it.

Question: how do you add an operation that nobody has written, with its derivative, and
how do you know that the derivative is right?

    python -m experiments.own_layer         about 15 seconds

An operation is a rule: forward gives y and what the way back will need (the cache);
backward gets the cache and dy = dJ/dy, and returns dJ/dx. Here y = x / (1 + |x|), the
softsign, whose slope is 1 / (1 + |x|)^2:

    softsign = rules.keeps_x("my_softsign", forward, back)
    layer    = layers.pointwise(softsign)

That is all: the layer stands in networks, trains, is attacked. What if back is wrong?
Training will not tell you: a wrong derivative often still goes downhill. Here the loss
even falls faster, as the wrong steps are longer (figure). `compare_gradients` tells
you: it sets your derivative beside `jax.grad` of your forward, in float32 and float64,
names the layer and guesses what went wrong. `jaxnn compare FILE.py:name` does the same
from the command line.

Exercises
1. Keep y rather than x: what is the slope of softsign written with y alone?
2. Forget the square: 1 / (1 + |x|). Would you see it in the loss curve? In the check?
3. Write y = x^2 with its derivative; why does a network of it explode so easily?
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.choices import Short as Args
from experiments.choices import digits, learner, smoothed
from experiments.common import conclude, main
from jaxnn import compare_gradients, rules, serial
from jaxnn.layers import dense, pointwise
from jaxnn.losses import softmax_cross_entropy
from jaxnn.plots.panels import lines, panels

ANSWERS = """
1. |y| = |x| / (1 + |x|), so 1 - |y| = 1 / (1 + |x|) and the slope is (1 - |y|)^2.
2. Hardly in the curve, as below; the check says that the gradient differs by tens of
   percent in float64, where rounding is 1e-16, and names the layer.
3. back(x, dy) = 2 x dy. Squares of squares: the size doubles its exponent every layer.
"""


def forward(x):
    """y = x / (1 + |x|)."""
    return x / (1 + jnp.abs(x))


def back(x, dy):
    """dx = dy / (1 + |x|)^2."""
    return dy / (1 + jnp.abs(x)) ** 2


def wrong(x, dy):
    """As back, but without the square."""
    return dy / (1 + jnp.abs(x))


def network(derivative):
    """784-50-50-10 with softsign between."""
    softsign = pointwise(rules.keeps_x("my_softsign", forward, derivative))
    return serial(dense(50), softsign, dense(50), softsign, dense(10))


def run(args: Args) -> None:
    data, curves, gaps = digits(args), {}, {}
    for name, derivative in (("right", back), ("wrong", wrong)):
        net = network(derivative)
        params, state, _ = net.init(jax.random.key(0), (784,))
        report = compare_gradients(
            net, softmax_cross_entropy, params, state, data.x[:32], data.y[:32]
        )
        gaps[name] = report.max_relative("float64")
        print(f"{name}: {report.line()}")
        assert report.passed == (name == "right"), "the check must tell them apart"
        learn = learner(net, optax.sgd, data, batch=args.batch, epochs=args.epochs)
        curves[name] = learn([0.1] * args.seeds, range(args.seeds)).losses
    _, steps, shown = smoothed(curves, 30)
    figure, (ax,) = panels(
        1, width=6, height=3.6, title="Loss with a right and with a wrong derivative"
    )
    lines(ax, steps, shown, "step", "loss")
    ends = {name: float(np.mean(a[:, -10:])) for name, a in curves.items()}
    values = {"max_relative_float64": gaps, "loss_at_the_end": ends}
    conclude(
        "own_layer", args, values, {"own_layer.png": figure},
        "  Both learn. Only the check above knows which of them is wrong.",
    )  # fmt: skip


if __name__ == "__main__":
    main(Args, run)
