"""Four networks that look robust because their gradient is hidden, and what finds them.

Questions: does the evaluation name what hides the gradient, and does the right attack
break the network? And does it leave honest networks alone?

    python -m experiments.masking               about 8 minutes on 2 cores

    sharp logits       a trained network's logits times 1,000: the cross-entropy of a
                       sure answer has no gradient left in float32; the loss is named
    3-bit pixels       a first layer of eight grays has derivative 0; the layer is named
    staircase units    hidden units rounded to multiples of 4: the same, deeper inside
    saturated sigmoid  hidden units sigmoid(300 a): flat in float32 wherever it stands

Beside them a network on black and white pixels, which hides its gradient just so, and
is hard to fool within 0.1 all the same: no pixel of 0 or 1 can be turned. Within 0.4 it
can.

Expected: 4 of 4 named with the layer or the loss, each broken by the right attack; no
check fails on the plain, the Gaussian and the PGD-trained network.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import robust
from experiments.common import Line, conclude, main, spread, verdicts
from experiments.pictures import grouped
from experiments.robust import Digits, trained
from jaxnn import Classifier, attacks, defenses, mlp, rules, serial
from jaxnn.layers import dense, flatten, pointwise, relu
from jaxnn.regularize import input_noise
from jaxnn.robustness import swap_backward
from jaxnn.rules import Rule


@dataclass(frozen=True)
class Args:
    """Settings."""

    seeds: int = 3  # Networks of every kind; the checks run on the first
    epochs: int = 8  # Times through the 55,000 training images
    epsilon: float = 0.1  # Linf budget, all 10,000 test images


class Masked(NamedTuple):
    """A network that hides its gradient."""

    nets: list[Classifier]  # seeds of it
    named: str  # a word that the verdict must have
    path: tuple[int, ...] = ()  # the layer that is seen through; none: the loss is
    times: float = 1.0  # budget of the attacks, in units of `Args.epsilon`


def times(factor: float):
    rule = Rule("times", lambda x: (factor * x, ()), lambda _, dy: (factor * dy,))
    return pointwise(rule, f"x{factor:g}")


def staircase(step: float):
    """y = x rounded to multiples of `step`; its derivative is 0."""
    return pointwise(
        Rule("staircase", lambda x: (step * jnp.round(x / step), ()),
             lambda _, dy: (jnp.zeros_like(dy),)), "staircase",
    )  # fmt: skip


def steep_sigmoid(factor: float):
    """y = sigmoid(factor x) and its own derivative: in float32 0 nearly everywhere."""

    def bwd(cache, dy):
        return (factor * jnp.asarray(rules.sigmoid.bwd(cache, dy)[0]),)

    rule = Rule("steep_sigmoid", lambda x: rules.sigmoid.fwd(factor * x), bwd)
    return pointwise(rule, "steep_sigmoid")


def with_layer(nets: list[Classifier], at: int, layer: Any) -> list[Classifier]:
    """The trained networks with one more layer, number `at`."""

    def more(tree: Any, value: Any = ()) -> Any:
        return *tree[:at], value, *tree[at:]

    return [
        Classifier(serial(*more(n.net.parts, layer)), more(n.params), more(n.state))
        for n in nets
    ]


def masked(args: Args, data: Digits, plain: list[Classifier]) -> dict[str, Masked]:
    """The four, trained where they must be."""
    few_grays, two_grays = (
        trained(data, args.seeds, args.epochs, serial(first, flatten, dense(128), relu,
                                                      dense(10)))
        for first in (staircase(1 / 7), defenses.binarize(0.5))
    )  # fmt: skip
    gentle = trained(data, args.seeds, args.epochs, mlp([784, 128, 10], "sigmoid"))
    steep = [
        Classifier(serial(flatten, dense(128), steep_sigmoid(300.0), dense(10)),
            n.params, n.state)
        for n in gentle
    ]  # fmt: skip
    return {
        "sharp logits": Masked(with_layer(plain, 4, times(1000.0)), "loss"),
        "3-bit pixels": Masked(few_grays, "0 staircase", (0,)),
        "staircase units": Masked(
            with_layer(plain, 3, staircase(4.0)), "3 staircase", (3,)
        ),
        "saturated sigmoid": Masked(steep, "steep_sigmoid", (2,)),
        "black and white": Masked(two_grays, "binarize", (0,)),
        "the same, 0.4": Masked(two_grays, "binarize", (0,), 4.0),
    }


def run(args: Args) -> None:
    data = robust.digits()
    plain = trained(data, args.seeds, args.epochs)
    kinds = masked(args, data, plain)
    table: dict[str, Any] = {}
    for name, kind in kinds.items():
        epsilon = args.epsilon * kind.times

        def shares(net, seed, kind=kind, epsilon=epsilon):
            """Clean, under the attack that follows the gradient, under the right."""
            opened = net
            if kind.path:
                opened = replace(net, net=swap_backward(net.net, kind.path))
            budget = {"epsilon": epsilon, "key": jax.random.key(seed)}
            stands = robust.still_correct(net, attacks.pgd, data.x, data.y, **budget)
            # the forward is the same, so what fools one fools the other
            right = stands & robust.still_correct(
                opened, attacks.pgd, data.x, data.y, **budget, loss=attacks.margin
            )
            clean = robust.accuracy(net, data.x, data.y)
            return {"clean": clean, "naive": stands.mean(), "right": right.mean()}

        found = robust.measured(name, kind.nets, shares)
        seen = robust.judged(kind.nets[0], data, epsilon, name)
        table[name] = {way: values["values"] for way, values in found.items()} | {
            "named": "DO NOT BELIEVE" in seen["verdict"]
            and kind.named in seen["verdict"],
            "checks": seen,
        }
    honest = {
        "plain": plain,
        "Gaussian .3": trained(data, 1, args.epochs, augment=input_noise(0.3)),
        "PGD-7": trained(data, 1, args.epochs, defense=defenses.pgd(args.epsilon)),
    }
    failures = 0
    for name, nets in honest.items():
        seen = robust.judged(nets[0], data, args.epsilon, name)
        failed = [k for k, (word, _) in seen["checks"].items() if word == "fail"]
        failures += len(failed)
        table[name] = {"failed": failed, "checks": seen}
    four = list(kinds)[:4]
    lines = [
        Line("masked networks named with layer or loss",
             sum(table[name]["named"] for name in four), 4),
        Line("failures raised on honest networks", failures, high=0),
    ]  # fmt: skip
    for name in [*four, "the same, 0.4"]:
        right, naive = (np.mean(table[name][way]) for way in ("right", "naive"))
        share = float(right / max(naive, 1e-9))
        lines.append(Line(f"{name}: right attack / naive attack", share, high=0.5))
    words = {"clean": "clean", "naive": "PGD-40 along the gradient",
             "right": "PGD-40 through the mask"}  # fmt: skip
    rows = {name: {key: spread(table[name][key]) for key in words} for name in kinds}
    title = "Accuracy under PGD where the gradient is hidden, and through what hides it"
    conclude(
        "masking", args, {"table": table, "expected": verdicts(*lines, percent=False)},
        {"masking.png": grouped(title, rows, words)},
        """\
  Middle bars look robust: PGD follows a gradient that is not there. The right bars are
  the same networks under PGD through the layer (or the loss) that the checks named.""",
    )  # fmt: skip


if __name__ == "__main__":
    main(Args, run)
