"""Is a backward pass its forward's? Gradients beside slopes, where there are slopes.

At a kink (a relu at 0, equal entries under a max pool) the slope to the left and the
one to the right differ, and every gradient between them is right. Images are full of
kinks: their background is flat. So points are moved off ties, and a gradient is judged
only where the slopes on both sides agree.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn import programs
from jaxnn.attacks.classifier import Classifier
from jaxnn.check.adapters import automatic
from jaxnn.robustness.threat import surely_above
from jaxnn.train.state import cast_floats

STEP = 1e-7  # of a difference in float64: few kinks lie so near, and rounding is 1e-9
CLOSE = 1e-3  # how near to each other two slopes are, relative to the larger
SAME = 1e-5  # how near two gradients are, relative to the larger
RARELY = 0.02  # share of points that may be wrong: a kink can hide between two slopes


class Slopes(NamedTuple):
    """Of `sum(dy * f(x))` along v, for each image (B,): by the gradient, and seen."""

    predicted: Any  # dx . v by the backward pass
    ahead: Any  # seen between x and x + STEP v
    behind: Any  # seen between x - STEP v and x
    size: Any  # |dx|
    rounding: Any  # what rounding alone can make of a slope

    def smooth(self) -> np.ndarray:
        """Where both sides see one slope."""
        a, b = self.ahead, self.behind
        most = np.maximum(np.abs(a), np.abs(b))
        return np.abs(a - b) <= CLOSE * most + self.rounding

    def wrong(self) -> np.ndarray:
        """Where the gradient is not the slope that both sides see."""
        seen = (self.ahead + self.behind) / 2
        limit = CLOSE * (np.abs(seen) + self.size) + self.rounding
        near = np.abs(self.predicted - seen) <= limit  # so written that NaN is wrong
        return self.smooth() & ~near


def measure(f: Callable, dx: Any, x: Any, dy: Any, v: Any) -> Slopes:
    """The slopes of `f` (B, ...) -> (B, ...) at x along v; can be traced."""

    def each(a):
        return a.reshape(len(a), -1).sum(-1)

    y = f(x)
    ahead = each((f(x + STEP * v) - y) * dy) / STEP
    behind = each((y - f(x - STEP * v)) * dy) / STEP
    size = jnp.sqrt(each(jnp.square(dx)))
    rounding = 1e-14 * each(jnp.abs(y * dy)) / STEP
    return Slopes(each(dx * v), ahead, behind, size, rounding)


def apart(dx: Any, by_jax: Any) -> Any:
    """Which gradients (B, ...) differ from JAX's by more than rounding; NaN differs,
    but NaN of JAX proves nothing."""
    a, b = (v.reshape(len(v), -1) for v in (dx, by_jax))
    size = jnp.maximum(jnp.abs(a).max(-1), jnp.abs(b).max(-1))
    far = ~(jnp.abs(a - b).max(-1) <= SAME * size)
    return far & jnp.isfinite(b).all(-1)


def in_float64(model: Classifier) -> Classifier:
    """The network with its floating arrays in float64; others as they are."""
    params, state = cast_floats((model.params, model.state), np.float64)
    return replace(model, params=params, state=state)


class Truth(NamedTuple):
    """What became of the input gradients of some images."""

    wrong: np.ndarray  # whose gradient (B,) is not the slope, or not JAX's
    slopes: tuple[int, int]  # of two an image, how many were judged; and missed
    automatic: int | None  # images whose gradient is not JAX's; None: JAX has none

    @property
    def surely_wrong(self) -> bool:
        """Whether that is more than a kink between two slopes now and then."""
        judged, missed = self.slopes
        share = surely_above(int(self.wrong.sum()), len(self.wrong), RARELY)
        return share or surely_above(missed, max(judged, 1), RARELY)


def gradient_truth(model: Classifier, x: np.ndarray, box: Any) -> Truth:
    """The backward pass of a whole network, in float64, at x and beside it.

    The outputs are summed with random weights, so that no loss saturates before them.
    Beside x, off its ties, gradients must be JAX's and the slopes seen. At x itself
    JAX's is right too: who takes the same side of each kink as JAX is not wrong.
    """
    rng = np.random.default_rng(0)
    low, high = (0.0, 1.0) if box is None else box
    x = np.asarray(x, np.float64)
    near = 0.98 * x + 0.02 * rng.uniform(low, high, x.shape)  # inside the box
    v = rng.standard_normal(x.shape)
    with jax.enable_x64(True):
        double = in_float64(model)
        dy = rng.standard_normal(jax.eval_shape(Classifier.logits, double, x).shape)
        beside, other = _at(double, near, dy, v)
        beside_wrong = beside.wrong() | (False if other is None else other)
        flat, tied = _at(double, x, dy, np.ones_like(x))
        flat_wrong = flat.wrong() & (True if tied is None else tied)
    judged = int(beside.smooth().sum() + flat.smooth().sum())
    missed = int(beside.wrong().sum() + flat_wrong.sum())
    by_jax = None if other is None else int(other.sum())
    return Truth(beside_wrong | flat_wrong, (judged, missed), by_jax)


def _at(model, x, dy, v):
    """Slopes at x along v, and where the gradient is not JAX's (None: JAX has none)."""
    dx = _gradient(model, x, dy)
    slopes = jax.device_get(_slopes(model, dx, x, dy, v))
    twin = replace(model, net=automatic(model.net))
    if not differentiable(_gradient, twin, x, dy):
        return slopes, None
    return slopes, np.asarray(apart(dx, _gradient(twin, x, dy)))


@programs.jit
def _gradient(model, x, dy):
    return model.vjp(x)[1](dy)


@programs.jit
def _slopes(model, dx, x, dy, v):
    return measure(model.logits, dx, x, dy, v)


def differentiable(function: Callable, *args: Any) -> bool:
    """Whether JAX can take the gradients that `function` asks it for.

    It has none of a callback or of a loop whose length depends on the data.
    """
    try:
        jax.eval_shape(function, *args)
    except (TypeError, ValueError, NotImplementedError):
        return False
    return True
