"""Four ways to differentiate, from 10 parameters to a million: why reverse mode won.

Question: the whole gradient of one network can be had by formulas written by hand, by
numerical differences, by automatic differentiation forward, and in reverse. What does
each cost as the number of parameters n grows, and how right is it?

    python -m experiments.differentiation           about 2 minutes

Networks with one hidden layer of tanh units, 8 samples, softmax cross-entropy, float64.
Differences and forward mode need a run for each parameter: where n runs would take too
long, a few are timed and multiplied (marked `measured: false`). Errors are relative to
the largest entry, against reverse mode; of large networks on a sample of parameters.

Expected: by hand and reverse mode cost as much as a few runs of the network whatever n
is; forward mode and differences grow with n, to several 100,000 times that at a million
parameters. Differences are right to 9 digits in float64 at best, the others to 15.
"""

import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import conclude, main
from experiments.dual import Dual, exp, log, tanh
from experiments.turns import seconds
from jaxnn import mlp
from jaxnn.check.methods import METHODS, central
from jaxnn.layers import Layer
from jaxnn.losses import softmax_cross_entropy
from jaxnn.plots.panels import (
    COLORS,
    GRAY,
    INK,
    name_axes,
    panels,
    set_scales,
    show_legend,
)

WIDTHS = (
    (2, 2, 2), (4, 5, 2), (10, 8, 3), (20, 16, 3), (32, 32, 3), (64, 48, 7),
    (128, 80, 15), (256, 130, 22), (512, 200, 40), (784, 400, 60), (1024, 950, 75),
)  # fmt: skip
"""Of the networks: inputs, hidden units, classes."""

EACH = ("forward mode", "central difference")


@dataclass(frozen=True)
class Args:
    """Settings."""

    samples: int = 8  # Rows of the batch
    repeats: int = 7  # Timed runs, after one that warms up; the median counts
    longest: float = 1.5  # Seconds from which the n runs of a method are not all made
    dual_up_to: int = 400  # Parameters up to which dual numbers, plain Python, are run
    seed: int = 0  # Of weights and data


class Task(NamedTuple):
    """A network at a point, its loss as a function of the parameters."""

    net: Layer
    params: Any
    state: Any
    x: jax.Array
    y: jax.Array

    def loss(self, params):
        """The mean loss of the batch."""
        pred = self.net.forward(params, self.state, self.x, key=None, train=False)[0]
        return softmax_cross_entropy(pred, self.y)[0]

    def by_hand(self, params):
        """Its gradient."""
        pred, _, cache = self.net.forward(
            params, self.state, self.x, key=None, train=False
        )
        return self.net.backward(cache, softmax_cross_entropy(pred, self.y)[1])[1]


def task(widths: tuple[int, ...], args: Args) -> Task:
    draw = np.random.default_rng(args.seed)
    net = mlp(widths, "tanh", bias="normal")
    params, state, _ = net.init(jax.random.key(args.seed), (widths[0],))
    x = jnp.asarray(draw.standard_normal((args.samples, widths[0])))
    y = jnp.asarray(draw.dirichlet(np.ones(widths[-1]), args.samples))
    return Task(net, params, state, x, y)


def whole(job: Task, args: Args) -> tuple[dict[str, dict], jax.Array]:
    """By hand and in reverse: all partial derivatives in one run back; and these."""
    found: dict[str, dict] = {}
    truth = jnp.zeros(0)
    for name, gradient in (
        ("reverse mode", jax.jit(jax.grad(job.loss))),
        ("by hand", jax.jit(job.by_hand)),
    ):
        flat = jax.flatten_util.ravel_pytree(gradient(job.params))[0]
        truth = flat if name == "reverse mode" else truth
        took = seconds(lambda g=gradient: g(job.params), args.repeats)
        found[name] = row(took, error(flat, truth))
    return found, truth


def one_by_one(name: str, job: Task, truth: jax.Array, args: Args) -> dict:
    """A derivative for each parameter, a run (or two) each."""
    flat, unflatten = jax.flatten_util.ravel_pytree(job.params)
    n = flat.size

    def loss(flat):
        return job.loss(unflatten(flat))

    along = METHODS["forward"] if name == "forward mode" else central

    @jax.jit
    def several(flat, which):
        def one(i):
            v = jnp.zeros_like(flat).at[i].set(1.0)
            # the step that suits the size of one parameter, not of all
            step = (6e-6,) if along is central else ()
            return along(loss, flat, v, *step)

        return jax.lax.map(one, which)

    few = jnp.asarray(np.linspace(0, n - 1, min(n, 100)).astype(int))
    each = seconds(lambda: several(flat, few), 3) / len(few)
    complete = each * n <= args.longest
    which = jnp.arange(n) if complete else few
    found = several(flat, which)
    took = seconds(lambda: several(flat, which), 3) if complete else each * n
    return row(took, error(found, truth[which], jnp.abs(truth).max()), bool(complete))


def by_dual_numbers(job: Task, truth: jax.Array) -> dict:
    """Forward mode in plain Python and NumPy: `experiments.dual`."""
    x, y = np.asarray(job.x), np.asarray(job.y)
    shapes = [np.asarray(a) for a in jax.tree.leaves(job.params)]  # b, w, b, w

    def loss(parts):
        b1, w1, b2, w2 = parts
        z = tanh(x @ w1 + b1) @ w2 + b2
        log_p = z - log(exp(z).sum(1))[:, None]
        return (log_p * (-y)).sum() / len(x)

    start = time.perf_counter()
    found = []
    for i, a in enumerate(shapes):
        for index in np.ndindex(a.shape):
            seeds = [np.zeros(s.shape) for s in shapes]
            seeds[i][index] = 1.0
            duals = [Dual(s, d) for s, d in zip(shapes, seeds, strict=True)]
            found.append(loss(duals).derivative)
    return row(time.perf_counter() - start, error(jnp.asarray(found), truth))


def row(seconds: float, error: float | None, measured: bool = True) -> dict:
    return {"seconds": seconds, "error": error, "measured": measured}


def error(got, want, scale=None) -> float:
    """Largest difference relative to the largest entry."""
    scale = jnp.abs(want).max() if scale is None else scale
    return float(jnp.abs(got - want).max() / scale)


def measure(args: Args) -> list[dict]:
    rows = []
    for widths in WIDTHS:
        job = task(widths, args)
        n = jax.flatten_util.ravel_pytree(job.params)[0].size
        found, truth = whole(job, args)
        run = jax.jit(job.loss)
        took = seconds(lambda run=run, p=job.params: run(p), args.repeats)
        found["the network itself"] = row(took, None)
        for name in EACH:
            found[name] = one_by_one(name, job, truth, args)
        if n <= args.dual_up_to:
            found["dual numbers in Python"] = by_dual_numbers(job, truth)
        rows.append({"parameters": int(n), "widths": list(widths), "methods": found})
        times = ", ".join(f"{k} {v['seconds']:.2g} s" for k, v in found.items())
        print(f"{n:>9,} parameters: {times}", flush=True)
        jax.clear_caches()
    return rows


def draw(rows: list[dict]) -> Any:
    title = "One gradient by four methods: why reverse mode won"
    figure, (left, right) = panels(2, width=5.4, height=4.3, title=title)
    names = [
        "central difference", "forward mode", "dual numbers in Python", "by hand",
        "reverse mode", "the network itself",
    ]  # fmt: skip
    marks = ("s", "^", "D", "o", "x", "")
    for i, (name, mark) in enumerate(zip(names, marks, strict=True)):
        known = [(r["parameters"], r["methods"][name]) for r in rows
                 if name in r["methods"]]  # fmt: skip
        n = [k for k, _ in known]
        color = COLORS[i] if mark else GRAY
        style = {"color": color, "lw": 1.4, "ls": "-" if mark else ":"}
        left.plot(n, [m["seconds"] for _, m in known], label=name, **style)
        for size, m in known:
            fill = color if m["measured"] else "white"
            left.plot(size, m["seconds"], mark or ".", ms=5, mfc=fill, mec=color)
        if mark and name != "reverse mode":
            errors = [max(m["error"], 1e-17) for _, m in known]
            right.plot(n, errors, mark, ls="-", ms=5, color=color, label=name)
    for ax in (left, right):
        set_scales(ax, True, True)
        show_legend(ax, loc="upper left" if ax is left else "center left")
    name_axes(left, "parameters n", "seconds a gradient",
              "time (hollow: a sample of the n runs, multiplied)")  # fmt: skip
    name_axes(right, "parameters n", "error relative to the largest entry",
              "error against reverse mode, float64")  # fmt: skip
    left.axhline(1, color=INK, lw=0.5, ls=":")
    return figure


def run(args: Args) -> None:
    with jax.enable_x64(True):
        rows = measure(args)
    last = rows[-1]["methods"]
    cost = {k: m["seconds"] / last["the network itself"]["seconds"]
            for k, m in last.items()}  # fmt: skip
    values = {"rows": rows, "times_the_network_at_the_largest": cost}
    conclude(
        "differentiation", args, values, {"differentiation.png": draw(rows)},
        f"  At {rows[-1]['parameters']:,} parameters a gradient costs as much as so "
        "many runs of the network:\n"
        + "".join(f"    {name:<22} {times:,.1f}\n" for name, times in cost.items()),
    )  # fmt: skip


def table(result: dict) -> list[list[str]]:
    rows = result["values"]["rows"]
    chosen = [rows[2], rows[6], rows[-1]]
    head = ["seconds a gradient", *(f"{r['parameters']:,} parameters" for r in chosen)]
    found = [[*head, "error at the first"]]
    for name in ("by hand", "reverse mode", "forward mode", "central difference"):
        cells = [
            f"{m['seconds']:.2g}" + ("" if m["measured"] else " (estimated)")
            for m in (r["methods"][name] for r in chosen)
        ]
        found.append([name, *cells, f"{chosen[0]['methods'][name]['error']:.0e}"])
    return found


if __name__ == "__main__":
    main(Args, run)
