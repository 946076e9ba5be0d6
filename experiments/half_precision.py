"""Does a network that multiplies in bfloat16 learn as well as one in float32?

Question: `precision="bfloat16"` rounds the operands of products and convolutions to 8
bits of mantissa; sums, parameters, optimizer and statistics stay float32. How far are
the accuracies of 784-512-512-10 and of a small convolutional network from those of the
same seeds in float32?

    python -m experiments.half_precision      about 10 minutes

Every seed starts from the same weights and sees the same batches in both. Accuracy is
on all 10,000 test images, once, always in float32. Expected: means within 0.1 points,
less than two seeds differ. (How much time it saves is asked by `experiments.bench`.)
"""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from experiments.common import Line, main, record, spread, verdicts
from jaxnn.app.config import TrainConfig
from jaxnn.app.train import train_run

WIDE = TrainConfig(layers=("512", "512"), epochs=8)
NETWORKS = {
    "default network": WIDE,  # as it was when this was measured
    "small CNN": replace(
        WIDE, model="cnn", layers=("16x5", "max_pool:2", "32x5", "max_pool:2"), epochs=3
    ),
}


@dataclass(frozen=True)
class Args:
    """Settings."""

    seeds: int = 5  # Networks of each kind, trained side by side
    data: str = "mnist"  # Data set: mnist, or mnist-small for a first look


def run(args: Args) -> None:
    values, lines = {}, []
    for name, config in NETWORKS.items():
        percent = {}
        for precision in ("float32", "bfloat16"):
            with tempfile.TemporaryDirectory() as folder:
                given = replace(
                    config, seeds=args.seeds, data=args.data, precision=precision,
                    attack_images=0, out=Path(folder) / "run",
                )  # fmt: skip
                result = train_run(given)
            percent[precision] = spread([100 * a for a in result["test_accuracy"]])
        difference = percent["bfloat16"]["mean"] - percent["float32"]["mean"]
        values[name] = percent | {"difference": difference}
        lines.append(Line(f"{name}: points gained", difference, -0.1, 0.1))
    values["expected"] = verdicts(*lines, percent=False)
    record("half_precision", args, values)


if __name__ == "__main__":
    main(Args, run)
