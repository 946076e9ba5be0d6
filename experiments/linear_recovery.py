"""Can training find the numbers that made the data? And where did the 2/N go?

Questions: data are made by a known layer, y = relu(x w_real + b_real), 10 inputs, 2
outputs. Does a network of the same form find w_real and b_real again? And why do many
programs leave the constant 2/N out of the gradient of the mean squared error?

    python -m experiments.linear_recovery   about 15 seconds

Expected: the largest difference to w_real and b_real is below 1e-5 for all 20 seeds
after 400 batches of 512; the two ways with matching learning rates are
equal to the last bit.

This is the first tutorial, so the words that all of them use:

    x (512, 10)   an array with 512 rows, the samples, and 10 columns, their inputs
    w, b          the parameters (weights and biases): the numbers that are learned
    relu(z)       max(z, 0), number by number
    batch         the samples of one step; rate (learning rate): how far a step goes
    cost or loss  one number that says how wrong the network is; training makes it small
    gradient      its derivatives with regard to all parameters: the way uphill
    seed          a number that fixes all random draws; other seeds, other starts
    float32       numbers with about 7 digits; float64 has about 16

and what JAX adds to NumPy: `jax.jit(f)` compiles f, `jax.vmap(f)` runs f for many
inputs at once (here: for 20 seeds), `jax.lax.scan(f, ...)` is a compiled loop.

b_real lies in [-1, 1]. With a far negative one relu would be off (say 0) for nearly all
inputs, and where relu is off the data say nothing about w: then no method recovers it.

The gradient. With N numbers in the batch (N = 512 x 2), the cost is the mean

    J = 1/N sum (p - y)^2          dJ/dp = 2/N (p - y)

Each step goes w <- w - rate dJ/dw, and every derivative further back is proportional to
dJ/dp. So the constant 2/N multiplies the whole gradient, and only the product
rate x 2/N counts: leave the constant out, and the same path is taken with the rate
2/N times as large. Here 2/N = 1/512, a power of two, so not even rounding differs.
But the two conventions are not the same rate: with 1.5 for both, the way without the
constant steps 512 times as far, and diverges. With a constant left out, the right rate
also depends on the batch: twice the batch, half the rate.

What does not matter so simply: Adam divides the gradient by its own size, so it takes
nearly the same path with or without the constant, at the same rate.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import conclude, main, spread
from jaxnn import serial
from jaxnn.layers import dense, relu
from jaxnn.plots.panels import lines, panels, say_what_is_cut

INPUTS, OUTPUTS = 10, 2


@dataclass(frozen=True)
class Args:
    """Settings."""

    seeds: int = 20  # Starts, and layers to be recovered: each seed has its own
    batch: int = 512  # Samples a step, drawn afresh from N(0, 1) for every step
    steps: int = 400  # Steps of plain gradient descent
    rate: float = 1.5  # Learning rate for the gradient with its constant 2/N


def with_constant(p, y):
    """Mean of (p - y)^2 and its derivative 2/N (p - y)."""
    return jnp.square(p - y).mean(), (2 / p.size) * (p - y)


def without_constant(p, y):
    """The same cost, but the derivative without its constant."""
    return jnp.square(p - y).mean(), p - y


def recover(loss: Callable, rate: float, args: Args) -> dict[str, np.ndarray]:
    """Train all seeds at once; distances by step (S, T), final parameters.

    A step is written out here, so that nothing is hidden: forward, loss, backward,
    and a step down the slope. `jaxnn.fit` does the same with more comfort.
    """
    net = serial(dense(OUTPUTS), relu)

    def one_seed(key):
        key_w, key_b, key_start, key_data = jax.random.split(key, 4)
        w_real = jax.random.normal(key_w, (INPUTS, OUTPUTS))
        b_real = jax.random.uniform(key_b, (OUTPUTS,), minval=-1, maxval=1)
        params, state, _ = net.init(key_start, (INPUTS,))

        def step(params, i):
            fresh = jax.random.fold_in(key_data, i)
            x = jax.random.normal(fresh, (args.batch, INPUTS))
            y = jnp.maximum(x @ w_real + b_real[None], 0)
            p, _, cache = net.forward(params, state, x, train=True)
            cost, dp = loss(p, y)
            _, grads = net.backward(cache, dp)
            far = jnp.maximum(
                abs(params[0]["w"] - w_real).max(), abs(params[0]["b"] - b_real).max()
            )
            params = jax.tree.map(lambda a, da: a - rate * da, params, grads)
            return params, {"cost": cost, "distance": far}

        params, path = jax.lax.scan(step, params, jnp.arange(args.steps))
        return path | {"w": params[0]["w"], "b": params[0]["b"]}

    keys = jnp.stack([jax.random.key(seed) for seed in range(args.seeds)])
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(one_seed))(keys))


def run(args: Args) -> None:
    n = args.batch * OUTPUTS
    right = recover(with_constant, args.rate, args)
    matched = recover(without_constant, args.rate * 2 / n, args)
    same_rate = recover(without_constant, args.rate, args)

    worst = right["distance"][:, -1]
    equal = all((right[name] == matched[name]).all() for name in right)
    lost = int((~np.isfinite(same_rate["cost"][:, -1])).sum())
    lost += int((same_rate["cost"][:, -1] > same_rate["cost"][:, 0]).sum())
    print(f"largest |w - w_real|, |b - b_real|: {worst.max():.1e} "
          f"(worst of {args.seeds} seeds)")  # fmt: skip
    print(f"with 2/N at rate {args.rate:g}, without it at {args.rate * 2 / n:g}: "
          f"{'equal in every bit' if equal else 'NOT equal'}")  # fmt: skip
    print(f"without it at rate {args.rate:g}: {lost} of {args.seeds} seeds diverge")

    figure = draw(right, matched, same_rate, args)
    values = {
        "largest_difference": spread(worst.tolist()),
        "largest_difference_of_all": float(worst.max()),
        "matched_rates_equal_bit_for_bit": bool(equal),
        "diverged_at_the_same_rate": lost,
    }
    conclude(
        "linear_recovery", args, values, {"linear_recovery.png": figure},
        """\
  Left: the distance to the numbers that made the data shrinks by a constant factor a
  step, a straight line on this scale, until float32 has no more digits (about 1e-7).
  There is no noise in the data, so nothing stops it earlier. Right: with and without
  2/N at matching rates, one curve on top of the other; without it at the same rate, the
  first steps already overshoot.""",
    )  # fmt: skip


def draw(right, matched, same_rate, args: Args) -> Any:
    figure, (left, middle) = panels(2, width=4.6, height=3.5)
    steps = np.arange(args.steps)
    # a few end at exactly 0, which has no logarithm
    far = np.maximum(right["distance"], 1e-9)
    lines(left, steps, {f"{args.seeds} seeds": far}, "step",
          "largest difference to w_real, b_real (1e-9 at least)",
          "Distance to the truth", log=True)  # fmt: skip
    few, rate = 30, args.rate
    tiny = rate * 2 / (args.batch * OUTPUTS)
    off = 1e5  # once off the scale, a curve stays there
    wild = np.nan_to_num(same_rate["cost"][:, :few], nan=off, posinf=off)
    wild = np.minimum(np.maximum.accumulate(wild, 1), off)
    curves = {
        f"2/N (p - y), rate {rate:g}": right["cost"][:, :few],
        f"(p - y), rate {tiny:.3g}": matched["cost"][:, :few],
        f"(p - y), rate {rate:g}": wild,
    }
    lines(middle, steps[:few], curves, "step", "cost (mean squared error)",
          "The constant is part of the rate", log=True)  # fmt: skip
    middle.set_ylim(top=off / 1.01)
    say_what_is_cut(middle)
    return figure


if __name__ == "__main__":
    main(Args, run)
