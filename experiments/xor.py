"""XOR: the smallest network that needs a hidden layer, on paper and 1,000 times.

Questions: what are the nine derivatives of a 2-2-1 network, and do four ways to get
them agree? And how often does training find the solution, and what went wrong when not?

    python -m experiments.xor               about 40 seconds

Expected: the four ways agree to 1e-15; the recommended setting solves XOR from 99.5% of
1,000 starts, the textbook's from about 70%, relu from 23%.

XOR ("exclusive or") says yes if exactly one of its two inputs is yes.

On paper. Two inputs, two hidden units, one output; -1 is "no" and +1 is "yes":

    a_j = w_1j x_1 + w_2j x_2 + b_j       j = 1, 2     4 weights, 2 biases
    h_j = tanh a_j
    z   = v_1 h_1 + v_2 h_2 + c                        2 weights, 1 bias: 9 numbers
    J   = mean over the four points of (z - t)^2

No single line separates XOR's yes from its no: that is why there is a hidden layer.
The derivatives, by the chain rule from the end to the start. Call what arrives at the
output d = dJ/dz and at hidden unit j  e_j = dJ/da_j; sums are over the four points:

    d       = 2 (z - t) / 4
    dJ/dc   = sum d                       dJ/dv_j  = sum d h_j
    e_j     = d v_j (1 - h_j^2)           because tanh' = 1 - tanh^2
    dJ/db_j = sum e_j                     dJ/dw_ij = sum e_j x_i

Four ways to these numbers: by hand, the formulas as a program; by jaxnn's rules, each
of which is one operation with its derivative; by a graph, which remembers what was
calculated from what and walks it backwards; by `jax.grad`, which finds derivatives in
a program by itself.

Look at e_j: it is small where v_j is small and where h_j is near -1 or 1 (the unit is
saturated). Both are ways for training to stand still, and both are found below.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.common import at, conclude, main, train_many
from experiments.pictures import stacked
from experiments.planes import class_points, plane, regions, unit_lines
from jaxnn import graph, mlp, rules
from jaxnn.layers import Layer
from jaxnn.losses import mse, quadratic
from jaxnn.plots.panels import COLORS, name_axes, panels, set_scales

CORNERS = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])  # (4, 2)
XOR = np.array([[0], [1], [1], [0]])  # (4, 1)
KINDS = ("solved", "too slow", "dead unit", "saturated start", "local minimum")


@dataclass(frozen=True)
class Args:
    """Settings."""

    seeds: int = 1000  # Starts of every setting
    steps: int = 4000  # Steps of training, each on all four points
    patience: int = 3  # A failure is "too slow" if solved after so many times the steps


# ---- nine derivatives, four ways

PAPER = ({"w": [[0.9, -0.4], [0.3, 0.7]], "b": [0.1, -0.2]},
         {"w": [[0.8], [-0.6]], "b": [0.05]})  # fmt: skip


def by_hand(hidden, output, x, t):
    """The formulas above, one number at a time."""
    w, b, v, c = hidden["w"], hidden["b"], output["w"][:, 0], output["b"][0]
    dw, db, dv, dc = np.zeros((2, 2)), np.zeros(2), np.zeros(2), 0.0
    for point, (target,) in zip(x, t, strict=True):
        h = [np.tanh(w[0, j] * point[0] + w[1, j] * point[1] + b[j]) for j in range(2)]
        d = 2 * (v[0] * h[0] + v[1] * h[1] + c - target) / 4
        dc += d
        for j in range(2):
            dv[j] += d * h[j]
            e = d * v[j] * (1 - h[j] ** 2)
            db[j] += e
            for i in range(2):
                dw[i, j] += e * point[i]
    return {"w": dw, "b": db}, {"w": dv[:, None], "b": np.array([dc])}


def by_rules(hidden, output, x, t):
    """jaxnn's rules, forward and then backward in reverse order."""
    a, cache_1 = rules.affine.fwd(x, hidden["w"], hidden["b"])
    h, cache_2 = rules.tanh.fwd(a)
    z, cache_3 = rules.affine.fwd(h, output["w"], output["b"])
    _, dz = mse(z, t)
    dh, dv, dc = map(jnp.asarray, rules.affine.bwd(cache_3, dz))
    (da,) = map(jnp.asarray, rules.tanh.bwd(cache_2, dh))
    _, dw, db = rules.affine.bwd(cache_1, da)
    return {"w": dw, "b": db}, {"w": dv, "b": dc}


def by_graph(hidden, output, x, t):
    """A graph of nodes; backpropagation walks it from the cost to the parameters."""
    hidden = {name: graph.parameter(value, name) for name, value in hidden.items()}
    output = {name: graph.parameter(value, name) for name, value in output.items()}
    h = graph.tanh(x @ hidden["w"] + hidden["b"])
    cost = graph.mse(h @ output["w"] + output["b"], t)
    return graph.bprop(cost, (hidden, output))[1]


def by_jax(hidden, output, x, t):
    """jax.grad, which knows nothing of the formulas above."""

    def cost(hidden, output):
        h = jnp.tanh(x @ hidden["w"] + hidden["b"][None])
        return jnp.mean((h @ output["w"] + output["b"][None] - t) ** 2)

    return jax.grad(cost, (0, 1))(hidden, output)


def nine_derivatives() -> dict:
    """All four ways in float64, printed as a table."""
    with jax.enable_x64(True):
        hidden, output = jax.tree.map(
            jnp.asarray, PAPER, is_leaf=lambda leaf: isinstance(leaf, list)
        )
        x, t = jnp.asarray(2.0 * CORNERS - 1), jnp.asarray(2.0 * XOR - 1)
        plain = jax.tree.map(np.asarray, (hidden, output))
        ways = {
            "by hand": by_hand(plain[0], plain[1], x, t),
            "rules": by_rules(hidden, output, x, t),
            "graph": by_graph(hidden, output, x, t),
            "jax.grad": by_jax(hidden, output, x, t),
        }
        flat = {name: _nine(*way) for name, way in ways.items()}
    names = ("w_11", "w_12", "w_21", "w_22", "b_1", "b_2", "v_1", "v_2", "c")
    print(f"{'':<6}" + "".join(f"{way:>22}" for way in flat))
    for i, name in enumerate(names):
        print(f"dJ/d{name:<6}" + "".join(f"{v[i]:>22.17f}" for v in flat.values()))
    gap = max(float(abs(v - flat["by hand"]).max()) for v in flat.values())
    print(f"largest difference {gap:.1e}\n")
    assert gap < 1e-14, "the four ways must agree"
    return {"derivatives": dict(zip(names, flat["by hand"].tolist(), strict=True)),
            "largest_difference": gap}  # fmt: skip


def _nine(hidden, output) -> np.ndarray:
    leaves = (hidden["w"], hidden["b"], output["w"], output["b"])
    return np.concatenate([np.ravel(np.asarray(leaf)) for leaf in leaves])


# ---- 1,000 starts


class Setting(NamedTuple):
    """One way to train the same 2-2-1 network."""

    net: Layer
    loss: Callable
    optimizer: Any
    x: np.ndarray  # (4, 2)
    t: np.ndarray  # (4, 1)
    threshold: float  # an output above it says yes
    slope: Callable  # of the activation, from its output h


def normal(scale: float) -> Callable:
    """An initializer of your own is a function of key, shape and dtype."""
    return lambda key, shape, dtype: scale * jax.random.normal(key, shape, dtype)


def settings() -> dict[str, Setting]:
    """The recommended setting, the textbook's, and two that show what goes wrong."""
    bits, signs = (1.0 * CORNERS, 1.0 * XOR), (2.0 * CORNERS - 1, 2.0 * XOR - 1)
    wide = normal(8.0)
    tanh_slope, sigmoid_slope = (lambda h: 1 - h * h), (lambda h: 4 * h * (1 - h))
    return {
        "recommended": Setting(
            mlp([2, 2, 1], "tanh", init=normal(0.1)),
            mse, optax.sgd(0.2, momentum=0.9), *signs, 0.0, tanh_slope,
        ),
        "textbook": Setting(
            mlp([2, 2, 1], "sigmoid", output="sigmoid", bias="normal", init="normal"),
            quadratic, optax.sgd(1.0), *bits, 0.5, sigmoid_slope,
        ),
        "large start": Setting(
            mlp([2, 2, 1], "sigmoid", output="sigmoid", bias=wide, init=wide),
            quadratic, optax.sgd(1.0), *bits, 0.5, sigmoid_slope,
        ),
        "relu": Setting(
            mlp([2, 2, 1], "relu", init="he"),
            mse, optax.sgd(0.1), *bits, 0.5, lambda h: 1.0 * (h > 0),
        ),
    }  # fmt: skip


def answers(setting: Setting, params, state, x) -> np.ndarray:
    """What each network says about the points x (P, 2), above 0 for yes: (S, P)."""

    def one(p, s):
        return setting.net.forward(p, s, jnp.asarray(x), train=False)[0][:, 0]

    return np.asarray(jax.vmap(one)(params, state)) - setting.threshold


def unit_slopes(setting: Setting, params) -> np.ndarray:
    """The slope of each hidden unit at each point, 1 the steepest: (S, 4, 2)."""
    rule = {"relu": rules.relu, "tanh": rules.tanh, "sigmoid": rules.sigmoid}
    activation = rule[setting.net.parts[2].name]

    def slopes(hidden):
        a, _ = rules.affine.fwd(jnp.asarray(setting.x), hidden["w"], hidden["b"])
        return setting.slope(activation.fwd(a)[0])

    return np.asarray(jax.vmap(slopes)(params[1]))


def explain(setting: Setting, args: Args, trained) -> tuple[np.ndarray, dict]:
    """The kind of every seed, an index into KINDS (S,), and facts on the minima.

    A unit is dead if its slope is 0 at all four points (relu), so that no gradient
    reaches its weights; its start is saturated if its slope is below a twentieth of the
    steepest at all four. What is neither, and is not solved given `patience` times the
    steps, sits in a local minimum.
    """
    start, first, end = (at(trained.path, i) for i in (0, 1, -1))
    said = [answers(setting, p, trained.state, setting.x) > 0 for p in (first, end)]
    right = [(yes == (XOR[:, 0] > 0)).all(1) for yes in said]
    dead = np.any(np.all(unit_slopes(setting, end) == 0, 1), 1)
    saturated = np.any(np.all(unit_slopes(setting, start) < 0.05, 1), 1)
    kind = np.select([*right, dead, saturated], [0, 1, 2, 3], 4)
    facts: dict[str, Any] = {n: int((kind == i).sum()) for i, n in enumerate(KINDS)}
    facts["success_rate"] = float((kind == 0).mean())
    rest = np.flatnonzero(kind == 4)
    if len(rest):
        # two points (three) that both lines leave on one side get one answer, their
        # mean: the cost that such a lump leaves, whatever the coding of yes and no
        unit = setting.loss(jnp.ones((1, 1)), jnp.zeros((1, 1)))[0]
        unit *= float(np.ptp(setting.t)) ** 2 / 4
        cost = np.asarray(trained.losses)[rest, -1] / float(unit)
        facts["minima"] = {
            "two_points_in_one_lump": int((abs(cost - 1 / 2) < 0.05).sum()),
            "three_points_in_one_lump": int((abs(cost - 2 / 3) < 0.05).sum()),
        }
    return kind, facts


def run(args: Args) -> None:
    values: dict[str, Any] = {"nine": nine_derivatives(), "settings": {}}
    print(f"{'':<14}" + "".join(f"{kind:>17}" for kind in KINDS) + "   of "
          f"{args.seeds:,} starts")  # fmt: skip
    kinds, runs = {}, {}
    for name, s in settings().items():
        runs[name] = train_many(
            s.net, s.loss, s.optimizer, s.x, s.t, seeds=range(args.seeds),
            steps=args.patience * args.steps, every=args.steps,
        )  # fmt: skip
        kinds[name], values["settings"][name] = explain(s, args, runs[name])
        counts = [values["settings"][name][kind] for kind in KINDS]
        print(f"{name:<14}" + "".join(f"{count:>17}" for count in counts))
    figure = draw(kinds, runs, args)
    conclude(
        "xor", args, values, {"xor.png": figure},
        """\
  Top: the color is the answer, the black line where it changes, the dashed green lines
  where a hidden unit changes sign. Solved: two nearly parallel lines cut out a band
  that holds one class. Local minimum: the lines separate two points and leave the other
  two, a yes and a no, in one lump, which gets one answer for both; every small change
  of a line makes it worse. Dead unit: all points lie on the 0 side of one unit's line
  (relu), so it learns nothing any more, and one line is not enough.
  Bottom: the cost of 60 starts each, colored as on the right. From a small start the
  network first stands on a plateau, then falls: units that start near 0 go where they
  are needed; in the textbook's start they lie where chance put them. Right: what became
  of all starts.""",
    )  # fmt: skip


# ---- the picture

FATE = (COLORS[0], COLORS[3], COLORS[6], COLORS[4], COLORS[1])  # of KINDS
SHOWN = (("recommended", 0), ("textbook", 4), ("relu", 2))  # setting, kind


def draw(kinds: dict, runs: dict, args: Args) -> Any:
    title = f"XOR, {args.seeds:,} times: 2-2-1"
    figure, axes = panels(3, 2, width=3.7, height=3.2, title=title)
    for ax, (name, kind) in zip(axes, SHOWN, strict=False):
        found = np.flatnonzero(kinds[name] == kind)
        if len(found):
            one_network(ax, settings()[name], runs[name], found)
        name_axes(ax, "$x_1$", "$x_2$", f"{KINDS[kind]} ({name})")
    steps = np.arange(1, args.steps, 5)
    for ax, name in zip(axes[3:], ("recommended", "textbook"), strict=False):
        losses = np.asarray(runs[name].losses)[:60, steps]
        colors = [FATE[kind] for kind in kinds[name][:60]]
        for row, color in zip(losses, colors, strict=True):
            ax.plot(steps, row, color=color, lw=0.8, alpha=0.6)
        set_scales(ax, False, True)
        name_axes(ax, "step", "cost", f"{name}: 60 starts")
        ax.set_ylim(bottom=0)
    counts = {
        name: {word: (kind == i).sum() for i, word in enumerate(KINDS)}
        for name, kind in kinds.items()
    }
    stacked(axes[5], counts, FATE, "share of the starts (%)", "what became of them")
    return figure


def one_network(ax, setting: Setting, trained, found: np.ndarray) -> None:
    """Regions and unit lines of one of the seeds `found`."""
    low, high = setting.x.min(), setting.x.max()
    margin = 0.45 * (high - low)
    extent = (low - margin, high + margin, low - margin, high + margin)
    params, state = at(trained.path, -1, found), at(trained.state, found)
    asked = answers(setting, params, state, plane(extent))
    row = int(np.argsort(asked.std(1))[len(found) // 2])  # neither flat nor steep
    regions(ax, asked[row] * 2 / float(np.ptp(setting.t)), extent)
    hidden = at(params[1], row)
    unit_lines(ax, hidden["w"], hidden["b"], extent)
    class_points(ax, setting.x, XOR[:, 0], size=90)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_ticks(sorted({float(low), float(high)}))


if __name__ == "__main__":
    main(Args, run)
