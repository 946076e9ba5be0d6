"""Does training on noise protect against adversarial examples?

A network trained on `x + N(0, 1) * 0.1 + 0.3` was once shown 50,000 adversarial
examples made on a plain network and got 45,903 right, where the plain one got 1,515.
Question: is that robustness?

    python -m experiments.noise_augmentation        about 12 minutes on 2 cores

The original's network is not known; here it is 784-128-128-10.

The attack is the original's kind: steps up the input's gradient until the plain network
is wrong. What the original never measured is beside it: the noise-trained network
attacked through its own gradient, the plain network's examples on another plain
network, noise without the shift, shift without noise, other strengths of noise.

Expected, means of the seeds: plain <= 4% of its own 50,000, noise-trained >= 90% of the
same; and little left of the noise-trained network under PGD.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments import robust
from experiments.common import Line, conclude, main, spread, verdicts
from experiments.pictures import grouped
from experiments.robust import accuracy
from jaxnn import attacks, mlp
from jaxnn.data import unit_images
from jaxnn.regularize import input_noise

NOISES = {
    "plain": None, "another plain": None, "noise .1 + .3": (0.1, 0.3),
    "noise .1": (0.1, 0.0), "shift .3": (0.0, 0.3), "noise .2": (0.2, 0.0),
    "noise .3": (0.3, 0.0), "noise .5": (0.5, 0.0), "noise .7": (0.7, 0.0),
}  # fmt: skip
"""Name -> (standard deviation, shift) of the noise in training."""

NET = mlp([784, 128, 128, 10])

CLAIM = ("plain", "another plain", "noise .1 + .3")


@dataclass(frozen=True)
class Args:
    """Settings."""

    seeds: int = 5  # Networks of every kind in the claim
    sweep_seeds: int = 2  # Networks of the other kinds of noise
    epochs: int = 12  # Times through the 50,000 training images
    length: float = 0.1  # 2-norm of a step of the attack, the last one in eighths
    epsilon: float = 0.1  # Budget of PGD-40 (Linf), on all 10,000 test images


def run(args: Args) -> None:
    data = robust.digits(validation=10_000)
    x, y = unit_images(data.train.x), data.train.y
    nets = {}
    for name, noise in NOISES.items():
        count = args.seeds if name in CLAIM else args.sweep_seeds
        nets[name] = robust.trained(
            data, count, args.epochs, NET, first_seed=100 * (name == "another plain"),
            augment=None if noise is None else input_noise(*noise),
        )  # fmt: skip
        print(f"trained {name}", flush=True)
    static: dict[str, list[float]] = {name: [] for name in NOISES}
    sizes = []
    for seed in range(args.seeds):
        x_adv = robust.until_fooled(nets["plain"][seed], x, y, args.length)
        sizes += [np.median(np.asarray(attacks.distance(x_adv, x, "l2")))]
        for name, group in nets.items():
            if seed < len(group):
                static[name].append(accuracy(group[seed], x_adv, y))
        print(f"examples of seed {seed} made and shown to all", flush=True)
    table = {}
    for name, group in nets.items():

        def shares(net, seed, name=name):
            under = robust.worst_case(net, data.x, data.y, args.epsilon, seed)
            return {
                "clean": accuracy(net, data.x, data.y),
                "examples_of_plain": static[name][seed],
                "white_box_pgd": under.stands.mean(),
            }

        table[name] = robust.measured(name, group, shares)
    checks = {
        name: robust.judged(nets[name][0], data, args.epsilon, name)
        for name in ("plain", "noise .1 + .3")
    }  # fmt: skip
    plain, noisy = (float(np.mean(static[n])) for n in ("plain", "noise .1 + .3"))
    lines = verdicts(
        Line("plain on its own 50,000, mean", plain, high=0.04),
        Line("noise-trained on the same, mean", noisy, low=0.90),
    )
    verdict = in_words(table)
    print(f"\n{verdict}")
    values = {
        "images": len(y), "table": table, "median_l2_of_the_examples": spread(sizes),
        "expected": lines, "verdict": verdict, "checks": checks,
    }  # fmt: skip
    words = {
        "examples_of_plain": "50,000 examples made on the plain network",
        "clean": "clean test images",
        "white_box_pgd": f"PGD-40 on itself, eps {args.epsilon:g}",
    }
    figure = grouped(
        "Trained on noise: other networks' examples, and an attack of its own", table,
        words, "training noise: standard deviation + shift",
    )  # fmt: skip
    conclude(
        "noise_augmentation", args, values, {"noise_augmentation.png": figure},
        """\
  Left bar: the 50,000 examples made on the plain network. Middle: clean test images.
  Right: PGD-40 through the network's own gradient. The first says robust, the last says
  how much.""",
    )  # fmt: skip


def in_words(table: dict[str, Any]) -> str:
    """The verdict, from the numbers."""

    def percent(name, key):
        return 100 * table[name][key]["mean"]

    noisy, plain = "noise .1 + .3", "plain"
    cost = percent(plain, "clean") - percent(noisy, "clean")
    return (
        "No. The noise-trained networks get "
        f"{percent(noisy, 'examples_of_plain'):.1f}% of the examples right because "
        "these were made for another network and stop at its border: a second plain "
        "network, which never saw noise, gets "
        f"{percent('another plain', 'examples_of_plain'):.1f}%. Attacked through their "
        f"own gradient {percent(noisy, 'white_box_pgd'):.1f}% of the test images are "
        f"left (plain {percent(plain, 'white_box_pgd'):.1f}%), and clean accuracy is "
        f"{cost:.1f} points lower. Noise .5 without a shift leaves "
        f"{percent('noise .5', 'white_box_pgd'):.1f}%."
    )


if __name__ == "__main__":
    main(Args, run)
