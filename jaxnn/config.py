"""Settings of the command line; imports nothing heavy, so `--help` is instant."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

MODELS = ("linear", "mlp", "serial")


@dataclass(frozen=True)
class TrainConfig:
    """Train a network with hand-written backward passes, compare, attack, picture."""

    model: str = "mlp"
    """mlp: the hidden layers below and a dense layer to the classes; linear: no hidden
    layers (softmax regression); serial: exactly the layers below."""
    layers: tuple[str, ...] = ("512", "512")
    """Hidden layers: a number is dense + batch norm if on + activation + dropout if on,
    a name is that layer (relu, dropout:0.2, dense:64, batch_norm ...). Input and output
    sizes come from the data."""
    activation: str = "relu"
    """relu, leaky_relu, tanh, sigmoid or softplus."""
    output: str | None = None
    """After the last layer: an activation, or log_softmax for nll; none: logits."""
    init: str = "he"
    """Weights: zeros, normal, xavier, he, lecun (also _uniform), orthogonal."""
    bias_init: str = "zeros"
    """Biases: zeros or normal."""
    batch_norm: bool = False
    """Batch norm between each hidden dense layer and its activation."""
    standardize: bool = True
    """First layer subtracts the training pixels' mean and divides by their std."""
    loss: str = "softmax_cross_entropy"
    """softmax_cross_entropy, nll, mse, quadratic or sigmoid_cross_entropy."""
    label_smoothing: float | None = None
    """Share of the target spread over all classes; none: 0.1 with
    softmax_cross_entropy, 0 with the other losses."""
    optimiser: Annotated[str, tyro.conf.arg(aliases=["--optimizer"])] = "adam"
    """sgd, momentum, nesterov, adagrad, adadelta, rmsprop, adam, adamw, lion ..."""
    lr: float | None = None
    """Learning rate (the peak, if scheduled); none: the optimiser's usual one."""
    schedule: str = "cosine"
    """constant, linear, cosine, exponential, step or onecycle, over the whole run."""
    batch: int = 128
    """Images a step."""
    epochs: int = 8
    """Times through the training images."""
    patience: int | None = None
    """Stop after so many epochs without better validation accuracy; none: never."""
    keep: Literal["best", "last"] = "best"
    """Parameters kept: of the epoch best on validation, or of the last one."""
    l1: float = 0.0
    """Strength of the penalty sum |w|."""
    l2: float = 0.0
    """Strength of the penalty sum w^2 / 2."""
    max_norm: float | None = None
    """Largest 2-norm of the weights into one unit."""
    dropout: float = 0.0
    """Fraction of each hidden layer's units set to zero in training."""
    noise: float = 0.0
    """Standard deviation of Gaussian noise added to the training images, in [0, 1]."""
    noise_shift: float = 0.0
    """Constant added to the training images along with the noise."""
    seeds: int = 1
    """Networks trained side by side by vmap, from seed, seed + 1, ..."""
    seed: int = 0
    """First seed: initial weights, dropout, noise."""
    order: Literal["shared", "own"] = "shared"
    """Whether all seeds see the same batches (faster) or each its own order."""
    data: str = "mnist"
    """A named data set (jaxnn data list) or a folder with four IDX files."""
    validation: int = 5000
    """Training images kept aside to choose the epoch."""
    attack_images: int = 2000
    """Test images to attack: a seeded stratified sample; 0 skips, -1 takes all."""
    out: Path | None = None
    """Folder to write, new or empty; none: runs/ and a name made of data and time."""
    dtype: Literal["float32", "float64", "bfloat16"] = "float32"
    """Type of parameters and computation."""
    quiet: bool = False
    """Print the results only."""


RECIPES: dict[str, TrainConfig] = {
    "default": TrainConfig(),
    "nielsen": TrainConfig(
        layers=("30",),
        activation="sigmoid",
        output="sigmoid",
        # N(0, 1/inputs) as in the book's chapter 3: with the N(0, 1) of chapter 1
        # a seed now and then never learns one of the digits (experiments/mnist.py).
        init="lecun",
        bias_init="normal",
        standardize=False,
        loss="quadratic",
        optimiser="sgd",
        lr=3.0,
        schedule="constant",
        batch=10,
        epochs=30,
        keep="last",
        seeds=5,
        validation=10000,
    ),
}
"""Named settings: `jaxnn train --recipe nielsen`; other flags still override."""


@dataclass(frozen=True)
class EvalConfig:
    """Measure a saved run on all test images."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder that jaxnn train wrote."""
    data: str | None = None
    """Another data set or folder of the same shape; none: the run's own."""


@dataclass(frozen=True)
class PredictConfig:
    """Read digits from picture files: any size, light on dark or dark on light."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder that jaxnn train wrote."""
    images: Annotated[tuple[Path, ...], tyro.conf.Positional] = field()
    """Picture files (PNG, JPEG ...), one digit each."""


@dataclass(frozen=True)
class DataConfig:
    """Look for, check or download data sets."""

    action: Annotated[Literal["list", "verify", "fetch"], tyro.conf.Positional]
    """list: what is known and here; verify: compare checksums; fetch: download."""
    name: Annotated[str | None, tyro.conf.Positional] = None
    """Data set: mnist, fashion-mnist, emnist-balanced ... (verify: or a folder)."""
