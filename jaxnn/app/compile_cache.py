"""Compiled programs kept between runs: the second run starts without compiling."""

import hashlib
import os
import platform
from pathlib import Path

import jax
import jaxlib

from jaxnn.data.sources import cache_folder
from jaxnn.environment import cpu_fact
from jaxnn.errors import JaxnnError


def enable_compile_cache(name: str = "xla") -> Path | None:
    """Let JAX keep compiled programs in the user's cache directory, in folder `name`.

    It is keyed by jaxlib version and CPU features: code compiled for another processor
    may not run on this one. An existing setting (`JAX_COMPILATION_CACHE_DIR`) is
    respected.

    Returns:
      The folder in use, or None if it cannot be written.
    """
    chosen = jax.config.jax_compilation_cache_dir  # pyrefly: ignore[missing-attribute]
    if chosen:
        return Path(chosen)
    features = cpu_fact("flags", "Features")
    if features is None:
        features = platform.processor() + platform.machine() + platform.version()
    short = hashlib.sha256(features.encode()).hexdigest()[:12]
    try:
        folder = cache_folder().parent / name / f"jaxlib-{jaxlib.__version__}-{short}"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, JaxnnError):
        return None  # no home, or a read-only one, costs compile time, nothing else
    if not os.access(folder, os.W_OK):
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return folder
