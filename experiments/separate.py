"""How does a network separate what no line can? Watch it learn, watch it bend.

Questions: how many hidden units does it take to separate two moons, two rings, two
spirals? What does each unit do? And how can layers make a straight line enough?

    python -m experiments.separate          about 35 seconds

Expected: of 20 seeds, all separate moons and rings with three hidden units and none
with two; no network of three separates the spirals, a deeper one always does.

Words: a 2-3-1 network has 2 inputs, 3 hidden units and 1 output. The output z is a
"logit": sigmoid(z) = 1 / (1 + e^-z) is the probability of class 1, so z > 0 says
"rather 1". The loss is cross-entropy, -ln of the probability of the right class. Adam
is a way to go downhill with a step of its own for every weight; `design_choices`
compares it with others.

A hidden unit tanh(w_1 x_1 + w_2 x_2 + b) is a line with a soft edge: -1 on one side,
+1 on the other. The output adds them up. Two lines leave a wedge or a band, which is
not the shape of a moon; three can close a triangle around the inner ring.

The second film shows the other view. Each layer takes the plane and moves every point
of it; the next layer sees only the moved points. This network is made of six blocks

    x <- x + V tanh(W x + b)          two numbers in, two hidden units, two numbers out

("residual" blocks: what is added is small, so a block bends the plane a little and
never loses where a point was). Nothing is cut or glued, only bent; after six blocks one
straight line has a spiral on each side. That is all the last layer can draw: the work
of the hidden layers is to make the problem easy for it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.animation import animation
from experiments.common import at, conclude, main, train_many
from experiments.planes import (
    bent_grid,
    class_points,
    grid_lines,
    plane,
    regions,
    unit_lines,
)
from jaxnn import mlp, residual, serial
from jaxnn.layers import Layer, dense, tanh
from jaxnn.losses import sigmoid_cross_entropy
from jaxnn.plots.panels import INK, name_axes, panels

EXTENT = (-2.0, 2.0, -2.0, 2.0)
BLOCKS = 6


@dataclass(frozen=True)
class Args:
    """Settings."""

    seeds: int = 20  # Starts of every network
    steps: int = 2000  # Steps of training, each on all points
    points: int = 300  # Points of each data set, half of them of each class
    frames: int = 36  # Pictures in the first film; the second has eight a block


# ---- the data: y alternates 0, 1, 0, 1 ...


def moons(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two half circles, each reaching into the other."""
    y, angle = np.arange(n) % 2, rng.uniform(0, np.pi, n)
    upper = np.stack([np.cos(angle) - 0.5, np.sin(angle) - 0.25], 1)
    x = np.where(y[:, None] == 0, upper, -upper)
    return 1.2 * x + rng.normal(0, 0.1, x.shape), y


def rings(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A ring around a ring."""
    y, angle = np.arange(n) % 2, rng.uniform(0, 2 * np.pi, n)
    radius = np.where(y == 0, 0.5, 1.4)[:, None]
    x = radius * np.stack([np.cos(angle), np.sin(angle)], 1)
    return x + rng.normal(0, 0.1, x.shape), y


def spirals(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two arms of one and a quarter turns."""
    y, t = np.arange(n) % 2, np.sqrt(rng.uniform(0.04, 1, n))
    angle = 2.5 * np.pi * t + np.pi * y
    x = 1.6 * t[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    return x + rng.normal(0, 0.04, x.shape), y


DATA: dict[str, Callable] = {"moons": moons, "rings": rings, "spirals": spirals}


# ---- the networks


def small(hidden: int) -> Layer:
    """2-2-1 or 2-3-1: the output is a logit, above 0 for class 1."""
    return mlp([2, hidden, 1], "tanh", init="xavier")


def deep() -> Layer:
    """Six blocks x + V tanh(W x + b) and a straight line."""

    def little(key, shape, dtype):
        return 0.1 * jax.random.normal(key, shape, dtype)

    def block():
        inner = dense(2, "xavier"), tanh, dense(2, little, bias=False)
        return residual(serial(*inner))

    return serial(*(block() for _ in range(BLOCKS)), dense(1))


def train(net: Layer, x: np.ndarray, y: np.ndarray, args: Args, every: int = 20):
    """All seeds; returns what was trained, and each seed's share of right points."""
    adam = optax.adam(optax.cosine_decay_schedule(0.02, args.steps))
    trained = train_many(
        net, sigmoid_cross_entropy, adam, x, 1.0 * y[:, None],
        seeds=range(args.seeds), steps=args.steps, every=every,
    )  # fmt: skip
    z = jax.vmap(lambda p, s: logits(net, p, s, x))(trained.params, trained.state)
    return trained, np.asarray(((z > 0) == (y > 0)[None]).mean(1))


def logits(net: Layer, params, state, x):
    """The network's answers to points x (P, 2): (P,), above 0 for class 1."""
    return net.forward(params, state, jnp.asarray(x), train=False)[0][:, 0]


# ---- film one: learning


def learning(found: dict, args: Args) -> Iterator[Any]:
    """Boundary and unit lines of six networks as they learn, a figure a frame.

    found: (data, hidden) -> (network, trained, accuracies, x, y).
    """
    ask = {
        key: jax.jit(lambda p, s, net=net: logits(net, p, s, plane(EXTENT)))
        for key, (net, *_) in found.items()
    }
    stages = np.geomspace(1, args.steps // 20 + 1, args.frames)
    for step in np.unique(stages.astype(int)) - 1:
        figure, axes = panels(
            3, 2, width=2.9, height=2.75, title=f"step {20 * step}: lines of the units "
            "(green) and where the answer changes (black)",
        )  # fmt: skip
        for ax, key in zip(axes, found, strict=True):
            _, trained, right, x, y = found[key]
            best = int(right.argmax())
            params = at(trained.path, step, best)
            regions(ax, ask[key](params, at(trained.state, best)), EXTENT)
            unit_lines(ax, params[1]["w"], params[1]["b"], EXTENT)
            class_points(ax, x, y, size=9)
            count = int((right > 0.99).sum())
            title = f"2-{key[1]}-1, {key[0]}: {count} of {len(right)}"
            name_axes(ax, "$x_1$", "$x_2$", title)
            ax.set_xticks([])
            ax.set_yticks([])
        yield figure


# ---- film two: bending


def bending(net: Layer, params, x: np.ndarray, y: np.ndarray) -> Iterator[Any]:
    """The plane on its way through the blocks, a figure a frame."""
    ways = [positions(net, params, points) for points in [x, *grid_lines(EXTENT)]]
    for frame in range(len(ways[0])):
        figure, (ax,) = panels(1, width=4.6, height=4.6)
        block = min(frame // 8 + 1, BLOCKS)
        last = frame == len(ways[0]) - 1
        title = "one straight line is enough" if last else f"block {block} of {BLOCKS}"
        bent_plane(ax, [way[frame] for way in ways], y, params[-1] if last else None)
        name_axes(ax, "first number of the layer", "second number", title)
        yield figure


def bent_plane(ax, lines: list, y: np.ndarray, last: dict | None) -> None:
    """The points lines[0] and the grid behind them; where last's w.x + b is 0."""
    here, *grid = lines
    bent_grid(ax, grid)
    if last is not None:
        w, b = np.asarray(last["w"])[:, 0], float(last["b"][0])
        foot = -b * w / (w @ w)
        along = np.array([-w[1], w[0]]) / np.hypot(*w) * np.ptp(here) * 2
        ax.plot(*np.stack([foot - along, foot + along]).T, color=INK, lw=2.2)
    class_points(ax, here, y, size=12)
    low, high = here.min(0), here.max(0)
    margin = 0.25 * (high - low)
    ax.set_xlim(low[0] - margin[0], high[0] + margin[0])
    ax.set_ylim(low[1] - margin[1], high[1] + margin[1])


def positions(net: Layer, params, points: np.ndarray) -> list[np.ndarray]:
    """Where points (P, 2) are on their way: eight steps within each block."""
    path, x = [], jnp.asarray(points, jnp.float32)
    for block, p in zip(net.parts[:BLOCKS], params, strict=False):
        _, state, _ = block.init(jax.random.key(0), (2,))
        end, _, _ = block.forward(p, state, x, train=False)
        path += [np.asarray(x + share * (end - x)) for share in np.arange(8) / 8]
        x = end
    return [*path, np.asarray(x)]


def run(args: Args) -> None:
    sets = {
        name: make(args.points, np.random.default_rng(0)) for name, make in DATA.items()
    }
    found, rates = {}, {}
    for hidden in (2, 3):
        for name, (x, y) in sets.items():
            net = small(hidden)
            trained, right = train(net, x, y, args)
            found[name, hidden] = net, trained, right, x, y
            rates[f"2-{hidden}-1, {name}"] = right
    net, (x, y) = deep(), sets["spirals"]
    trained, right = train(net, x, y, args)
    rates[f"{BLOCKS} blocks, spirals"] = right
    for name, shares in rates.items():
        print(
            f"{name:<20} right {shares.mean():6.1%}, best {shares.max():6.1%}; "
            f"{(shares > 0.99).sum():>2} of {len(shares)} seeds separate (> 99%)"
        )

    params = at(trained.params, int((right > 0.99).argmax()))
    pictures = {
        "learning.gif": partial(
            animation, learning(found, args), seconds_per_frame=0.15
        ),
        "bending.gif": partial(
            animation, bending(net, params, x, y), seconds_per_frame=0.12
        ),
    }  # fmt: skip
    values = {
        name: {
            "right_mean": float(shares.mean()), "right_best": float(shares.max()),
            "separated": int((shares > 0.99).sum()), "seeds": len(shares),
        }
        for name, shares in rates.items()
    }  # fmt: skip
    values = {"networks": values}
    conclude(
        "separate", args, values, pictures,
        f"""\
  learning.gif: the best of {args.seeds} seeds as it learns; the count says how many of
  them separate the classes. Two units: two lines, too few even for the moons. Three: a
  triangle closes around the inner ring, a bend follows the moons; spirals need more.
  bending.gif: the plane with its grid goes through six blocks. Watch the arms uncurl:
  no line of the grid is cut, but at the end one straight line separates them.""",
    )  # fmt: skip


if __name__ == "__main__":
    main(Args, run)
