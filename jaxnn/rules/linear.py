"""Products with weights."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from jax import default_backend, lax

from jaxnn.errors import JaxnnError
from jaxnn.rules.core import Rule, last_axis

FEW = 64  # outputs up to which dw is made transposed, see `_weight_gradient`

_weights_lie_transposed: ContextVar[bool] = ContextVar("transposed", default=False)


def few_outputs(inputs: int, outputs: int) -> bool:
    """Whether a CPU is faster with a weight (inputs, outputs) transposed in memory."""
    return outputs <= FEW and outputs < inputs


@contextmanager
def weights_lie_transposed() -> Iterator[None]:
    """Products traced in here may count on weights of few outputs lying transposed.

    It is a hint for speed: without it, and with it about weights that do not, results
    are the same.
    """
    token = _weights_lie_transposed.set(True)
    try:
        yield
    finally:
        _weights_lie_transposed.reset(token)


def _affine_fwd(x, w, b):
    # x (..., I), w (I, O), b (O,) -> y (..., O)
    _check("affine", x, w)
    y = _product(x, w)
    return y + last_axis(b, y.ndim), (x, w)


def _affine_bwd(cache, dy):
    # dy (..., O) -> dx (..., I), dw (I, O), db (O,)
    x, w = cache
    # Rows flattened: the weight gradient is then one large matrix product.
    rows_x, rows_dy = _rows(x), _rows(dy)
    return dy @ w.T, _weight_gradient(rows_x, rows_dy), rows_dy.sum(0)


def _matmul_fwd(x, w):
    # x (..., I), w (I, O) -> y (..., O)
    _check("matmul", x, w)
    return _product(x, w), (x, w)


def _matmul_bwd(cache, dy):
    x, w = cache
    return dy @ w.T, _weight_gradient(_rows(x), _rows(dy))


def _check(name, x, w):
    # `@` would take stacked matrices too, whose gradients are another formula
    if w.ndim != 2 or x.ndim < 1 or x.shape[-1] != w.shape[0]:
        raise JaxnnError(
            f"{name}: expected x (..., I) and w (I, O), got {x.shape} and {w.shape}; "
            "for stacked matrices use einsum"
        )


def _product(x, w):
    """x w: x (..., I), w (I, O) -> (..., O).

    The weights of S networks side by side lie as (S, O, I): (S O, I) times x^T reads
    them as they are, where x w would first copy all of them into (I, S O). The barrier
    keeps XLA from swapping the operands back.
    """
    if not (_weights_lie_transposed.get() and few_outputs(*w.shape)):
        return x @ w
    transposed = lax.optimization_barrier(w.T @ _rows(x).T)
    return transposed.T.reshape(*x.shape[:-1], w.shape[1])


def _weight_gradient(x, dy):
    """x^T dy: x (R, I), dy (R, O) -> dw (I, O), by the order that CPUs do faster.

    For few outputs the inner loop should run along I, so dw is made transposed, as the
    training loop on a CPU keeps w: see `jaxnn.train.turned`. The barrier keeps XLA from
    swapping the operands back.
    """
    if not few_outputs(x.shape[1], dy.shape[1]) or default_backend() != "cpu":
        return x.T @ dy
    return lax.optimization_barrier(dy.T @ x).T


def _rows(a):
    # The count is spelt out: -1 cannot be inferred when an axis is empty.
    return a.reshape(math.prod(a.shape[:-1]), a.shape[-1])


affine = Rule("affine", _affine_fwd, _affine_bwd)
"""y = x w + b, with dx = dy w^T, dw = x^T dy, db = sum of dy over the rows.

x (..., I), w (I, O), b (O,) -> y (..., O). Keeps x and w: each is the other's
derivative. Smooth, no kinks. Source: Goodfellow, Bengio, Courville 2016, section 6.5.
"""

matmul = Rule("matmul", _matmul_fwd, _matmul_bwd)
"""y = x w: `affine` without its bias. x (..., I), w (I, O) -> y (..., O)."""
