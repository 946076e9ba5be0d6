"""Does a network that others trained keep its published accuracy as one of ours?

Question: two packages on PyPI bring MNIST networks with them and say how good these
are. PyTorch writes each as ONNX, `jaxnn import` makes a run of it: does the run reach
what was published, on all 10,000 test images?

    pip download --no-deps -d FOLDER advertorch==0.2.3 ccexam==1.0.0
    python -m experiments.published --folder FOLDER      about a minute

advertorch 0.2.3 (LGPL 3): two of LeNet's kind, trained as usual and adversarially;
"accuracy: 98.89%" and "98.64%" on the test set, in the heads of its
advertorch_examples/attack_benchmarks. ccexam 1.0.0 (MIT): a smaller one for pixels with
mean 0 and deviation 1; recall, the mean of the classes', 0.9904 in its description.
Their weights are not in this repository. Needs the extras onnx and torch.

Expected: the published numbers to their last digit.
"""

import io
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.common import Line, main, record, verdicts
from jaxnn import load_run, predict
from jaxnn.app.config import ImportConfig
from jaxnn.app.exchange import import_run
from jaxnn.data import load


class Network(NamedTuple):
    """Where its weights lie, how wide it is, what was published of it."""

    archive: str
    member: str
    width: int
    published: float  # percent
    measure: str = "accuracy"
    pixels: tuple[float | None, float | None] = (None, None)  # mean, deviation


ADVERTORCH, TRAINED = "advertorch-0.2.3.tar.gz", "advertorch_examples/trained_models"
NETWORKS = {
    "advertorch, standard training": Network(
        ADVERTORCH, f"{TRAINED}/mnist_lenet5_clntrained.pt", 200, 98.89
    ),
    "advertorch, adversarial training": Network(
        ADVERTORCH, f"{TRAINED}/mnist_lenet5_advtrained.pt", 200, 98.64
    ),
    "ccexam": Network(
        "ccexam-1.0.0-py3-none-any.whl", "ccexam/weights/mnist.pth", 128, 99.04,
        "recall", (0.1307, 0.3081),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Args:
    """Settings."""

    folder: Path = Path("published")  # Where pip has put the two archives


def write_onnx(network: Network, folder: Path, path: Path) -> None:
    """Let PyTorch write the network; no code of the archive is run."""
    import torch
    from torch import nn

    archive: Any = folder / network.archive
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as file:
            weights = file.read(network.member)
    else:
        with tarfile.open(archive, encoding="utf-8") as file:
            root = network.archive.removesuffix(".tar.gz")
            found: Any = file.extractfile(f"{root}/{network.member}")
            weights = found.read()
    pooled = [nn.ReLU(), nn.MaxPool2d(2)]
    net = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), *pooled, nn.Conv2d(32, 64, 3, padding=1),
        *pooled, nn.Flatten(), nn.Linear(7 * 7 * 64, network.width), nn.ReLU(),
        nn.Linear(network.width, 10),
    )  # fmt: skip
    given = torch.load(io.BytesIO(weights), map_location="cpu", weights_only=True)
    net.load_state_dict(dict(zip(net.state_dict(), given.values(), strict=True)))
    image = torch.zeros(1, 1, 28, 28)
    torch.onnx.export(net.eval(), (image,), str(path), dynamo=False)


def run(args: Args) -> None:
    values, lines, test = {}, [], load("mnist", validation=0).test
    for name, network in NETWORKS.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "net.onnx"
            write_onnx(network, args.folder, path)
            mean, std = network.pixels
            out = Path(folder) / "run"
            told = network.published / 100
            checks = import_run(
                ImportConfig(path, mean=mean, std=std, accuracy=told, out=out)
            )
            made = load_run(out)
        right = predict(made.net, made.params, made.state, test.x).argmax(1) == test.y
        recall = np.mean([right[test.y == c].mean() for c in range(10)])
        found = {"accuracy": 100 * float(right.mean()), "recall": 100 * float(recall)}
        found["onnxruntime"] = checks["checked"]["onnxruntime"]
        values[name] = found | network._asdict()
        low, high = network.published - 0.005, network.published + 0.005
        lines.append(
            Line(f"{name}: {network.measure}", found[network.measure], low, high)
        )
    values["expected"] = verdicts(*lines, percent=False)
    record("published", args, values, ("onnx", "onnxruntime", "torch"))


if __name__ == "__main__":
    main(Args, run)
