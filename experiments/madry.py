"""Madry's network and recipe: in full where there is a GPU, shortened on a CPU.

Question: what does adversarial training on PGD itself hold, for the network and the
budget that all others are compared with?

    python -m experiments.madry                 shortened: about 30 minutes on 2 cores
    python -m experiments.madry --full          needs a GPU

Madry et al. 2018 (arXiv 1706.06083): conv5x5-32, pool, conv5x5-64, pool, 1024, 10; PGD
of 40 steps of 0.01 within 0.3 from a random start, adversarial loss only; Adam 1e-4,
batch 50, 100,000 steps. Their table 1: 98.8% clean, 95.6 FGSM, 93.2 PGD-40, 89.3 under
PGD-100 with 20 restarts.

Shortened, which is no reproduction: 1,500 steps instead of 100,000, 7 steps of the
attack instead of 40, Adam 1e-3 falling to 0, the budget growing over the first third;
the attacks that measure are whole, on a stratified sample. Expected: below the paper.
"""

from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
import optax

from experiments import robust
from experiments.common import Line, main, record, verdicts
from jaxnn import Classifier, attacks, defenses
from jaxnn.data import stratified_sample
from jaxnn.errors import JaxnnError

PAPER = {"clean": 0.988, "FGSM": 0.956, "PGD-40": 0.932, "PGD-100 x 20": 0.893}


@dataclass(frozen=True)
class Args:
    """Settings."""

    full: bool = False  # The paper's numbers instead of those below
    steps: int = 1500  # Steps of training
    attack_steps: int = 7  # Steps of the attack in training
    lr: float = 1e-3  # Adam's learning rate
    restarts: int = 3  # Of PGD-100
    images: int = 1000  # Test images that are attacked (stratified); -1 takes all
    epsilon: float = 0.3  # Budget of training and attack
    seed: int = 0  # Of everything


def train(args: Args, data: Any) -> tuple[Classifier, list[dict]]:
    """The network after `args.steps` steps of 50 images."""
    batch, grows = 50, not args.full
    rate = optax.cosine_decay_schedule(args.lr, args.steps) if grows else args.lr
    budget = defenses.ramp(args.epsilon, args.steps // 3) if grows else args.epsilon
    each = min(args.steps, len(data.train.y) // batch)
    rows = np.random.default_rng(args.seed).permutation(len(data.train.y))
    rows = rows[: each * batch] if args.steps < len(data.train.y) // batch else rows
    share = 0.01 / args.epsilon if args.full else None
    net, history = robust.alone(
        robust.madry(), (data.train.x[rows], data.train.y[rows]), batch=batch,
        epochs=max(1, round(args.steps / (len(rows) // batch))), seeds=args.seed,
        optimizer=optax.adam(rate), steps_per_call=100,
        defense=defenses.pgd(budget, args.attack_steps, share),
    )  # fmt: skip
    return net, history.epochs


def attacked(args: Args, target: Classifier, data: Any, x: Any, y: Any) -> dict:
    """Clean on all test images, the others on those given."""
    eps = args.epsilon

    def pgd(restarts, steps):
        return robust.pgd_restarts(
            target, x, y, restarts, steps=steps, step_size=0.01, epsilon=eps
        )

    shares = {
        "clean": target.correct(data.x, data.y),
        "FGSM": robust.still_correct(target, attacks.fgsm, x, y, epsilon=eps),
        "PGD-40": pgd(1, 40),
        f"PGD-100 x {args.restarts}": pgd(args.restarts, 100),
        "worst of FGSM, PGD-40, margin": robust.worst_case(target, x, y, eps).stands,
    }
    found = {name: float(stands.mean()) for name, stands in shares.items()}
    for name, value in found.items():
        paper = f"   (paper {100 * PAPER[name]:.1f}%)" if name in PAPER else ""
        print(f"  {name:<16}{100 * value:.2f}%{paper}")
    return found


def run(args: Args) -> None:
    if args.full:
        if jax.default_backend() == "cpu":
            raise JaxnnError("madry --full: got no GPU; on a CPU it would take weeks")
        args = replace(
            args, steps=100_000, attack_steps=40, lr=1e-4, restarts=20, images=-1
        )
    data = robust.digits(validation=0)
    target, rows = train(args, data)
    chosen = (
        np.arange(len(data.y)) if args.images < 0
        else stratified_sample(data.y, args.images, 0)
    )  # fmt: skip
    found = attacked(args, target, data, data.x[chosen], data.y[chosen])
    checks = robust.judged(target, data, args.epsilon, "Madry's network")
    values = {
        "shortened": not args.full, "accuracy": found, "attacked_images": len(chosen),
        "rows": rows, "paper": PAPER, "checks": checks,
        "expected": verdicts(
            Line("PGD-40, above chance and below the paper", found["PGD-40"], 0.2, 1.0)
        ),
    }  # fmt: skip
    record("madry", args, values)


if __name__ == "__main__":
    main(Args, run)
