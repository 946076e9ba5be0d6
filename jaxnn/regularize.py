"""Regularizers: what is added to the loss, done to weights, gradients, or the input.

    penalties    `params -> (value, dparams)`: l1, l2, elastic_net, spectral_norm;
                 `sum_penalties` adds them up
    projections  `params -> params` after the update: max_norm, max_spectral_norm;
                 `chain` makes one of several
    noise        `(key, x) -> x`: Gaussian, uniform, sign; weight_noise; mixup
    gradients    `(grads, norm) -> grads`: clip_gradient

Penalties, projections and weight noise act on weights, the leaves called w, or those
of a `mask` (`jaxnn.tree.weights`); biases, gammas and betas are left alone. A gradient
has its weight's dtype. Label smoothing belongs to the loss (`softmax_cross_entropy`),
dropout is a layer, images are turned and shifted in `jaxnn.augment`, early stopping is
`fit(patience=...)`.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxnn.arrays import is_traced
from jaxnn.errors import JaxnnError, require
from jaxnn.losses import one_hot
from jaxnn.programs import remembered
from jaxnn.tree import Mask, map_weights, per_layer, stacked_axes, weights

Penalty = Callable[[Any], tuple[Array, Any]]
Projection = Callable[[Any], Any]
Noise = Callable[[Array, Array], Array]


@remembered
def l2(strength: float, mask: Mask = None) -> Penalty:
    """Penalty strength/2 * sum w^2 with gradient strength * w ("weight decay")."""
    fits = is_traced(strength) or strength >= 0
    require(fits, "l2", "strength", strength, ">= 0")
    return _penalty(strength, lambda w: (jnp.square(w).sum() / 2, strength * w), mask)


@remembered
def l1(strength: float, mask: Mask = None) -> Penalty:
    """Penalty strength * sum |w| with gradient strength * sign(w), 0 at w = 0."""
    require(strength >= 0, "l1", "strength", strength, ">= 0")

    def term(w):
        return jnp.abs(w).sum(), strength * jnp.sign(w)

    return _penalty(strength, term, mask)


@remembered
def elastic_net(strength: float, l1_share: float = 0.5, mask: Mask = None) -> Penalty:
    """l1(strength * l1_share) + l2(strength * (1 - l1_share)), in one.

    Raises:
      JaxnnError: negative strength, share outside [0, 1].

    Source: Zou, Hastie 2005; parametrized as in scikit-learn's ElasticNet.
    """
    require(strength >= 0, "elastic_net", "strength", strength, ">= 0")
    require(
        0 <= l1_share <= 1, "elastic_net", "l1_share", l1_share, "a share in [0, 1]"
    )
    return sum_penalties(
        l1(strength * l1_share, mask), l2(strength * (1 - l1_share), mask)
    )


@remembered
def spectral_norm(strength: float, steps: int = 20, mask: Mask = None) -> Penalty:
    """Penalty strength * sum of each weight's largest singular value s.

    w (..., O) is seen as the matrix (product of the others, O): a convolution's kernel
    as (K K C, O). ds/dw = u v^T with the singular vectors of s. Where s is shared by
    several pairs it has no gradient: some pair's is taken; 0 for a weight of zeros.

    Args:
      strength: at least 0.
      steps: of the Krylov method, each two products of w with a vector. It starts
        afresh every time; s is exact where min(K K C, O) is no more, else never too
        large: by 1e-6 for trained weights (784, 32), 0.5% for random (784, 512) whose
        largest values lie densely.

    Source: Yoshida, Miyato 2017 (there s^2 / 2); Magnus 1985 for the gradient.
    """
    require(strength >= 0, "spectral_norm", "strength", strength, ">= 0")

    def term(w):
        s, u, v = largest_singular(as_matrix(w), steps)
        ds = (u[:, None] * v[None]).reshape(w.shape)
        return s, (strength * ds).astype(w.dtype)

    return _penalty(strength, term, mask)


@remembered
def sum_penalties(*penalties: Penalty) -> Penalty:
    """Add up penalties, e.g. `sum_penalties(l1(1e-5), spectral_norm(1e-3))`."""
    if not penalties:
        raise JaxnnError("sum_penalties: got no penalties, expected at least one")

    def penalty(params):
        value, grads = penalties[0](params)
        for other in penalties[1:]:
            more, extra = other(params)
            value, grads = value + more, jax.tree.map(jnp.add, grads, extra)
        return value, grads

    return penalty


def _penalty(strength, term, mask) -> Penalty:
    """strength * the sum over weights of values, from `term(w) -> (value, dw)`."""

    def penalty(params):
        leaves, structure = jax.tree.flatten(params)
        values, grads = [], []
        marks = jax.tree.leaves(weights(params, mask))
        for w, axes, mark in zip(leaves, stacked_axes(params), marks, strict=True):
            if not mark:
                grads.append(jnp.zeros_like(w))
                continue
            value, dw = per_layer(term, axes)(w)
            values.append(value.sum())
            grads.append(dw)
        total = strength * sum(values, jnp.zeros(()))
        return total, jax.tree.unflatten(structure, grads)

    return penalty


@remembered
def max_norm(limit: float, mask: Mask = None) -> Projection:
    """Projection: each unit's incoming weights are scaled back to 2-norm <= limit.

    w (..., O): the norm is over all axes but the last. Source: Srivastava et al. 2014.
    """
    require(limit > 0, "max_norm", "limit", limit, "a positive norm")

    def shrink(w):
        rows = tuple(range(w.ndim - 1))
        # Measured in units of the largest entry: 1e30 squared overflows float32.
        unit = jnp.maximum(jnp.abs(w).max(rows, keepdims=True), 1)
        square = jnp.square(w / unit).sum(rows, keepdims=True)
        too_long = square > jnp.square(limit / unit)
        # where inside as well: a zero column must not reach the square root
        norm = unit * jnp.sqrt(jnp.where(too_long, square, 1))
        return jnp.where(too_long, w * (limit / norm), w)

    return _of_weights(shrink, mask)


@remembered
def max_spectral_norm(limit: float, steps: int = 20, mask: Mask = None) -> Projection:
    """Projection: each weight is scaled back to a largest singular value <= limit.

    w (..., O) as a matrix and `steps` as in `spectral_norm`: the value found may be a
    little too small, so the limit holds to that accuracy. For dense relu networks the
    product of the limits bounds how far a change of the input can grow.

    Source: Miyato et al. 2018, who divide always; only above the limit, Gouk et al.
    2021.
    """
    require(limit > 0, "max_spectral_norm", "limit", limit, "a positive norm")

    def shrink(w):
        s = largest_singular(as_matrix(w), steps)[0]
        scale = jnp.where(s <= limit, 1, limit / s)  # a NaN is not <= anything
        return w * scale.astype(w.dtype)

    return _of_weights(shrink, mask)


@remembered
def chain(*projections: Projection) -> Projection:
    """Project one after the other; the last one holds exactly."""

    def project(params):
        for one in projections:
            params = one(params)
        return params

    return project


def _of_weights(shrink, mask) -> Projection:
    def project(params):
        return map_weights(lambda w, axes, _: per_layer(shrink, axes)(w), params, mask)

    return project


@remembered
def input_noise(std: float, shift: float = 0.0) -> Noise:
    """`(key, x) -> x + std * N(0, 1) + shift`, in pixel units, not clipped.

    x (B, ...) in [0, 1]. Source: Sietsma, Dow 1991; with a shift of 0.3 and std 0.1 it
    is the noise augmentation tested in the robustness experiments.
    """
    return _noise("input_noise", "std", std, shift, jax.random.normal)


@remembered
def uniform_noise(width: float, shift: float = 0.0) -> Noise:
    """`(key, x) -> x + U(-width, width) + shift`, in pixel units, not clipped."""

    def draw(key, shape, dtype):
        return jax.random.uniform(key, shape, dtype, -1, 1)

    return _noise("uniform_noise", "width", width, shift, draw)


@remembered
def sign_noise(size: float, shift: float = 0.0) -> Noise:
    """`(key, x) -> x + size or - size, by chance, + shift`: the corners of a Linf ball.

    With `uniform_noise` the control of Goodfellow et al. 2014: noise of the size of an
    attack does not protect as training on the attack does.
    """
    return _noise("sign_noise", "size", size, shift, jax.random.rademacher)


NOISES: dict[str, Callable[..., Noise]] = {
    "gaussian": input_noise,
    "sign": sign_noise,
    "uniform": uniform_noise,
}
"""Name -> (size, shift) -> noise on the input."""


@remembered
def weight_noise(std: float, mask: Mask = None) -> Callable[[Array, Any], Any]:
    """`(key, params) -> params + std * N(0, 1)` on the weights, for one gradient.

    Loss and gradients are taken at the noisy weights, and move the clean ones: a
    training that looks for weights whose neighbors are good too. Source: Murray,
    Edwards 1994; Graves 2011.
    """
    most = float(jnp.finfo(jnp.float32).max)
    require(0 <= std <= most, "weight_noise", "std", std, f"0 <= std <= {most:.3g}")

    def perturb(key, params):
        def one(w, _, i):
            drawn = jax.random.normal(jax.random.fold_in(key, i), w.shape, w.dtype)
            return w + std * drawn

        return map_weights(one, params, mask)

    return perturb


@remembered
def mixup(alpha: float, classes: int) -> Callable[..., tuple[Array, Array, Any]]:
    """`(key, x, y, weights) -> (x, y, weights)`: each sample is mixed with another.

    x <- m x + (1 - m) x', and so for the rows of y and the weights, with m from
    Beta(alpha, alpha), one for the batch; the partner x' is the batch backwards, which
    is a random one, as batches are in random order.

    Args:
      alpha: > 0; 0.2 leaves most batches nearly as they are, 1 is uniform.
      classes: N; labels (B,) become distributions (B, N), so that the loss must take
        them. y (B, N) stays that.

    x is mixed as floats. With no weights, None is returned for them.

    Source: Zhang et al. 2018.
    """
    require(alpha > 0, "mixup", "alpha", alpha, "alpha > 0")

    draw_share = _symmetric_beta(alpha)

    def mix(key, x, y, weights=None):
        if y.ndim == 1 and jnp.issubdtype(y.dtype, jnp.integer):
            y = one_hot(y, classes, x.dtype)
        if y.shape[-1] != classes:
            raise JaxnnError(
                f"mixup: got targets {y.shape}, expected labels or (B, {classes})"
            )
        share = draw_share(key, jnp.promote_types(x.dtype, jnp.float32))

        def pair(a):
            m = share.astype(a.dtype)
            return m * a + (1 - m) * a[::-1]

        return pair(x), pair(y), None if weights is None else pair(weights)

    return mix


def _noise(name, setting, size, shift, draw) -> Noise:
    fits = is_traced(size) or size >= 0
    require(fits, name, setting, size, f"{setting} >= 0")

    def add(key, x):
        return x + size * draw(key, x.shape, x.dtype) + shift

    return add


def _symmetric_beta(alpha: float, knots: int = 1025) -> Callable[..., Array]:
    """`(key, dtype) -> ` a draw from Beta(alpha, alpha): its quantile of a uniform one.

    The quantiles are a table, straight in between: `jax.random.beta` takes a loop of
    rejections that costs seconds to compile.
    """
    from scipy.special import betaincinv  # comes with jax; not needed by the others

    table = betaincinv(alpha, alpha, np.linspace(0, 1, knots))

    def draw(key, dtype):
        at = jax.random.uniform(key, (), dtype) * (knots - 1)
        i = jnp.minimum(at.astype(jnp.int32), knots - 2)
        low, high = jnp.asarray(table, dtype)[i], jnp.asarray(table, dtype)[i + 1]
        return low + (at - i) * (high - low)

    return draw


def clip_gradient(
    norm: float | None = None, value: float | None = None
) -> Callable[[Any, Any], Any] | None:
    """`(grads, their 2-norm) -> grads`, or None if nothing is to be clipped.

    Args:
      norm: longest gradient: g * min(1, norm / |g|), the direction is kept. The norm
        is over all leaves together, as in `optax.clip_by_global_norm`.
      value: largest entry: each is cut to [-value, value], as by `optax.clip`; the
        direction may change.

    Raises:
      JaxnnError: both, or a bound that is not positive.

    Source: Pascanu, Mikolov, Bengio 2013.
    """
    for name, bound in (("clip_norm", norm), ("clip_value", value)):
        if bound is not None and not bound > 0:
            raise JaxnnError(f"got {name}={bound:g}, expected a positive bound")
    if norm is not None and value is not None:
        raise JaxnnError(
            f"got clip_norm={norm:g} and clip_value={value:g}, expected one of them"
        )
    if norm is not None:
        return partial(_by_norm, norm)
    return partial(_by_value, value) if value is not None else None


def _by_norm(bound, grads, length):
    scale = bound / jnp.maximum(length, bound)
    return jax.tree.map(lambda g: g * scale.astype(g.dtype), grads)


def _by_value(bound, grads, length):
    del length
    return jax.tree.map(lambda g: jnp.clip(g, -bound, bound), grads)


def largest_singular(w: Array, steps: int) -> tuple[Array, Array, Array]:
    """s (), u (I,), v (O,) of w (I, O), with w v = s u; at least float32.

    Golub-Kahan bidiagonalization from a fixed random vector, so that it is a function
    of w alone: two orthonormal bases of `steps` vectors, grown by w and its transpose,
    and the small matrix between them. The vectors are constants for `jax.grad`, as in
    PyTorch's `spectral_norm`: ds/dw = u v^T. A matrix of zeros has s = 0 and u = 0.

    Source: Golub, Kahan 1965.
    """
    require(steps >= 1, "spectral norm", "steps", steps, "at least 1")
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
