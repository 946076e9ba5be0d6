"""One number, one derivative: all of learning is in this file, and no library.

Question: a machine knows y = w x with one number w, and is shown one example: for
x = 2 the answer is t = 3. How does it find w?

    python -m experiments.one_number        about 1 second

It measures how wrong it is, by one number, the cost:

    J = (w x - t)^2

and asks: if w grows a little, does J grow or fall? That is the derivative. By the
chain rule (outside: the square; inside: w x - t)

    dJ/dw = 2 (w x - t) x

and w takes a small step against it, w <- w - rate dJ/dw, again and again. Nothing else
happens in a network of a million numbers: it has a million such derivatives.

Is the derivative right? Try it: move w by h to either side and see how J changes,
(J(w + h) - J(w - h)) / 2h. That is slow and not exact, but it needs no calculus, and
finds mistakes in calculus. jaxnn checks every derivative it has like this.

Exercises
1. Which rate reaches w = 1.5 in a single step?
2. From which rate on does w run away, and why there?
3. Add a bias: y = w x + b. What is dJ/db? Where does (w, b) = (0, 0) end?
"""

from dataclasses import dataclass

import numpy as np

from experiments.common import conclude, main
from jaxnn.plots.panels import INK, lines, panels

ANSWERS = """
1. 1/8: dJ/dw = 2 x^2 (w - t/x) = 8 (w - 1.5), so rate 1/8 steps exactly onto 1.5.
2. 1/4: each step multiplies the distance to 1.5 by 1 - 8 rate, which is -1 there.
3. dJ/db = 2 (w x + b - t). It is dJ/dw without the x = 2: b moves half as far as w,
   so they end at w = 1.2, b = 0.6, one of many pairs with 2 w + b = 3.
"""
X, T = 2.0, 3.0


@dataclass(frozen=True)
class Args:
    """Settings."""

    rates: tuple[float, ...] = (0.01, 0.05, 0.24, 0.26)  # Learning rates to compare
    steps: int = 15  # Steps


def cost(w):
    """How wrong y = w x is."""
    return (w * X - T) ** 2


def derivative(w):
    """How the cost changes with w."""
    return 2 * (w * X - T) * X


def descend(rate: float, steps: int) -> list[float]:
    """w before the first step and after each."""
    path = [0.0]
    for _ in range(steps):
        path.append(path[-1] - rate * derivative(path[-1]))
    return path


def run(args: Args) -> None:
    h, gap = 1e-5, 0.0
    for w in (-1.0, 0.0, 1.0, 1.5):
        tried = (cost(w + h) - cost(w - h)) / (2 * h)
        print(f"w {w:>4}  dJ/dw {derivative(w):>8.4f}  tried out {tried:>8.4f}")
        gap = max(gap, abs(tried - derivative(w)))
    paths = {f"rate {rate:g}": descend(rate, args.steps) for rate in args.rates}
    for name, path in paths.items():
        print(f"{name}: " + " ".join(f"{w:.3f}" for w in path[:6]) + " ...")
    figure, (left, right) = panels(2, width=4.8, height=3.4)
    w = np.linspace(-0.5, 3.5, 100)
    lines(left, w, {"cost": cost(w)}, "w", "cost J", "steps downhill at rate 0.01",
          legend=False)  # fmt: skip
    some = np.array(paths[next(iter(paths))])
    left.plot(some, cost(some), "o", color=INK, ms=4)
    costs = {name: cost(np.array(path)) for name, path in paths.items()}
    lines(right, range(args.steps + 1), costs, "step", "cost J",
          "above a rate of 1/4, w runs away", log=True)  # fmt: skip
    values = {"w": paths, "largest_difference": gap}
    conclude(
        "one_number", args, values, {"one_number.png": figure},
        "  Left: dots are the first rate's steps, shorter and shorter as the slope\n"
        "  falls. Right: the same road at other rates; the last one overshoots.",
    )  # fmt: skip


if __name__ == "__main__":
    main(Args, run)
