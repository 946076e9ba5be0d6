"""Compiled programs: shared where they are the same, let go where there are many.

A compiled program takes some twenty to a hundred memory maps, and Linux gives a process
65,530: a loop over some 34 networks that are trained and attacked used them up, and
LLVM then ends the process. So what is compiled here is counted, and let go after so
many programs; `jax.clear_caches` would throw away the user's, too.
"""

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

P = ParamSpec("P")
R = TypeVar("R")

MOST = 256
"""Programs traced by functions of `jit` until all of them are let go."""
AHEAD = 16
"""Programs that `ahead` keeps, those that were used last."""
SETTINGS = (
    "jax_enable_x64", "jax_default_matmul_precision", "jax_debug_nans",
    "jax_debug_infs", "jax_disable_most_optimizations", "jax_default_device",
    "jax_default_prng_impl", "jax_threefry_partitionable",
    "jax_numpy_dtype_promotion", "jax_numpy_rank_promotion",
)  # fmt: skip
"""Settings of JAX under which programs are compiled."""


class _Kept:
    """What has been compiled."""

    def __init__(self):
        self.functions: list[Any] = []
        self.traced = 0
        self.ahead: OrderedDict[Hashable, Any] = OrderedDict()


_kept = _Kept()
_thread = threading.local()


@contextmanager
def rehearsal() -> Iterator[None]:
    """In this thread functions of `jit` are compiled only, and give zeros.

    So what comes later can be gone through beside other work, and then finds its
    programs made.
    """
    _thread.rehearses = True
    try:
        yield
    finally:
        _thread.rehearses = False


def jit(function: Callable[P, R], **options: Any) -> Callable[P, R]:
    """`jax.jit` for functions of a module, whose programs are let go after so many."""

    @functools.wraps(function)
    def counted(*args: P.args, **kwargs: P.kwargs) -> R:
        _kept.traced += 1  # runs when it is traced only
        return function(*args, **kwargs)

    program = jax.jit(counted, **options)
    _kept.functions.append(program)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if _kept.traced >= MOST:
            release()
        if getattr(_thread, "rehearses", False):
            lowered = program.lower(*args, **kwargs)
            lowered.compile()
            shapes = lowered.out_info
            return jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), shapes)
        return program(*args, **kwargs)

    return call


def ahead(key: Hashable | None, function: Callable, *args: Any, **options: Any) -> Any:
    """`function` compiled for arrays like `args`, or what was compiled for such a key.

    Args:
      key: all that the program depends on besides the arguments' shapes and the
        settings of JAX; None: it is not kept.
      function: what `jax.jit` takes.
      args: arrays, or trees of them.
      options: of `jax.jit`.
    """
    whole = None
    if key is not None:
        settings = jax.default_backend(), *map(setting, SETTINGS)
        whole = key, _kind(args), settings
    if whole is not None and whole in _kept.ahead:
        _kept.ahead.move_to_end(whole)
        return _kept.ahead[whole]
    program = jax.jit(function, **options).lower(*args).compile()
    if whole is not None:
        _kept.ahead[whole] = program
        while len(_kept.ahead) > AHEAD:
            _kept.ahead.popitem(last=False)
    return program


def release() -> None:
    """Let go of every program compiled here; those still wanted are compiled again."""
    _kept.traced = 0
    _kept.ahead.clear()
    for program in _kept.functions:
        program.clear_cache()


def remembered(function: Callable[P, R]) -> Callable[P, R]:
    """Give the same object for the same arguments, so that programs of it are shared.

    For makers of functions, which are equal to themselves only. Arguments that cannot
    be hashed make a new one.
    """
    cached = functools.lru_cache(maxsize=256, typed=True)(function)

    @functools.wraps(function)
    def make(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            hash((args, tuple(kwargs.values())))
        except TypeError:
            return function(*args, **kwargs)
        return cached(*args, **kwargs)

    return make


def _kind(args):
    """Shapes, types and places of the arrays in `args`."""
    leaves, structure = jax.tree.flatten(args)
    return structure, tuple(
        (
            np.shape(a),
            jnp.result_type(a),
            getattr(a, "weak_type", False),
            getattr(a, "sharding", None),
        )
        for a in leaves
    )


def setting(name: str) -> Any:
    """A setting of JAX, also one within a `with` block."""
    values = jax.config.values  # the attributes know of `with` blocks, these of all
    return getattr(jax.config, name, values.get(name))
