"""A convolution by hand: one small window of weights, slid over the picture.

Questions: what does a convolution compute, what are its three derivatives, and how does
it become the matrix product that computers are good at?

    python -m experiments.convolution       about 5 seconds

x is a picture (H, W), w a window (K, K). Every place p of the result looks at the K x K
pixels that begin there:

    y[p] = sum over k of x[p + k] w[k] + b               k = (0, 0) ... (K - 1, K - 1)

The derivatives follow from asking where a number is used. w[k] is used at every place
p, next to pixel p + k; pixel q is used at every place p = q - k:

    dw[k] = sum over p of dy[p] x[p + k]        a convolution of x with dy
    dx[q] = sum over k of dy[q - k] w[k]        dy, padded, with w turned by 180 degrees
    db    = sum over p of dy[p]

The same by one product: write the window at each place as a row ("im2col"), which is a
matrix (places, K^2). Then y = rows w as in a dense layer, dw = rows^T dy, and dx adds
each row back where it came from. The picture is copied K^2 times: memory for speed.

The same 9 weights serve all places: a dense layer from 28 x 28 to 26 x 26 would have
530,000. What is learnt in one corner is known in all.

Exercises
1. How large is y with a stride of 2 (only every other place) for H = 28, K = 3?
2. Which window w makes y the same picture moved one pixel to the left?
3. Why is the sum of dx over all pixels equal to sum(w) sum(dy)?
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import conclude, main
from jaxnn import rules
from jaxnn.data import load
from jaxnn.plots.panels import GRAYS, INK, SIGNED, panels

ANSWERS = """
1. Places 0, 2, ... up to 25: 13, so (13, 13): (H - K) // stride + 1.
2. All 0 but w[1, 2] = 1: y[p] = x[p + (1, 2)], one to the right of the middle.
3. Every dy[p] sends dy[p] w[k] to K^2 pixels, all inside: in total dy[p] sum(w).
"""


@dataclass(frozen=True)
class Args:
    """Settings."""

    image: int = 7  # Number of the training image


def forward(x, w, b):
    """y (H', W'): the definition, place by place."""
    k = len(w)
    high, wide = x.shape[0] - k + 1, x.shape[1] - k + 1
    y = np.empty((high, wide))
    for i in range(high):
        for j in range(wide):
            y[i, j] = (x[i : i + k, j : j + k] * w).sum() + b
    return y


def backward(x, w, dy):
    """dx, dw, db: every use of a number sends something back to it."""
    k, dx, dw = len(w), np.zeros_like(x), np.zeros_like(w)
    for i, j in np.ndindex(dy.shape):
        dw += dy[i, j] * x[i : i + k, j : j + k]
        dx[i : i + k, j : j + k] += dy[i, j] * w
    return dx, dw, dy.sum()


def as_product(x, w, dy):
    """y without its bias, and dw, by one matrix product each."""
    windows = np.lib.stride_tricks.sliding_window_view(x, w.shape)
    rows = windows.reshape(-1, w.size)  # (places, K^2)
    return (rows @ w.ravel()).reshape(dy.shape), (rows.T @ dy.ravel()).reshape(w.shape)


WINDOWS = {
    "edges from left to right": [[-1, 0, 1]] * 3,
    "edges from top to bottom": [[-1] * 3, [0] * 3, [1] * 3],
    "blur": [[1 / 9] * 3] * 3,
}


def run(args: Args) -> None:
    rng = np.random.default_rng(0)
    x = load("mnist").train.x[args.image].reshape(28, 28) / 255
    w, b = rng.normal(size=(3, 3)), 0.5
    y, dy = forward(x, w, b), rng.normal(size=(26, 26))
    dx, dw, _ = backward(x, w, dy)
    product, dw_product = as_product(x, w, dy)
    with jax.enable_x64(True):  # jaxnn's rule has axes for the batch and the channels
        rule = rules.conv(padding="VALID")
        ours, cache = rule.fwd(x[None, :, :, None], w[:, :, None, None])
        found = ours, *rule.bwd(cache, jnp.asarray(dy[None, :, :, None]))
        ours, dx_ours, dw_ours = (np.squeeze(np.asarray(a)) for a in found)
    pairs = {
        "y": (y - b, ours), "dx": (dx, dx_ours), "dw": (dw, dw_ours),
        "y, product": (product, y - b), "dw, product": (dw_product, dw),
    }  # fmt: skip
    gaps = {name: float(abs(p - q).max()) for name, (p, q) in pairs.items()}
    for name, gap in gaps.items():
        print(f"{name:<12} largest difference {gap:.0e}")
    assert max(gaps.values()) < 1e-10, "all ways must agree"
    title = "One digit through three windows: blue is negative, vermilion positive"
    figure, axes = panels(4, width=2.6, height=2.9, title=title)
    axes[0].imshow(x, **GRAYS)
    axes[0].set_title("the picture", fontsize=10, color=INK)
    for ax, (name, window) in zip(axes[1:], WINDOWS.items(), strict=True):
        seen = forward(x, np.array(window), 0)
        ax.imshow(seen, cmap=SIGNED, vmin=-abs(seen).max(), vmax=abs(seen).max())
        ax.set_title(name, fontsize=10, color=INK)
    for ax in axes:
        ax.set_axis_off()
    values = {"differences": gaps}
    conclude(
        "convolution", args, values, {"convolution.png": figure},
        "  Each window answers one question everywhere. A network learns its windows,\n"
        "  by dw above; the first ones it finds look much like these.",
    )  # fmt: skip


if __name__ == "__main__":
    main(Args, run)
