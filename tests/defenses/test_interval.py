"""Bounds hold for every point of a box, are exact where they can be, and train."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import layers as nn
from jaxnn import mlp, serial
from jaxnn.attacks import Classifier, pgd
from jaxnn.defenses.interval import margins
from jaxnn.errors import JaxnnError
from jaxnn.layers import dense, interval, sigmoid
from jaxnn.losses import yes_above
from jaxnn.robustness import certify
from tests.rules.common import assert_close, assert_trees_close, normal

KEY = jax.random.key(0)
NETS = {
    "mlp": (mlp([6, 5, 4, 3], "relu", bias="normal"), (6,)),
    "conv": (
        serial(
            nn.standardize(0.4, 0.2), nn.reshape(6, 6, 1), nn.conv(3, 3, 2),
            nn.leaky_relu(0.1), nn.max_pool(2, 1), nn.flatten, dense(4), nn.softplus,
            dense(3, bias=False),
        ),
        (6, 6),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_no_point_of_the_box_leaves_the_margins_and_their_backward_is_jaxs(name):
    """What the bounds of every layer promise, tests/layers/test_bounds.py asks."""
    net, shape = NETS[name]
    params, state, _ = net.init(jax.random.key(3), shape)
    params = jax.tree.map(lambda a: a + 0.1, params)  # no zeros: |w| has no kink there
    x = jnp.asarray(np.random.default_rng(0).uniform(0, 1, (8, *shape)))
    y, e, dy = jnp.arange(8) % 3, 0.1, jnp.asarray(normal(8, 3))

    @jax.jit
    def run(params):
        def forward(params):
            return margins(net).forward(params, state, x, y, e, train=True)

        worst, kept = forward(params)
        by_jax = jax.vjp(lambda p: forward(p)[0], params)[1](dy)[0]
        lower, upper = interval(net).forward(
            params, state, (x - e, x + e), train=False
        )[0]
        noise = jax.random.uniform(KEY, (200, *x.shape), x.dtype, -1, 1)
        noise = jnp.concatenate([jnp.sign(noise[:100]), noise[100:]])
        points = jnp.clip(x[None] + e * noise, 0, 1).reshape(-1, *shape)
        z = net.forward(params, state, points, train=False)[0].reshape(200, 8, 3)
        return worst, margins(net).backward(kept, dy), by_jax, z, lower, upper

    worst, by_hand, by_jax, z, lower, upper = jax.device_get(run(params))
    own = np.take_along_axis(z, np.asarray(y)[None, :, None], -1)
    assert (z - own <= worst + 1e-9).all()
    apart = upper - np.take_along_axis(lower, np.asarray(y)[:, None], 1)
    wrong = np.arange(3)[None] != np.asarray(y)[:, None]
    assert (worst <= apart + 1e-9)[wrong].all()
    assert_trees_close(by_hand, by_jax)


def test_a_budget_of_nothing_gives_the_outputs_themselves():
    net, shape = NETS["mlp"]
    params, state, _ = net.init(KEY, shape)
    x = jnp.asarray(np.random.default_rng(1).uniform(0, 1, (5, *shape)))
    y = jnp.arange(5) % 3
    z = net.forward(params, state, x, train=False)[0]
    worst, _ = margins(net).forward(params, state, x, y, 0.0, train=False)
    assert_close(worst, z - jnp.take_along_axis(z, y[:, None], 1))
    proven = certify.verify(Classifier(net, params, state), x, y, epsilon=0)
    assert (proven == (z.argmax(-1) == y)).all()


def test_the_bound_of_a_linear_network_is_exact():
    net = dense(3)
    w, b = jnp.asarray(normal(6, 3)), jnp.asarray(normal(3))
    x = jnp.full((3, 6), 0.5)
    worst, _ = margins(net).forward(
        {"w": w, "b": b}, (), x, jnp.arange(3), 0.2, train=False
    )
    for k in range(3):
        d = w - w[:, [k]]
        want = x[0] @ d + 0.2 * jnp.abs(d).sum(0) + b - b[k]
        assert_close(worst[k], want)


def test_nan_proves_nothing():
    net, shape = NETS["mlp"]
    params, state, _ = net.init(KEY, shape)
    x = jnp.full((2, *shape), 0.5).at[1, 2].set(jnp.nan)
    y = net.forward(params, state, x, train=False)[0].argmax(-1)
    proven = certify.verify(Classifier(net, params, state), x, y, epsilon=1e-6)
    assert proven.tolist() == [True, False]


def images(net, shape, count=200):
    """Random parameters, images within [0, 1] and the labels the network gives them."""
    params, state, _ = net.init(KEY, shape)
    params = jax.tree.map(lambda a: jnp.asarray(normal(*a.shape)), params)
    x = jnp.asarray(np.random.default_rng(1).uniform(0, 1, (count, *shape)))
    z = net.forward(params, state, x, train=False)[0]
    y = z.argmax(-1) if z.shape[-1] > 1 else (z[:, 0] > yes_above(net)).astype(int)
    return params, state, x, y


@pytest.mark.parametrize(
    "net",
    [
        mlp([6, 8, 3], nn.leaky_relu(-1.0)),
        mlp([6, 8, 3], "gelu", normalize=True),
        mlp([6, 8, 1], "tanh"),
        mlp([6, 8, 3], "swish", output="tanh"),
        mlp([6, 8, 1], nn.elu(-1.0), output="sigmoid"),
    ],
    ids=repr,
)
def test_no_attack_breaks_what_is_proven(net):
    params, state, x, y = images(net, (6,))
    epsilon = 0.03
    proven = certify.verify(Classifier(net, params, state), x, y, epsilon=epsilon)
    assert 10 < proven.sum() < 190 or net.made.args[0][-1] == 1

    def outputs(x):
        return net.forward(params, state, x, train=False)[0]

    def within(x_adv):
        return jnp.clip(jnp.clip(x_adv, x - epsilon, x + epsilon), 0, 1)

    def climb(loss):  # the steps of an attack on the margin itself
        dx = jax.grad(lambda a: loss(outputs(a)))
        return jax.lax.fori_loop(
            0, 10, lambda _, a: within(a + 0.01 * jnp.sign(dx(a))), x
        )

    several = y.max() > 1  # classes, or one output

    @jax.jit
    def attacked():  # and corners of the box
        if several:
            own = jax.nn.one_hot(y, 3)
            losses = [lambda z, k=k: (z[:, k] - (z * own).sum(-1)).sum()
                      for k in range(3)]  # fmt: skip
        else:
            losses = [lambda z: (jnp.where(y > 0, -1, 1) * z[:, 0]).sum()]
        noise = jax.random.normal(KEY, (50, *x.shape))
        corners = jax.vmap(within)(x[None] + epsilon * jnp.sign(noise))
        return jnp.concatenate([jnp.stack(list(map(climb, losses))), corners])

    x_adv = attacked()
    if several:
        by_pgd = pgd(Classifier(net, params, state), x, y, epsilon=epsilon, key=KEY)
        x_adv = jnp.concatenate([x_adv, by_pgd[None]])
    z = np.asarray(jax.jit(jax.vmap(outputs))(x_adv))
    said = z.argmax(-1) if z.shape[-1] > 1 else z[..., 0] > yes_above(net)
    assert not (proven & (said != np.asarray(y)[None]).any(0)).any()


@pytest.mark.parametrize("end", [(), (sigmoid,)], ids=["score", "sigmoid"])
def test_one_output_is_proven_on_its_side_of_where_it_says_yes(end):
    params = {"w": jnp.ones((1, 1)), "b": jnp.full(1, -0.5)}
    empty = ((),) * len(end)
    model = Classifier(serial(dense(1), *end), (params, *empty), ((), *empty))
    x = jnp.array([[0.1], [0.38], [0.45], [0.55], [0.62], [0.9]])
    for no in (0, -1):
        y = jnp.where(x[:, 0] > 0.5, 1, no)
        found = certify.verify(model, x, y, epsilon=0.1)
        assert found.tolist() == [True, True, False, False, True, True]
        wrong = jnp.where(y > 0, no, 1)
        assert not certify.verify(model, x, wrong, epsilon=0.1).any()


def test_bounds_of_float32_hold_for_what_rounds():
    """The margin is 0 in exact numbers: any proof would be of rounding alone."""
    net = dense(2)
    w = jnp.asarray(normal(300, 1), jnp.float32)
    params = {"w": jnp.concatenate([w, w[::-1]], 1), "b": jnp.zeros(2, jnp.float32)}
    half = np.random.default_rng(0).uniform(0, 1, (500, 150)).astype("float32")
    x = np.concatenate([half, half[:, ::-1]], 1)
    z = np.asarray(net.forward(params, (), jnp.asarray(x), train=False)[0])
    assert (z[:, 0] != z[:, 1]).any()
    assert not certify.verify(Classifier(net, params), x, z.argmax(-1), epsilon=0).any()


def test_pixels_and_labels_are_floats_and_classes():
    net = mlp([4, 5, 3])
    params, state, _ = net.init(KEY, (4,))
    pixels = np.random.default_rng(0).integers(0, 256, (50, 4)).astype(np.uint8)
    x = jnp.asarray(pixels / 255)
    y = net.forward(params, state, x, train=False)[0].argmax(-1)

    def verify(x, y, params=params, epsilon=0.05, box=(0.0, 1.0)):
        return certify.verify(
            Classifier(net, params, state), x, y, epsilon=epsilon, box=box
        )

    np.testing.assert_array_equal(verify(pixels, y), verify(x, y))
    assert not verify(pixels, y, epsilon=0.4).all()  # 0 of whole numbers
    for x_bad, y_bad, words in (
        (pixels.astype(int), y, "int64"),
        (2 * x, y, "within the box"),
        (x, y + 3, "3 outputs: expected 0 to 2"),
        (x, y - 5, "3 outputs: expected 0 to 2"),
        (x, y.astype(float), "float64"),
        (x, jax.nn.one_hot(y, 3), "argmax"),
        (x, y[:3], r"\(3,\) of 50 images"),
    ):
        with pytest.raises(JaxnnError, match=words):
            verify(x_bad, y_bad)
    assert verify(2 * x, y, epsilon=0, box=None).shape == (50,)
    broken = jax.tree.map(lambda a: a * jnp.nan, params)
    assert not verify(x, y, broken).any()
    for epsilon in (-0.1, float("nan"), 8):
        with pytest.raises(JaxnnError, match="epsilon"):
            verify(x, y, epsilon=epsilon)
    with pytest.raises(JaxnnError, match="bfloat16"):
        verify(x, y, jax.tree.map(lambda a: a.astype("bfloat16"), params))


@pytest.mark.parametrize(
    "net",
    [mlp([4, 5, 1], "tanh"), mlp([4, 5, 3], "tanh", output="tanh")],
    ids=["one output", "another last layer"],
)
def test_without_a_dense_layer_of_classes_at_the_end_outputs_are_bounded(net):
    """Of one output `worst` is an output: the loss of it is the worst loss."""
    params, state, x, y = images(net, (4,), 6)
    z = net.forward(params, state, x, train=False)[0]
    y = y if z.shape[-1] > 1 else jnp.array([0, 1, 0, 1, 1, 0])

    def worst(params):
        return margins(net).forward(params, state, x, y, 0.1, train=True)

    found, cache = worst(params)
    if z.shape[-1] > 1:
        assert (found >= z - jnp.take_along_axis(z, y[:, None], 1)).all()
    else:
        assert jnp.where(y[:, None] > 0, found < z, found > z).all()
    dy = jnp.asarray(normal(*z.shape))
    pull = jax.vjp(lambda p: worst(p)[0], params)[1]
    assert_trees_close(margins(net).backward(cache, dy), pull(dy)[0])


def test_bounds_in_training_draw_what_the_network_draws():
    """However its layers are nested: with no budget they are its outputs."""
    net = serial(nn.flatten, mlp([6, 20, 3], drop_rate=0.5))
    params, state, x, y = images(net, (6,), 6)
    z = net.forward(params, state, x, key=KEY, train=True)[0]
    found, _ = margins(net).forward(params, state, x, y, 0.0, key=KEY, train=True)
    assert_close(found, z - jnp.take_along_axis(z, y[:, None], 1))
