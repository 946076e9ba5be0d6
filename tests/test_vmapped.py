"""Nothing ends the process under `jit(vmap)`, whatever the batch: see `vmapped.py`."""

import os
import subprocess
import sys

import pytest

# a process each, of which starting takes longer than a kind
FEW = [
    "dense:2,dense:3,layers:3,rules:2",
    "dense:4,dense:8,layers:2,layers:4",
    "layers:8,rules:3,rules:4,rules:8",
    "networks:2,networks:3",
]


def run(kinds, dtype):
    """The script in a process of its own."""
    environment = {
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",  # compiling is what takes time
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.vmapped", dtype, kinds],
        env=os.environ | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    said = f"{done.stdout[-300:]}\n{done.stderr[-1500:]}"
    assert done.returncode == 0, f"exit {done.returncode} in the last of: {said}"


@pytest.mark.parametrize(
    "kinds", [FEW[0], *(pytest.param(k, marks=pytest.mark.slow) for k in FEW[1:])]
)
def test_vmap_of_a_few_rows_equals_one_by_one(kinds):
    run(kinds, "float64")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_vmap_of_a_few_rows_in_narrow_floats(dtype):
    run("dense:3", dtype)
