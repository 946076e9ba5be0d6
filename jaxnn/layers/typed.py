"""What every layer asks of its inputs and keeps of their types, said once.

Floats in, floats out. y has the type that x and the parameters promote to; dx has x's,
and each gradient its parameter's, whatever they are. Whole numbers are taken by the
layers that look up or move elements only, as they are.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.arrays import is_key, is_whole
from jaxnn.errors import JaxnnError
from jaxnn.rules.core import outline

TAKE_WHOLE_NUMBERS = ("embedding", "flatten", "reshape", "transpose", "pad", "crop")


class Mixed(NamedTuple):
    """A cache where x and the parameters have several types, and these types."""

    cache: Any
    x: Any
    params: Any


def typed(kind: str, layer: Any) -> Any:
    """The functions of `layer`, which a constructor called `kind` made, with checks.

    Where x and params are of one type, which is the rule, nothing is added.
    """

    def forward(params, state, x, *, key=None, train):
        _check_input(kind, layer.name, x)
        y, state, cache = layer.forward(params, state, x, key=key, train=train)
        types = {a.dtype for a in jax.tree.leaves((params, x))}
        if len(types) > 1:
            cache = Mixed(cache, outline(x), jax.tree.map(outline, params))
        return y, state, cache

    def backward(cache, dy):
        if not isinstance(cache, Mixed):
            return layer.backward(cache, dy)
        dx, dparams = layer.backward(cache.cache, dy)
        dparams = jax.tree.map(lambda d, p: d.astype(p.dtype), dparams, cache.params)
        return dx if dx is None else dx.astype(cache.x.dtype), dparams

    return checked(layer)._replace(forward=forward, backward=backward)


def checked(layer: Any) -> Any:
    """`layer` with an `init` that looks at its key and shape."""

    def init(key, in_shape):
        shape = checked_shape(layer.name, in_shape)
        return layer.init(checked_key(layer.name, key), shape)

    return layer._replace(init=init)


def checked_key(name: str, key: Any) -> Any:
    """`key`, if it is one.

    Raises:
      JaxnnError: a number, or anything else.
    """
    if is_key(key):
        return key
    # of the old style
    if getattr(key, "dtype", None) == jnp.uint32 and key.shape[-1:] in ((2,), (4,)):
        return key
    shown = repr(key) if isinstance(key, (int, float)) else type(key).__name__
    raise JaxnnError(
        f"{name}: got key {shown}, expected a PRNG key such as jax.random.key(0)"
    )


def checked_shape(name: str, in_shape: Any) -> tuple[int, ...]:
    """`in_shape` as a tuple of sizes.

    Raises:
      JaxnnError: not a sequence of whole numbers of at least 1.
    """
    if not isinstance(in_shape, Sequence) or not all(map(is_whole, in_shape)):
        raise JaxnnError(
            f"{name}: got in_shape {in_shape!r}, expected a tuple of whole numbers of "
            "at least 1, the batch axis left out, such as (784,) or (28, 28, 1)"
        )
    return tuple(map(int, in_shape))


def _check_input(kind, name, x):
    dtype = getattr(x, "dtype", None)
    if not isinstance(dtype, np.dtype):
        raise JaxnnError(
            f"{name}: got an input of type {type(x).__name__}, expected an array; make "
            "it one by jnp.asarray"
        )
    if kind not in TAKE_WHOLE_NUMBERS and not jnp.issubdtype(dtype, jnp.floating):
        raise JaxnnError(
            f"{name}: got an input of dtype {dtype}, expected floats; convert it by "
            "x.astype(jnp.float32), pixels to [0, 1] by x / 255"
        )
