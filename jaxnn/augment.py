"""Random changes of training images that leave their labels as they are.

Each is made once, `random_shift(2)`, and called inside the training step as `(key, x)
-> x` on the whole batch, x (B, H, W) or (B, H, W, C) floats in [0, 1]; each image draws
for itself. What comes in from outside the picture is 0. Nothing is clipped.

    fit(net, data, augment=chain(random_warp(rotate=10, shift=2), input_noise(0.1)))

Pixels are fetched by gathers: measured inside a compiled step on 2 CPU cores, they are
cheaper than shears by sums of shifted images and than products with matrices.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxnn.arrays import is_whole
from jaxnn.errors import JaxnnError, lookup, require
from jaxnn.programs import remembered

Augment = Callable[[Array, Array], Array]


AMOUNTS: dict[str, dict[str, float]] = {
    "none": {},
    "digits": {"rotate": 10.0, "scale": 0.1, "shear": 0.1, "shift": 2.0},
}
"""Name -> amounts that leave such pictures readable, see `augment_by_name`."""


def augment_by_name(name: str = "none", **amounts: float | None) -> Augment | None:
    """The augmentation of `AMOUNTS`, with other amounts where they are given.

    The amounts are those of `random_warp`. A shift by whole pixels and nothing else is
    `random_shift`, which leaves the pixels sharp; nothing at all is None.

    Raises:
      JaxnnError: unknown name (lists the valid ones), a negative amount.
    """
    given = {k: v for k, v in amounts.items() if v is not None}
    usual = lookup("augmentation", name, AMOUNTS)
    wanted = {k: v for k, v in (usual | given).items() if v}
    if not wanted:
        return None
    if wanted.keys() == {"shift"} and float(wanted["shift"]).is_integer():
        return random_shift(int(wanted["shift"]))
    return random_warp(**wanted)


@remembered
def chain(*augments: Augment) -> Augment:
    """Apply one after the other, each with a key of its own."""

    def run(key, x):
        for i, augment in enumerate(augments):
            x = augment(jax.random.fold_in(key, i), x)
        return x

    return run


@remembered
def random_shift(pixels: int) -> Augment:
    """Move each image by whole pixels, uniform in -pixels..pixels along each axis."""
    require(
        is_whole(pixels, 0), "random_shift", "pixels", pixels,
        "a whole number of pixels >= 0; random_warp(shift=...) moves by fractions",
    )  # fmt: skip

    def shift(key, x):
        _check_images("random_shift", x)
        around = [(0, 0), (pixels, pixels), (pixels, pixels)] + [(0, 0)] * (x.ndim - 3)
        start = jax.random.randint(key, (len(x), 2), 0, 2 * pixels + 1)

        def crop(padded, at):
            rest = (0,) * (x.ndim - 3)
            return lax.dynamic_slice(padded, (at[0], at[1], *rest), x.shape[1:])

        return jax.vmap(crop)(jnp.pad(x, around), start)

    return shift


@remembered
def random_flip() -> Augment:
    """Mirror each image left to right, or not, with equal chance (not for digits)."""

    def flip(key, x):
        _check_images("random_flip", x)
        mirrored = jax.random.bernoulli(key, 0.5, (len(x),) + (1,) * (x.ndim - 1))
        return jnp.where(mirrored, x[:, :, ::-1], x)

    return flip


@remembered
def random_erase(side: int) -> Augment:
    """Set a square of `side` pixels to 0 in each image, its center anywhere.

    Source: cutout, DeVries, Taylor 2017.
    """
    whole = is_whole(side, 0)
    require(whole, "random_erase", "side", side, "a whole number of pixels >= 0")

    def erase(key, x):
        _check_images("random_erase", x)
        inside = True
        for axis, subkey in zip((1, 2), jax.random.split(key), strict=True):
            length = x.shape[axis]
            center = jax.random.randint(subkey, (len(x), 1), 0, length)
            first = center - side // 2
            at = jnp.arange(length)[None]
            within = (at >= first) & (at < first + side)  # (B, length)
            others = [a for a in range(1, x.ndim) if a != axis]
            inside &= jnp.expand_dims(within, others)
        return jnp.where(inside, 0, x)

    return erase


@remembered
def random_warp(
    *,
    rotate: float = 0.0,
    scale: float = 0.0,
    shear: float = 0.0,
    shift: float = 0.0,
    elastic: float = 0.0,
    smooth: float = 4.0,
) -> Augment:
    """Turn, zoom, shear, move and bend each image in one bilinear resampling.

    Args:
      rotate: largest angle in degrees, either way, about the center.
      scale: largest zoom: by a factor from 1 / (1 + scale) to 1 + scale, uniform in
        its logarithm.
      shear: largest sideways move of a row by its distance from the center, either
        way; 0.1 moves the top row of 28 pixels by 1.35.
      shift: largest move in pixels along each axis, fractions included.
      elastic: standard deviation in pixels of a smooth random displacement.
      smooth: standard deviation in pixels of the Gaussian that displacement is smooth
        over.

    All but the displacement are uniform. Source: Simard, Steinkraus, Platt 2003.

    Raises:
      JaxnnError: a negative amount, smooth not positive, x not images.
    """
    amounts = {"rotate": rotate, "scale": scale, "shear": shear, "shift": shift}
    for name, amount in (amounts | {"elastic": elastic}).items():
        require(amount >= 0, "random_warp", name, amount, ">= 0")
    require(smooth > 0, "random_warp", "smooth", smooth, "> 0")

    def warp(key, x):
        _check_images("random_warp", x)
        key_affine, key_bend = jax.random.fold_in(key, 0), jax.random.fold_in(key, 1)
        # Positions in at least float32: bfloat16 does not tell pixel 257 from 258.
        dtype = jnp.promote_types(x.dtype, jnp.float32)
        rows, columns = _affine(key_affine, x.shape, amounts, dtype)
        if elastic:
            bend = elastic * _smooth_field(key_bend, x.shape, smooth, dtype)
            rows, columns = rows + bend[0], columns + bend[1]
        return bilinear(x, rows, columns)

    return warp


def bilinear(x: Array, rows: Array, columns: Array) -> Array:
    """y[b, i, j] = x[b] at the point (rows[b, i, j], columns[b, i, j]), in pixels.

    x (B, H, W) or (B, H, W, C); rows, columns (B, h, w) -> y (B, h, w) or with C. The
    four pixels around a point are weighted by their distances, those outside are 0.
    """
    height, width = x.shape[1:3]
    # A border of zeros, two wide at the end: every point has four pixels in range.
    padded = jnp.pad(x, [(0, 0), (1, 2), (1, 2)] + [(0, 0)] * (x.ndim - 3))
    flat = padded.reshape((len(x), (height + 3) * (width + 3), *x.shape[3:]))
    r, c = jnp.clip(rows + 1, 0, height + 1), jnp.clip(columns + 1, 0, width + 1)
    top, left = jnp.floor(r), jnp.floor(c)
    first = (top * (width + 3) + left).astype(jnp.int32)

    def pixels(offset):
        def take(image, at):
            return image.at[at + offset].get(mode="promise_in_bounds")

        return jax.vmap(take)(flat, first)

    def share(a):  # (B, h, w) -> as y, one weight for all channels
        return jnp.expand_dims(a, tuple(range(3, x.ndim))).astype(dtype)

    dtype = jnp.promote_types(x.dtype, jnp.float32)
    down, right = share(r - top), share(c - left)
    upper = (1 - right) * pixels(0) + right * pixels(1)
    lower = (1 - right) * pixels(width + 3) + right * pixels(width + 4)
    return ((1 - down) * upper + down * lower).astype(x.dtype)


def _affine(key, shape, amounts, dtype):
    """Where each pixel of the new images comes from: rows and columns, (B, H, W)."""
    batch, height, width = shape[:3]
    draws = jax.random.uniform(key, (5, batch, 1, 1), dtype, -1, 1)
    angle = draws[0] * np.deg2rad(amounts["rotate"])
    zoom = jnp.exp(draws[1] * np.log1p(amounts["scale"]))
    shear, (down, right) = draws[2] * amounts["shear"], draws[3:] * amounts["shift"]
    middle = (height - 1) / 2, (width - 1) / 2
    i = jnp.arange(height, dtype=dtype)[None, :, None] - middle[0]
    j = jnp.arange(width, dtype=dtype)[None, None, :] - middle[1]
    j = j + shear * i
    cos, sin = jnp.cos(angle) / zoom, jnp.sin(angle) / zoom
    rows = cos * i - sin * j + (middle[0] + down)
    return rows, sin * i + cos * j + (middle[1] + right)


def _smooth_field(key, shape, smooth, dtype):
    """Two fields (2, B, H, W) of variance 1, correlated over `smooth` pixels.

    Independent draws on a grid of that spacing, spread by Gaussians; each pixel's
    weights have squares that sum to 1, so that its variance is exactly 1.
    """
    spread = [_gaussians(length, smooth) for length in shape[1:3]]
    grid = (2, shape[0], *(len(s[0]) for s in spread))
    draws = jax.random.normal(key, grid, dtype)
    down, across = (jnp.asarray(s, dtype) for s in spread)
    return jnp.einsum("ip,fbpq,jq->fbij", down, draws, across)


def _gaussians(length: int, smooth: float) -> np.ndarray:
    """(length, knots): each pixel's weights of knots that are `smooth` apart."""
    reach = int(np.ceil(length / smooth)) + 3
    knots = (np.arange(-3, reach + 1)) * smooth
    weights = np.exp(-np.square((np.arange(length)[:, None] - knots) / smooth) / 2)
    return weights / np.sqrt(np.square(weights).sum(1, keepdims=True))


def _check_images(name: str, x: Array) -> None:
    if x.ndim not in (3, 4) or not jnp.issubdtype(x.dtype, jnp.floating):
        raise JaxnnError(
            f"{name}: got {x.shape} of {x.dtype}, expected float images (B, H, W) or "
            "(B, H, W, C); flatten them in the network, not in the data"
        )
