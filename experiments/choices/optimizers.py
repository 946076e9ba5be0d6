"""Seven ways to go downhill: the same network, and a valley to watch them in.

All know the gradient g of the cost at the weights w, and nothing else. r is the rate;
what is kept from step to step is m or v, and starts at 0. Squares, roots and quotients
are number by number, so every weight can have its own step:

    SGD        w <- w - r g
    momentum   m <- 0.9 m + g             w <- w - r m             a ball rolls on
    Nesterov   m <- 0.9 m + g             w <- w - r (0.9 m + g)   and looks ahead
    Adagrad    v <- v + g^2               w <- w - r g / sqrt v    ever smaller steps
    RMSprop    v <- 0.9 v + 0.1 g^2       w <- w - r g / sqrt v    forgets old g
    Adadelta   as RMSprop, with r replaced by the size of its own last steps (times r,
               here 1 is usual): it starts slowly, as its first steps are tiny
    Adam       m <- 0.9 m + 0.1 g,  v <- 0.999 v + 0.001 g^2
                                          w <- w - r m / sqrt v
               with m and v first divided by what their start at 0 makes them too small

(Each adds a tiny number below the fraction, so that 0/0 cannot occur.)

The valley is Rosenbrock's, f(u, v) = (1 - u)^2 + 10 (v - u^2)^2: steep walls, and a
bottom that bends and hardly falls towards its lowest point (1, 1). By the chain rule

    df/du = -2 (1 - u) - 40 u (v - u^2)         df/dv = 20 (v - u^2)
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.animation import animation
from experiments.choices import accuracies, best_rate, digits, learner, smoothed
from experiments.common import spread
from jaxnn import mlp
from jaxnn.optimizers import OPTIMIZERS
from jaxnn.plots.panels import (
    BESIDE,
    COLORS,
    DASHES,
    INK,
    lines,
    name_axes,
    panels,
    show_legend,
)

WAYS = {
    "SGD": "sgd", "momentum": "momentum", "Nesterov": "nesterov", "Adagrad": "adagrad",
    "RMSprop": "rmsprop", "Adadelta": "adadelta", "Adam": "adam",
}  # fmt: skip
RATES = {  # five each, a factor of about 3 apart, around what is usual
    "SGD": (0.1, 0.3, 1.0, 3.0, 10.0), "momentum": (0.01, 0.03, 0.1, 0.3, 1.0),
    "Nesterov": (0.01, 0.03, 0.1, 0.3, 1.0), "Adagrad": (0.003, 0.01, 0.03, 0.1, 0.3),
    "RMSprop": (0.0003, 0.001, 0.003, 0.01, 0.03),
    "Adadelta": (0.1, 0.3, 1.0, 3.0, 10.0), "Adam": (0.0003, 0.001, 0.003, 0.01, 0.03),
}  # fmt: skip
START, BOTTOM = (-1.2, 1.0), (1.0, 1.0)
EXTENT = (-1.6, 1.6, -0.7, 1.9)


def make(way: str, rate: Any) -> optax.GradientTransformation:
    return OPTIMIZERS[WAYS[way]][0](rate)


# ---- a network


def on_digits(args: Any) -> dict:
    """Each way at the best of its five rates: loss curves (S, steps), accuracy."""
    data, net, found = digits(args), mlp([784, 30, 10]), {}
    print(f"  {'':<10}{'rate':>8}{'loss at the end':>20}{'test accuracy':>18}")
    for way in WAYS:
        learn = learner(
            net, lambda rate, way=way: make(way, rate), data,
            batch=args.batch, epochs=args.epochs,
        )  # fmt: skip
        rate = best_rate(learn, RATES[way])
        runs = learn([rate] * args.seeds, range(args.seeds))
        late = runs.losses[:, -runs.losses.shape[1] // 10 :].mean(1)
        right = accuracies(net, runs.params, data.x_test, data.y_test)
        found[way] = {"rate": rate, "losses": runs.losses,
                      "loss": spread(late), "accuracy": spread(right)}  # fmt: skip
        print(f"  {way:<10}{rate:>8g}{late.mean():>12.3f} ± {late.std(ddof=1):.3f}"
              f"{right.mean():>10.1%} ± {right.std(ddof=1):.1%}")  # fmt: skip
    return found


def draw_digits(learnt: dict, args: Any) -> Any:
    """Loss curves, and the same divided by SGD's on the same batches."""
    title = f"784-30-10: {args.seeds} seeds, each optimizer at the best of five rates"
    figure, (left, right) = panels(2, width=4.9, height=3.9, title=title)
    losses = {f"{way}, rate {f['rate']:g}": f["losses"] for way, f in learnt.items()}
    window, steps, curves = smoothed(losses, 20)
    unit = f"step (a batch of {args.batch})"
    lines(left, steps, curves, unit, f"loss, mean of {window} steps (log scale)",
          "training loss", log=True, legend=False)  # fmt: skip
    sgd = next(iter(curves.values())).mean(0)
    shares = {name: losses.mean(0) / sgd for name, losses in curves.items()}
    lines(right, steps, shares, unit, "mean loss / that of SGD in the same steps",
          "means over the seeds: below 1 is faster than SGD")  # fmt: skip
    return figure


# ---- a valley


def height(u, v):
    """Rosenbrock's function, its walls ten times as steep as its bottom."""
    return (1 - u) ** 2 + 10 * (v - u**2) ** 2


def slope(point):
    """Its gradient, by hand."""
    u, v = point
    return jnp.stack([-2 * (1 - u) - 40 * u * (v - u**2), 20 * (v - u**2)])


def walk(way: str, rate: float, steps: int):
    """The points (steps + 1, 2) that the optimizer visits."""
    optimizer, start = make(way, rate), jnp.array(START)

    def step(carry, _):
        point, memory = carry
        updates, memory = optimizer.update(slope(point), memory, point)
        point = optax.apply_updates(point, updates)
        return (point, memory), point

    _, path = jax.lax.scan(step, (start, optimizer.init(start)), length=steps)
    return jnp.concatenate([start[None], path])


def in_valley(steps: int) -> dict:
    """Each way at the best of 41 rates: the nearest to the lowest point at the end."""
    rates, found = np.logspace(-3, 1, 41), {}
    for way in WAYS:
        paths = np.asarray(
            jax.jit(jax.vmap(lambda rate, way=way: walk(way, rate, steps)))(rates)
        )
        ends = np.nan_to_num(np.hypot(*(paths[:, -1] - BOTTOM).T), nan=np.inf)
        best = int(ends.argmin())
        found[way] = {"rate": float(rates[best]), "path": paths[best],
                      "distance_at_the_end": float(ends[best])}  # fmt: skip
    return found


def film(found: dict, frames: int) -> Iterator[Any]:
    """The paths as they grow, and the height above the bottom."""
    figure, (left, right) = panels(
        2, width=4.9, height=4.2,
        title="Seven optimizers in a bent valley; a path may leave the map",
    )  # fmt: skip
    u, v = np.meshgrid(np.linspace(*EXTENT[:2], 150), np.linspace(*EXTENT[2:], 150))
    left.contour(u, v, height(u, v), levels=np.logspace(-1.5, 2, 12), cmap="Greys_r",
                 linewidths=0.7)  # fmt: skip
    left.plot(*BOTTOM, "*", ms=14, color=INK, zorder=4)
    steps = len(found["SGD"]["path"]) - 1
    name_axes(left, "u", "v", "star: the lowest point")
    tracks, falls, dots = [], [], []
    for i, (way, f) in enumerate(found.items()):
        style = {"color": COLORS[i], "ls": DASHES[i], "lw": 1.6}
        tracks += left.plot([], [], **style)
        dots += left.plot([], [], "o", color=COLORS[i], ms=6)
        falls += right.plot([], [], label=f"{way}, rate {f['rate']:.2g}", **style)
    left.set_xlim(*EXTENT[:2])
    left.set_ylim(*EXTENT[2:])
    right.set_xlim(0, steps)
    right.set_yscale("log")
    right.set_ylim(1e-9, 1e2)
    name_axes(right, "step", "height above the lowest point, down to 1e-9", "")
    show_legend(right, **BESIDE)
    for step in np.unique(np.geomspace(1, steps, frames).astype(int)):
        for f, track, fall, dot in zip(
            found.values(), tracks, falls, dots, strict=True
        ):
            path = f["path"][: step + 1]
            track.set_data(*path.T)
            dot.set_data(*path[-1:].T)
            fall.set_data(np.arange(step + 1), np.maximum(height(*path.T), 1e-12))
        right.set_title(f"step {step}", fontsize=10, color=INK)
        yield figure


def measure(args: Any) -> tuple[dict, dict]:
    learnt, walked = on_digits(args), in_valley(args.valley_steps)
    for way, f in walked.items():
        print(f"  valley: {way:<10} rate {f['rate']:<8.2g} ends "
              f"{f['distance_at_the_end']:.1e} from the lowest point")  # fmt: skip
    walking = partial(animation, film(walked, args.frames), seconds_per_frame=0.15)
    values = {
        "digits": {way: {k: f[k] for k in ("rate", "loss", "accuracy")}
                   for way, f in learnt.items()},
        "valley": {way: {k: f[k] for k in ("rate", "distance_at_the_end")}
                   for way, f in walked.items()},
    }  # fmt: skip
    return values, {
        "optimisers.png": draw_digits(learnt, args), "valley.gif": walking,
    }  # fmt: skip
