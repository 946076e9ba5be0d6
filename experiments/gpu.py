"""Everything that a GPU may change, in one command of at most eight minutes.

Question: are the numbers right on a GPU, and how fast is it there?

    pip install -e '.[test,bench,cuda12]'
    python -m experiments.gpu            on one card of the H100's class
    python -m experiments.gpu --small    on any machine, a minute: does it run?

Parts, each written to results/gpu.json when it is done; one that fails, or takes longer
than it may (`PARTS` says how long, 470 s in all), is told, and the others run: tests of
rules whose way depends on the backend (convolutions are XLA's there); `jaxnn train` as
it comes, and PGD-40 on all test images in float32 and bfloat16; the tables of
`experiments.bench` against PyTorch eager and compiled, products in float32, in TF32, in
bfloat16 (ours with `precision="bfloat16"`, PyTorch's by autocast); the ladder, as many
seeds of each rung as there is time for. Not measured on a GPU yet.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax

from experiments import bench, ladder
from experiments.common import main, record
from experiments.turns import ratio
from jaxnn import Classifier
from jaxnn.app.config import RECIPES
from jaxnn.app.folder import load_run
from jaxnn.app.train import train_run
from jaxnn.attacks import pgd
from jaxnn.data import load, unit_images
from jaxnn.errors import lookup
from jaxnn.robustness.threat import Threat
from jaxnn.robustness.worst import under

TESTS = ("tests/rules/test_conv.py", "tests/train/test_fit.py")
PRECISIONS = {"float32": "highest", "tf32": "tensorfloat32", "bfloat16": "highest"}
"""Name -> how JAX makes products of float32; PyTorch is told the same."""
HALF = "jaxnn_bfloat16"


@dataclass(frozen=True)
class Args:
    """Settings."""

    small: bool = False  # Few images and networks: whether all parts run, not how fast
    parts: tuple[str, ...] = ()  # Which; none: all


def tests(small: bool) -> dict[str, Any]:
    """The tests of what differs, on this backend."""
    words = [sys.executable, "-m", "pytest", "-q", "-n", "0", "--slow", "none", *TESTS]
    ended = subprocess.run(
        [*words, *(["--collect-only"] if small else [])],
        cwd=Path(__file__).parents[1],
        capture_output=True, encoding="utf-8",
        env=os.environ | {"JAX_PLATFORMS": jax.default_backend()},
    )  # fmt: skip
    return {"status": ended.returncode, "end": ended.stdout.splitlines()[-5:]}


def train(small: bool) -> dict[str, Any]:
    """`jaxnn train`, then PGD-40 within 0.1 on all test images of what it trained."""
    config = RECIPES["default"]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        if small:
            config = replace(config, layers=("8",), epochs=1, attack_images=100)
        result = train_run(replace(config, out=out, quiet=True))
        run = load_run(out)
    x, y = (a[: 500 if small else None] for a in load("mnist").test)
    kept = ("test_accuracy", "gradients", "adversarial", "seconds")
    found = {k: result[k] for k in kept}
    for precision in ("float32", "bfloat16"):
        model = Classifier(run.net, run.params, run.state, precision=precision)
        attack = partial(
            under, Threat("linf", 0.1), pgd, model, unit_images(x), y,
            key=jax.random.key(0), steps=2 if small else 40, batch=min(len(x), 10_000),
        )  # fmt: skip
        right = model.correct(attack(), y)  # compiles
        start = time.perf_counter()
        attack()
        seconds = time.perf_counter() - start
        found[f"pgd_{precision}"] = {
            "images": len(y), "accuracy": float(right.mean()), "seconds": seconds,
        }  # fmt: skip
    return found


def tables(precision: str, small: bool) -> dict[str, Any]:
    """The bench's networks, jaxnn and PyTorch making products in the same way."""
    kept = {"torch_eager"} if small else {"torch_eager", "torch_compiled"}
    others = {*bench.rivals.RIVALS, "jax_grad_bfloat16"}
    if precision != "bfloat16":
        others |= {HALF, "products_alone_bfloat16"}
    args = bench.Args(rounds=1 if small else 5, skip=tuple(sorted(others - kept)))
    data = load("mnist").train
    x, y = (a[: 512 if small else None] for a in data)
    x = x.reshape(-1, 784)
    tasks = list(bench.TASKS)[: 1 if small else None]
    with jax.default_matmul_precision(PRECISIONS[precision]), _torch(precision):
        found = {name: bench.against_rivals(name, x, y, args) for name in tasks}
        if not small:
            found["cnn"] = bench.convolutional(x, y, args)
    if precision == "bfloat16":  # beside what is to be compared with PyTorch's autocast
        for task in found.values():
            for name, times in task["programs"].items():
                times[f"times_{HALF}"] = ratio(task["programs"], name, HALF)
    return found


def _torch(precision: str) -> Any:
    """PyTorch on the card, if there is one, its products as JAX makes them."""
    try:
        import torch
    except ImportError:  # the table says that it is absent
        return nullcontext()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_default_device(device)
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    half = precision == "bfloat16"
    return torch.autocast(device, torch.bfloat16, enabled=half)


def climbing(small: bool) -> dict[str, Any]:
    """The ladder, ten seeds a rung if there is time for them."""
    if small:
        return ladder.measure(ladder.Args(("99.0",), seeds=1, images=512))
    return ladder.measure(ladder.Args(seeds=10, seconds=30))


class Part(NamedTuple):
    """A part, and the seconds it may take."""

    run: Callable[[bool], Any]
    seconds: int


PARTS = {
    "tests": Part(tests, 80),
    "train": Part(train, 70),
    **{f"bench_{name}": Part(partial(tables, name), 60) for name in PRECISIONS},
    "ladder": Part(climbing, 140),
}


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Raise a TimeoutError after so many, as soon as Python is asked again."""

    def over(*_: Any) -> None:
        raise TimeoutError(f"it may take {seconds} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def run(args: Args) -> None:
    """Run the parts, whatever becomes of the others."""
    # memory ahead would leave PyTorch none
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    values: dict[str, Any] = {}
    name = "gpu-small" if args.small else "gpu"
    for part in args.parts or PARTS:
        start = time.perf_counter()
        try:
            one = lookup("part", part, PARTS)
            with at_most(10 * one.seconds if args.small else one.seconds):
                found = one.run(args.small)
        except Exception as error:
            found = {"failed": f"{type(error).__name__}: {error}"}
        seconds = time.perf_counter() - start
        values[part] = {"part_seconds": seconds, "found": found}
        failed = found.get("failed", found.get("status", 0))
        print(f"{part:<16}{seconds:6.0f} s  {failed or 'done'}", flush=True)
        record(name, args, values, ("torch",), module="gpu")


if __name__ == "__main__":
    main(Args, run)
