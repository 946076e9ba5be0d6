"""The programs jaxnn's speed is compared with, each written as its users would.

All train the same thing: a multilayer perceptron with relu hidden layers, softmax
cross-entropy averaged over the batch, on images in memory. The start and the order of
the images come from `start` and `batches` below, so that every rival but scikit-learn,
which has its own, walks the same path: their losses agree to float32 rounding
(tests/experiments/test_rivals.py), and only the time differs.

B batch, I in, O out, C classes, N images, S = N // B steps in an epoch.
"""

import importlib
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxnn.errors import JaxnnError, lookup


class Task(NamedTuple):
    """What a rival is to train, and how."""

    batch: int
    optimizer: str  # 'sgd' or 'adam'
    learning_rate: float
    x: np.ndarray  # uint8 (N, I)
    y: np.ndarray  # int32 (N,)
    widths: Sequence[int] = ()  # I, ..., C; none: the convolutional network `CNN`
    seed: int = 0

    def chosen(self, optimizers: Mapping[str, Any]) -> Any:
        """The optimizer among a rival's."""
        return lookup("optimizer", self.optimizer, optimizers)


class Rival(NamedTuple):
    """One program, data and network in hand, ready to train."""

    name: str
    version: str  # of the library that does the work
    epoch: Callable[[int], float]  # (index, also the shuffle seed) -> mean loss; blocks
    accuracy: Callable[[np.ndarray, np.ndarray], float]  # x uint8 (N, I), y (N,)


class UnavailableError(JaxnnError):
    """This rival cannot run on this machine; the message is the reason to print."""


# Where a function (task: Task) -> Rival stands: `make` of the module unless it is named
RIVALS = {
    "numpy_twin": "numpy_twin",
    "jax_grad_scan": "jax_grad:make_scan",
    "jax_grad_loop": "jax_grad:make_loop",
    "torch_eager": "torch_eager",
    "torch_autocast": "torch_eager:make_autocast",
    "torch_compiled": "torch_compiled",
    "flax_nnx": "flax_nnx",
    "equinox_loop": "equinox_loop",
    "sklearn_mlp": "sklearn_mlp",
}
CNN_RIVALS = ("jax_grad_scan", "jax_grad_loop", "torch_eager", "torch_autocast")
# conv 5x5x32, pool, conv 5x5x64, pool, dense 1024, dense 10; relu between, padding SAME
CNN = ((5, 5, 1, 32), (5, 5, 32, 64), (7 * 7 * 64, 1024), (1024, 10))


def load(name: str) -> Callable[[Task], Rival]:
    """The `make` of the rival called `name`; only now is its library imported."""
    module, _, function = lookup("rival", name, RIVALS).partition(":")
    try:
        found = importlib.import_module(f"experiments.rivals.{module}")
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        if missing in ("experiments", "jaxnn"):
            raise  # a mistake of ours, not a package to install
        raise UnavailableError(
            f"rival {name!r}: got no package {missing!r}, expected it to be installed; "
            "run: pip install -e '.[bench]'"
        ) from error
    return getattr(found, function or "make")


def start(widths: Sequence[int], seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The common first weights: for each layer w (I, O), b (O,), in float32.

    He et al. 2015, https://arxiv.org/abs/1502.01852: the variance is 2 over what one
    output sums, b is zero. Without widths those of `CNN`, kernels w (K, K, I, O) first.
    """
    rng = np.random.default_rng(seed)
    return [
        (
            rng.standard_normal(shape, dtype=np.float32)
            * np.float32(math.sqrt(2 / math.prod(shape[:-1]))),
            np.zeros(shape[-1], np.float32),
        )
        for shape in [*itertools.pairwise(widths)] or CNN
    ]


def batches(task: Task, index: int) -> np.ndarray:
    """The images of each step of epoch `index`: (S, B); the last N % B are left out.

    On the host: NumPy shuffles 55,000 numbers in 0.5 ms, `jax.random` in 20.
    """
    n, batch = len(task.x), task.batch
    if not 1 <= batch <= n:
        raise JaxnnError(
            f"batches: got batch {batch}, expected 1 to {n}, the number of images; "
            "choose a smaller batch or give more images"
        )
    order = np.random.default_rng((task.seed, index)).permutation(n)
    steps = n // batch
    return order[: steps * batch].reshape(steps, batch)


def unit(x: np.ndarray) -> np.ndarray:
    """Turn uint8 pixels 0..255 into float32 in [0, 1]."""
    return np.divide(x, np.float32(255), dtype=np.float32)
