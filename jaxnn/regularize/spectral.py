"""The largest singular value of a matrix and its vectors, by a Krylov method."""

import math

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxnn.errors import JaxnnError


def largest_singular(w: Array, steps: int) -> tuple[Array, Array, Array]:
    """s (), u (I,), v (O,) of w (I, O), with w v = s u; at least float32.

    Golub-Kahan bidiagonalisation from a fixed random vector, so that it is a function
    of w alone: two orthonormal bases of `steps` vectors, grown by w and its transpose,
    and the small matrix between them. The vectors are constants for `jax.grad`, as in
    PyTorch's `spectral_norm`: ds/dw = u v^T. A matrix of zeros has s = 0 and u = 0.

    Source: Golub, Kahan 1965.
    """
    if steps < 1:
        raise JaxnnError(f"spectral norm: got {steps} steps, expected at least 1")
    dtype = jnp.promote_types(w.dtype, jnp.float32)
    rows, columns = w.shape
    if rows < columns:  # the right basis can then span all that there is
        s, v, u = largest_singular(w.T, steps)
        return s, u, v
    if w.size == 0:
        return jnp.zeros((), dtype), jnp.zeros(rows, dtype), jnp.zeros(columns, dtype)
    # In units of the largest entry: 1e30 squared overflows float32.
    a = lax.stop_gradient(w.astype(dtype))
    a = a / _positive(jnp.abs(a).max())
    left, right, images = _bases(a, min(steps, columns))
    p, _, q = jnp.linalg.svd(left @ images.T)
    u, v = p[:, 0] @ left, q[0] @ right
    return u @ (w.astype(dtype) @ v), u, v


def as_matrix(w: Array) -> Array:
    """w (..., O) as (product of the others, O)."""
    return w.reshape(math.prod(w.shape[:-1]), w.shape[-1])


def _bases(a, steps):
    """Orthonormal rows left (steps, I) and right (steps, O), and right @ a.T."""
    rows, columns = a.shape
    start = np.random.default_rng(0).standard_normal(columns)

    def once(j, carry):
        left, right, images, v = carry
        image = a @ v
        u = _new_direction(image, left)
        left, right = left.at[j].set(u), right.at[j].set(v)
        images = images.at[j].set(image)
        return left, right, images, _new_direction(u @ a, right)

    empty = [jnp.zeros((steps, n), a.dtype) for n in (rows, columns, rows)]
    start = jnp.asarray(start / np.linalg.norm(start), a.dtype)
    return lax.fori_loop(0, steps, once, (*empty, start))[:3]


def _new_direction(x, basis):
    """The part of x at right angles to the rows of `basis`, of length 1.

    0 if there is none but rounding: the bases then span all that x can reach.
    """
    least = 100 * jnp.finfo(x.dtype).eps * _length(x)
    for _ in range(2):  # once leaves rounding that later steps would blow up
        x = x - (basis @ x) @ basis
    found = _length(x)
    return jnp.where(found <= least, 0, x / _positive(found))


def _length(x):
    return jnp.sqrt(jnp.square(x).sum())


def _positive(length):
    """`length`, but 1 for 0: then there is nothing to divide."""
    return jnp.where(length == 0, 1, length)
