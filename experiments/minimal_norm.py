"""How far is it to the next class? DeepFool and Carlini-Wagner, without a budget.

Question: how small a change of a digit changes a network's mind?

    python -m experiments.minimal_norm          about 6 minutes on 2 cores

DeepFool's own measure on its own network, 784-500-150-10 (1.7% error): rho = mean over
the images of |r| / |x|, from the network's answer to another, no box
(Moosavi-Dezfooli et al. 2016, table 1: rho2 0.11, rho_inf 0.04). Beside it the
distances in pixel units within [0, 1], and Carlini-Wagner and DDN on a stratified
sample, which must not need more than DeepFool.

Expected: rho2 0.11 +- 0.02, rho_inf 0.04 +- 0.01, under three steps in the paper.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import optax

from experiments.common import Line, main, record, spread, verdicts
from experiments.robust import Digits, accuracy, attack_all, digits, judged, members
from jaxnn import Classifier, attacks, fit, mlp
from jaxnn.data import stratified_sample


@dataclass(frozen=True)
class Args:
    """Settings."""

    seeds: int = 3  # Networks
    epochs: int = 10  # Times through the 55,000 training images
    sample: int = 500  # Images of Carlini-Wagner and DDN


def norms(a: np.ndarray, norm: str) -> np.ndarray:
    flat = np.abs(a.reshape(len(a), -1).astype(np.float64))
    return flat.max(-1) if norm == "linf" else np.sqrt((flat**2).sum(-1))


def rho(net: Classifier, data: Digits, norm: str) -> float:
    """mean |r| / |x| of DeepFool from the network's own answers, without a box."""
    said = net.outputs(data.x).argmax(-1).astype(np.int32)
    x_adv = attack_all(net, attacks.deepfool, data.x, said, norm=norm, box=None)
    return float((norms(x_adv - data.x, norm) / norms(data.x, norm)).mean())


def distances(net: Classifier, data: Digits, rows: np.ndarray) -> dict[str, np.ndarray]:
    """l2 distance of each sampled image that was right, by attack, within the box."""
    x, y = data.x[rows], data.y[rows]
    right = net.correct(x, y)
    found = {}
    patient: dict[str, Any] = {"searches": 9, "lr": 0.01, "steps": 1000}
    for name, attack, options in (
        ("DeepFool", attacks.deepfool, {}), ("DDN", attacks.ddn, {}),
        ("Carlini-Wagner", attacks.carlini_wagner, patient),
    ):  # fmt: skip
        x_adv = attack_all(net, attack, x, y, **options)
        fooled = ~net.correct(x_adv, y)
        size = np.where(fooled, norms(x_adv - x, "l2"), np.inf)
        found[name] = size[right]
    return found


def train(data: Digits, args: Args) -> list[Classifier]:
    """SGD 0.05 with momentum 0.9, the rate falling to 0.

    How far it is to the next class is a matter of training too: by Adam the borders
    come nearer.
    """
    net, steps = mlp([784, 500, 150, 10]), len(data.train.y) // 128 * args.epochs
    rate = optax.cosine_decay_schedule(0.05, steps)
    history = fit(
        net, data.train, optimizer=optax.sgd(rate, momentum=0.9), epochs=args.epochs,
        batch=128, seeds=range(args.seeds),
    )  # fmt: skip
    return members(net, history, args.seeds)


def run(args: Args) -> None:
    data = digits()
    nets = train(data, args)
    errors = [1 - accuracy(n, data.x, data.y) for n in nets]
    ratios = {norm: [rho(n, data, norm) for n in nets] for norm in ("l2", "linf")}
    print(f"error {100 * np.mean(errors):.2f}%, rho2 {np.round(ratios['l2'], 4)}, "
          f"rho_inf {np.round(ratios['linf'], 4)}", flush=True)  # fmt: skip
    rows = stratified_sample(data.y, args.sample, 0)
    sizes = distances(nets[0], data, rows)
    print(f"\nl2 distance, {args.sample} images (stratified), seed 0, box [0, 1]")
    for name, size in sizes.items():
        print(f"  {name:<16}median {np.median(size):.3f}, mean "
              f"{size[np.isfinite(size)].mean():.3f}, success "
              f"{100 * np.isfinite(size).mean():.1f}%")  # fmt: skip
    checks = judged(nets[0], data, 0.1, "784-500-150-10")
    rho2, rho_inf = (float(np.mean(ratios[norm])) for norm in ("l2", "linf"))
    middle = {name: float(np.median(size)) for name, size in sizes.items()}
    values = {
        "error": spread(errors), "rho2": spread(ratios["l2"]),
        "rho_inf": spread(ratios["linf"]), "test_images": len(data.y),
        "l2": {
            n: {"median": middle[n], "success": float(np.isfinite(s).mean())}
            for n, s in sizes.items()
        },
        "expected": verdicts(
            Line("rho2", rho2, 0.09, 0.13),
            Line("rho_inf", rho_inf, 0.03, 0.05),
            Line("Carlini-Wagner / DeepFool, median distance",
                 middle["Carlini-Wagner"] / middle["DeepFool"], high=1.0),
            percent=False,
        ),
        "checks": checks,
    }  # fmt: skip
    record("minimal_norm", args, values)


if __name__ == "__main__":
    main(Args, run)
