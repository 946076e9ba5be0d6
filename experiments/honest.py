"""Do the checks leave honest networks alone?

Question: twenty-one networks of different kinds, none of which hides its gradient: does
any check K1 to K20 fail on one of them, at either level? And how often does one warn?

    python -m experiments.honest                about an hour on 2 cores

A check that fails on an honest network is as bad as one that passes a masked network
(`python -m experiments.masking`): who has seen a false alarm does not believe the next.

Expected: 0 failures at both levels.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import optax

from experiments.common import RESULTS, Line, main, record, verdicts
from experiments.robust import Digits, digits
from jaxnn import Classifier, defenses, fit, losses, mlp, serial
from jaxnn.combine import residual
from jaxnn.data import stratified_sample
from jaxnn.files import read_json
from jaxnn.layers import (
    Layer,
    avg_pool,
    batch_norm,
    conv,
    dense,
    flatten,
    gelu,
    layer_norm,
    max_pool,
    relu,
    reshape,
    standardize,
)
from jaxnn.regularize import input_noise, l2
from jaxnn.robustness import Threat, evaluate


@dataclass(frozen=True)
class Args:
    """Settings."""

    images: int = 200  # Stratified sample of the test images that judges each
    epsilon: float = 0.1  # Linf budget
    levels: tuple[str, ...] = ("fast", "full")  # Of the evaluation
    only: tuple[str, ...] = ()  # Names of networks; none: all of them
    resume: bool = False  # Judge only those that results/honest.json has not


class Recipe(NamedTuple):
    """How a network is made and trained."""

    net: Layer
    options: Mapping[str, Any] = MappingProxyType({})  # of `fit`, beside `train`'s
    images: int = 20_000  # training images it sees
    epochs: int = 4
    digits: int = 10  # classes it is trained and judged on


def small_cnn(pool: Callable[[int], Layer]) -> Layer:
    """conv3x3-8, pool, conv3x3-16, pool, 10."""
    return serial(
        reshape(28, 28, 1), conv(8, 3), relu, pool(2), conv(16, 3), relu, pool(2),
        flatten, dense(10),
    )  # fmt: skip


def recipes(epsilon: float) -> dict[str, Recipe]:
    """All of them by name."""
    dense_net, smooth = mlp([784, 64, 10]), losses.softmax_cross_entropy
    block = residual(serial(dense(64), relu, dense(64)))
    adversarial = {
        "PGD-7": defenses.pgd(epsilon),
        "TRADES": defenses.trades(epsilon),
        "IBP": defenses.ibp(defenses.ramp(epsilon, 400)),
        "one step": defenses.fgsm_rs(epsilon / 2),
    }
    return {
        "linear": Recipe(serial(flatten, dense(10))),
        "plain": Recipe(dense_net),
        "sigmoid, quadratic": Recipe(
            mlp([784, 30, 10], "sigmoid", output="sigmoid"),
            {"loss": losses.quadratic, "optimizer": optax.adam(5e-3)},
        ),
        "tanh, weight decay": Recipe(
            mlp([784, 64, 64, 10], "tanh"), {"penalty": l2(1e-3)}
        ),
        "max pool": Recipe(small_cnn(max_pool), epochs=2),
        "average pool": Recipe(small_cnn(avg_pool), epochs=2),
        "standardized, max pool": Recipe(
            serial(standardize(0.13, 0.31), small_cnn(max_pool)), epochs=1
        ),
        "batch norm": Recipe(
            serial(
                reshape(28, 28, 1), conv(8, 3), batch_norm(), relu, max_pool(2),
                flatten, dense(64), batch_norm(), relu, dense(10),
            ),
            epochs=2,
        ),
        "dropout": Recipe(mlp([784, 128, 10], drop_rate=0.5)),
        "label smoothing .3": Recipe(
            mlp([784, 128, 128, 10]),
            {"loss": smooth.having(label_smoothing=0.3)},
        ),
        "layer norm, gelu": Recipe(
            serial(flatten, dense(64), layer_norm(), gelu(), dense(10))
        ),
        "residual": Recipe(serial(flatten, dense(64), block, block, relu, dense(10))),
        "Gaussian .3": Recipe(dense_net, {"augment": input_noise(0.3)}),
        "overtrained": Recipe(mlp([784, 128, 128, 10]), images=2_000, epochs=300),
        "two classes": Recipe(mlp([784, 32, 2]), digits=2),
        "one epoch": Recipe(dense_net, images=2_000, epochs=1),
        "says one class": Recipe(
            dense_net, {"optimizer": optax.sgd(50.0)}, images=2_000, epochs=1
        ),
        **{n: Recipe(dense_net, {"defense": d}) for n, d in adversarial.items()},
    }  # fmt: skip


def train(recipe: Recipe, data: Digits) -> Classifier:
    """The network of a recipe."""
    x, y = data.train
    rows = y < recipe.digits
    x, y = x[rows][: recipe.images], y[rows][: recipe.images]
    options: dict[str, Any] = {"optimizer": optax.adam(1e-3), "batch": 100}
    options |= recipe.options
    history = fit(recipe.net, (x, y), epochs=recipe.epochs, **options)
    return Classifier(recipe.net, history.params, history.state)


def judge(net: Classifier, recipe: Recipe, data: Digits, level: str, args: Args) -> Any:
    """The evaluation, as a plain dictionary."""
    keep = data.y < recipe.digits
    x, y = data.x[keep], data.y[keep]
    rows = stratified_sample(y, args.images, 0)
    found = evaluate(
        net, x[rows], y[rows], threat=Threat("linf", args.epsilon), level=level,
        sample=args.images,
    )  # fmt: skip
    return {
        "verdict": found.verdict,
        "clean": found.clean.value,
        "robust": found.robust.value,
        "seconds": found.seconds,
        **{
            kind: {c.id: c.message for c in found.checks if c.verdict == kind}
            for kind in ("fail", "warn")
        },
        "numbers": {c.id: c.number for c in found.checks},
    }


def run(args: Args) -> None:
    data, chosen, table = digits(), recipes(args.epsilon), {}
    if args.resume:
        table = read_json(RESULTS / "honest.json")["values"]["table"]
    for name in args.only or chosen:
        if name in table:
            continue
        started = time.perf_counter()
        net = train(chosen[name], data)
        print(f"{name}, trained in {time.perf_counter() - started:.0f} s", flush=True)
        levels = {}
        for level in args.levels:
            found = judge(net, chosen[name], data, level, args)
            levels[level] = found
            print(
                f"  {level}: clean {100 * found['clean']:.1f}%, robust "
                f"{100 * found['robust']:.1f}%, {found['seconds']:.0f} s",
                flush=True,
            )
            for kind in ("fail", "warn"):
                for check, words in found[kind].items():
                    print(f"    {kind} {check}: {words}", flush=True)
        table[name] = levels
        judged = [level for levels in table.values() for level in levels.values()]
        failed, warned = (
            sum(len(found[kind]) for found in judged) for kind in ("fail", "warn")
        )
        lines = verdicts(
            Line("networks so far", len(table), low=12),
            Line("checks that failed", failed, high=0),
            Line("warnings per evaluation", warned / len(judged), high=0.5),
            percent=False,
        )
        record("honest", args, {"table": table, "expected": lines})
    print("`fail` is empty everywhere; `warn` says what is unusual.")


if __name__ == "__main__":
    main(Args, run)
