"""Where a run takes place: versions, device, commit, which of several processes."""

import os
import platform
import shutil
import subprocess
import warnings
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from jaxnn.errors import JaxnnError


def versions(*more: str) -> dict[str, str]:
    """Versions of Python, jaxnn, its numerical libraries and the packages in `more`."""
    found = {"python": platform.python_version()}
    for name in ("jaxnn", "jax", "jaxlib", "numpy", "optax", *more):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def surroundings() -> dict[str, Any]:
    """What each result is kept with: versions, device and commit."""
    return {"versions": versions(), "device": device(), "git": git_commit()}


def device() -> str:
    """The device JAX computes on, in words."""
    import jax

    kind = jax.devices()[0]
    if kind.platform == "cpu":
        name = cpu_fact("model name") or platform.processor() or platform.machine()
        mine = getattr(os, "sched_getaffinity", None)
        return f"cpu, {name}, {len(mine(0)) if mine else os.cpu_count()} cores"
    rounded = ", float32 products in TF32" if tf32() else ""
    return f"{kind.platform}, {jax.device_count()} x {kind.device_kind}{rounded}"


def tf32() -> bool:
    """Whether products of float32 round their operands to 10 bits, as new GPUs do."""
    import jax

    major = str(getattr(jax.devices()[0], "compute_capability", "")).partition(".")[0]
    usual = (None, "default", "high", "tensorfloat32")
    told = jax.config.jax_default_matmul_precision  # pyrefly: ignore[missing-attribute]
    return major.isdecimal() and int(major) >= 8 and told in usual


def use_device(name: str) -> None:
    """Compute on that device from here on: cpu, gpu, or one of several, cuda:1.

    Raises:
      JaxnnError: there is none such; says which are.
    """
    import jax

    kind, _, number = name.partition(":")
    if kind == "cpu":  # no other is started; not asked for, as it may yet be divided
        jax.config.update("jax_platforms", kind)
        if not number:
            return
    try:
        found = jax.devices(kind)[int(number or 0)]
        jax.config.update("jax_default_device", found)
    except (RuntimeError, ValueError, IndexError) as error:
        here = ", ".join(f"{d.platform}:{d.id}" for d in jax.devices())
        raise JaxnnError(
            f"--device: got {name}, expected one that is here: {here}"
        ) from error


GPU_SIGNS = ("/dev/nvidia0", "/proc/driver/nvidia/version")


def warn_if_idle(used: int | None = None) -> None:
    """Warn of what could compute and does not: a GPU, or devices beyond `used`.

    Args:
      used: how many compute; None: all, or as many as were asked for.
    """
    import jax

    count = len(jax.devices())
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    asked = jax.config.jax_platforms  # pyrefly: ignore[missing-attribute]
    there = any(map(os.path.exists, GPU_SIGNS)) or shutil.which("nvidia-smi")
    if jax.default_backend() == "cpu" and asked != "cpu" and not hidden and there:
        warnings.warn(
            "an NVIDIA GPU is here, but this JAX computes on the CPU only: pip install "
            '"jax[cuda13]" (driver 580 or newer) or "jax[cuda12]" (525 or newer)',
            stacklevel=1,
        )
    if used is not None and used < count:
        warnings.warn(
            f"using {used} of {count} devices; --devices {count} divides each batch "
            "among them",
            stacklevel=1,
        )


def fast_bfloat16() -> bool:
    """Whether the device has instructions for products in bfloat16."""
    import jax

    flags = (cpu_fact("flags", "Features") or "").split()
    found = {"avx512_bf16", "amx_bf16", "bf16"} & set(flags)
    return bool(found) or jax.default_backend() != "cpu"


def warn_if_slow(precision: str) -> None:
    """Warn, once in a process, where products in such a type are slow."""
    if precision != "float32" and not fast_bfloat16():
        warnings.warn(
            f"precision {precision}: this processor has no instructions for it; "
            "it works, and will be slower than in float32",
            stacklevel=1,
        )


def no_device() -> str | None:
    """Why JAX can compute nowhere, or None where it can.

    Its own errors come from where a device was first needed; one is an assertion.
    """
    import jax

    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        asked = os.environ.get("JAX_PLATFORMS", "not set")
        words = (str(error).splitlines() or ["no platform could be started"])[0]
        return (
            f"JAX found no device: {words}. JAX_PLATFORMS is {asked}, expected a "
            "platform that is here, such as cpu"
        )
    return None


def full_memory(error: Exception) -> str | None:
    """What to do about JAX's error that the memory is full; None about another."""
    import jax

    first = str(error).partition("\n")[0]
    if "RESOURCE_EXHAUSTED" not in first:
        return None
    words = f"the memory of the device is full: {first}. Smaller --batch or --layers"
    words += ", and fewer --seeds or --max-parallel, need less"
    if jax.default_backend() == "gpu":
        words += (
            ". JAX takes three quarters of a GPU when it starts: beside another "
            "program set XLA_PYTHON_CLIENT_PREALLOCATE=false, or give each its share, "
            "XLA_CLIENT_MEM_FRACTION=.4"
        )
    return words


def memory() -> int | None:
    """Bytes of memory that the first device has; None where it does not say."""
    import jax

    first = jax.devices()[0]
    if first.platform != "cpu":
        return (first.memory_stats() or {}).get("bytes_limit")
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def git_commit() -> str | None:
    """Commit of the checkout jaxnn runs from, "-dirty" if changed; None outside git.

    Results that were written, and the README that tells them, change no code.
    """
    here = Path(__file__).resolve().parent
    try:
        top = _git(here, "rev-parse", "--show-toplevel")
        if Path(top) != here.parent:
            return None  # installed inside another project's repository
        code = ":/", ":(top,exclude)experiments/results", ":(top,exclude)*README.md"
        dirty = _git(here, "status", "--porcelain", "--untracked-files=no", "--", *code)
        return _git(here, "rev-parse", "HEAD") + ("-dirty" if dirty else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder, *words):
    done = subprocess.run(
        ["git", "-C", str(folder), *words],
        capture_output=True, encoding="utf-8", errors="surrogateescape",
        timeout=10, check=True,
    )  # fmt: skip
    return done.stdout.strip()


def cpu_fact(*names: str) -> str | None:
    """Read what /proc/cpuinfo says under one of `names`; None where it says nothing."""
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            if line.startswith(names):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return None


@dataclass(frozen=True)
class Processes:
    """Which of several processes this one is; nothing given: found out, or alone."""

    coordinator: str | None = None
    """HOST:PORT of process 0, a free port there, the same in all processes."""
    processes: int | None = None
    """How many there are."""
    process: int | None = None
    """Which one this is, from 0; 0 writes the run folder."""
    local_device_ids: tuple[int, ...] = ()
    """GPUs of this host that this process takes; none: all, or one each where SLURM or
    MPI started several on a host."""
    detect: bool = True
    """Whether to look in the environment for what is not given: SLURM, MPI,
    Kubernetes."""
    rank_timeout: float = 30.0
    """Seconds without a sign of life from another process after which this one ends."""
