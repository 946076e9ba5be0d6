"""A small learning problem that the training tests share, and how they compare."""

import jax
import numpy as np


def blobs(count=256, features=6, classes=3, seed=0):
    """Points around one center a class: x float64 (N, features), y int32 (N,)."""
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(7).normal(size=(classes, features)) * 2
    y = rng.integers(0, classes, count).astype(np.int32)
    return centers[y] + rng.normal(size=(count, features)), y


def pixels(count=256, side=4, classes=3, seed=0):
    """The same as uint8 images (N, side, side)."""
    x, y = blobs(count, side * side, classes, seed)
    scaled = (x - x.min()) / (x.max() - x.min()) * 255
    return scaled.astype(np.uint8).reshape(count, side, side), y


def leaves_equal(a, b, **tolerance):
    jax.tree.map(lambda p, q: np.testing.assert_allclose(p, q, **tolerance), a, b)


def same_bits(a, b):
    pairs = zip(*map(jax.tree.leaves, (a, b)), strict=True)
    return all(np.asarray(p).tobytes() == np.asarray(q).tobytes() for p, q in pairs)
