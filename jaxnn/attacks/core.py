"""What every attack stands on: norms, steps, budgets, objectives, the best point seen.

Threat model: x in [0, 1] as the network's input, `epsilon` in the same pixel units;
a network owns its normalization (`standardize` as its first layer). Attacks run in
evaluation mode and never touch parameters or state.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxnn.errors import JaxnnError
from jaxnn.losses import Loss, Reduction, is_correct, yes_above

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


def l1_norm(delta: Array) -> Array:
    """1-norm of each image's perturbation: (B, ...) -> (B,)."""
    return jnp.abs(delta).sum(tuple(range(1, delta.ndim)))


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
    return l2_norm(delta) if norm == "l2" else l1_norm(delta)


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


def in_box(x: Array, box: Box) -> Array:
    """Images with their pixels clipped to the box, if there is one."""
    return x if box is None else jnp.clip(x, *box)


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


class Ball(NamedTuple):
    """Where attacked images may lie: within `epsilon` of x, and in the box."""

    x: Array
    epsilon: Array  # see `budget`
    norm: str
    box: Box

    @staticmethod
    def around(x: Array, epsilon: Any, norm: str, box: Box) -> "Ball":
        """The ball of one `epsilon`, or of one an image (B,)."""
        return Ball(x, budget(epsilon, x), norm, box)

    def project(self, x_adv: Array) -> Array:
        """The nearest point to x_adv within `epsilon` of x, then within the box.

        With epsilon 0 this is x, bit for bit.
        """
        x, epsilon = self.x, self.epsilon
        if self.norm == "linf":
            x_adv = jnp.clip(x_adv, x - epsilon, x + epsilon)
        elif self.norm == "l2":
            delta = x_adv - x
            length = per_image(l2_norm(delta), delta)
            over = length > epsilon
            nearer = x + delta * (epsilon / jnp.where(over, length, 1))
            x_adv = jnp.where(over, nearer, x_adv)
        else:
            x_adv = x + _onto_l1_ball(x_adv - x, epsilon)
        # x lies in the box, so clipping can only shorten the perturbation.
        return in_box(x_adv, self.box)

    def move(self, x_adv: Array, gradient: Array, size: Any) -> Array:
        """One step of length `size` from x_adv up the gradient, projected.

        A pixel whose gradient is NaN becomes NaN: min and max would swallow it on a
        CPU, and neither a guard nor `Best` would see the step that made it.
        """
        if self.norm == "l1" and self.box is not None:
            # an l1 step goes into a few pixels: not into those at the edge of the box
            up = gradient > 0
            stuck = (up & (x_adv >= self.box[1])) | (~up & (x_adv <= self.box[0]))
            gradient = jnp.where(stuck, 0, gradient)
        moved = x_adv + size * ascent_direction(gradient, self.norm)
        return jnp.where(jnp.isnan(moved), moved, self.project(moved))

    def draw(self, key: Array) -> Array:
        """A point drawn evenly from the budget around x, then clipped to the box."""
        x, norm = self.x, self.norm
        if norm == "linf":
            noise = jax.random.uniform(key, x.shape, x.dtype, -1, 1)
            return self.project(x + self.epsilon * noise)
        key_direction, key_radius = jax.random.split(key)
        draw = jax.random.normal if norm == "l2" else jax.random.laplace
        noise = draw(key_direction, x.shape, x.dtype)
        size = l2_norm(noise) if norm == "l2" else l1_norm(noise)
        radius = jax.random.uniform(key_radius, x.shape[:1], x.dtype)
        features = max(1, x.size // max(1, len(x)))
        radius = radius ** (1 / features)  # even over the ball, not over the radius
        unit = noise / per_image(size, noise)
        return self.project(x + self.epsilon * per_image(radius, x) * unit)


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


class Goal(NamedTuple):
    """What an attack raises: the loss at labels y, or with `targeted` its negative."""

    model: Any
    y: Array
    loss: Loss
    targeted: bool

    def fooled(self, pred: Array) -> Array:
        """Which predictions (B, N) miss y, or meet it if targeted: (B,).

        One with a NaN says nothing, so it fools nobody.
        """
        hit = is_correct(pred, self.y, yes_above(self.model.net))
        return (hit if self.targeted else ~hit) & ~jnp.isnan(pred).any(-1)

    def score(self, x_adv: Array) -> tuple[Array, Array]:
        """What is raised (B,) at x_adv, and the outputs (B, N); forward only."""
        pred = self.model.logits(x_adv)
        values = self.loss(pred, self.y, reduction="none")[0]
        return -values if self.targeted else values, pred

    def rate(self, x_adv: Array, best: Best) -> Best:
        """`best` with the point x_adv; forward only."""
        score, pred = self.score(x_adv)
        return best.with_point(x_adv, self.fooled(pred), score)

    def value_and_gradient(self, x_adv: Array) -> tuple[Array, Array, Array]:
        """What is raised (B,) at x_adv, its gradient, and which points fool (B,)."""
        values, dx, pred = self.model.value_and_gradient(x_adv, self.y, self.loss)
        if self.targeted:
            values, dx = -values, -dx
        return values, dx, self.fooled(pred)

    def climb(self, x_adv: Array, best: Best) -> tuple[Array, Array, Best]:
        """What is raised (B,) at x_adv, its gradient, and `best` with that point."""
        values, dx, fooled = self.value_and_gradient(x_adv)
        return values, dx, best.with_point(x_adv, fooled, values)


def margin(
    logits: Array, y: Array, *, reduction: Reduction = "none"
) -> tuple[Array, Array]:
    """Largest other logit minus y's: above 0 exactly where the network is fooled.

    logits (B, N), y (B,) -> (B,) and (B, N). The gradient is +1 at the largest other
    class (the first of equals), -1 at y. Unlike cross-entropy it does not vanish when
    the network is sure. Source: Carlini, Wagner 2017, arXiv 1608.04644.
    """
    classes = logits.shape[-1]
    own = jax.nn.one_hot(y, classes, dtype=logits.dtype)
    others = jnp.where(own > 0, -jnp.inf, logits)
    best = jax.nn.one_hot(others.argmax(-1), classes, dtype=logits.dtype)
    values = others.max(-1) - _at(logits, y)
    return _reduced("margin", values, best - own, reduction)


def dlr(
    logits: Array, y: Array, *, reduction: Reduction = "none"
) -> tuple[Array, Array]:
    """Difference of logits ratio: margin / (first - third largest logit).

    logits (B, N), N >= 3, y (B,) -> (B,) and (B, N). Multiplying all logits by a number
    changes nothing, so scaling them cannot hide the gradient. Where the first and third
    logit are equal, value and gradient are 0.

    Source: Croce, Hein 2020, arXiv 2003.01690.
    """
    classes = logits.shape[-1]
    if classes < 3:
        raise JaxnnError(f"dlr: got {classes} classes, expected at least 3; use margin")
    order = jnp.argsort(-logits, axis=-1)
    first = jax.nn.one_hot(order[:, 0], classes, dtype=logits.dtype)
    third = jax.nn.one_hot(order[:, 2], classes, dtype=logits.dtype)
    difference, d_difference = margin(logits, y)
    scale = _at(logits, order[:, 0]) - _at(logits, order[:, 2])
    level = scale > 0
    safe = jnp.where(level, scale, 1)
    values = jnp.where(level, difference / safe, 0)
    # quotient rule: (m / s)' = m' / s - (m / s) s' / s
    dlogits = (d_difference - values[:, None] * (first - third)) / safe[:, None]
    return _reduced("dlr", values, jnp.where(level[:, None], dlogits, 0), reduction)


def _at(logits: Array, labels: Array) -> Array:
    return jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]


def _reduced(name, values, dlogits, reduction):
    if reduction == "none":
        return values, dlogits
    if reduction == "mean":
        return values.mean(), dlogits / len(values)
    raise JaxnnError(f"{name}: reduction {reduction!r} is unknown; valid: mean, none")
