"""Settings of every test: float64, strict shapes, and a seeded sample of slow tests.

What is compiled, however quickly, is kept between runs in the user's cache directory,
by jaxlib version and processor, or in `JAX_COMPILATION_CACHE_DIR`; most of a run is
compiling. Workers share the folder: an entry is written once, and one that is read half
written does not match its checksum, so that its program is compiled as if there were
none.
"""

import ctypes
import gc
import os
import random
import threading
import zlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before jax is imported
# Else JAX keeps in a folder that is set already, and in that of the processes that
# tests start, only what took a second to compile: hardly anything here does.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import hypothesis
import jax
import pytest

from jaxnn import programs
from jaxnn.app.compile_cache import enable_compile_cache

# float64: a wrong formula shows at 1e-12, where float32 would blur it with rounding.
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
# Tests compile much and compute little; this halves their time. Whole runs of the
# command line in a process of its own (tests/app) have all optimizations on.
jax.config.update("jax_disable_most_optimizations", True)


def keep_ir_contexts():
    """Have a thread write 64 programs in one MLIR context, as later JAX does by itself.

    Making one takes a third of a small program's time; it keeps their constants.
    """
    try:
        from jax._src.interpreters import mlir

        make = mlir.make_ir_context
    except (ImportError, AttributeError):
        return
    of_thread = threading.local()

    def kept():
        of_thread.left = getattr(of_thread, "left", 0) - 1
        if of_thread.left < 0:
            of_thread.left, of_thread.context = 63, make()
        return of_thread.context

    mlir.make_ir_context = kept


keep_ir_contexts()
libc = ctypes.CDLL(None) if os.name == "posix" else None

kept = enable_compile_cache("tests")
if kept is not None:  # for the processes that tests start
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(kept)

hypothesis.settings.register_profile("dev", deadline=None)
hypothesis.settings.register_profile(
    "ci", deadline=None, derandomize=True, print_blob=True
)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "dev")


def pytest_addoption(parser):
    parser.addoption(
        "--slow", default="sample", choices=("none", "sample", "all"),
        help="which tests marked slow to run; a sample is 6 of them (default: sample)",
    )  # fmt: skip
    parser.addoption(
        "--slow-seed", type=int, default=0, help="which sample of the slow tests"
    )
    parser.addoption(
        "--share", type=int, default=1, help="run one test in so many, by --slow-seed"
    )


def crowded():
    """Whether programs fill the memory, or the 65,530 maps of it that Linux allows."""
    try:
        with open("/proc/self/statm") as pages, open("/proc/self/maps") as maps:
            size = int(pages.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            return size > 1.2e9 or sum(1 for _ in maps) > 25_000
    except OSError:
        return True  # no Linux: nothing is known


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    """Let go of what was compiled: thousands of programs are gigabytes."""
    yield
    if crowded():
        programs.release()
        jax.clear_caches()
        gc.collect()
        if hasattr(libc, "malloc_trim"):  # glibc keeps what was freed
            libc.malloc_trim(0)


def pytest_collection_finish(session):
    """Look for garbage seldom, and not in what was imported: it took a tenth."""
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


def pytest_configure(config):
    config.addinivalue_line("filterwarnings", "error:::jaxnn")


def _family(item):
    """Tests that share a compiled program, such as all cases of one rule in a file."""
    file, _, rest = item.nodeid.partition("::")
    _, _, case = rest.partition("[")
    return file + (case.split(": ")[0] if ": " in case else rest)


def pytest_collection_modifyitems(config, items):
    how, seed = config.getoption("--slow"), config.getoption("--slow-seed")
    share = config.getoption("--share")
    if share > 1:  # crc32, not hash: the same in every process
        turn = [
            zlib.crc32(f"{seed} {_family(item)}".encode()) % share for item in items
        ]
        left_out = [item for item, t in zip(items, turn, strict=True) if t]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item, t in zip(items, turn, strict=True) if not t]
    slow = [item for item in items if item.get_closest_marker("slow")]
    named = any("::" in word for word in config.args)  # asked for by name: run it
    if how == "all" or named or not slow:
        return
    chosen = random.Random(seed).sample(slow, min(6, len(slow)))
    left_out = set(slow) - (set(chosen) if how == "sample" else set())
    config.hook.pytest_deselected(items=list(left_out))
    items[:] = [item for item in items if item not in left_out]
