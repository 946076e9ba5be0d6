"""Randomized smoothing: a network's vote under Gaussian noise, with a certificate.

The smoothed network says what the network says most often about x + sigma N(0, 1). If
its favorite class has a share above p > 1/2 there, then nothing within an l2 distance
of sigma * Phi^-1(p) changes the vote. p is bounded from below by Clopper and Pearson,
so each certificate is wrong with probability alpha at most. Noise is not clipped to the
box: the theorem is about the whole Gaussian.

Source: Cohen, Rosenfeld, Kolter 2019, arXiv 1902.02918.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxnn import programs
from jaxnn.attacks.classifier import Classifier
from jaxnn.errors import JaxnnError, require

ABSTAIN = -1
"""The answer where the vote is too close to call."""

CHUNK = 1000  # noisy copies a pass


class Certified(NamedTuple):
    """What `certify` found."""

    labels: np.ndarray  # the smoothed network's answers (N,), or `ABSTAIN`
    # l2 distance, in pixel units, within which each answer holds (N,); 0 for `ABSTAIN`
    radii: np.ndarray
    n: int  # noisy copies an image; radii of different n cannot be compared

    def average_radius(self, y: Any) -> float:
        """ACR: the mean over all images, a wrong answer counting as 0."""
        return float(np.where(self.labels == np.asarray(y), self.radii, 0).mean())

    def accuracy_at(self, y: Any, radius: float) -> float:
        """Share of the images that are right and certified to `radius` or more."""
        proven = (self.labels == np.asarray(y)) & (self.radii >= radius)
        return float(proven.mean())


def certify(
    model: Classifier, x: Any, *, sigma: float, key: Array, n: int = 10_000,
    n0: int = 100, alpha: float = 0.001, log: Callable[[int], None] | None = None,
) -> Certified:  # fmt: skip
    """The smoothed network's answer for each image, and how far it holds.

    Args:
      model: the network, best trained with `input_noise(sigma)`.
      x: images (N, ...), float in [0, 1].
      sigma: standard deviation of the noise, pixel units.
      key: of all noise; image i draws from `fold_in(key, i)`, whatever its company.
      n: noisy copies that the share is estimated from.
      n0: other copies that choose the class.
      alpha: how often a certificate may be wrong.
      log: called with the number of each image when it is done.

    Raises:
      JaxnnError: sigma not above 0, counts below 1, alpha outside (0, 1).
    """
    _check("certify", sigma, alpha, n=n, n0=n0)
    labels, radii = np.full(len(x), ABSTAIN), np.zeros(len(x))
    for i, image in enumerate(x):
        keys = jax.random.split(jax.random.fold_in(key, i))
        votes = [
            np.asarray(_votes(size, model, jnp.asarray(image), sigma, k))
            for size, k in zip((n0, n), keys, strict=True)
        ]
        best = int(votes[0].argmax())
        share = clopper_pearson(int(votes[1][best]), n, alpha)
        if share > 0.5:
            labels[i], radii[i] = best, sigma * normal_quantile(share)
        if log is not None:
            log(i)
    return Certified(labels, radii, n)


def predict(
    model: Classifier, x: Any, *, sigma: float, key: Array, n: int = 1000,
    alpha: float = 0.001,
) -> np.ndarray:  # fmt: skip
    """The smoothed network's answers (N,); `ABSTAIN` where the vote is too close.

    An answer differs from that of infinitely many copies with probability alpha at
    most: the two leading classes must differ by a two-sided binomial test. Arguments
    as in `certify`.
    """
    _check("predict", sigma, alpha, n=n)
    answers = np.full(len(x), ABSTAIN)
    for i, image in enumerate(x):
        drawn = jax.random.fold_in(key, i)
        votes = np.asarray(_votes(n, model, jnp.asarray(image), sigma, drawn))
        second, first = np.sort(votes)[-2:]
        if binomial_test(int(first), int(first + second)) <= alpha:
            answers[i] = int(votes.argmax())
    return answers


@partial(programs.jit, static_argnums=0)
def _votes(n, model, image, sigma, key):
    """How many of n noisy copies get each class: (classes,) int32."""
    size = min(CHUNK, n)
    chunks = math.ceil(n / size)

    def some(votes, i):
        noise = jax.random.normal(
            jax.random.fold_in(key, i), (size, *image.shape), image.dtype
        )
        pred = model.logits(image[None] + sigma * noise)
        said = jax.nn.one_hot(pred.argmax(-1), pred.shape[-1], dtype=jnp.int32)
        counts = i * size + jnp.arange(size) < n  # the last pass may be too long
        # argmax takes a NaN for a class: such a copy votes for none
        counts &= jnp.isfinite(pred).all(-1)
        return votes + (said * counts[:, None]).sum(0, dtype=jnp.int32), None

    shape = jax.eval_shape(Classifier.logits, model, image[None])
    start = jnp.zeros(shape.shape[-1], jnp.int32)
    return lax.scan(some, start, jnp.arange(chunks))[0]


def clopper_pearson(count: int, total: int, alpha: float) -> float:
    """A share that `count` of `total` exceeds with confidence 1 - alpha (one-sided).

    The p at which so many or more successes have probability alpha. Source: Clopper,
    Pearson 1934.
    """
    from scipy.special import betaincinv  # comes with jax

    if not 0 <= count <= total or total < 1:
        raise JaxnnError(f"clopper_pearson: got {count} of {total}")
    return 0.0 if count == 0 else float(betaincinv(count, total - count + 1, alpha))


def binomial_test(count: int, total: int) -> float:
    """Two-sided p-value of `count` heads, at least half, of `total` of a fair coin."""
    from scipy.special import betainc

    if total == 0 or 2 * count <= total:
        return 1.0
    return float(min(1.0, 2 * betainc(count, total - count + 1, 0.5)))


def normal_quantile(share: float) -> float:
    """Phi^-1, the inverse of the normal distribution function."""
    from scipy.special import ndtri

    return float(ndtri(share))


def _check(name, sigma, alpha, **counts):
    require(sigma > 0, name, "sigma", sigma, "sigma > 0")
    require(0 < alpha < 1, name, "alpha", alpha, "0 < alpha < 1")
    for what, count in counts.items():
        require(count >= 1, name, what, count, ">= 1")
