"""Bounds hold for every point of a box, of every layer, whatever its settings."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import combine, rules
from jaxnn import layers as nn
from jaxnn.combine import (
    freeze,
    mlp,
    parallel,
    remat,
    repeat,
    residual,
    serial,
    share,
    siamese,
    stack,
)
from jaxnn.defenses import binarize
from jaxnn.errors import JaxnnError
from jaxnn.layers import bounded, dense, interval, pointwise, tanh
from jaxnn.layers.bounds import BOUNDED, linear, monotone, unimodal
from tests.layers.cases import LAYER_CASES
from tests.rules.common import assert_trees_close

WIDE, IMAGE, STEPS = (5,), (4, 4, 2), (4, 3)
BOXES, POINTS = 20, 500  # 10,000 points a layer
INNER = serial(dense(5), nn.leaky_relu(-0.5))

# (layer, in_shape): every kind of slope that its settings can make
FLAT = [
    (nn.avg_pool(2), IMAGE), (nn.avg_pool(3, 1, "SAME"), IMAGE),
    (nn.avg_pool((3,), 1), STEPS),
    (nn.batch_norm(), WIDE), (nn.batch_norm(groups=2), IMAGE), (binarize(0.3), WIDE),
    (nn.conv(3, 3), IMAGE), (nn.conv(2, 2, 2, 1, bias=False), IMAGE),
    (nn.conv(4, 3, dilation=2, groups=2), IMAGE), (nn.conv1d(2, 2), STEPS),
    (nn.conv_transpose(2, 3, 2), IMAGE), (nn.conv_transpose(2, 2, 1, "VALID"), IMAGE),
    (nn.crop(1), IMAGE),
    (dense(4), WIDE), (dense(1, bias=False), WIDE), (dense(3), STEPS),
    (dense(3), (300,)), (nn.depthwise_conv(2, multiplier=2), IMAGE),
    (nn.dropout(0.5), WIDE), *((nn.elu(a), WIDE) for a in (1.0, 3.0, 0.0, -0.5, -2.0)),
    (nn.flatten, IMAGE), (freeze(INNER), WIDE), (nn.gaussian_noise(0.5), WIDE),
    (nn.gelu(), WIDE), (nn.gelu(approximate=True), WIDE),
    (nn.global_avg_pool, IMAGE), (nn.global_max_pool, STEPS),
    *((nn.leaky_relu(s), WIDE) for s in (0.01, 2.0, 0.0, -0.0, -0.5, -1.0, -3.0)),
    (nn.max_pool(2), IMAGE), (nn.max_pool(3, 1, "SAME"), IMAGE),
    (mlp([5, 4, 3], "gelu", normalize=True, drop_rate=0.5), WIDE),
    *((nn.pad(1, m), IMAGE) for m in ("zero", "edge", "reflect")),
    (parallel(INNER, dense(5), tanh, merge="sum"), WIDE),
    (parallel(INNER, tanh, merge="maximum"), WIDE),
    (parallel(INNER, dense(2), merge="concatenate"), WIDE),
    (nn.positional_embedding(), STEPS), (nn.relu, WIDE), (remat(INNER), WIDE),
    (repeat(INNER, 2), WIDE), (nn.reshape(2, -1), STEPS),
    (residual(INNER), WIDE), (residual(dense(3), dense(3)), WIDE), (nn.selu, WIDE),
    (serial(INNER, serial(), nn.swish(), dense(2)), WIDE),
    (share(dense(5), lambda d: serial(d, tanh, d)), WIDE),
    (nn.sigmoid, WIDE), (nn.softplus, WIDE), (nn.spatial_dropout(0.5), IMAGE),
    (stack(residual(INNER), 2), WIDE),
    *((nn.standardize(0.3, s), WIDE) for s in (0.2, -0.2)),
    *((nn.swish(b), WIDE) for b in (1.0, 5.0, 0.1, 0.0, -1.0, -4.0)),
    (tanh, WIDE), (nn.transpose(2, 0, 1), IMAGE),
    *((nn.upsample(2, m), IMAGE) for m in ("nearest", "linear")),
]  # fmt: skip
CASES = {layer.name.split("(")[0] for layer, _ in FLAT}
WITHOUT = {
    **{name: cases[0][0] for name, cases in LAYER_CASES.items() if name not in CASES},
    "parallel, difference": parallel(tanh, tanh, merge=rules.sub),
    "parallel, product": parallel(tanh, tanh, merge="multiply"),
    "siamese": siamese(tanh),
    "changed": tanh._replace(name="tanh"),
    "by hand": pointwise(rules.tanh),
}
ALL = [pytest.param(*case, id=case[0].name) for case in FLAT]


def boxes(layer, in_shape, dtype):
    """Params and state of both signs, boxes of all sizes, and points within them."""
    rng = np.random.default_rng(3)

    def drawn(tree):
        return jax.tree.map(
            lambda a: jnp.asarray(rng.normal(0, 1, a.shape), dtype), tree
        )

    shapes = jax.eval_shape(lambda: layer.init(jax.random.key(0), in_shape)[:2])
    params, state = map(drawn, shapes)
    if not isinstance(state, dict) or "params" not in state:  # frozen ones stay signed
        state = jax.tree.map(jnp.exp, state)
    center = rng.normal(0, 1, (BOXES, *in_shape))
    # from a point to far across every bend, smaller and larger numbers
    radius = np.exp(rng.uniform(-12, 2, (BOXES, *in_shape)))
    radius[:3] = 0
    scale = 10.0 ** rng.integers(-3, 4, (BOXES, *(1,) * len(in_shape)))
    scale[-1] = 1e-38  # of float32 hardly a normal number
    low = ((center - radius) * scale).astype(dtype)
    high = np.maximum(((center + radius) * scale).astype(dtype), low)
    share = rng.uniform(0, 1, (POINTS, *low.shape))
    share[: POINTS // 2] = share[: POINTS // 2] > 0.5  # corners
    share[:2] = np.array([0, 1]).reshape(2, *(1,) * low.ndim)
    x = np.clip(low + share * (high - low), low, high).astype(dtype)
    dy = rng.normal(0, 1, 2)
    return params, state, (jnp.asarray(low), jnp.asarray(high)), jnp.asarray(x), dy


def outside(layer, twin, params, state, ends, x, train=False):
    """How many of the layer's outputs at points x lie outside twin's bounds."""
    flat = x.reshape(-1, *x.shape[2:])
    y, *_ = layer.forward(params, state, flat, train=False)
    (low, high), *_ = twin.forward(params, state, ends, train=train)
    y = y.reshape(*x.shape[:2], *y.shape[1:])
    return (~((low[None] <= y) & (y <= high[None]))).sum()  # NaN is outside, too


@functools.cache
def measured(layer, in_shape):
    """Points outside by dtype, and the backward pass of the bounds beside JAX's."""
    twin = interval(layer)

    def gradients(params, state, ends, scale):
        y, _, cache = twin.forward(params, state, ends, train=False)
        dy = jax.tree.map(lambda a, s: s * jnp.cos(jnp.arange(a.size)).reshape(a.shape),
                          y, tuple(scale))  # fmt: skip
        dx, dparams = twin.backward(cache, dy)
        pull = jax.vjp(
            lambda p, e: twin.forward(p, state, e, train=False)[0], params, ends
        )[1]
        want_params, want = pull(dy)
        return (dx, dparams), (want, want_params)

    @jax.jit
    def program(drawn, scale):
        found = {
            dtype: outside(layer, twin, *arrays) for dtype, arrays in drawn.items()
        }
        return found, gradients(*drawn["float64"][:-1], scale)

    drawn = {dtype: boxes(layer, in_shape, dtype) for dtype in ("float32", "float64")}
    scale = drawn["float64"][-1]
    found, grads = program({dtype: a[:-1] for dtype, a in drawn.items()}, scale)
    return {dtype: int(n) for dtype, n in found.items()}, grads


@pytest.mark.parametrize(("layer", "in_shape"), ALL)
def test_no_point_of_a_box_leaves_the_bounds(layer, in_shape):
    assert measured(layer, in_shape)[0] == {"float32": 0, "float64": 0}


@pytest.mark.parametrize(("layer", "in_shape"), ALL)
def test_backward_of_the_bounds_is_that_of_jax(layer, in_shape):
    got, want = measured(layer, in_shape)[1]
    assert_trees_close(got, want)


MIXED = [
    (dense(4), WIDE),
    (nn.depthwise_conv(3), IMAGE),
    (nn.batch_norm(epsilon=0.0), WIDE),
    (residual(serial(dense(5), nn.swish(-2.0))), WIDE),
]


@pytest.mark.parametrize(("layer", "in_shape"), MIXED, ids=str)
def test_bounds_round_as_the_coarsest_type_does(layer, in_shape):
    for narrow in ("params", "ends"):
        params, state, ends, x, _ = boxes(layer, in_shape, "float32")
        if narrow == "ends":
            params, state = jax.tree.map(
                lambda a: a.astype("float64") / 3, (params, state)
            )
        else:
            ends, x = jax.tree.map(lambda a: a.astype("float64"), (ends, x))
        twin = interval(layer)
        bounds = jax.jit(functools.partial(twin.forward, train=False))
        (low, high), *_ = bounds(params, state, ends)
        for point in x[::100]:  # step by step, which rounds otherwise than a program
            y, *_ = layer.forward(params, state, point, train=False)
            assert ((low <= y) & (y <= high)).all(), narrow


def test_bounds_hold_where_halves_of_numbers_vanish():
    params = {"w": jnp.full((2, 3), 1e30, "float32"), "b": jnp.zeros(3, "float32")}
    least = jnp.finfo("float32").tiny
    ends = jnp.full((1, 2), least), jnp.full((1, 2), 1.5 * least)
    (low, high), *_ = interval(dense(3)).forward(params, (), ends, train=False)
    for x in ends:
        y, *_ = dense(3).forward(params, (), x, train=False)
        assert ((low <= y) & (y <= high)).all()


def test_every_layer_has_a_case_or_none_of_its_own():
    networks = {*combine.__all__} - {
        "Call", "Parts", "activation_layer", "chained", "dense_block", "observed",
        "output_layer", "split_last",
    }  # fmt: skip
    assert networks <= {*CASES, *WITHOUT}
    assert {name.split(" ")[0] for name in BOUNDED} == CASES
    for name, layer in WITHOUT.items():
        with pytest.raises(JaxnnError, match=r"those that have: avg_pool, batch_norm"):
            interval(layer)
        with pytest.raises(JaxnnError, match="no bounds for layer"):
            interval(serial(dense(3), layer)), name


MUTANTS = {
    "|x| as if it rose": (nn.leaky_relu(-1.0), monotone, {}),
    "elu that falls": (nn.elu(-1.0), monotone, {}),
    "gelu as if it rose": (nn.gelu(), monotone, {"ulps": 8}),
    "swish that turns elsewhere": (nn.swish(), unimodal, {"turn": -0.5}),
    "a peak for a valley": (nn.swish(-1.0), unimodal, {"turn": 1.278}),
    "gamma of either sign": (nn.batch_norm(), monotone, {"ulps": 8}),
    "a standard deviation below 0": (nn.standardize(0, -1), monotone, {}),
    "a dense layer as if it rose": (dense(3), monotone, {}),
    "sums that do not round": (dense(3), linear, {"train": True}),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_wrong_bounds_are_found(name):
    layer, kind, settings = MUTANTS[name]
    settings = dict(settings)
    train = settings.pop("train", False)
    twin = interval(bounded(layer, kind, **settings))
    *arrays, x, _ = boxes(layer, WIDE, "float32")
    assert outside(layer, twin, *arrays, x, train=train) > 0


def test_narrow_floats_are_refused_where_sums_round():
    low = jnp.ones((1, 3), jnp.bfloat16)
    params = {"w": jnp.ones((3, 2), jnp.bfloat16), "b": jnp.ones(2, jnp.bfloat16)}
    with pytest.raises(JaxnnError, match="bfloat16 would be too wide"):
        interval(dense(2)).forward(params, (), (low, low), train=False)


def test_in_training_both_ends_get_the_same_noise():
    for layer in (nn.dropout(0.5), nn.gaussian_noise(1.0)):
        ends = -jnp.ones((3, 50)), jnp.ones((3, 50))
        (low, high), *_ = interval(layer).forward(
            (), (), ends, key=jax.random.key(0), train=True
        )
        assert (low <= high).all()


def test_a_user_states_the_bounds_of_a_layer():
    mine = bounded(pointwise(rules.tanh, "mine"), monotone, ulps=8)
    ends = jnp.array([[-2.0]]), jnp.array([[1.0]])
    (low, high), *_ = interval(serial(mine)).forward(((),), ((),), ends, train=False)
    np.testing.assert_allclose((low[0, 0], high[0, 0]), np.tanh([-2, 1]))
