"""Backpropagation in four equations, with matrices, and why deep sigmoids learn late.

Questions: what are the derivatives of a whole network, written once for all its
numbers? And how large are they in its first layer?

    python -m experiments.four_equations    about 5 seconds

Layer l has weights w and biases b; x are its inputs, rows of a batch of B:

    z = x w + b          h = s(z)          h is the x of the next layer

Call d = dJ/dz what arrives at a layer. With * number by number and ^T turned around:

    last layer      d  = dJ/dh * s'(z)                                   (1)
    layer before    d_before = (d w^T) * s'(z_before)                    (2)
    biases          db = sum of the rows of d                            (3)
    weights         dw = x^T d                                           (4)

Why (4): weight w_io adds w_io x_i to z_o in every row, so its derivative is the sum
over rows of x_i d_o, which is what the product x^T d does. Why (2): x_i reaches the
cost through all z_o, by w_io each: d w^T. Shapes leave no choice: w is (I, O), x (B, I)
and d (B, O), and only x^T d is (I, O).

(2) multiplies by s' once a layer. A sigmoid's slope is at most 1/4: ten layers, and
what arrives at the first has shrunk by about a million (figure). That is the vanishing
gradient; relu's slope is 1 wherever it is on.

Exercises
1. What are the four equations if samples are columns, z = w x + b?
2. Softmax with cross-entropy: what is d of the last layer, and why is that good?
3. In which order would you multiply d_l w_l^T ... to get one long product, and why is
   it the other order in forward mode?
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import conclude, main
from jaxnn.plots.panels import lines, panels

ANSWERS = """
1. d_before = (w^T d) * s', db = sum of the columns, dw = d x^T; (1) is unchanged.
2. d = p - t: the slope s' has gone, so a last unit that is sure and wrong still learns.
3. From the cost backwards: d has B rows, so each product costs B I O. Forward mode
   starts at the input, with a matrix as wide as there are weights in place of d.
"""


@dataclass(frozen=True)
class Args:
    """Settings."""

    depth: int = 10  # Hidden layers
    width: int = 30  # Units of each
    seeds: int = 5  # Starts


SLOPES = {  # s, and s' from h = s(z)
    "sigmoid": (lambda z: 1 / (1 + np.exp(-z)), lambda h: h * (1 - h)),
    "tanh": (np.tanh, lambda h: 1 - h * h),
    "relu": (lambda z: np.maximum(z, 0), lambda h: 1.0 * (h > 0)),
}


def gradients(layers, x, t, activation):
    """(dw, db) of each layer for J = half the squared error, mean over rows."""
    s, slope = SLOPES[activation]
    h = [x]
    for w, b in layers:
        h.append(s(h[-1] @ w + b))
    d, found = (h[-1] - t) / len(x) * slope(h[-1]), []  # (1)
    for (w, _), x in zip(reversed(layers), reversed(h[:-1]), strict=True):
        found.append((x.T @ d, d.sum(0)))  # (4), (3)
        d = (d @ w.T) * slope(x)  # (2); the data's own is not used
    return found[::-1]


def start(args: Args, seed: int):
    """Weights of variance 2 / inputs, and data: (layers, x, t)."""
    rng, sizes = np.random.default_rng(seed), [args.width] * (args.depth + 1)
    layers = [(rng.normal(0, (2 / i) ** 0.5, (i, o)), np.zeros(o))
              for i, o in zip(sizes, [*sizes[1:], 10], strict=True)]  # fmt: skip
    x, classes = rng.normal(size=(64, args.width)), rng.integers(10, size=64)
    return layers, x, np.eye(10)[classes]


def against_jax(layers, x, t) -> float:
    """Largest difference to `jax.grad`, for tanh, in float64."""

    def cost(layers):
        h = x
        for w, b in layers:
            h = jnp.tanh(h @ w + b[None])
        return ((h - t) ** 2).sum() / 2 / len(x)

    with jax.enable_x64(True):
        theirs = [np.asarray(a) for a in jax.tree.leaves(jax.grad(cost)(layers))]
    mine = jax.tree.leaves(gradients(layers, x, t, "tanh"))
    return max(float(abs(a - b).max()) for a, b in zip(mine, theirs, strict=True))


def run(args: Args) -> None:
    starts = [start(args, s) for s in range(args.seeds)]
    gap = against_jax(*starts[0])
    print(f"four equations against jax.grad: largest difference {gap:.0e}")
    assert gap < 1e-12, "the equations must agree with jax.grad"
    sizes = {
        name: np.array([[np.abs(dw).mean() for dw, _ in gradients(*s, name)]
                        for s in starts])
        for name in SLOPES
    }  # fmt: skip
    for name, size in sizes.items():
        first, last = np.median(size, 0)[[0, -1]]
        print(f"{name:<8} |dw| first layer {first:.1e}, last {last:.1e}")
    title = f"Size of the gradient by layer, {args.depth} hidden layers"
    figure, (ax,) = panels(1, width=6, height=3.8, title=title)
    lines(ax, range(1, args.depth + 2), sizes, "layer", "mean |dw|", log=True)
    listed = {name: size.tolist() for name, size in sizes.items()}
    values = {"largest_difference": gap, "sizes": listed}
    conclude(
        "four_equations", args, values, {"four_equations.png": figure},
        "  Thin: each start. Sigmoid's line falls towards the first layer: it learns\n"
        "  last. relu keeps the size, as its weights start at variance 2 / inputs.",
    )  # fmt: skip


if __name__ == "__main__":
    main(Args, run)
