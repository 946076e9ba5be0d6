"""What callers hand over as data: made arrays of numbers, or refused."""

from collections.abc import Callable
from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnn.errors import JaxnnError, first_line

analytic = jax.make_user_context(False)
"""Within `analytic(True)` complex numbers pass for floats: for the complex step, which
reads a derivative off an imaginary part."""

WIDE = (np.float64, np.int64, np.uint64)
IMAGE, BRIGHT = 64, 128  # numbers in the smallest image, a level that some pixel has


def as_array(value: Any, where: str, what: str, *, floats: bool = False) -> Any:
    """`value` as a NumPy or JAX array of floats, whole numbers or bools.

    Arrays stay what they are; lists, and what pandas, PyTorch and others hold on the
    host, are read. Nothing is rounded, scaled or guessed.

    Args:
      value: what was given.
      where: the function that asks, for the error.
      what: the argument, for the error.
      floats: whether only floats will do.

    Raises:
      JaxnnError: not numbers: text, objects, ragged lists, complex numbers, keys; or
        numbers with gaps (masked, sparse).
    """
    a = value
    if not (isinstance(value, jax.Array) or type(value) is np.ndarray):
        a = _read(value, where, what)
    kind = getattr(a.dtype, "kind", None)
    if is_float(a) or (kind in ("f", "i", "u", "b") and not floats):
        return a
    if kind in ("i", "u", "b"):
        raise JaxnnError(
            f"{where}: got {what} of dtype {a.dtype}, expected floats; convert them by "
            ".astype(float)"
        )
    fix = {
        "O": "give every entry and row the same type and length",
        "U": "encode text as numbers",
        "S": "encode text as numbers",
        "c": "take the real part, or real and imaginary as two columns",
    }.get(str(kind), "convert it to numbers")
    raise JaxnnError(
        f"{where}: got {what} of dtype {a.dtype}, expected floats or whole numbers; "
        f"{fix}"
    )


def _read(value, where, what):
    """What holds numbers on the host, as an array."""
    said = f"{where}: got {what} of type {type(value).__name__}"
    if isinstance(value, np.ma.MaskedArray):
        raise JaxnnError(f"{said}, expected no masked values; fill or remove them")
    if hasattr(value, "toarray"):  # scipy's sparse matrices
        raise JaxnnError(f"{said}, expected a dense array: {what}.toarray()")
    try:
        if isinstance(value, (list, tuple, np.ndarray, np.generic, float, int)):
            return np.asarray(value)
        if hasattr(value, "detach") and hasattr(value, "cpu"):  # PyTorch's
            value = value.detach().cpu()
            narrow = "bfloat16" in str(value.dtype)  # which NumPy does not know
            return (value.float() if narrow else value).numpy()
        if hasattr(value, "to_numpy"):  # pandas, polars
            return np.asarray(value.to_numpy())
        if hasattr(value, "__array__"):
            return np.asarray(value)
    except Exception as error:  # whatever a foreign type's conversion raises
        raise JaxnnError(
            f"{said}, expected an array of numbers ({first_line(error)})"
        ) from None
    raise JaxnnError(
        f"{said}, expected an array of numbers (it is none and cannot be read as one)"
    )


def as_rows(value: Any, where: str, what: str) -> Any:
    """`as_array` with a first axis of samples, of which there is at least one."""
    a = as_array(value, where, what)
    if a.ndim == 0 or len(a) == 0:
        raise JaxnnError(
            f"{where}: got {what} of shape {a.shape}, expected (N, ...) with at least "
            "one row"
        )
    return a


def check_unit(x: Any, where: str, what: str) -> None:
    """Raise where x holds pixels of 0 to 255 as other than bytes: no guess is made.

    For such are taken numbers from 0 to 255, some beyond 127, 64 or more in a row, that
    are whole, or of images with channels (N, H, W, C). Bytes (uint8) become [0, 1].
    """
    x = np.asarray(x)
    if x.dtype in (np.uint8, bool) or x.ndim < 2 or x[0].size < IMAGE:
        return
    low, high = float(x.min()), float(x.max())
    if not (low >= 0 and BRIGHT <= high <= 255):
        return
    if x.ndim == 4 or (x == np.trunc(x)).all():
        raise JaxnnError(
            f"{where}: got {what} of dtype {x.dtype} from {low:g} to {high:g}, which "
            "are pixels of bytes; expected pixels in [0, 1]: divide by 255, or give "
            "them as uint8 (if they are none, standardize them)"
        )


def is_key(a: Any) -> bool:
    """Whether it is an array of `jax.random.key`, not of the old style's numbers."""
    dtype = getattr(a, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)


def is_float(a: Any) -> bool:
    """Whether an array, or its shape and type, is of floats, bfloat16 among them."""
    return jnp.issubdtype(a.dtype, jnp.inexact if analytic.value else jnp.floating)


def is_whole(value: Any, least: int = 1) -> bool:
    """Whether `value` is a whole number of at least that; True and False are none."""
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    return whole and int(value) >= least


def first_true(mask: Any) -> Any:
    """The index of the first True on the host: a number, of several axes a tuple."""
    first = tuple(map(int, np.argwhere(mask)[0]))
    return first[0] if len(first) == 1 else first


def is_traced(setting: Any) -> bool:
    """Whether a setting is known only when the program runs: a sweep's, an array.

    Such a one has been looked at before; here it cannot be.
    """
    return isinstance(setting, jax.core.Tracer)


def call_back(function: Callable, *trees: Any) -> None:
    """Call `function(*trees)` with NumPy arrays whenever the program runs, in order."""
    types = jax.tree.map(jnp.result_type, trees)

    def call(*halved):
        function(*whole(halved, types))

    jax.debug.callback(call, *halves(trees), ordered=True)


def halves(trees: Any) -> Any:
    """Give numbers of 64 bits as two of 32: what a callback of JAX can be sent.

    It may run in a thread of its own, which knows nothing of `jax.enable_x64`, and JAX
    makes the arguments arrays of that thread's precision: float64 came as float32.
    """

    def one(a):
        return lax.bitcast_convert_type(a, jnp.uint32) if a.dtype in WIDE else a

    return jax.tree.map(lambda a: a if is_key(a) else one(jnp.asarray(a)), trees)


def whole(trees: Any, types: Any) -> Any:
    """Give NumPy arrays of `types`, of what `halves` made of them."""

    def one(a, dtype):
        a = np.ascontiguousarray(a)
        return a.view(dtype)[..., 0] if dtype in WIDE else np.asarray(a, dtype)

    return jax.tree.map(lambda a, t: a if is_key(a) else one(a, t), trees, types)
