"""Nothing ends the process under `jit(vmap)`, whatever the batch: see `vmapped.py`."""

import os
import subprocess
import sys

import pytest

QUICK = [("dense", 2), ("dense", 3), ("layers", 3), ("rules", 2)]
FEW = [
    *((kind, n) for kind in ("dense", "layers", "rules") for n in (2, 3, 4, 8)),
    *(("networks", n) for n in (2, 3)),
]


def run(kind, batch, dtype):
    """The script in a process of its own."""
    environment = {
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",  # compiling is what takes time
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.vmapped", kind, str(batch), dtype],
        env=os.environ | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    said = f"{done.stdout[-300:]}\n{done.stderr[-1500:]}"
    assert done.returncode == 0, f"exit {done.returncode} in the last of: {said}"


@pytest.mark.parametrize(
    ("kind", "batch"),
    [
        pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow)
        for case in FEW
    ],
)
def test_vmap_of_a_few_rows_equals_one_by_one(kind, batch):
    run(kind, batch, "float64")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_vmap_of_a_few_rows_in_narrow_floats(dtype):
    run("dense", 3, dtype)
