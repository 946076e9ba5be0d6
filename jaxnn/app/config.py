"""The settings of every command: one place for default, bounds, needs and help.

Imports nothing heavy; the lists of names in the help are loaded when it is shown.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from jaxnn.app.settings import Names, Needs, Range, Typed, Usual, only_above, only_with
from jaxnn.environment import Processes

MODELS = ("linear", "mlp", "cnn", "serial")
SAVED = "saved"
"""The model of a run whose network its folder says, layer by layer: network.json."""
NOISE_KIND = "gaussian"
"""The usual kind: left open in the settings, as points of a sweep without noise share
the program of those with."""
EPSILON, EPS, PLACE = 0.1, Typed(alias="--eps"), Typed(by_place=True)
"""The usual budget of attacks and defenses, pixels being in [0, 1]."""

POSITIVE, NOT_NEGATIVE = Range(0, ends="(]"), Range(0)
SHARE, BELOW_1 = Range(0, 1), Range(0, 1, "[)")
# the largest that is not surely a slip: what does not fit in memory is found later
COUNT, WIDTH = Range(1, 10**9), Range(1, 10**6)
IMAGES = Range(-1, 10**9)

NAMED_LAYER = (
    "layers given by size, such as --layers 128 or 32x5; of a named one it is a "
    "setting, such as dense:64:xavier"
)


def has_widths(c: Any) -> bool:
    """Whether a hidden layer is given by its width."""
    return c.model != "linear" and any(t.isdecimal() for t in c.layers)


def has_sizes(c: Any) -> bool:
    """Whether a hidden layer is given by its width, or as a convolution: 32x5."""
    kernels = (t.replace("x", "", 1) for t in c.layers if "x" in t)
    return c.model != "linear" and (has_widths(c) or any(map(str.isdecimal, kernels)))


USUAL_LAYERS = ("256", "256")
"""Of the network that `jaxnn train` alone trains: with batch norm and a high rate, five
epochs are enough (found on validation images)."""


def is_usual(c: Any) -> bool:
    """Whether it is that network, with batch norm, as nothing says otherwise."""
    return c.model == "mlp" and c.layers == USUAL_LAYERS and c.batch_norm is not False


def _usual_rate(c) -> float:
    from jaxnn.optimizers import learning_rate

    high = c.optimizer == "adam" and is_usual(c)
    return 0.01 if high else learning_rate(c.optimizer)


def _usual_decay(c) -> float | None:
    from jaxnn.optimizers import weight_decay_of

    return weight_decay_of(c.optimizer)


SEED = Range(0, 2**32 - 1)
HIDDEN = Needs(has_sizes, "hidden layers given by size, such as --layers 128 or 32x5")
INITIAL = Needs(lambda c: c.model not in ("serial", SAVED) or has_sizes(c), NAMED_LAYER)
ATTACKED = Needs(lambda c: c.adversarial != "none", "--adversarial")
SMOOTHED = only_with("loss", "softmax_cross_entropy")
STEPS = only_with("adversarial", "pgd", "trades")
STEP_SIZE = only_with("adversarial", "pgd", "trades", "fgsm_rs")
MIXED = only_with("adversarial", "fgsm_mix", "ibp")
TRADES = only_with("adversarial", "trades")
FREE = only_with("adversarial", "free")
DECAYING = only_with("optimizer", "adamw", "lamb", "lion", also=" (or --l2)")
WIDTHS = Needs(has_widths, "hidden layers given by width, such as --layers 128")
SINGLE = only_with("dtype", "float32")
GHOSTS = Needs(
    lambda c: (c.batch_norm or is_usual(c)) and (c.devices or 1) > 1,
    "--batch-norm and --devices above 1",
)
ACTIVATIONS = "jaxnn.layers:ACTIVATIONS"


@dataclass(frozen=True)
class TrainConfig:
    """Train a network with hand-written backward passes, compare, attack, picture."""

    model: str = "mlp"
    """mlp: the hidden layers below and a dense layer to the classes; linear: no hidden
    layers (softmax regression); cnn: the layers below on images with a channel axis,
    flattened before the first dense one; serial: exactly the layers below."""
    layers: Annotated[
        tuple[str, ...],
        Needs(lambda c: c.model != "linear", "a model with hidden layers"),
        Names("jaxnn.layers:LAYERS"),
    ] = USUAL_LAYERS
    """Hidden layers: a number is dense + batch norm if on + activation + dropout if on,
    32x5 is a convolution to 32 channels by 5x5 + batch norm if on + activation, a name
    is that layer (relu, dropout:0.2, dense:64, batch_norm ...). Input and output sizes
    come from the data."""
    activation: Annotated[str, HIDDEN, Names(ACTIVATIONS)] = "relu"
    """Of the hidden layers."""
    output: Annotated[str | None, Names(ACTIVATIONS, ("softmax", "log_softmax"))] = None
    """After the last layer; none: logits. nll needs log_softmax."""
    init: Annotated[str, INITIAL, Names("jaxnn.layers:INITIALIZERS")] = "he"
    """Initial weights."""
    bias_init: Annotated[str, INITIAL] = "zeros"
    """Initial biases: zeros or normal."""
    batch_norm: Annotated[bool | None, HIDDEN, Usual(is_usual, otherwise=False)] = None
    """Batch norm between each hidden dense layer and its activation; none: in the
    network of the usual hidden layers only."""
    standardize: bool = True
    """First layer subtracts the training pixels' mean and divides by their std."""
    loss: Annotated[str, Names("jaxnn.losses:LOSSES")] = "softmax_cross_entropy"
    """What is minimized."""
    label_smoothing: Annotated[
        float | None, BELOW_1, SMOOTHED, Usual(lambda c: 0.1, otherwise=0.0)
    ] = None
    """Share of the target spread over all classes; none: 0.1 with
    softmax_cross_entropy, 0 with the other losses."""
    optimizer: Annotated[str, Names("jaxnn.optimizers:OPTIMIZERS")] = "adam"
    """How gradients move parameters."""
    lr: Annotated[float | None, POSITIVE, Usual(_usual_rate)] = None
    """Learning rate (the peak, if scheduled); none: the optimizer's usual one, ten
    times that for the usual network by adam."""
    weight_decay: Annotated[
        float | None, NOT_NEGATIVE, DECAYING, Usual(_usual_decay)
    ] = None
    """Of adamw, lamb and lion: share of each weight taken off a step, times the
    learning rate; none: the optimizer's usual one. Biases, gammas, betas: never."""
    schedule: Annotated[str, Names("jaxnn.optimizers:SCHEDULES")] = "cosine"
    """Of the learning rate, over the whole run."""
    batch: Annotated[int, COUNT] = 128
    """Images a step."""
    epochs: Annotated[int, Range(1, 10**6)] = 5
    """Times through the training images."""
    patience: Annotated[int | None, Range(1, 10**6), only_above(0, "validation")] = None
    """Stop after so many epochs without better validation accuracy; none: never."""
    keep: Annotated[
        Literal["best", "last"] | None,
        Usual(lambda c: "best" if c.validation else "last"),
    ] = None
    """Parameters kept: of the epoch best on validation, or of the last one; none: best
    where there is a validation set."""
    l1: Annotated[float, NOT_NEGATIVE] = 0.0
    """Strength of the penalty sum |w|."""
    l2: Annotated[float, NOT_NEGATIVE] = 0.0
    """Strength of the penalty sum w^2 / 2."""
    max_norm: Annotated[float | None, POSITIVE] = None
    """Largest 2-norm of the weights into one unit."""
    spectral_norm: Annotated[float, NOT_NEGATIVE] = 0.0
    """Strength of the penalty on each weight matrix's largest singular value."""
    max_spectral_norm: Annotated[float | None, POSITIVE] = None
    """Largest singular value of a weight matrix."""
    weight_noise: Annotated[float, NOT_NEGATIVE] = 0.0
    """Standard deviation of Gaussian noise on the weights while a gradient is taken."""
    clip_norm: Annotated[float | None, POSITIVE] = None
    """Longest gradient (2-norm over all parameters); a longer one is scaled back."""
    clip_value: Annotated[float | None, POSITIVE] = None
    """Largest entry of the gradient; one of the two only."""
    ema: Annotated[float | None, BELOW_1] = None
    """Decay of a moving average of the parameters, such as 0.999, which is then
    validated, tested and saved instead of the last ones."""
    dropout: Annotated[float, BELOW_1, WIDTHS] = 0.0
    """Fraction of each hidden layer's units set to zero in training."""
    mixup: Annotated[float, Range(0, 1000)] = 0.0
    """Mix pairs of training images and their labels by Beta(mixup, mixup); 0: no."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: samples of rare classes count more, each class as much in all."""
    augment: Literal["none", "digits"] = "none"
    """digits: rotate 10, scale 0.1, shear 0.1, shift 2; flags below change a part."""
    shift: Annotated[float | None, Range(0, 1000)] = None
    """Move training images by up to so many pixels along each axis (whole pixels if
    there is nothing else below)."""
    rotate: Annotated[float | None, Range(0, 180)] = None
    """Turn training images by up to so many degrees either way."""
    scale: Annotated[float | None, Range(0, 10)] = None
    """Zoom training images by up to 1 + scale, in or out."""
    shear: Annotated[float | None, Range(0, 10)] = None
    """Shear training images by up to so many pixels a pixel from the center."""
    elastic: Annotated[float | None, Range(0, 100)] = None
    """Bend training images: standard deviation in pixels of a smooth displacement."""
    noise: Annotated[float, Range(0, 100)] = 0.0
    """Size of noise added to the training images, pixels being in [0, 1]."""
    noise_kind: Annotated[
        Literal["gaussian", "uniform", "sign"] | None, only_above(0, "noise")
    ] = None
    """gaussian (none: this): noise is the standard deviation; uniform: half the width
    of the range; sign: added or subtracted by chance."""
    noise_shift: Annotated[float, Range(-100, 100)] = 0.0
    """Constant added to the training images along with the noise."""
    adversarial: Literal[
        "none", "fgsm_mix", "fgsm_rs", "pgd", "trades", "free", "ibp"
    ] = "none"
    """Train on attacked images: half of them by FGSM, all by one step from a random
    start, by PGD, by TRADES, by replaying each batch; ibp: for a certificate."""
    epsilon: Annotated[
        float | None, NOT_NEGATIVE, ATTACKED, Usual(lambda c: EPSILON), EPS
    ] = None
    """Budget of --adversarial (none: 0.1): each pixel within so much, pixels being in
    [0, 1]."""
    epsilon_ramp: Annotated[float, SHARE, ATTACKED] = 0.0
    """Share of the run over which the budget grows from 0."""
    attack_steps: Annotated[
        int | None, Range(1, 10**4), STEPS,
        Usual(lambda c: 7 if c.adversarial == "pgd" else 10),
    ] = None  # fmt: skip
    """Steps of pgd (none: 7) and trades (none: 10)."""
    attack_step_size: Annotated[
        float | None, Range(0, 100, "(]"), STEP_SIZE,
        Usual(lambda c: 1.25 if c.adversarial == "fgsm_rs" else None),
    ] = None  # fmt: skip
    """As a share of epsilon; none: 2.5 / steps, with fgsm_rs 1.25."""
    alpha: Annotated[float | None, SHARE, MIXED, Usual(lambda c: 0.5)] = None
    """Of fgsm_mix and ibp: share of the loss on the images as they are; none: 0.5."""
    beta: Annotated[float | None, NOT_NEGATIVE, TRADES, Usual(lambda c: 1.0)] = None
    """Of trades: weight of saying the same nearby; none: 1."""
    free_replays: Annotated[int | None, Range(1, 1000), FREE, Usual(lambda c: 4)] = None
    """Of free: times each batch is used in a row; none: 4."""
    binarize: Annotated[float | None, Range(0, 1, "()")] = None
    """Threshold at which pixels become black or white, in the network's first layer."""
    guard: Literal["skip", "raise", "rollback", "stop", "off"] = "skip"
    """A step whose loss, gradient or update is not finite: leave it out; an error; back
    with half the learning rate; end and keep the best; or take it."""
    seeds: Annotated[int, Range(1, 1000)] = 1
    """Networks trained side by side by vmap, from seed, seed + 1, ..."""
    seed: Annotated[int, SEED] = 0
    """First seed: initial weights, dropout, noise."""
    shuffle: Annotated[Literal["shared", "per-seed"], only_above(1, "seeds")] = "shared"
    """Whether all seeds see the same batches (faster) or each its own order."""
    devices: Annotated[int | None, Range(1, 1024)] = None
    """Devices that divide each batch, the result being that of one; none: one, or all
    of them where there are several processes. A CPU shows as many as asked for."""
    batch_stats: Annotated[Literal["sync", "ghost"], GHOSTS] = "sync"
    """Batch norm's statistics: over the whole batch, or over each device's part."""
    data: Annotated[str, Names("jaxnn.data.sources:SOURCES")] = "mnist"
    """A named data set, or a path: four IDX files, an .npz, a CSV of pixels, parquet, a
    folder of pictures by class, a zip of any."""
    validation: Annotated[int, Range(0, 10**9)] = 5000
    """Training images kept aside to choose the epoch; of fewer than 10,000 a tenth."""
    attack_images: Annotated[int | None, IMAGES, Usual(lambda c: 2000)] = None
    """Test images to attack: a seeded stratified sample; 0 skips, -1 takes all, none:
    2,000."""
    out: Path | None = None
    """Folder to write, new or empty; none: runs/ and a name made of data and time."""
    keep_checkpoints: Annotated[int, Range(0, 1000)] = 2
    """Whole states kept to resume from: the last so many and the best; 0: none."""
    checkpoint_steps: Annotated[
        int | None, COUNT, only_above(0, "keep_checkpoints")
    ] = None
    """Also within an epoch, after so many steps; none: after each epoch."""
    dtype: Literal["float32", "float64", "bfloat16", "float16"] = "float32"
    """Type of parameters and computation; float16: of the computation only, with a
    loss scale that adapts."""
    precision: Annotated[Literal["float32", "bfloat16"], SINGLE] = "float32"
    """bfloat16: operands of products and convolutions are rounded to it, sums and all
    else stay float32; faster where the processor or GPU has the instructions."""
    quiet: bool = False
    """Print the results only."""


@dataclass(frozen=True)
class TrainCommand(TrainConfig, Processes):
    """Train a network with hand-written backward passes, compare, attack, picture."""

    processes: Annotated[int | None, Range(1, 10**6)] = None
    process: Annotated[int | None, Range(0, 10**6)] = None
    local_device_ids: Annotated[tuple[int, ...], Range(0, 1024)] = ()
    rank_timeout: Annotated[float, Range(0, 10**6, "(]")] = 30.0
    resume: Path | None = None
    """Run folder to continue, bit for bit, after a kill; its settings hold. With more
    --epochs the schedule goes over all of them from here on."""
    from_: Path | None = None
    """What to start from: a run folder or FILE.onnx, whose network is taken as it is,
    or a file of arrays (.npz, .safetensors, .pt) for the network of the flags."""
    freeze: Annotated[
        tuple[int, ...], Range(0, 10**6), Needs(lambda c: c.from_ is not None, "--from")
    ] = ()
    """Layers of that network that stay as they are, by number, the first being 0."""


CNN = TrainConfig(
    model="cnn",
    layers=("16x3", "max_pool:2", "32x3", "32x3", "max_pool:2", "64x3", "64x3",
            "global_avg_pool"),
    batch_norm=True, augment="digits", ema=0.99, schedule="onecycle", lr=0.01, epochs=4,
)  # fmt: skip
RECIPES: dict[str, TrainConfig] = {
    "default": TrainConfig(),
    "nielsen": TrainConfig(
        layers=("30",), activation="sigmoid", output="sigmoid",
        # N(0, 1/inputs) as in the book's chapter 3: with the N(0, 1) of chapter 1
        # a seed now and then never learns one of the digits (experiments/mnist.py).
        init="lecun", bias_init="normal", standardize=False, loss="quadratic",
        optimizer="sgd", lr=3.0, schedule="constant", batch=10, epochs=30, keep="last",
        seeds=5, validation=10000,
    ),
    # half-size images first of all: for the time it takes (experiments/ladder.py)
    "mnist-99.0": replace(
        CNN, layers=("avg_pool:2", "16x3", "max_pool:2", "32x3", "128"),
        augment="none", shift=1.0, epochs=3,
    ),
    # a first layer with a stride, and no padding that would see black alone
    "mnist-99.5": replace(
        CNN, shift=1.0, lr=0.02, epochs=4, precision="bfloat16",
        layers=("conv:24:5:2:VALID", "batch_norm", "relu",
                "conv:48:3:1:VALID", "max_pool:2", "batch_norm", "relu",
                "conv:96:3:1:VALID", "batch_norm", "relu", "128"),
    ),
    "mnist-99.7": replace(  # the same, wider, for longer
        CNN, lr=0.02, epochs=18, precision="bfloat16",
        layers=("conv:32:5:2:VALID", "batch_norm", "relu",
                "conv:64:3:1:VALID", "max_pool:2", "batch_norm", "relu",
                "conv:128:3:1:VALID", "batch_norm", "relu", "128"),
    ),
    "cnn": CNN,
    "cnn-large": replace(
        CNN, ema=0.999, epochs=12,
        layers=("32x3", "max_pool:2", "32x3", "64x3", "max_pool:2", "96x3", "96x3",
                "global_avg_pool"),
    ),
}  # fmt: skip
"""Named settings: `jaxnn train --recipe nielsen`; other flags still override."""


@dataclass(frozen=True)
class _OnEngine:
    engine: Literal["local", "ray"] = "local"
    """Where the parts are done: local, here, in turn; ray: as tasks of a Ray cluster,
    one a core or GPU, with the same results (pip install 'jaxnn[ray]')."""
    ray_address: Annotated[str | None, only_with("engine", "ray")] = None
    """HOST:PORT of that cluster; none: the one that runs on this machine, or a new one
    of this machine's cores."""


@dataclass(frozen=True)
class SweepConfig(_OnEngine):
    """Train many networks that differ in settings, side by side where they can.

    jaxnn sweep lr=0.001,0.01 l2=0,1e-4 --seeds 4 --layers 30
    jaxnn sweep lr=1e-4:1e-1:log dropout=0:0.5 --random 32

    Besides the flags below, those of jaxnn train that describe network, data and
    training. Points that differ in lr, l2, dropout, noise, init and seed only are one
    compiled program; the others run in turn.
    """

    axes: Annotated[tuple[str, ...], PLACE] = ()
    """NAME=VALUE,VALUE...: any flag of jaxnn train, or width (of all hidden layers);
    layers=30+30,100; with --random also NAME=LOW:HIGH and NAME=LOW:HIGH:log."""
    random: Annotated[int | None, Range(1, 10**5)] = None
    """So many random points instead of every combination."""
    max_parallel: Annotated[int | None, Range(1, 10**5)] = None
    """Most points in one program; none: 8 a device on a CPU, else all."""
    resume: Path | None = None
    """Folder of a sweep to continue after a kill; no other flag is needed."""
    network: TrainConfig = TrainConfig()


@dataclass(frozen=True)
class LRConfig:
    """Find a learning rate: many side by side, a few steps each, five seeds.

    Besides the flags below, those of jaxnn train that describe network, data and
    training; --lr is what is looked for, and --schedule has no part in it.
    """

    steps: Annotated[int, Range(1, 10**5)] = 100
    """Of each network; the last fifth is judged."""
    lowest: Annotated[float, POSITIVE] = 1e-5
    """Least rate that is tried."""
    highest: Annotated[float, POSITIVE] = 10.0
    """Largest."""
    count: Annotated[int, Range(2, 1000)] = 25
    """How many, evenly on a logarithmic scale."""
    network: TrainConfig = TrainConfig(seeds=5)


@dataclass(frozen=True)
class _OfRun:
    run: Annotated[Path, PLACE]
    """Run folder that jaxnn train wrote."""


@dataclass(frozen=True)
class EvalConfig(_OfRun):
    """Measure a saved run on all test images."""

    data: str | None = None
    """Another data set or folder of the same shape; none: the run's own."""


@dataclass(frozen=True)
class PredictConfig(_OfRun):
    """Have a saved run name what is on pictures: a digit, a letter, a thing.

    Any size. Where the run was trained on marks bright on black, such as digits, the
    ink is looked for (light on dark or dark on light) and placed as theirs; else the
    whole picture is made the network's size. A picture without a mark is refused, two
    marks are told, and so is an answer that leads the next by less than 30 points.
    """

    images: Annotated[tuple[Path, ...], PLACE] = ()
    """Picture files (PNG, JPEG ...), or folders of such, one mark or thing each."""


@dataclass(frozen=True)
class ExportConfig(_OfRun):
    """Write a saved run's network for another program; both must give the same outputs.

    onnx: the graph; torch: a state dict, and beside it a .py with the nn.Sequential;
    safetensors: parameters and layers as jaxnn has them. Of several seeds the first.
    """

    to: Literal["onnx", "safetensors", "torch"] = "onnx"
    """Which form."""
    data: str | None = None
    """Data whose test images are compared on; none: the run's own."""
    out: Path | None = None
    """File to write; none: model.onnx, .safetensors or .pt in the run's folder."""


@dataclass(frozen=True)
class ImportConfig:
    """Make a run folder of a network from elsewhere, for eval, attack, robustness ...

    The folder is made only if the network does what it should: an ONNX graph gives the
    outputs that onnxruntime gives, all have an accuracy that no wrong order would.
    """

    file: Annotated[Path, PLACE]
    """FILE.onnx, .safetensors, .pt or .pth (a state dict); no code in it is run."""
    net: str | None = None
    """FILE.py:name of a layer, such as serial(flatten, dense(10)): the network of a
    file that holds arrays only, PyTorch's, in the order of its layers."""
    data: Annotated[str, Names("jaxnn.data.sources:SOURCES")] = "mnist"
    """Data set that the network is for, as jaxnn train takes it."""
    mean: Annotated[float | None, Range(-1000, 1000)] = None
    """Subtracted from pixels in [0, 1] before the network, as it was in training."""
    std: Annotated[float | None, POSITIVE] = None
    """Divided by after that; 0.00392157 (1/255) gives pixels from 0 to 255."""
    accuracy: Annotated[float | None, SHARE] = None
    """What it reached on the test images where it was trained; half a point less is an
    error. None: 0.5; --net needs this or --logits."""
    logits: Path | None = None
    """An .npz with x, as the network in the file takes it, and the logits of that."""
    out: Path | None = None
    """Folder to write, new or empty; none: runs/ and a name made of file and time."""


@dataclass(frozen=True)
class DataConfig:
    """Look for, check or download data sets."""

    action: Annotated[Literal["list", "verify", "fetch"], PLACE]
    """list: what is known and here; verify: compare checksums; fetch: download."""
    name: Annotated[str | None, PLACE, Names("jaxnn.data.sources:SOURCES")] = None
    """Data set (verify: or a folder)."""


@dataclass(frozen=True)
class CompletionConfig:
    """Print a script by which a shell completes commands and flags.

    eval "$(jaxnn completion bash)" in ~/.bashrc, likewise in zsh; in fish
    jaxnn completion fish | source.
    """

    shell: Annotated[Literal["bash", "zsh", "fish"], PLACE]
    """Which shell."""


@dataclass(frozen=True)
class ReplayConfig(_OfRun):
    """Run the first bad step of a run, which repro.npz in it holds, again."""


@dataclass(frozen=True)
class CompareConfig:
    """Compare hand-written gradients with jax.grad, differences and other methods.

    Whole, and layer by layer: an error is pinned to a layer and its argument. Besides
    the flags below, those of jaxnn train that describe network, loss and data.
    """

    target: Annotated[str | None, PLACE] = None
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
    network: TrainConfig = TrainConfig()


@dataclass(frozen=True)
class _OnImages(EvalConfig):
    images: Annotated[int, IMAGES] = -1
    """Test images: -1 takes all, else a seeded stratified sample."""
    seed: Annotated[int, SEED] = 0
    """Of random starts and samples."""
    out: Path | None = None
    """Folder to write; none: attacks/ or robustness/ in the run's."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of what attacks follow; bfloat16: operands of products are rounded to it, faster
    where the processor or GPU has the instructions. What they find is judged in
    float32."""


@dataclass(frozen=True)
class AttackConfig(_OnEngine, _OnImages):
    """Attack the test images of a saved run; writes JSON and a picture beside it."""

    attack: Annotated[str, Names("jaxnn.attacks:ATTACKS")] = "pgd"
    """Which one."""
    epsilon: Annotated[float | None, NOT_NEGATIVE] = None
    """Budget, pixels in [0, 1]; none: 0.1 for the attacks that have one."""
    norm: Literal["linf", "l2", "l1"] | None = None
    """None: linf for a budget, l2 for the smallest change."""
    steps: Annotated[int | None, Range(1, 10**6)] = None
    """None: the attack's own number."""
    restarts: Annotated[int | None, Range(1, 1000)] = None
    """Random starts; none: one."""
    early_stop: bool = False
    """Of pgd: leave an image alone once it is fooled, which finds the same sooner."""
    queries: Annotated[int | None, Range(1, 10**7)] = None
    """Of square; none: 1,000."""
    step_size: Annotated[float | None, POSITIVE] = None
    """None: the attack's own."""
    kind: str | None = None
    """Of noise: uniform, signs, gaussian, salt_and_pepper; of corruptions: rotation,
    translation, blur, contrast."""
    amount: Annotated[float | None, NOT_NEGATIVE] = None
    """Of corruptions; none: 15 degrees, 3 pixels, a sigma of 1, .5 of the contrast."""


@dataclass(frozen=True)
class RobustnessConfig(_OnEngine, _OnImages):
    """Worst case over a suite of attacks, with the attack's own checks K1 to K20.

    Exits with 1 if a check fails, so that the accuracy cannot be believed.
    """

    epsilon: Annotated[float, NOT_NEGATIVE] = EPSILON
    """Budget, pixels in [0, 1]."""
    norm: Literal["linf", "l2", "l1"] = "linf"
    """In which the budget is measured."""
    transfer_from: tuple[Path, ...] = ()
    """Other run folders: who fools whom (transfer.png), and K9."""
    level: Literal["fast", "full"] = "fast"
    """fast: about a minute for a small network; full: 10 restarts, 100 steps."""
    quiet: bool = False
    """Print the results only."""
