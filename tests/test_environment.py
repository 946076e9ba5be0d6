"""What is said of devices: one that computes nothing, TF32, a memory that is full."""

import importlib.metadata
import os
import re
import tomllib
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

import jaxnn
from jaxnn import environment
from jaxnn.app import datasets
from tests.app.common import TINY, run, write_folder

ROOT = Path(jaxnn.__file__).parents[1]


@pytest.fixture
def _not_asked():
    """JAX as it is where nobody has asked for the CPU."""
    jax.config.update("jax_platforms", "")
    yield
    jax.config.update("jax_platforms", "cpu")


def card(tmp_path, monkeypatch):
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(environment, "GPU_SIGNS", (str(tmp_path / "nvidia0"),))


def command(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "GPU_SIGNS", ())
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.usefixtures("_not_asked")
@pytest.mark.parametrize("appear", [card, command])
def test_a_gpu_that_jax_cannot_use_is_told_how(appear, tmp_path, monkeypatch, recwarn):
    appear(tmp_path, monkeypatch)
    with pytest.warns(UserWarning, match=r'on the CPU only: pip install "jax\[cuda13'):
        environment.warn_if_idle()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    environment.warn_if_idle()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    jax.config.update("jax_platforms", "cpu")  # as JAX_PLATFORMS or --device asks
    environment.warn_if_idle()
    monkeypatch.setattr(environment, "GPU_SIGNS", ())
    monkeypatch.setenv("PATH", "")
    jax.config.update("jax_platforms", "")
    environment.warn_if_idle()
    assert not recwarn.list


def test_training_on_one_of_many_devices_says_how_to_use_them(tmp_path, monkeypatch):
    folder, cpu = write_folder(tmp_path / "digits"), jax.devices()[0]
    monkeypatch.setattr(jax, "devices", lambda *_: [cpu] * 8)
    monkeypatch.setattr("jaxnn.app.train.train_in", lambda *_: 1 / 0)
    words = ("train", *TINY, "--data", folder, "--out", tmp_path / "x")
    said = pytest.warns(UserWarning, match="using 1 of 8 devices; --devices 8 divides")
    with said, pytest.raises(ZeroDivisionError):
        run(*words)


def test_tf32_is_told_with_the_device(monkeypatch):
    for capability, told in (("9.0", True), ("8.0", True), ("7.5", False),
                             ("gfx90a", False)):  # fmt: skip
        gpu = SimpleNamespace(
            platform="gpu", device_kind="a card", compute_capability=capability
        )
        monkeypatch.setattr(jax, "devices", lambda *_, gpu=gpu: [gpu])
        assert environment.tf32() is told
        assert ("float32 products in TF32" in environment.device()) is told
    monkeypatch.setattr(gpu, "compute_capability", "9.0")
    with jax.default_matmul_precision("highest"):
        assert not environment.tf32()
    monkeypatch.undo()
    assert not environment.tf32()


def test_a_full_memory_is_an_error_of_one_line(monkeypatch):
    monkeypatch.setattr(datasets, "data_run", lambda c: jnp.zeros(10**14) + 1)
    found = run("data", "list")
    assert found.status == 2
    assert "memory of the device is full" in found.err
    assert "Smaller --batch" in found.err
    assert "MEM_FRACTION" not in found.err  # no GPU's memory
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    words = run("data", "list").err
    assert "XLA_PYTHON_CLIENT_PREALLOCATE=false" in words
    assert "XLA_CLIENT_MEM_FRACTION=.4" in words
    monkeypatch.setattr(datasets, "data_run", lambda c: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run("data", "list")


def test_jaxnn_does_not_set_how_much_of_a_gpus_memory_jax_takes():
    sets = re.compile(r"environ.*(MEM_FRACTION|PREALLOCATE|CLIENT_ALLOCATOR)")
    files = ROOT.glob("jaxnn/**/*.py")
    assert [p.name for p in files if sets.search(p.read_text("utf-8"))] == []
    assert not {k for k in os.environ if "MEM_FRACTION" in k}


def test_the_extras_for_gpus_are_those_of_jax():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    (bound,) = (
        d.removeprefix("jax") for d in project["dependencies"] if d[:3] == "jax"
    )
    there = importlib.metadata.metadata("jax").get_all("Provides-Extra")
    for name in ("cuda12", "cuda13"):
        assert project["optional-dependencies"][name] == [f"jax[{name}]{bound}"]
        assert name in there
