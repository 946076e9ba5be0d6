"""The same training on one device and on several; what they say to one another."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.collectives import collectives
from jaxnn import mlp, rules
from jaxnn.distributed import data_mesh
from jaxnn.errors import JaxnnError
from jaxnn.train import fit
from tests.train.problem import blobs


def on_devices(*parts):
    environment = {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",  # compiling is what takes time
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.parallel.on_devices", *parts],
        env=os.environ | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def measured():
    return on_devices("curves", "mixed", "bad_rows", "bytes_a_step", "sync_batch_norm")


def check_curves(found, meshes):
    alone = found["1 device"]
    assert len(alone) == 50
    assert alone[-1] < 0.5 * alone[0]
    for n in meshes:
        np.testing.assert_allclose(found[f"mesh of {n}"], alone, atol=1e-5)
        assert found[f"validation {n}"] == pytest.approx(found["validation"], 1e-3)
    np.testing.assert_allclose(found["resumed"], alone, atol=1e-5)


def test_devices_give_the_loss_curve_of_one_also_when_resumed_on_others(measured):
    check_curves(measured["curves"], (8,))


def test_devices_train_in_mixed_precision_as_one(measured):
    alone, spread = measured["mixed"]
    np.testing.assert_allclose(spread, alone, rtol=0.01)


@pytest.mark.slow
def test_any_number_of_devices_and_seeds_give_the_curves_of_one():
    found = on_devices("more_curves", "seeds_and_own_orders")
    check_curves(found["more_curves"], (1, 2, 4))
    one, four = found["seeds_and_own_orders"]
    np.testing.assert_allclose(four, one, atol=1e-5)
    assert one[0][0] != one[0][1]


def test_a_bad_row_on_one_device_makes_all_of_them_skip_the_step(measured):
    expected, skipped = measured["bad_rows"]
    assert skipped == expected
    assert sum(expected) > 0


def test_a_step_sends_the_gradients_once_and_nothing_else(measured):
    found = measured["bytes_a_step"]
    assert set(found["kinds"]) == {"all-reduce"}
    assert found["parameters"] <= found["bytes"] <= 1.01 * found["parameters"]


def test_sync_batch_norm_under_shard_map_has_the_gradient_of_the_synced_forward(
    measured,
):
    assert len(measured["sync_batch_norm"]) == 2
    for case, gap in measured["sync_batch_norm"].items():
        assert gap <= 1e-12, case


def test_what_does_not_divide_is_named():
    with pytest.raises(JaxnnError, match=r"groups=3.*batch of 8"):
        rules.batch_norm(groups=3).fwd(jnp.ones((8, 2)), jnp.ones(2), jnp.ones(2))
    with pytest.raises(JaxnnError, match=r"got 4096, but JAX sees.*4096"):
        data_mesh(4096)
    mesh = jax.sharding.AbstractMesh((3,), ("data",))
    with pytest.raises(JaxnnError, match=r"batch=32 on a mesh of 3.*such as 33"):
        fit(mlp([6, 3]), blobs(64), batch=32, mesh=mesh)


HLO = """
  %all-reduce.1 = (f32[10,512]{1,0}, f32[], bf16[4]{0}) all-reduce(%a, %b, %c), to_apply
  %ag = f32[8,2]{1,0} all-gather(f32[4,2]{1,0} %x), dimensions={0}
  %ags = (f32[4,2]{1,0}, f32[8,2]{1,0}) all-gather-start(f32[4,2]{1,0} %x)
  %done = f32[8,2]{1,0} all-gather-done(%ags)
  %other = f32[8,2]{1,0} add(%p, %all-reduce.1)
"""


def test_collectives_are_read_from_a_program():
    found = collectives(HLO)
    assert [c.kind for c in found] == ["all-reduce", "all-gather", "all-gather"]
    assert [sum(c.sizes) for c in found] == [4 * 5120 + 4 + 8, 64, 64]
