"""Batch norm by hand: its derivative in three lines, and what it is good for.

Questions: what is the derivative of a layer in which every row of the batch has a say
in every other? And why does it help?

    python -m experiments.batch_norm        about 15 seconds

For each unit, over the B rows of the batch: subtract the mean, divide by the spread,
then let two learnt numbers choose another mean and spread:

    m = mean x     v = mean (x - m)^2     r = 1 / sqrt(v + e)     u = (x - m) r
    y = gamma u + beta

Backwards, dbeta = sum dy and dgamma = sum dy u are short. x_i is used three times: in
its own u_i, in m and in v. With du = gamma dy, adding up the three paths leaves

    dx = r (du - mean du - u mean(du u))

Read it: what comes back is freed of its mean (moving all rows together changes
nothing, m takes it away) and of its part along u (stretching all rows changes nothing,
r takes it away). Afterwards, in use, m and v are averages kept from training: an answer
must not depend on who else is in the batch.

Why it helps: a layer with weights ten times too large gives y of the same size, and
the next layers do not notice; the gradient of those weights is ten times smaller. So
the start and the rate matter less (figure).

Exercises
1. A batch of one row: what is y, and what is dx?
2. Multiply all weights before batch norm by 10: what happens to dx and to their dw?
3. Why does a bias just before batch norm learn nothing?
"""

from dataclasses import dataclass

import jax
import numpy as np
import optax

from experiments.choices import Short, digits, learner, smoothed
from experiments.common import conclude, main
from jaxnn import mlp, rules
from jaxnn.plots.panels import lines, panels, say_what_is_cut

ANSWERS = """
1. x - m = 0, so y = beta whatever x is, and dx = 0: nothing can be learnt.
2. u is the same; r is a tenth, so dx is a tenth, and so is dw = x^T dz: a large weight
   takes small steps.
3. m contains it, x - m does not: its derivative is the mean that dx was freed of, 0.
"""


@dataclass(frozen=True)
class Args(Short):
    """Settings."""

    depth: int = 5  # Hidden layers of 50 units
    rate: float = 0.05  # Learning rate of gradient descent


def forward(x, gamma, beta, e=1e-5):
    """y and what the way back needs."""
    m = x.mean(0)
    r = 1 / np.sqrt(((x - m) ** 2).mean(0) + e)
    u = (x - m) * r
    return gamma * u + beta, (u, r, gamma)


def backward(cache, dy):
    """dx, dgamma, dbeta."""
    u, r, gamma = cache
    du = gamma * dy
    dx = r * (du - du.mean(0) - u * (du * u).mean(0))
    return dx, (dy * u).sum(0), dy.sum(0)


def check() -> float:
    """Largest difference to the rule of jaxnn, in float64."""
    rng = np.random.default_rng(0)
    x, dy = rng.normal(2, 3, (2, 16, 5))
    gamma, beta = rng.normal(size=(2, 5))
    with jax.enable_x64(True):
        rule = rules.batch_norm()
        _, cache = rule.fwd(x, gamma, beta)
        theirs = [np.asarray(a) for a in rule.bwd(cache, dy)]
    mine = backward(forward(x, gamma, beta)[1], dy)
    return max(float(abs(a - b).max()) for a, b in zip(mine, theirs, strict=True))


def run(args: Args) -> None:
    gap = check()
    print(f"by hand against jaxnn's rule: largest difference {gap:.0e}")
    assert gap < 1e-10, "both must agree"
    data, curves = digits(args), {}
    sizes = [784, *[50] * args.depth, 10]
    for scale, words in ((1.0, "he"), (3.0, "three times he"), (0.3, "a third of he")):

        def init(key, shape, dtype, scale=scale):
            size = scale * (2 / shape[0]) ** 0.5
            return size * jax.random.normal(key, shape, dtype)

        for norm in (False, True):
            net = mlp(sizes, "relu", init=init, normalize=norm)
            learn = learner(net, optax.sgd, data, batch=args.batch, epochs=args.epochs)
            losses = learn([args.rate] * args.seeds, range(args.seeds)).losses
            curves[f"{words}{', batch norm' * norm}"] = losses
    ends = {name: float(np.mean(a[:, -10:])) for name, a in curves.items()}
    for name, end in ends.items():
        print(f"{name:<28} loss at the end {end:.3f}")
    window, steps, shown = smoothed(curves, 30)
    title = f"{args.depth} hidden layers, three starts, with and without batch norm"
    figure, (ax,) = panels(1, width=7.4, height=4, title=title)
    lines(ax, steps, shown, "step", f"loss, mean of {window} steps")
    ax.set_ylim(0, 3)
    say_what_is_cut(ax)
    values = {"largest_difference": gap, "loss_at_the_end": ends}
    conclude(
        "batch_norm", args, values, {"batch_norm.png": figure},
        "  Without batch norm one start of three learns well; with it all do alike.",
    )  # fmt: skip


if __name__ == "__main__":
    main(Args, run)
