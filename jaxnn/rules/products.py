"""How products with weights are made: the order of the operands, and of the result.

A CPU multiplies faster if the weights of few outputs lie transposed in memory. XLA
would swap the operands back, so a barrier stands behind such a product.
"""

import math
from contextlib import AbstractContextManager

import jax
import jax.numpy as jnp
from jax import Array, default_backend, lax

FEW = 64  # outputs up to which a weight and its gradient lie transposed
TINY = 3

# A user context is part of jit's key: no program is ever taken for the other one.
_transposed_expected = jax.make_user_context(False)


def few_outputs(inputs: int, outputs: int) -> bool:
    """Whether a CPU is faster with a weight (inputs, outputs) transposed in memory."""
    return outputs <= FEW and outputs < inputs


def expect_transposed_weights() -> AbstractContextManager:
    """Products traced in here may count on weights of few outputs lying transposed.

    It is a hint for speed: without it, and with it about weights that do not, results
    are the same.
    """
    return _transposed_expected(True)


def matmul(x: Array, w: Array) -> Array:
    """x w: x (..., I), w (I, O) -> (..., O).

    The weights of S networks side by side lie as (S, O, I): (S O, I) times x^T reads
    them as they are, where x w would first copy all of them into (I, S O).
    """
    row_count = math.prod(x.shape[:-1])
    if not (_transposed_expected.value and _transposes(row_count, *w.shape)):
        return x @ w
    y = lax.optimization_barrier(w.T @ rows(x).T)
    return y.T.reshape(*x.shape[:-1], w.shape[1])


def weight_gradient(x: Array, dy: Array) -> Array:
    """x^T dy: x (..., I), dy (..., O) -> dw (I, O), one product over all rows.

    For few outputs the inner loop should run along I, so dw is made transposed, as the
    training loop on a CPU keeps w: see `jaxnn.train.layout`.
    """
    x, dy = rows(x), rows(dy)
    on_cpu = default_backend() == "cpu"
    if on_cpu and _transposes(len(x), x.shape[1], dy.shape[1]):
        return lax.optimization_barrier(dy.T @ x).T
    return x.T @ dy


def wide_matmul(a: Array, b: Array) -> Array:
    """a b with sums in float32 at least, also between products that make one result."""
    wide = jnp.promote_types(a.dtype, jnp.float32)
    return jnp.matmul(a, b, preferred_element_type=wide)


def rows(a: Array) -> Array:
    """a (..., C) as (R, C)."""
    # The count is spelled out: -1 cannot be inferred when an axis is empty.
    return a.reshape(math.prod(a.shape[:-1]), a.shape[-1])


def _transposes(row_count, inputs, outputs):
    """Whether to make a product with a weight (inputs, outputs) transposed.

    Not where both operands have an axis of at most 3: such products XLA makes by plain
    loops, which under `vmap` expect the result to lie as it is written; the compiler of
    jaxlib 0.10 ends the process where it does not.
    """
    return few_outputs(inputs, outputs) and min(row_count, inputs) > TINY
