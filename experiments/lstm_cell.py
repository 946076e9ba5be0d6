"""An LSTM cell by hand, there and back through time, and what its memory is for.

Questions: what does an LSTM compute in one step, and what comes back? And why does it
remember where a plain recurrent network forgets?

    python -m experiments.lstm_cell         about 5 seconds

It reads a sequence, a row x a step, and carries two things along: h, what it says, and
c, what it remembers. One product makes four gates, s being the sigmoid:

    z = x w + h u + b      cut into four:  i, f, o = s(z_i), s(z_f), s(z_o)
                                           g       = tanh(z_g)
    c <- f c + i g         forget a part of the old, write a part of the new
    h <- o tanh(c)         say a part of it

Backwards, from the last step to the first; dh and dc arrive from the step after (dh
also from whoever used h). With t = tanh(c):

    dc += dh o (1 - t^2)
    do, di, df, dg = dh t, dc g, dc c_old, dc i     each times the slope of its gate
    dw += x^T dz      du += h_old^T dz      db += sum dz
    dh_old = dz u^T   dc_old = dc f

The last line is the point. What comes back through h is multiplied by u^T at every
step, as in a plain network h <- tanh(x w + h u): it fades or explodes. Through c it is
only multiplied by f, and f near 1 lets it pass: that is why b_f starts at 1.

Exercises
1. With f = 1 and i = 0 in all steps, what is c, and what is dc at the first step?
2. Where would you look if the gradient through c explodes?
3. A GRU has h <- (1 - k) h + k g. Which part plays the role of f?
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import conclude, main
from jaxnn import rules
from jaxnn.plots.panels import lines, panels

ANSWERS = """
1. c stays what it was at the start, and dc comes back unchanged, through any length.
2. It cannot through c alone, f is below 1: it must go through h, that is through u.
3. 1 - k: near 1 it keeps h and lets what comes back pass.
"""


@dataclass(frozen=True)
class Args:
    """Settings."""

    steps: int = 60  # Length of the sequence
    units: int = 16  # Width of h and c
    seeds: int = 5  # Starts


def sigmoid(z):
    """Between 0 and 1."""
    return 0.5 + 0.5 * np.tanh(z / 2)


def forward(x, w, u, b):
    """h after the last step, and what each step keeps; x (T, B, I), gates i f g o."""
    size = len(u)
    h = c = np.zeros((x.shape[1], size))
    kept = []
    for row in x:
        i, f, g, o = np.split(row @ w + h @ u + b, 4, axis=1)
        i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
        kept.append((row, h, c, i, f, g, o))
        c = f * c + i * g
        h = o * np.tanh(c)
    return h, kept


def backward(kept, w, u, dh):
    """dx, dw, du, db, and the size of dc (the path of memory) before each step."""
    dw, du, db, dc = np.zeros_like(w), np.zeros_like(u), np.zeros(w.shape[1]), 0.0
    dx, sizes = [], []
    for row, h, c, i, f, g, o in reversed(kept):
        t = np.tanh(f * c + i * g)
        dc = dc + dh * o * (1 - t * t)
        dz = np.concatenate(
            [dc * g * i * (1 - i), dc * c * f * (1 - f), dc * i * (1 - g * g),
             dh * t * o * (1 - o)], 1,
        )  # fmt: skip
        dw, du, db = dw + row.T @ dz, du + h.T @ dz, db + dz.sum(0)
        dx.append(dz @ w.T)
        dh, dc = dz @ u.T, dc * f
        sizes.append(np.abs(dc).mean())
    return np.stack(dx[::-1]), dw, du, db, np.array(sizes[::-1])


def plain_sizes(x, w, u, dh) -> np.ndarray:
    """The size of dh before each step of h <- tanh(x w + h u)."""
    states, sizes = [np.zeros_like(dh)], []
    for row in x:
        states.append(np.tanh(row @ w + states[-1] @ u))
    for h in states[:0:-1]:
        dh = (dh * (1 - h * h)) @ u.T
        sizes.append(np.abs(dh).mean())
    return np.array(sizes[::-1])


def start(args: Args, seed: int, forget: float):
    """x, w, u, b and dh: inputs of 4 numbers, 8 sequences."""
    rng, n = np.random.default_rng(seed), args.units
    x, dh = rng.normal(size=(args.steps, 8, 4)), rng.normal(size=(8, n))
    w, u = rng.normal(0, 0.5, (4, 4 * n)), rng.normal(0, n**-0.5, (n, 4 * n))
    return x, w, u, np.repeat([0.0, forget, 0.0, 0.0], n), dh


def against_jaxnn(args: Args) -> float:
    """Largest difference of all gradients to jaxnn's rule, in float64."""
    x, w, u, b, dh = start(args, 0, 1.0)
    dx, dw, du, db, _ = backward(forward(x, w, u, b)[1], w, u, dh)
    zero = np.zeros((8, args.units))
    with jax.enable_x64(True):
        rule = rules.lstm(False)
        _, cache = rule.fwd(x.swapaxes(0, 1), w, u, b, zero, zero)
        theirs = [np.asarray(a) for a in rule.bwd(cache, jnp.asarray(dh))[:4]]
    mine = dx.swapaxes(0, 1), dw, du, db
    return max(float(abs(p - q).max()) for p, q in zip(mine, theirs, strict=True))


def run(args: Args) -> None:
    gap = against_jaxnn(args)
    print(f"by hand against jaxnn's rule: largest difference {gap:.0e}")
    assert gap < 1e-10, "both must agree"
    sizes: dict[str, list] = {}
    for seed in range(args.seeds):
        for forget in (0.0, 1.0, 4.0):
            x, w, u, b, dh = start(args, seed, forget)
            back = backward(forward(x, w, u, b)[1], w, u, dh)[-1]
            sizes.setdefault(f"LSTM, b_f = {forget:g}", []).append(back)
        few = slice(0, args.units)
        plain = plain_sizes(x, w[:, few], u[:, few], dh)
        sizes.setdefault("plain recurrent network", []).append(plain)
    ends = {name: float(np.mean([a[0] for a in s])) for name, s in sizes.items()}
    for name, size in ends.items():
        print(f"{name:<26} what reaches the first step: {size:.1e}")
    title = f"What comes back from step {args.steps} to the steps before"
    figure, (ax,) = panels(1, width=6.4, height=3.8, title=title)
    shown = {name: np.maximum(s, 1e-12) for name, s in sizes.items()}
    lines(ax, range(args.steps), shown, "step", "mean |gradient|, 1e-12 at least",
          log=True)  # fmt: skip
    values = {"largest_difference": gap, "at_the_first_step": ends}
    conclude(
        "lstm_cell", args, values, {"lstm_cell.png": figure},
        "  On this scale a constant factor a step is a straight line: the bias of the\n"
        "  forget gate decides how steep it is.",
    )  # fmt: skip


if __name__ == "__main__":
    main(Args, run)
