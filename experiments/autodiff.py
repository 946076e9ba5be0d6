"""Five ways to a derivative, on one neuron; and is there more in optax than w - r dw?

Questions: how can a computer differentiate? Do five ways give the same numbers, and
what does each cost? Does optax's gradient descent do anything but w <- w - rate dw?

    python -m experiments.autodiff          about 5 seconds

Expected: four ways agree to the last digits of float64, the numeric one to nine digits
at best; the linear model trained by hand and by optax has equal numbers, bit for bit.

(optax is a library of optimizers, ways to step downhill; momentum is one of them: the
speed is the gradient plus 0.9 of the last speed, and the step goes along the speed.)

The neuron has one input, and its cost is the squared distance to a target t:

    y = tanh(w x + b)        J = (y - t)^2        wanted: dJ/dw and dJ/db

Look at it as a graph first (graph.png, which this file draws): every box is one small
operation, computed from the boxes above it; the black number in it is its value. The
red numbers on the lines run the other way, from J upwards: each says how J changes with
the box above it. A box takes what arrives from below times its own slope, and hands
that on: at the square 2 (y - t), at the tanh 1 - y^2, at w x the number x. What arrives
at w and at b is what is wanted, and five ways to find these two numbers are:

1. Symbolic: take the formula, apply the rules of school, get a formula. Exact; but the
   formula swells (the lengths are printed), and a network is a long formula.
2. Numeric: (J(w + h) - J(w - h)) / 2h. Needs no calculus and is good for checking, but
   is never exact: a large h misses the curve, a small h drowns in rounding (figure).
   And it costs two runs for every weight.
3. Dual numbers: calculate with a + b e, e^2 = 0; b carries the derivative along. Exact,
   one run for every weight.
4. Reverse by hand: run forward once, keep what is needed, then apply the chain rule
   from the cost back to the weights. Exact, and one run back for all weights together:
   this is how networks are trained, and how all of jaxnn is written.
5. jax.grad: the same reverse way, found by a program from the code of the cost.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import dual
from experiments.common import conclude, main
from jaxnn import graph
from jaxnn.plots.panels import counted, lines, panels

X, T = 1.5, 0.25  # input and target
W, B = 0.8, -0.3  # weight and bias at which to differentiate


@dataclass(frozen=True)
class Args:
    """Settings."""

    steps: int = 60  # Steps of the linear model
    rate: float = 0.1  # Its learning rate


def neuron() -> tuple[graph.Node, dict[graph.Node, float]]:
    """The neuron as a graph: J, and the values of x and t."""
    x, t = graph.feed("x"), graph.feed("t")
    w, b = graph.parameter(W, "w"), graph.parameter(B, "b")
    y = graph.tanh(w * x + b, name="y")
    return graph.square(y - t, name="J"), {x: X, t: T}


# ---- 1. symbolic: a formula is a number, a name, or (operation, parts ...)

COST = ("square", ("-", ("tanh", ("+", ("*", "w", "x"), "b")), "t"))


def derive(f, name: str):
    """The derivative of formula f with regard to `name`: the rules of school."""
    if not isinstance(f, tuple):
        return 1 if f == name else 0
    op, a, *rest = f
    da = derive(a, name)
    if op in ("+", "-"):
        return simple(op, da, derive(rest[0], name))
    if op == "*":
        b = rest[0]
        return simple("+", simple("*", da, b), simple("*", a, derive(b, name)))
    if op == "tanh":  # tanh' = 1 - tanh^2
        return simple("*", ("-", 1, ("square", f)), da)
    return simple("*", simple("*", 2, a), da)  # square


def simple(op, a, b):
    """(op, a, b) without the useless: 0 + b, 0 a, 1 a, a - 0."""
    if op == "*":
        if a == 0 or b == 0:
            return 0
        return b if a == 1 else a if b == 1 else (op, a, b)
    if b == 0:
        return a
    return b if op == "+" and a == 0 else (op, a, b)


def text(f, outside: bool = True) -> str:
    if not isinstance(f, tuple):
        return str(f)
    op, *parts = f
    if op == "tanh":
        return f"tanh({text(parts[0])})"
    if op == "square":
        return f"{text(parts[0], False)}^2"
    joined = f" {op} ".join(text(part, False) for part in parts)
    return joined if outside else f"({joined})"


def length(f) -> int:
    """Number of operations in the formula."""
    return 1 + sum(map(length, f[1:])) if isinstance(f, tuple) else 0


def chain(neurons: int):
    """The cost of that many neurons in a row, all with the weight w."""
    y = "x"
    for _ in range(neurons):
        y = ("tanh", ("*", "w", y))
    return ("square", ("-", y, "t"))


def value(f, numbers: dict[str, float]) -> float:
    if not isinstance(f, tuple):
        return numbers[f] if isinstance(f, str) else f
    op, *parts = f
    a, *b = [value(part, numbers) for part in parts]
    if op == "tanh":
        return math.tanh(a)
    if op == "square":
        return a * a
    return {"+": a + b[0], "-": a - b[0], "*": a * b[0]}[op]


def symbolic() -> tuple[float, float]:
    numbers = {"w": W, "b": B, "x": X, "t": T}
    print(f"J     = {text(COST)}")
    print(f"dJ/dw = {text(derive(COST, 'w'))}")
    sizes = [(n, length(chain(n)), length(derive(chain(n), "w"))) for n in (1, 4, 16)]
    each = (f"{a}, {b} ({counted(n, 'neuron')} in a row)" for n, a, b in sizes)
    print(f"operations in J, in dJ/dw: {'; '.join(each)}\n")
    return value(derive(COST, "w"), numbers), value(derive(COST, "b"), numbers)


# ---- 2. to 5.


def cost(w, b, module):
    """J with the tanh of `module`: the same code serves numbers, duals and JAX."""
    y = module.tanh(w * X + b)
    return (y - T) * (y - T)


def numeric(h: float = 1e-5) -> tuple[float, float]:
    dw = (cost(W + h, B, math) - cost(W - h, B, math)) / (2 * h)
    return dw, (cost(W, B + h, math) - cost(W, B - h, math)) / (2 * h)


def dual_numbers() -> tuple[float, float]:
    dw = cost(dual.Dual(W, 1.0), dual.Dual(B, 0.0), dual).derivative
    return dw, cost(dual.Dual(W, 0.0), dual.Dual(B, 1.0), dual).derivative


def reverse_by_hand() -> tuple[float, float]:
    y = math.tanh(W * X + B)  # forward; y is all that the way back needs
    dy = 2 * (y - T)  # J = (y - T)^2
    dz = dy * (1 - y * y)  # y = tanh z
    return dz * X, dz  # z = w x + b: dz/dw = x, dz/db = 1


def by_jax() -> tuple[float, float]:
    with jax.enable_x64(True):
        dw, db = jax.grad(lambda w, b: cost(w, b, jnp), (0, 1))(W, B)
    return float(dw), float(db)


WAYS = {
    "symbolic": symbolic, "numeric": numeric, "dual numbers": dual_numbers,
    "reverse by hand": reverse_by_hand, "jax.grad": by_jax,
}  # fmt: skip


def step_sizes() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Error of the numeric derivative for step sizes from 1 to 1e-16."""
    sizes, right = np.logspace(-16, 0, 97), reverse_by_hand()[0]

    def error(low, high, type_):
        found = []
        for h in sizes:
            w, b, d = type_(W), type_(B), type_(h)
            top = cost(w + high * d, b, np) - cost(w - low * d, b, np)
            found.append(abs(float(top / ((low + high) * d)) - right))
        return np.maximum(found, 1e-16)

    one, none = 1, 0
    return sizes, {
        "one side, float64": error(none, one, np.float64),
        "both sides, float64": error(one, one, np.float64),
        "both sides, float32": error(one, one, np.float32),
    }


# ---- gradient descent, by hand and by optax


def train(args: Args, update) -> tuple[np.ndarray, np.ndarray]:
    """Fit y = w x + b to 64 noisy points; `update(params, grads, state)`.

    Returns the costs (T,) and the parameters after each step (T, 2).
    """
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.uniform(-1, 1, 64))
    y = 3 * x - 1 + 0.1 * jnp.asarray(rng.normal(size=64))

    @jax.jit
    def gradient(params):
        error = params[0] * x + params[1] - y
        return jnp.mean(error**2), 2 * jnp.stack([(error * x).mean(), error.mean()])

    params, state, costs, path = jnp.zeros(2), None, [], []
    for _ in range(args.steps):
        now, grads = gradient(params)
        params, state = update(params, grads, state)
        costs.append(float(now))
        path.append(np.asarray(params))
    return np.array(costs), np.stack(path)


def two_optimizers(args: Args) -> dict:
    """Plain and momentum, each by hand and by optax; where they first differ."""
    plain, momentum = optax.sgd(args.rate), optax.sgd(args.rate, momentum=0.9)

    def by_optax(optimizer):
        def update(params, grads, state):
            state = optimizer.init(params) if state is None else state
            updates, state = optimizer.update(grads, state)
            return optax.apply_updates(params, updates), state

        return update

    def hand_plain(params, grads, state):
        return params - args.rate * grads, state

    def hand_momentum(params, grads, speed):
        speed = grads + 0.9 * (0 if speed is None else speed)
        return params - args.rate * speed, speed

    found = {}
    for name, hand, optimizer in (
        ("gradient descent", hand_plain, plain),
        ("momentum 0.9", hand_momentum, momentum),
    ):
        costs, mine = train(args, hand)
        costs_optax, theirs = train(args, by_optax(optimizer))
        found[name] = {
            "by hand": costs,
            "by optax": costs_optax,
            "largest_difference": float(abs(mine - theirs).max()),
        }
        print(f"{name:<17} w {mine[-1][0]:.17f}  b {mine[-1][1]:.17f}  by hand")
        print(f"{'':<17} w {theirs[-1][0]:.17f}  b {theirs[-1][1]:.17f}  by optax")
    return found


def run(args: Args) -> None:
    found = {name: way() for name, way in WAYS.items()}
    right = found["reverse by hand"]
    print(f"{'':<17}{'dJ/dw':>22}{'dJ/db':>22}{'difference':>12}")
    gaps = {}
    for name, (dw, db) in found.items():
        gaps[name] = max(abs(dw - right[0]), abs(db - right[1]))
        print(f"{name:<17}{dw:>22.17f}{db:>22.17f}{gaps[name]:>12.0e}")
    print()
    with jax.enable_x64(True):
        descents = two_optimizers(args)

    sizes, errors = step_sizes()
    figure, (left, middle) = panels(2, width=4.6, height=3.5)
    lines(left, sizes, errors, "step size h", "error of dJ/dw",
          "The numeric derivative is never exact", log=True, log_x=True)  # fmt: skip
    curves = {
        f"{name}, {how}": descent[how]
        for name, descent in descents.items()
        for how in ("by hand", "by optax")
    }
    lines(middle, np.arange(args.steps), curves, "step", "cost",
          "A straight line fitted: by hand = by optax", log=True)  # fmt: skip
    values = {
        "derivatives": found,
        "difference_to_reverse": gaps,
        "smallest_numeric_error": {k: float(v.min()) for k, v in errors.items()},
        "hand_against_optax": {k: d["largest_difference"] for k, d in descents.items()},
    }
    conclude(
        "autodiff", args, values,
        {"graph.png": graph.draw(*neuron()), "autodiff.png": figure},
        """\
  The graph: follow the red numbers from J up to w and b; what arrives there is dJ/dw
  and dJ/db of the table above.
  The curves, left: a valley. Right of it h is so large that the curve is missed (slope
  1 with one side, 2 with both), left of it the difference of two nearly equal numbers
  keeps few digits. In float32 the error hardly gets below 1e-5: a check in float32
  cannot find a mistake smaller than that. Right: two curves for each optimizer, one on
  top of the other: optax does what the formula says.""",
    )  # fmt: skip


if __name__ == "__main__":
    main(Args, run)
