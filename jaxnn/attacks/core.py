"""What every attack stands on: norms, directions, budgets, and the best point seen.

Threat model: x in [0, 1] as the network's input, `epsilon` in the same pixel units;
a network owns its normalisation (`standardize` as its first layer). Attacks run in
evaluation mode and never touch parameters or state.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from jaxnn.losses import says

Box = tuple[float, float] | None
NORMS = ("linf", "l2", "l1")


def per_image(v: Array, like: Array) -> Array:
    """View v (B,) as (B, 1, ..., 1) with the axes of `like`: one number an image."""
    return v.reshape(v.shape + (1,) * (like.ndim - 1))


def budget(epsilon: Any, like: Array) -> Array:
    """`epsilon`, one number or one an image (B,), ready to be used beside `like`."""
    epsilon = jnp.asarray(epsilon, like.dtype)
    return epsilon if epsilon.ndim == 0 else per_image(epsilon, like)


def scaled(delta: Array) -> tuple[Array, Array]:
    """(delta / s, s (B, 1, ...)) with s a power of two near an image's largest entry.

    The square of a float32 below 1e-23 is 0 and that of one above 1e19 infinite. Powers
    of two change no digit: where nothing is lost, all results keep their bits.
    """
    axes = tuple(range(1, delta.ndim))
    largest = jnp.abs(delta).max(axes, keepdims=True, initial=0)
    info = jnp.finfo(delta.dtype)
    exponent = jnp.clip(jnp.frexp(largest)[1] - 1, info.minexp, info.maxexp - 1)
    size = jnp.ldexp(jnp.ones_like(largest), exponent)
    return delta / size, size


def l2_norm(delta: Array) -> Array:
    """2-norm of each image's perturbation: (B, ...) -> (B,)."""
    unit, size = scaled(delta)
    length = jnp.sqrt(jnp.square(unit).sum(tuple(range(1, delta.ndim))))
    return size.reshape(-1) * length


def distance(x_adv: Any, x: Any, norm: str) -> Array:
    """Size of each image's perturbation in that norm: (B, ...) -> (B,)."""
    delta = (jnp.asarray(x_adv) - x).reshape(len(x), -1)
    if norm == "linf":
        return jnp.abs(delta).max(-1, initial=0)
    return l2_norm(delta) if norm == "l2" else jnp.abs(delta).sum(-1)


def ascent_direction(gradient: Array, norm: str) -> Array:
    """The step of norm 1 that raises the loss most: sign (linf) or g / |g| (l2).

    For l1 the whole step would go into one pixel; it is spread evenly over the 1% of
    pixels with the largest gradient (Tramer, Boneh 2019, arXiv 1904.13000). An image
    without gradient gets no direction instead of NaN.
    """
    if norm == "linf":
        return jnp.sign(gradient)
    if norm == "l2":
        unit, _ = scaled(gradient)  # the length of itself may be too large for a float
        length = per_image(l2_norm(unit), unit)
        return jnp.where(length == 0, 0, unit / jnp.where(length == 0, 1, length))
    rows = jnp.abs(gradient).reshape(len(gradient), -1)
    count = -(-rows.shape[1] // 100)
    threshold = lax.top_k(rows, count)[0][:, -1:]
    chosen = jnp.sign(gradient) * (rows >= threshold).reshape(gradient.shape)
    size = per_image(jnp.abs(chosen).reshape(rows.shape).sum(-1), gradient)
    return chosen / jnp.where(size > 0, size, 1)


def project(x_adv: Array, x: Array, epsilon: Array, norm: str, box: Box) -> Array:
    """The nearest point to x_adv within `epsilon` of x, then within the box.

    With epsilon 0 this is x, bit for bit.
    """
    if norm == "linf":
        x_adv = jnp.clip(x_adv, x - epsilon, x + epsilon)
    elif norm == "l2":
        delta = x_adv - x
        length = per_image(l2_norm(delta), delta)
        over = length > epsilon
        x_adv = jnp.where(
            over, x + delta * (epsilon / jnp.where(over, length, 1)), x_adv
        )
    else:
        x_adv = x + _onto_l1_ball(x_adv - x, epsilon)
    # x lies in the box, so clipping can only shorten the perturbation.
    return x_adv if box is None else jnp.clip(x_adv, *box)


def clip(a: Array, low: Any, high: Any) -> Array:
    """Clip, but keep NaN: on a CPU min and max swallow it, and no guard sees it."""
    return jnp.where(jnp.isnan(a), a, jnp.clip(a, low, high))


def _onto_l1_ball(delta: Array, epsilon: Array) -> Array:
    """The nearest point of |delta|_1 <= epsilon: all sizes shrunk by one threshold.

    The threshold of the entries that stay above it is (their sum - epsilon) / their
    number; entries it removes raise it, until none is removed. That takes a few passes
    where sorting takes many. Source: Michelot 1986; Condat 2016, "Fast projection onto
    the simplex and the l1 ball".
    """
    sizes = jnp.abs(delta).reshape(len(delta), -1)  # (B, D)
    limit = jnp.broadcast_to(epsilon.reshape(-1), (len(delta),))

    def threshold_of(stays):
        count = jnp.maximum(stays.sum(-1), 1).astype(sizes.dtype)
        return (jnp.where(stays, sizes, 0).sum(-1) - limit) / count

    def removes(carry):
        return carry[1]

    def tighten(carry):
        stays, _ = carry
        fewer = stays & (sizes > threshold_of(stays)[:, None])
        return fewer, (fewer != stays).any()

    stays, _ = lax.while_loop(removes, tighten, (sizes > 0, True))
    threshold = per_image(jnp.maximum(threshold_of(stays), 0), delta)
    shrunk = jnp.sign(delta) * jnp.maximum(jnp.abs(delta) - threshold, 0)
    inside = sizes.sum(-1) <= limit
    return jnp.where(per_image(inside, delta), delta, shrunk)


class Best(NamedTuple):
    """Of all points an attack has seen, the best one of each image.

    One that fools the network goes before one that does not, then the higher score.
    """

    x: Array
    fooled: Array
    score: Array

    @staticmethod
    def of_nothing(x: Array) -> "Best":
        """Before anything was rated: any point will replace it."""
        return Best(x, jnp.zeros(len(x), bool), jnp.full(len(x), -jnp.inf, x.dtype))

    def with_point(self, x_adv: Array, fooled: Array, score: Array) -> "Best":
        """The better of what was kept and x_adv, image by image.

        A point with a pixel that is not finite, or a score that is NaN, is never kept.
        """
        sound = is_finite(x_adv) & ~jnp.isnan(score)
        fooled, score = fooled & sound, jnp.where(sound, score, -jnp.inf)
        higher = (fooled == self.fooled) & (score > self.score)
        better = (fooled & ~self.fooled) | higher
        return Best(
            jnp.where(per_image(better, x_adv), x_adv, self.x),
            self.fooled | fooled,
            jnp.where(better, score.astype(self.score.dtype), self.score),
        )


def is_finite(x: Array) -> Array:
    """Which images (B, ...) have no pixel that is NaN or infinite: (B,)."""
    return jnp.isfinite(x).all(tuple(range(1, x.ndim)))


def is_fooled(pred: Array, y: Array, targeted: bool) -> Array:
    """Whether each prediction (B, N) misses label y (B,), or meets it if targeted.

    One with a NaN says nothing, so it fools nobody. A single output says yes above 0.
    """
    hit = says(pred, y)
    return (hit if targeted else ~hit) & ~jnp.isnan(pred).any(-1)
