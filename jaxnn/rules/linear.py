"""Products with weights."""

from jaxnn.errors import JaxnnError
from jaxnn.rules import products
from jaxnn.rules.core import Rule, last_axis


def _affine_fwd(x, w, b):
    # x (..., I), w (I, O), b (O,) -> y (..., O)
    _check("affine", x, w)
    y = products.matmul(x, w)
    return y + last_axis(b, y.ndim), (x, w)


def _affine_bwd(cache, dy):
    # dy (..., O) -> dx (..., I), dw (I, O), db (O,)
    x, w = cache
    return dy @ w.T, products.weight_gradient(x, dy), products.rows(dy).sum(0)


def _matmul_fwd(x, w):
    # x (..., I), w (I, O) -> y (..., O)
    _check("matmul", x, w)
    return products.matmul(x, w), (x, w)


def _matmul_bwd(cache, dy):
    x, w = cache
    return dy @ w.T, products.weight_gradient(x, dy)


def _check(name, x, w):
    # `@` would take stacked matrices too, whose gradients are another formula
    if w.ndim != 2 or x.ndim < 1 or x.shape[-1] != w.shape[0]:
        raise JaxnnError(
            f"{name}: expected x (..., I) and w (I, O), got {x.shape} and {w.shape}; "
            "for stacked matrices use einsum"
        )


affine = Rule("affine", _affine_fwd, _affine_bwd)
"""y = x w + b, with dx = dy w^T, dw = x^T dy, db = sum of dy over the rows.

x (..., I), w (I, O), b (O,) -> y (..., O). Keeps x and w: each is the other's
derivative. Smooth, no kinks. Source: Goodfellow, Bengio, Courville 2016, section 6.5.
"""

matmul = Rule("matmul", _matmul_fwd, _matmul_bwd)
"""y = x w: `affine` without its bias. x (..., I), w (I, O) -> y (..., O)."""
