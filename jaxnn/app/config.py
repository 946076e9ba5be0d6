"""Settings of the command line; imports nothing heavy, so `--help` is instant."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jaxnn.environment import Processes

MODELS = ("linear", "mlp", "cnn", "serial")


@dataclass(frozen=True)
class TrainConfig:
    """Train a network with hand-written backward passes, compare, attack, picture."""

    model: str = "mlp"
    """mlp: the hidden layers below and a dense layer to the classes; linear: no hidden
    layers (softmax regression); cnn: the layers below on images with a channel axis,
    flattened before the first dense one; serial: exactly the layers below."""
    layers: tuple[str, ...] = ("512", "512")
    """Hidden layers: a number is dense + batch norm if on + activation + dropout if on,
    32x5 is a convolution to 32 channels by 5x5 + batch norm if on + activation, a name
    is that layer (relu, dropout:0.2, dense:64, batch_norm ...). Input and output sizes
    come from the data."""
    activation: str = "relu"
    """relu, leaky_relu, elu, selu, gelu, swish, tanh, sigmoid or softplus."""
    output: str | None = None
    """After the last layer: an activation, softmax, or log_softmax for nll; none:
    logits."""
    init: str = "he"
    """Weights: zeros, normal, xavier, he, lecun (also _uniform), orthogonal."""
    bias_init: str = "zeros"
    """Biases: zeros or normal."""
    batch_norm: bool = False
    """Batch norm between each hidden dense layer and its activation."""
    standardize: bool = True
    """First layer subtracts the training pixels' mean and divides by their std."""
    loss: str = "softmax_cross_entropy"
    """softmax_cross_entropy, nll, kl, softmax_focal, margin; sigmoid_cross_entropy,
    sigmoid_focal, hinge; mse, quadratic, mae or huber."""
    label_smoothing: float | None = None
    """Share of the target spread over all classes; none: 0.1 with
    softmax_cross_entropy, 0 with the other losses."""
    optimizer: str = "adam"
    """sgd, momentum, nesterov, adagrad, adadelta, rmsprop, adam, adamw, lion ..."""
    lr: float | None = None
    """Learning rate (the peak, if scheduled); none: the optimizer's usual one."""
    weight_decay: float | None = None
    """Of adamw, lamb and lion: share of each weight taken off a step, times the
    learning rate; none: the optimizer's usual one. Biases, gammas, betas: never."""
    schedule: str = "cosine"
    """constant, linear, cosine, exponential, step or onecycle, over the whole run."""
    batch: int = 128
    """Images a step."""
    epochs: int = 8
    """Times through the training images."""
    patience: int | None = None
    """Stop after so many epochs without better validation accuracy; none: never."""
    keep: Literal["best", "last"] | None = None
    """Parameters kept: of the epoch best on validation, or of the last one; none: best
    where there is a validation set."""
    l1: float = 0.0
    """Strength of the penalty sum |w|."""
    l2: float = 0.0
    """Strength of the penalty sum w^2 / 2."""
    max_norm: float | None = None
    """Largest 2-norm of the weights into one unit."""
    spectral_norm: float = 0.0
    """Strength of the penalty on each weight matrix's largest singular value."""
    max_spectral_norm: float | None = None
    """Largest singular value of a weight matrix."""
    weight_noise: float = 0.0
    """Standard deviation of Gaussian noise on the weights while a gradient is taken."""
    clip_norm: float | None = None
    """Longest gradient (2-norm over all parameters); a longer one is scaled back."""
    clip_value: float | None = None
    """Largest entry of the gradient; one of the two only."""
    ema: float | None = None
    """Decay of a moving average of the parameters, such as 0.999, which is then
    validated, tested and saved instead of the last ones."""
    dropout: float = 0.0
    """Fraction of each hidden layer's units set to zero in training."""
    mixup: float = 0.0
    """Mix pairs of training images and their labels by Beta(mixup, mixup); 0: no."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: samples of rare classes count more, each class as much in all."""
    augment: Literal["none", "digits"] = "none"
    """digits: rotate 10, scale 0.1, shear 0.1, shift 2; flags below change a part."""
    shift: float | None = None
    """Move training images by up to so many pixels along each axis (whole pixels if
    there is nothing else below)."""
    rotate: float | None = None
    """Turn training images by up to so many degrees either way."""
    scale: float | None = None
    """Zoom training images by up to 1 + scale, in or out."""
    shear: float | None = None
    """Shear training images by up to so many pixels a pixel from the centre."""
    elastic: float | None = None
    """Bend training images: standard deviation in pixels of a smooth displacement."""
    noise: float = 0.0
    """Size of noise added to the training images, pixels being in [0, 1]."""
    noise_kind: Literal["gaussian", "uniform", "sign"] | None = None
    """gaussian (none: this): noise is the standard deviation; uniform: half the width
    of the range; sign: added or subtracted by chance."""
    noise_shift: float = 0.0
    """Constant added to the training images along with the noise."""
    adversarial: Literal[
        "none", "fgsm_mix", "fgsm_rs", "pgd", "trades", "free", "ibp"
    ] = "none"
    """Train on attacked images: half of them by FGSM, all by one step from a random
    start, by PGD, by TRADES, by replaying each batch; ibp: for a certificate."""
    epsilon: Annotated[float | None, tyro.conf.arg(aliases=["--eps"])] = None
    """Budget of --adversarial (none: 0.1): each pixel within so much, pixels being in
    [0, 1]."""
    epsilon_ramp: float = 0.0
    """Share of the run over which the budget grows from 0."""
    attack_steps: int | None = None
    """Steps of pgd (none: 7) and trades (none: 10)."""
    attack_step_size: float | None = None
    """As a share of epsilon; none: 2.5 / steps, with fgsm_rs 1.25."""
    alpha: float | None = None
    """Of fgsm_mix and ibp: share of the loss on the images as they are; none: 0.5."""
    beta: float | None = None
    """Of trades: weight of saying the same nearby; none: 1."""
    replays: int | None = None
    """Of free: times each batch is used in a row; none: 4."""
    binarise: float | None = None
    """Threshold at which pixels become black or white, in the network's first layer."""
    guard: Literal["skip", "raise", "rollback", "stop", "off"] = "skip"
    """A step whose loss, gradient or update is not finite: leave it out; an error; back
    with half the learning rate; end and keep the best; or take it."""
    seeds: int = 1
    """Networks trained side by side by vmap, from seed, seed + 1, ..."""
    seed: int = 0
    """First seed: initial weights, dropout, noise."""
    order: Literal["shared", "own"] = "shared"
    """Whether all seeds see the same batches (faster) or each its own order."""
    devices: int | None = None
    """Devices that divide each batch, the result being that of one; none: one, or all
    of them where there are several processes. A CPU shows as many as asked for."""
    batch_stats: Literal["sync", "ghost"] = "sync"
    """Batch norm's statistics: over the whole batch, or over each device's part."""
    data: str = "mnist"
    """A named data set (jaxnn data list) or a folder with four IDX files."""
    validation: int = 5000
    """Training images kept aside to choose the epoch."""
    attack_images: int | None = None
    """Test images to attack: a seeded stratified sample; 0 skips, -1 takes all, none:
    2,000."""
    out: Path | None = None
    """Folder to write, new or empty; none: runs/ and a name made of data and time."""
    snapshots: int = 2
    """Whole states kept to resume from: the last so many and the best; 0: none."""
    snapshot_steps: int | None = None
    """Also within an epoch, after so many steps; none: after each epoch."""
    dtype: Literal["float32", "float64", "bfloat16", "float16"] = "float32"
    """Type of parameters and computation; float16: of the computation only, with a
    loss scale that adapts."""
    quiet: bool = False
    """Print the results only."""


@dataclass(frozen=True)
class TrainCommand(TrainConfig):
    """Train a network with hand-written backward passes, compare, attack, picture."""

    resume: Path | None = None
    """Run folder to continue, bit for bit, after a kill; its settings hold."""
    ranks: Annotated[Processes, tyro.conf.arg(name="")] = field(
        default_factory=Processes
    )


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
        optimizer="sgd",
        lr=3.0,
        schedule="constant",
        batch=10,
        epochs=30,
        keep="last",
        seeds=5,
        validation=10000,
    ),
    "cnn": TrainConfig(
        model="cnn",
        layers=("16x3", "max_pool:2", "32x3", "32x3", "max_pool:2", "64x3", "64x3",
                "global_avg_pool"),
        batch_norm=True,
        augment="digits",
        ema=0.99,
        schedule="onecycle",
        lr=0.01,
        epochs=4,
    ),
    "cnn-large": TrainConfig(
        model="cnn",
        layers=("32x3", "max_pool:2", "32x3", "64x3", "max_pool:2", "96x3", "96x3",
                "global_avg_pool"),
        batch_norm=True,
        augment="digits",
        ema=0.999,
        schedule="onecycle",
        lr=0.01,
        epochs=12,
    ),
}  # fmt: skip
"""Named settings: `jaxnn train --recipe nielsen`; other flags still override."""


@dataclass(frozen=True)
class SweepConfig:
    """Train many networks that differ in settings, side by side where they can.

    jaxnn sweep lr=0.001,0.01 l2=0,1e-4 --seeds 4 --layers 30
    jaxnn sweep lr=1e-4:1e-1:log dropout=0:0.5 --random 32

    Besides the flags below, those of jaxnn train that describe network, data and
    training. Points that differ in lr, l2, dropout, noise, init and seed only are one
    compiled program; the others run in turn.
    """

    axes: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """NAME=VALUE,VALUE...: any flag of jaxnn train, or width (of all hidden layers);
    layers=30+30,100; with --random also NAME=LOW:HIGH and NAME=LOW:HIGH:log."""
    random: int | None = None
    """So many random points instead of every combination."""
    at_once: int | None = None
    """Most points in one program; none: 8 a device on a CPU, else all."""
    resume: Path | None = None
    """Folder of a sweep to continue after a kill; no other flag is needed."""
    network: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(
        default_factory=TrainConfig
    )


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


@dataclass(frozen=True)
class ReplayConfig:
    """Run the first bad step of a run again, and say where it began."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder that jaxnn train wrote, with a repro.npz in it."""


@dataclass(frozen=True)
class CompareConfig:
    """Compare hand-written gradients with jax.grad, differences and other methods.

    Whole, and layer by layer: an error is pinned to a layer and its argument. Besides
    the flags below, those of jaxnn train that describe network, loss and data.
    """

    target: Annotated[str | None, tyro.conf.Positional] = None
    """Run folder, recipe, or FILE.py:name with your own Rule, Layer or pair (forward,
    backward); none: the network of the flags, untrained."""
    dtypes: tuple[Literal["float32", "float64", "bfloat16"], ...] = (
        "float32",
        "float64",
    )
    """Precisions to compare in."""
    shape: tuple[str, ...] = ()
    """Shapes of the arguments of your own function, such as 4,3 3,5 5; of a layer one,
    without the batch axis. Not needed if the file has name_inputs."""
    network: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(
        default_factory=TrainConfig
    )


@dataclass(frozen=True)
class AttackConfig:
    """Attack the test images of a saved run; writes JSON and a picture beside it."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder that jaxnn train wrote."""
    attack: str = "pgd"
    """fgsm, bim, pgd, mifgsm, apgd (budget epsilon); square, spsa (black-box); noise,
    camera (baselines); deepfool, ddn, carlini_wagner (smallest change)."""
    epsilon: float | None = None
    """Budget, pixels in [0, 1]; none: 0.1 for the attacks that have one."""
    norm: Literal["linf", "l2", "l1"] | None = None
    """None: linf for a budget, l2 for the smallest change."""
    steps: int | None = None
    """None: the attack's own number."""
    restarts: int | None = None
    """Random starts; none: one."""
    early_stop: bool = False
    """Of pgd: leave an image alone once it is fooled, which finds the same sooner."""
    queries: int | None = None
    """Of square; none: 1,000."""
    step_size: float | None = None
    """None: the attack's own."""
    kind: str | None = None
    """Of noise: uniform, signs, gaussian, salt_and_pepper; of camera: rotation,
    translation, blur, contrast."""
    amount: float | None = None
    """Of camera; none: 15 degrees, 3 pixels, a sigma of 1 pixel, .5 of the contrast."""
    images: int = -1
    """Test images: -1 takes all, else a seeded stratified sample."""
    data: str | None = None
    """Another data set or folder of the same shape; none: the run's own."""
    seed: int = 0
    """Of random starts and samples."""
    out: Path | None = None
    """Folder to write; none: attacks/ in the run's."""


@dataclass(frozen=True)
class RobustnessConfig:
    """Worst case over a suite of attacks, with the attack's own checks K1 to K20.

    Exits with 1 if a check fails, so that the accuracy cannot be believed.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder that jaxnn train wrote."""
    epsilon: float = 0.1
    """Budget, pixels in [0, 1]."""
    norm: Literal["linf", "l2", "l1"] = "linf"
    """In which the budget is measured."""
    others: tuple[Path, ...] = ()
    """Other run folders: who fools whom (transfer.png), and K9."""
    level: Literal["fast", "full"] = "fast"
    """fast: about a minute for a small network; full: 10 restarts, 100 steps."""
    images: int = -1
    """Test images: -1 takes all, else a seeded stratified sample."""
    data: str | None = None
    """Another data set or folder of the same shape; none: the run's own."""
    seed: int = 0
    """Of random starts and samples."""
    out: Path | None = None
    """Folder to write; none: robustness/ in the run's."""
    quiet: bool = False
    """Print the results only."""
