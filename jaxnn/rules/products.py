"""How products are made: type and order of their operands, and order of the result.

Every product of a rule is made here, by a policy that no rule knows of. In mixed
precision operands are rounded to bfloat16 and sums are made in float32, as they are
asked for: results rounded to bfloat16 would lose digits, and leave XLA's fast path.

A CPU multiplies faster if the weights of few outputs lie transposed in memory. XLA
would swap the operands back, so a barrier stands behind such a product.
"""

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, default_backend, lax
from jax.experimental.layout import Layout, with_layout_constraint

FEW = 64  # outputs up to which a weight and its gradient lie transposed
TINY = 3
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class Policy:
    """How products are made.

    Attributes:
      precision: "bfloat16": of operands, with sums in float32; "float32": both are of
        the type that the operands come in, whatever that is.
      transposed: whether weights of few outputs are expected to lie transposed. It is
        a hint for speed: results are the same without, and about weights that do not.
      plain: whether each operation is run by itself, as in a replay: then nothing is
        said to XLA but what to compute.
    """

    precision: str = "float32"
    transposed: bool = False
    plain: bool = False


# A user context is part of jit's key: no program is ever taken for the other one.
_policy = jax.make_user_context(Policy())


def policy(**changes: Any) -> AbstractContextManager:
    """Products traced in here are made by this policy: see `Policy`.

    It stands within the function that is traced: a thread, or a pull-back called
    elsewhere, has the policy of its own place.
    """
    return _policy(replace(_policy.value, **changes))


def few_outputs(inputs: int, outputs: int, row_count: int | None = None) -> bool:
    """Whether a CPU is faster with a weight (inputs, outputs) transposed in memory.

    With `row_count`: whether to make a product of so many rows so. Not where both
    operands have an axis of at most 3: such products XLA makes by plain loops, which
    under `vmap` expect the result to lie as it is written; the compiler of jaxlib 0.10
    ends the process where it does not.
    """
    tiny = row_count is not None and min(row_count, inputs) <= TINY
    return outputs <= FEW and outputs < inputs and not tiny


def matmul(x: Array, w: Array) -> Array:
    """x w: x (..., I), w (I, O) -> (..., O).

    The weights of S networks side by side lie as (S, O, I): (S O, I) times x^T reads
    them as they are, where x w would first copy all of them into (I, S O).
    """
    row_count = math.prod(x.shape[:-1])
    if not (_policy.value.transposed and few_outputs(len(w), w.shape[1], row_count)):
        return product(x, w)
    y = lax.optimization_barrier(product(w.T, rows(x).T))
    return y.T.reshape(*x.shape[:-1], w.shape[1])


def weight_gradient(x: Array, dy: Array) -> Array:
    """x^T dy: x (..., I), dy (..., O) -> dw (I, O), one product over all rows.

    For few outputs the inner loop should run along I, so dw is made transposed, as the
    training loop on a CPU keeps w: see `jaxnn.train.state`.
    """
    x, dy = rows(x), rows(dy)
    if default_backend() == "cpu" and few_outputs(x.shape[1], dy.shape[1], len(x)):
        return lax.optimization_barrier(product(dy.T, x)).T
    return product(x.T, dy)


def product(a: Array, b: Array, *, wide: bool = False) -> Array:
    """a b, of matrices or stacks of them.

    With `wide` sums are in float32 at least, also between products that make one
    result.
    """
    if _policy.value.precision == "float32":
        kind = jnp.promote_types(jnp.promote_types(a.dtype, b.dtype), jnp.float32)
        return jnp.matmul(a, b, preferred_element_type=kind if wide else None)
    return _mixed(a, _stack(b))


def product_nt(a: Array, b: Array, *, wide: bool = False) -> Array:
    """a b^T, of matrices or stacks of them."""
    if _policy.value.precision == "float32":
        return product(a, b.swapaxes(-1, -2), wide=wide)
    # rounded as the product a b rounds it, so that b is rounded once for both
    return _mixed(a, operand(_stack(b)).swapaxes(-1, -2))


def product_tn(a: Array, b: Array, *, wide: bool = False) -> Array:
    """a^T b, of matrices or stacks of them."""
    return product(a.swapaxes(-1, -2), b, wide=wide)


def _mixed(a, b):
    """a b with operands rounded: the left one's rows, and the result's, lie together.

    Otherwise XLA's CPU backend (jaxlib 0.10 and 0.12) leaves its fast path, or ends
    with an error when it runs the product. The left operand is rounded after it was
    turned: 16 bits are not turned faster than 32.
    """
    a, b = operand(_as_written(a)), operand(b)
    y = jnp.matmul(a, b, preferred_element_type=jnp.float32)
    return y if _policy.value.plain else lax.optimization_barrier(y)


def _stack(b):
    """A right operand, which must lie as it is written if it is a stack of many."""
    return _as_written(b) if b.ndim > 2 else b


def _as_written(a):
    """`a` with its last axis together in memory, and so on."""
    return with_layout_constraint(a, Layout(tuple(range(a.ndim)))) if _told() else a


def _told():
    """Whether XLA is told how arrays lie: its CPU backend must be."""
    return default_backend() == "cpu" and not _policy.value.plain


def einsum(subscripts: str, a: Array, b: Array) -> Array:
    """`jnp.einsum` of two operands.

    In mixed precision they are rounded and stay float32: it may sum an operand alone,
    and lets operands lie in any order, which no fast product does.
    """
    if _policy.value.precision != "float32":
        info = jnp.finfo(_policy.value.precision)
        a, b = (lax.reduce_precision(v, info.nexp, info.nmant) for v in (a, b))
    return jnp.einsum(subscripts, a, b)


def convolution(x: Array, w: Array, *args: Any, **options: Any) -> Array:
    """`lax.conv_general_dilated`."""
    wide = None if _policy.value.precision == "float32" else jnp.float32
    return lax.conv_general_dilated(
        operand(x), operand(w), *args, preferred_element_type=wide, **options
    )


def operand(a: Array) -> Array:
    """`a` as a product reads it: made ahead where many products, or a loop, do."""
    kind = _policy.value.precision
    if kind == "float32":
        return a
    bits = a.dtype == jnp.uint16  # of `movable`: whole numbers are no operands
    return lax.bitcast_convert_type(a, kind) if bits else a.astype(kind)


def movable(a: Array) -> Array:
    """`operand`, to be padded, cut and joined before it is multiplied.

    On a CPU as bits: XLA moves bfloat16 there by way of float32, and back.
    """
    as_bits = _policy.value.precision != "float32" and _told()
    return lax.bitcast_convert_type(operand(a), jnp.uint16) if as_bits else operand(a)


def rows(a: Array) -> Array:
    """a (..., C) as (R, C)."""
    # The count is spelled out: -1 cannot be inferred when an axis is empty.
    return a.reshape(math.prod(a.shape[:-1]), a.shape[-1])
