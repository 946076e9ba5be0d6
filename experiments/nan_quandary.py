"""JAX gives NaN where the NumPy network does not: why?

Question: the same network of 784-30-10, sigmoid and softmax written the naive way,
trains in NumPy and fails in JAX. Which of the usual suspects does it: float32, the
formula, `where`, the learning rate, the initial weights? Where does the guard point,
and does what it advises train?

    python -m experiments.nan_quandary          about 5 minutes

Every cause runs in NumPy float64, JAX float64 and JAX float32, with the same formulas,
initial weights and batches; then in float32 with the fix. MNIST, 2 epochs, 3 seeds side
by side; accuracy on all 10,000 test images. Expected: NumPy's float64 trains where the
same lines in float32 do not, and every fix trains.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.common import Line, main, record, verdicts
from jaxnn import evaluate, fit, serial
from jaxnn.data import load
from jaxnn.layers import Layer, dense, flatten, pointwise, sigmoid
from jaxnn.losses import softmax_cross_entropy
from jaxnn.rules import Rule
from jaxnn.train import TrainingError, batch_order

LEARNT = 0.8  # a run below this accuracy has failed


@dataclass(frozen=True)
class Args:
    """Settings."""

    seeds: tuple[int, ...] = (0, 1, 2)  # Initial weights
    epochs: int = 2  # Of each run
    batch: int = 128  # Images a step
    units: int = 30  # Of the hidden layer


class Setting(NamedTuple):
    """A network and how it is trained."""

    formula: str = "naive"  # exp and log as they are written; or "stable"
    hidden: float = 1.0  # initial weights of the hidden layer, times 1 / sqrt(inputs)
    output: float = 1.0  # those of the output layer
    rate: float = 0.5
    pixels: float = 1.0  # inputs are in [0, pixels]


class Cause(NamedTuple):
    """One way to go wrong, and what mends it."""

    bad: Setting
    fix: str
    good: Setting


CAUSES = {
    "none": Cause(Setting(), "nothing", Setting()),
    "large logits, naive softmax": Cause(
        Setting(output=60, rate=0.1), "loss on logits",
        Setting("stable", output=60, rate=0.1),
    ),
    "pixels 0 to 255, naive sigmoid": Cause(
        Setting(pixels=255, rate=0.002), "pixels 0 to 1", Setting()
    ),
    "where, one of them": Cause(Setting("where"), "where twice", Setting("safe")),
    "learning rate 300": Cause(Setting(rate=300), "lr 0.5", Setting()),
    "initial weights x 400": Cause(Setting(hidden=400, output=400), "x 1", Setting()),
}  # fmt: skip
"""What is wrong with the network -> how, and the fix."""


def naive_sigmoid() -> Layer:
    """1 / (1 + e^-x) and its derivative e^-x / (1 + e^-x)^2, as in a textbook."""

    def fwd(x):
        e = jnp.exp(-x)
        return 1 / (1 + e), e

    def bwd(e, dy):
        return (dy * e / (1 + e) ** 2,)

    return pointwise(Rule("naive_sigmoid", fwd, bwd))


def root(safe: bool) -> Layer:
    """sqrt(x) for x > 0, else 0, by `where`; automatic differentiation takes both."""

    def f(x):
        inside = jnp.where(x > 0, x, 1.0) if safe else x
        return jnp.where(x > 0, jnp.sqrt(inside), 0.0)

    def bwd(x, dy):
        return (jax.vjp(f, x)[1](dy)[0],)

    return pointwise(Rule("root", lambda x: (f(x), x), bwd))


def naive_loss(pred, target):
    """-log of e^x / sum e^x, as it is written."""
    e = jnp.exp(pred)
    share = e / e.sum(-1, keepdims=True)
    hot = jax.nn.one_hot(target, pred.shape[-1], dtype=pred.dtype)
    value = -(hot * jnp.log(share)).sum(-1).mean()
    return value, (share - hot) / len(pred)


def parts(formula: str) -> tuple[list[Layer], Callable]:
    """The hidden activation and the loss."""
    if formula == "naive":
        return [naive_sigmoid()], naive_loss
    if formula in ("where", "safe"):
        return [root(formula == "safe")], softmax_cross_entropy
    return [sigmoid], softmax_cross_entropy


def drawn(scale: float) -> Callable:
    """Initial weights N(0, scale^2 / inputs), the same in every precision."""

    def draw(key, shape, dtype):
        w = jax.random.normal(key, shape, jnp.float32) * (scale / shape[0] ** 0.5)
        return w.astype(dtype)

    return draw


def network(setting: Setting, units: int) -> tuple[Layer, Callable]:
    middle, loss = parts(setting.formula)
    first, last = dense(units, drawn(setting.hidden)), dense(10, drawn(setting.output))
    return serial(flatten, first, *middle, last), loss


def in_jax(data, setting, dtype, args: Args) -> dict[str, Any]:
    """Accuracies, whether it failed, and what the guard says."""
    pixels, rate = setting.pixels, setting.rate
    net, loss = network(setting, args.units)
    x = data.train.x.astype(np.float32) * (pixels / 255)
    try:
        history = fit(
            net, (x, data.train.y), loss=loss, optimizer=optax.sgd(rate),
            epochs=args.epochs, batch=args.batch, seeds=list(args.seeds), guard="raise",
            dtype=dtype, keep="last",
        )  # fmt: skip
    except TrainingError as error:
        history = error.history
    finding = history.findings[0].to_json() if history.findings else None
    test = data.test.x.astype(np.float32) * (pixels / 255)
    found = evaluate(net, history.params, history.state, test, data.test.y, seeds=True)
    return {"accuracy": found.accuracy.tolist(), "finding": finding}


def in_numpy(data, setting, args: Args, seed: int) -> float:
    """The same network and batches in NumPy float64; its accuracy."""
    formula, rate, pixels = setting.formula, setting.rate, setting.pixels
    net, _ = network(setting, args.units)
    params, _, _ = net.init(jax.random.key(seed), (28, 28))
    leaves = [p for p in params if isinstance(p, dict)]
    (w1, b1), (w2, b2) = ((np.array(p["w"], float), np.array(p["b"], float))
                          for p in leaves)  # fmt: skip
    x = data.train.x.reshape(-1, 784)

    def hidden(z):
        if formula in ("where", "safe"):  # by hand: no gradient where the unit is off
            on = z > 0
            h = np.sqrt(np.where(on, z, 0))
            return h, np.where(on, 0.5 / np.where(on, h, 1), 0)
        e = np.exp(-z)
        return 1 / (1 + e), e / (1 + e) ** 2

    with np.errstate(all="ignore"):
        for epoch in range(1, args.epochs + 1):
            for rows in batch_order(len(x), args.batch, epoch):
                batch = x[rows] * (pixels / 255)
                h, slope = hidden(batch @ w1 + b1)
                e = np.exp(h @ w2 + b2)
                d = e / e.sum(1, keepdims=True) - np.eye(10)[data.train.y[rows]]
                d /= len(rows)
                dz = d @ w2.T * slope
                w2 -= rate * h.T @ d
                b2 -= rate * d.sum(0)
                w1 -= rate * batch.T @ dz
                b1 -= rate * dz.sum(0)
        h, _ = hidden(data.test.x.reshape(-1, 784) * (pixels / 255) @ w1 + b1)
        out = h @ w2 + b2
    if not np.isfinite(out).all():
        return float("nan")
    return float((out.argmax(1) == data.test.y).mean())


def where_it_points(finding) -> str:
    if finding is None:
        return "-"
    place = f"{finding['part']} {finding['layer']}".strip()
    return f"{place}: {finding['op'] or 'too large'}"


def table_row(row) -> str:
    cells = [row["cause"]]
    for program in ("numpy float64", "jax float64", "jax float32"):
        bad, mean = row["bad"][program], np.mean(row[program])
        cells.append("NaN" if bad else f"{100 * mean:.1f}%")
    cells.append(where_it_points(row["jax float32: guard"]))
    cells.append(f"{row['fix']}: {100 * np.mean(row['jax float32, fixed']):.1f}%")
    return " | ".join(cells)


def examine(name: str, cause: Cause, data, args: Args) -> dict[str, Any]:
    setting, numpy = cause.bad, "numpy float64"
    row: dict[str, Any] = {"cause": name, "fix": cause.fix, "bad": {}}
    row[numpy] = [in_numpy(data, setting, args, seed) for seed in args.seeds]
    row["bad"][numpy] = bool(np.isnan(row[numpy]).any())
    for program, given, dtype in (
        ("jax float64", setting, "float64"),
        ("jax float32", setting, "float32"),
        ("jax float32, fixed", cause.good, "float32"),
    ):
        found = in_jax(data, given, dtype, args)
        row[program] = found["accuracy"]
        row["bad"][program] = found["finding"] is not None
        row[f"{program}: guard"] = found["finding"]
    return row


def run(args: Args) -> None:
    data = load("mnist")
    jax.config.update("jax_enable_x64", True)
    print("cause | NumPy float64 | JAX float64 | JAX float32 | the guard says | fix")
    rows = []
    for name, cause in CAUSES.items():
        rows.append(examine(name, cause, data, args))
        print(table_row(rows[-1]))
    fixed = [np.mean(row["jax float32, fixed"]) for row in rows]
    only32 = [row["cause"] for row in rows if row["bad"]["jax float32"]
              and not row["bad"]["numpy float64"]]  # fmt: skip
    print(f"JAX's float32 fails, NumPy's float64 does not: {'; '.join(only32) or '-'}")
    verdicts(Line("every fix trains: the least accurate", min(fixed), LEARNT))
    values = {"rows": rows, "only_in_float32": only32}
    record("nan_quandary", args, values)


if __name__ == "__main__":
    main(Args, run)
