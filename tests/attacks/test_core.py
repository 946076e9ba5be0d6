"""Steps, draws and objectives by themselves: what an attack's result hides."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn.attacks.core import Ball, ascent_direction, l1_norm, l2_norm
from tests.rules.common import assert_close

COUNT = 20_000


STEPS = {  # pixels, gradient -> the one pixel that a step of 0.2 moves, and to where
    "inside": ([0.5, 0.5, 0.5], [1, -3, 2], 1, 0.3),
    "up at the top": ([0.5, 1.0, 0.5], [1, 3, 2], 2, 0.7),
    "down from the top": ([0.5, 1.0, 0.5], [1, -3, 2], 1, 0.8),
    "down at the bottom": ([0.5, 0.0, 0.5], [1, -3, 2], 2, 0.7),
    "up from the bottom": ([0.5, 0.0, 0.5], [1, 3, 2], 1, 0.2),
}


@pytest.mark.parametrize(("x", "gradient", "at", "to"), STEPS.values(), ids=STEPS)
def test_an_l1_step_goes_where_the_box_lets_it(x, gradient, at, to):
    x, gradient = jnp.array([x]), jnp.array([gradient], float)
    moved = Ball.around(x, 1.0, "l1", (0.0, 1.0)).move(x, gradient, 0.2)
    assert_close(moved, x.at[0, at].set(to))
    free = Ball.around(x, 1.0, "l1", None).move(x, gradient, 0.2)
    assert_close(free, x.at[0, 1].add(0.2 * jnp.sign(gradient[0, 1])))


def test_an_l1_direction_is_spread_over_a_hundredth_of_the_pixels():
    gradient = jnp.asarray(np.random.default_rng(0).permutation(250) + 1.0)
    direction = ascent_direction(gradient.reshape(1, 10, 25), "l1").reshape(-1)
    assert set(np.flatnonzero(direction)) == set(np.argsort(gradient)[-3:].tolist())
    assert_close(direction.sum(), 1.0)


SHARES = {"l2": 2, "l1": 1}  # power of a coordinate whose shares add up to 1
VARIANCE = {"l2": 4 / 45, "l1": 1 / 18}  # of a share, evenly over all directions


@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (3, 3)], ids=str)
@pytest.mark.parametrize("norm", SHARES)
def test_a_draw_fills_the_ball_evenly(norm, shape):
    ball = Ball.around(jnp.zeros(shape), 2.0, norm, None)
    keys = jax.random.split(jax.random.key(0), COUNT)
    delta = np.asarray(jax.jit(jax.vmap(ball.draw))(keys)).reshape(-1, shape[1])
    size = np.asarray({"l2": l2_norm, "l1": l1_norm}[norm](delta))
    inside = (size / 2) ** shape[1]  # the share of the ball that is nearer
    assert inside.max() <= 1 + 1e-12
    tenths = [0.1, 0.5, 0.9]
    np.testing.assert_allclose(np.quantile(inside, tenths), tenths, atol=0.015)
    shares = (abs(delta) / size[:, None]) ** SHARES[norm]
    if shape[1] == 3:
        np.testing.assert_allclose(shares.var(), VARIANCE[norm], rtol=0.03)


def test_a_draw_of_linf_is_what_its_key_always_drew():
    x, key = jnp.full((2, 3), 0.5), jax.random.key(3)
    noise = jax.random.uniform(key, x.shape, x.dtype, -1, 1)
    assert_close(Ball.around(x, 0.2, "linf", None).draw(key), x + 0.2 * noise, 1e-15)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_lengths_neither_vanish_nor_overflow(scale):
    delta = jnp.asarray([[3.0, 4.0], [0.0, 0.0]], jnp.float32) * scale
    np.testing.assert_allclose(l2_norm(delta), [5 * scale, 0], rtol=1e-6)
    direction = ascent_direction(delta, "l2")
    np.testing.assert_allclose(direction, [[0.6, 0.8], [0, 0]], rtol=1e-6)
