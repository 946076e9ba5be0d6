"""Everything that a GPU may change, in one command of at most eight minutes.

Question: are the numbers right on a GPU, and how fast is it there?

    pip install -e '.[test,bench]' 'jax[cuda12]'
    python -m experiments.gpu            on one card of the H100's class
    python -m experiments.gpu --small    on any machine, a minute: does it run?

Parts, each written to results/gpu.json when it is done; one that fails is told, and the
others run: tests of rules whose way depends on the backend (convolutions are XLA's
there), `jaxnn train` as it comes, the tables of `experiments.bench` against PyTorch
eager and compiled in float32, TF32 and bfloat16, the ladder, PGD-40 on all test images.
Not measured on a GPU yet.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax

from experiments import bench, ladder
from experiments.common import main, record
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
SECONDS = 120  # that the tests may take
PRECISIONS = {"float32": "highest", "tf32": "tensorfloat32", "bfloat16": "bfloat16"}
"""Name -> how JAX makes float32 products; PyTorch is told the same."""


@dataclass(frozen=True)
class Args:
    """Settings."""

    small: bool = False
    """A few images and networks: whether all parts run, not how fast."""
    parts: tuple[str, ...] = ()
    """Which; none: all."""


def tests(small: bool) -> dict[str, Any]:
    """The tests of what differs, on this backend."""
    words = [sys.executable, "-m", "pytest", "-q", "-n", "0", "--slow", "none", *TESTS]
    ended = subprocess.run(
        [*words, *(["--collect-only"] if small else [])],
        cwd=Path(__file__).parents[1], timeout=SECONDS,
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
    model = Classifier(run.net, run.params, run.state)
    attack = partial(
        under, Threat("linf", 0.1), pgd, model, unit_images(x), y,
        key=jax.random.key(0), steps=2 if small else 40, batch=min(len(x), 10_000),
    )  # fmt: skip
    attack()  # compiles
    start = time.perf_counter()
    right = model.correct(attack(), y)
    kept = ("test_accuracy", "gradients", "adversarial", "seconds")
    return {k: result[k] for k in kept} | {
        "pgd": {
            "images": len(y),
            "accuracy": float(right.mean()),
            "seconds": time.perf_counter() - start,
        }
    }


def tables(precision: str, small: bool) -> dict[str, Any]:
    """The bench's networks, jaxnn and PyTorch making products in the same way."""
    kept = ("torch_eager",) if small else ("torch_eager", "torch_compiled")
    others = sorted(set(bench.rivals.RIVALS) - set(kept))
    args = bench.Args(rounds=1 if small else 5, skip=tuple(others))
    data = load("mnist").train
    x, y = (a[: 512 if small else None] for a in data)
    x = x.reshape(-1, 784)
    tasks = list(bench.TASKS)[: 1 if small else None]
    with jax.default_matmul_precision(PRECISIONS[precision]), _torch(precision):
        found = {name: bench.against_rivals(name, x, y, args) for name in tasks}
        if not small:
            found["cnn"] = bench.convolutional(x, y, args)
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
    """The ladder, ten seeds a rung."""
    if small:
        return ladder.measure(ladder.Args(("99.0",), seeds=1, images=512))
    return ladder.measure(ladder.Args(seeds=10))


PARTS: dict[str, Callable[[bool], Any]] = {
    "tests": tests,
    "train": train,
    **{f"bench_{name}": partial(tables, name) for name in PRECISIONS},
    "ladder": climbing,
}


def run(args: Args) -> None:
    """Run the parts, whatever becomes of the others."""
    values: dict[str, Any] = {}
    name = "gpu-small" if args.small else "gpu"
    for part in args.parts or PARTS:
        start = time.perf_counter()
        try:
            found = lookup("part", part, PARTS)(args.small)
        except Exception as error:
            found = {"failed": f"{type(error).__name__}: {error}"}
        seconds = time.perf_counter() - start
        values[part] = {"part_seconds": seconds, "found": found}
        failed = found.get("failed", found.get("status", 0))
        print(f"{part:<16}{seconds:6.0f} s  {failed or 'done'}", flush=True)
        record(name, args, values, ("torch",), module="gpu")


if __name__ == "__main__":
    main(Args, run)
