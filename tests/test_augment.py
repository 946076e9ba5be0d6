"""Random changes of images: what they do to pixels, types, shapes and keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jaxnn.augment import (
    AMOUNTS,
    augment_by_name,
    bilinear,
    chain,
    random_erase,
    random_flip,
    random_shift,
    random_warp,
)
from jaxnn.errors import JaxnnError
from jaxnn.regularize import input_noise
from tests.rules.common import assert_close

KEY = jax.random.key(1)
EVERY = {
    "shift": random_shift(2),
    "flip": random_flip(),
    "erase": random_erase(4),
    "warp": random_warp(rotate=20, scale=0.2, shear=0.1, shift=1.5, elastic=1.0),
    "in turn": chain(random_shift(1), input_noise(0.1)),
    "digits": augment_by_name("digits"),
}


def warped(x, **amounts):
    """By one program, not one an operation."""
    return jax.jit(random_warp(**amounts))(KEY, x)


def images(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).uniform(0, 1, shape))


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((3, 12, 9), jnp.float32), ((3, 12, 9, 2), jnp.bfloat16),
     ((1, 5, 5, 1), jnp.float32), ((0, 8, 8), jnp.bfloat16)],
)  # fmt: skip
@pytest.mark.parametrize("name", EVERY)
def test_shapes_and_types_stay_and_each_image_draws_for_itself(name, shape, dtype):
    program = jax.jit(EVERY[name])

    def change(key, x):
        return np.asarray(program(key, x))

    x = np.broadcast_to(np.asarray(images(*shape[1:])), shape).astype(dtype)
    y = change(KEY, x)
    assert (y.shape, y.dtype) == (shape, dtype)
    assert (y == change(KEY, x)).all()
    if shape[0] > 1 and name != "flip":
        assert (y[0] != y[1]).any() or (y[0] != y[2]).any()
        assert (y != change(jax.random.key(9), x)).any()


@pytest.mark.parametrize("name", EVERY)
def test_all_channels_of_an_image_move_together(name):
    if name == "in turn":
        return  # noise is drawn for each channel
    x, change = images(4, 10, 8), jax.jit(EVERY[name])
    y = np.asarray(change(KEY, x))
    both = np.asarray(change(KEY, jnp.stack([x, 2 * x], -1)))
    assert_close(both[..., 0], y)
    assert_close(both[..., 1], 2 * y)


def moved(x, down, right):
    """x (H, W) moved by whole pixels, zeros coming in."""
    return ndimage.shift(np.asarray(x), (down, right), order=0)


@pytest.mark.parametrize("pixels", [0, 1, 3])
def test_a_shift_is_one_of_the_moves_and_all_of_them_happen(pixels):
    x = images(1, 6, 5)
    many = jnp.broadcast_to(x, (600, 6, 5))
    y = np.asarray(jax.jit(random_shift(pixels))(KEY, many))
    reach = range(-pixels, pixels + 1)
    moves = [moved(x[0], i, j) for i in reach for j in reach]
    hits = np.array([[np.array_equal(a, m) for m in moves] for a in y[:200]])
    assert (hits.sum(1) >= 1).all()
    if pixels == 1:
        counts = np.array([[np.array_equal(a, m) for m in moves] for a in y]).sum(0)
        assert counts.min() > 600 / 9 / 2


def test_a_shift_beyond_the_picture_leaves_zeros():
    y = random_shift(40)(KEY, jnp.ones((300, 4, 4)))
    assert (y.sum((1, 2)) == 0).mean() > 0.5


def test_a_flip_mirrors_columns_in_about_half():
    x = images(400, 3, 4)
    y = np.asarray(random_flip()(KEY, x))
    mirrored = (y == np.asarray(x)[:, :, ::-1]).all((1, 2))
    assert ((y == np.asarray(x)).all((1, 2)) | mirrored).all()
    assert 140 < mirrored.sum() < 260


def test_an_erased_square_has_its_side_and_may_hang_over_the_edge():
    y = np.asarray(random_erase(4)(KEY, jnp.ones((500, 10, 12))))
    holes = (y == 0).sum((1, 2))
    assert holes.max() == 16
    assert holes.min() < 16
    for hole in y[holes == 16][:20] == 0:
        rows, columns = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
        assert np.ptp(rows) == np.ptp(columns) == 3


@pytest.mark.parametrize("shape", [(7, 9), (1, 4), (5, 1), (1, 1)])
def test_bilinear_is_that_of_scipy_with_zeros_outside(shape):
    x = images(3, *shape)
    rng = np.random.default_rng(1)
    rows = rng.uniform(-3, shape[0] + 3, (3, 6, 4))
    columns = rng.uniform(-3, shape[1] + 3, (3, 6, 4))
    rows[0, 0], columns[0, 0] = [-1, 0, shape[0] - 1, shape[0]], 0  # exactly on pixels
    rows[0, 1], columns[0, 1] = [-1e9, 1e9, 0, 0], [0, 0, -1e9, 1e9]
    got = jax.jit(bilinear)(x, jnp.asarray(rows), jnp.asarray(columns))
    for i in range(3):
        padded = np.pad(x[i], 5)  # scipy's own border is another matter
        want = ndimage.map_coordinates(padded, [rows[i] + 5, columns[i] + 5], order=1)
        assert_close(got[i], want)


def test_a_warp_of_nothing_is_the_picture():
    x = images(2, 9, 8)
    assert_close(warped(x), x)


def ring(side=41):
    """A picture that no turn changes: a smooth ring about the center."""
    r = np.hypot(*(np.indices((side, side)) - (side - 1) / 2))
    return jnp.asarray(np.exp(-((r - 10) ** 2) / 18))[None]


def test_rotation_turns_about_the_center():
    turned = warped(jnp.broadcast_to(ring(), (8, 41, 41)), rotate=90)
    assert abs(turned - ring()).max() < 0.02
    x = images(1, 8, 8)
    quarter = bilinear(x, *quarter_turn(8))
    assert_close(quarter[0], np.rot90(x[0], -1))


def quarter_turn(side):
    """Rows and columns that a turn by 90 degrees, written by hand, fetches."""
    i, j = np.indices((side, side))
    return jnp.asarray((side - 1 - j)[None], float), jnp.asarray(i[None], float)


def spread(x):
    """Standard deviation of the ink along rows and columns, and its covariance."""
    x = np.asarray(x)
    weights = x / x.sum((1, 2), keepdims=True)
    i, j = np.indices(x.shape[1:]) - (x.shape[1] - 1) / 2
    mean = [(weights * a).sum((1, 2)) for a in (i, j)]
    i, j = (a[None] - m[:, None, None] for a, m in zip((i, j), mean, strict=True))
    return (
        [np.sqrt((weights * a).sum((1, 2))) for a in (i * i, j * j)],
        mean,
        ((weights * i * j).sum((1, 2))),
    )


def blob(count):
    at = np.indices((61, 61)) - 30
    one = np.exp(-(at[0] ** 2 / 2 / 4**2 + at[1] ** 2 / 2 / 6**2))
    return jnp.broadcast_to(jnp.asarray(one), (count, 61, 61))


def test_amounts_are_reached_and_not_exceeded():
    x = blob(400)
    (down, across), _, _ = spread(x[:1])
    (rows, columns), _, _ = spread(warped(x, scale=0.25))
    zoom = rows / down
    np.testing.assert_allclose(zoom, columns / across, rtol=0.01)
    assert 0.79 < zoom.min() < 0.82
    assert 1.23 < zoom.max() < 1.26
    _, (top, left), _ = spread(warped(x, shift=2.5))
    for move in (top, left):
        assert -2.51 < move.min() < -2.4
        assert 2.4 < move.max() < 2.51
    _, _, covariance = spread(warped(x, shear=0.2))
    lean = covariance / down**2  # of columns by rows
    assert -0.205 < lean.min() < -0.19
    assert 0.19 < lean.max() < 0.205
    _, _, covariance = spread(warped(x, rotate=30))
    angle = np.degrees(np.arcsin(2 * covariance / (across**2 - down**2))) / 2
    assert abs(angle).max() == pytest.approx(30, abs=0.6)


def test_bending_has_the_size_and_smoothness_asked_for():
    # a ramp tells each pixel's displacement along its direction
    ramp = jnp.broadcast_to(jnp.arange(60.0)[:, None], (300, 60, 60))
    bent = warped(ramp, elastic=1.5, smooth=4.0) - ramp
    inner = np.asarray(bent)[:, 10:-10, 10:-10]
    assert inner.std() == pytest.approx(1.5, rel=0.03)
    near = np.corrcoef(inner[:, :, 0].ravel(), inner[:, :, 1].ravel())[0, 1]
    far = np.corrcoef(inner[:, :, 0].ravel(), inner[:, :, 30].ravel())[0, 1]
    assert near > 0.95
    assert abs(far) < 0.1


@pytest.mark.parametrize("name", sorted(set(EVERY) - {"erase"}))
def test_a_nan_stays_in_sight(name):
    x = images(2, 8, 8).at[1, 4, 4].set(jnp.nan)
    bad = np.isnan(jax.jit(EVERY[name])(KEY, x))
    assert bad[1].any()
    assert not bad[0].any()


def test_names_and_amounts_make_an_augmentation():
    assert augment_by_name() is None
    assert augment_by_name("digits", **dict.fromkeys(AMOUNTS["digits"], 0.0)) is None
    x = images(3, 12, 12)
    assert (augment_by_name(shift=2.0)(KEY, x) == random_shift(2)(KEY, x)).all()
    by_name = jax.jit(augment_by_name("digits", rotate=5.0))(KEY, x)
    assert (by_name == warped(x, **AMOUNTS["digits"] | {"rotate": 5.0})).all()
    with pytest.raises(JaxnnError, match=r"unknown augmentation 'digit'.*'digits'"):
        augment_by_name("digit")


ERRORS = {
    "flat": (lambda: random_shift(1)(KEY, jnp.ones((2, 9))), r"got \(2, 9\) of float"),
    "bytes": (
        lambda: random_flip()(KEY, jnp.ones((2, 4, 4), jnp.uint8)), "of uint8, expected"
    ),
    "fraction": (lambda: random_shift(1.5), "got pixels=1.5, expected a whole number"),
    "negative": (lambda: random_shift(-1), "random_shift: got pixels=-1"),
    "side": (lambda: random_erase(-1), "random_erase: got side=-1"),
    "rotate": (lambda: random_warp(rotate=-1), "random_warp: got rotate=-1"),
    "elastic": (lambda: random_warp(elastic=-1), "random_warp: got elastic=-1"),
    "nan": (lambda: random_warp(scale=float("nan")), "random_warp: got scale=nan"),
    "smooth": (lambda: random_warp(smooth=0), "random_warp: got smooth=0"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "message"), ERRORS.values(), ids=ERRORS)
def test_errors_name_what_was_given(call, message):
    with pytest.raises(JaxnnError, match=message):
        call()
