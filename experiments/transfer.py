"""Who fools whom: six networks, each attacked with the examples of all six.

Questions: do examples made on one network fool another? Does a network that stands its
neighbor's examples stand its own?

    python -m experiments.transfer              about 6 minutes on 2 cores

PGD-40 within 0.1 (Linf) on all 10,000 test images; rows make the examples, columns are
attacked by them. Expected: every column's minimum is its diagonal (K9); examples of one
plain network take most of another's accuracy and little of the PGD-trained one's.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np

from experiments.common import Line, conclude, main, verdicts
from experiments.robust import digits, judged, trained
from jaxnn import defenses, mlp
from jaxnn.plots.robustness import transfer
from jaxnn.regularize import input_noise
from jaxnn.robustness import Threat, transfer_matrix

KINDS: dict[str, dict] = {
    "plain": {},
    "another plain": {"first_seed": 100},
    "784-30-30-10": {"layer": mlp([784, 30, 30, 10])},
    "Gaussian .3": {"augment": input_noise(0.3)},
    "FGSM mix .1": {"defense": defenses.fgsm_mix(0.1)},
    "PGD-7 .1": {"defense": defenses.pgd(0.1)},
}


@dataclass(frozen=True)
class Args:
    """Settings."""

    seeds: int = 3  # Networks of every kind; the mean of the matrices is shown
    epochs: int = 8  # Times through the 55,000 training images
    epsilon: float = 0.1  # Linf budget


def run(args: Args) -> None:
    data = digits()
    nets = {
        name: trained(data, args.seeds, args.epochs, **options)
        for name, options in KINDS.items()
    }
    matrices, k9 = [], []
    for seed in range(args.seeds):
        found = transfer_matrix(
            {name: group[seed] for name, group in nets.items()}, data.x, data.y,
            threat=Threat("linf", args.epsilon), seed=seed,
        )  # fmt: skip
        matrices.append(found.matrix)
        k9.append(found.check)
        check = found.check
        print(f"seed {seed}: K9 {check.verdict}, {check.message}", flush=True)
    mean = np.mean(matrices, 0)
    print(f"\n{'made on':<16}" + "".join(f"{n:>15}" for n in KINDS))
    for name, row in zip(KINDS, mean, strict=True):
        print(f"{name:<16}" + "".join(f"{100 * v:>15.1f}" for v in row))
    checks = judged(nets["PGD-7 .1"][0], data, args.epsilon, "PGD-7 .1")
    smallest = float((mean - np.diag(mean)[None]).min())
    lines = verdicts(
        Line("smallest entry of a column minus its diagonal", smallest, -0.005)
    )
    values = {
        "names": list(KINDS), "matrix": mean.tolist(),
        "matrices": np.asarray(matrices).tolist(),
        "k9": [c._asdict() for c in k9], "test_images": len(data.y),
        "expected": lines, "checks": checks,
    }  # fmt: skip
    title = f"Accuracy under each other's examples (mean of {args.seeds})"
    conclude(
        "transfer", args, values,
        {"transfer.png": partial(transfer, mean, list(KINDS), title=title)},
        """\
  Read a column from top to bottom: the same network under everybody's examples. The
  bold entry, its own, is the smallest; where it is not, the gradient is masked.""",
    )  # fmt: skip


if __name__ == "__main__":
    main(Args, run)
