"""Random networks without a mistake raise no alarm: every layer, unkind values."""

from typing import Any, NamedTuple

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from jaxnn import combine, compare_gradients, layers, losses, regularize
from jaxnn.layers import Layer

SMOOTH = [
    layers.tanh, layers.sigmoid, layers.softplus, layers.selu, layers.elu(),
    layers.gelu(), layers.gelu(True), layers.swish(), layers.softmax,
    layers.log_softmax, layers.standardize(0.3, 2.0),
]  # fmt: skip
KINKED = [layers.relu, layers.leaky_relu(0.2), layers.leaky_relu(0.0)]
RANDOM = [layers.dropout(0.3), layers.dropout(0.9), layers.gaussian_noise(0.5)]


class Case(NamedTuple):
    """All that `compare_gradients` takes."""

    net: Layer
    loss: Any
    params: Any
    state: Any
    x: np.ndarray
    y: np.ndarray
    penalty: Any
    train: bool
    dtypes: tuple[str, ...]


def activations():
    return st.sampled_from(SMOOTH + KINKED * 3)


@st.composite
def flat_layers(draw, width, depth=0):
    """Layers on (B, D), and the width they make."""
    kind = draw(st.sampled_from(
        ["dense", "dense", "act", "batch_norm", "layer_norm", "group_norm", "random",
         "residual", "parallel", "stack", "repeat", "remat", "freeze", "share"]
    ))  # fmt: skip
    if kind == "dense":
        new = draw(st.integers(1, 5))
        return layers.dense(new, bias=draw(st.booleans())), new
    if kind == "act":
        return draw(activations()), width
    if kind == "batch_norm":
        return layers.batch_norm(), width
    if kind == "layer_norm":
        return layers.layer_norm(), width
    if kind == "group_norm":
        return layers.group_norm(width), width
    if kind == "random":
        return draw(st.sampled_from(RANDOM)), width
    block = combine.serial(layers.dense(width), draw(activations()))
    if kind == "residual":
        return combine.residual(block), width
    if kind == "parallel":
        merge = draw(st.sampled_from(["sum", "multiply", "maximum", "concatenate"]))
        other = combine.serial(layers.dense(width), draw(activations()))
        wide = 2 * width if merge == "concatenate" else width
        return combine.parallel(block, other, merge=merge), wide
    if kind == "stack":
        return combine.stack(combine.remat(block), 2), width
    if kind == "repeat":
        return combine.repeat(block, 2), width
    if kind == "remat":
        return combine.remat(block), width
    if kind == "freeze":
        return combine.freeze(block), width
    return combine.share(
        layers.dense(width), lambda twice: combine.serial(twice, layers.tanh, twice)
    ), width


@st.composite
def image_layers(draw, sizes):
    """One layer on images of at least 3 x 3."""
    return draw(st.sampled_from([
        layers.conv(3, (3, 2)), layers.conv(2, 3, 2), layers.conv(2, 1),
        layers.conv(4, 2, padding="VALID", dilation=2) if min(sizes[:2]) > 3
        else layers.conv(2, 2, padding=1),
        layers.depthwise_conv(3, multiplier=2), layers.conv_transpose(2, 2, 2),
        layers.max_pool(2, 1), layers.avg_pool(2, padding="SAME"),
        layers.max_pool(3, 2, padding="SAME"), layers.batch_norm(),
        layers.group_norm(1), layers.layer_norm(), layers.pad(1),
        layers.upsample(2), layers.spatial_dropout(0.4), layers.relu, layers.tanh,
        combine.residual(layers.conv(sizes[2], 3)), layers.relu,
    ]))  # fmt: skip


@st.composite
def sequence_layers(draw, width):
    """One layer on (B, T, D)."""
    return draw(st.sampled_from([
        layers.lstm(3, True), layers.gru(2, True), layers.rnn(3, True),
        layers.rnn(2, True, activation="relu"), layers.lstm(2, True, go_backwards=True),
        layers.multi_head_attention(1), layers.multi_head_attention(2, 2, causal=True),
        layers.positional_embedding(), layers.layer_norm(), layers.conv1d(3, 2),
        layers.dense(3), layers.tanh,
        combine.residual(layers.multi_head_attention(1)),
        combine.serial(layers.reshape(-1, width)), layers.dropout(0.2),
    ]))  # fmt: skip


@st.composite
def networks(draw):
    """A network and the shape of its input."""
    family = draw(st.sampled_from(["flat", "flat", "images", "sequence", "tokens"]))
    parts: list[Layer] = []
    if family == "flat":
        shape = (draw(st.integers(1, 6)),)
    elif family == "images":
        shape = (
            draw(st.integers(3, 6)),
            draw(st.integers(3, 6)),
            draw(st.integers(1, 2)),
        )
        for _ in range(draw(st.integers(1, 3))):
            parts.append(draw(image_layers(out_shape(parts, shape))))
        parts.append(draw(st.sampled_from(
            [layers.flatten, layers.global_avg_pool, layers.global_max_pool]
        )))  # fmt: skip
    else:
        shape = (draw(st.integers(1, 4)), draw(st.integers(1, 3)))
        if family == "tokens":
            shape = shape[:1]
            parts.append(
                layers.embedding(5, 3, padding=draw(st.sampled_from([None, 0])))
            )
        for _ in range(draw(st.integers(1, 2))):
            parts.append(draw(sequence_layers(out_shape(parts, shape)[-1])))
        parts.append(
            draw(st.sampled_from([layers.flatten, layers.lstm(2), layers.gru(3)]))
        )
    width = out_shape(parts, shape)[-1]
    for _ in range(draw(st.integers(1, 3))):
        part, width = draw(flat_layers(width))
        parts.append(part)
    parts.append(layers.dense(3, init="lecun"))
    return combine.serial(*parts), shape, family == "tokens"


def out_shape(parts, shape):
    if not parts:
        return shape
    made = []

    def init(key):
        params, state, out = combine.serial(*parts).init(key, shape)
        made.append(out)
        return params, state

    jax.eval_shape(init, jax.random.key(0))
    return made[0]


@st.composite
def cases(draw):
    """A network at a point that may be unkind: saturated, dead, at its kinks, tiny."""
    net, shape, tokens = draw(networks())
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    batch = draw(st.sampled_from([2, 3, 5, 8]))
    params, state, _ = net.init(jax.random.key(int(rng.integers(2**31))), shape)
    size = draw(st.sampled_from([1.0, 1.0, 1.0, 0.0, 1e-3, 30.0, 1e3]))
    params = jax.tree.map(lambda a: np.asarray(a * size, np.float32), params)
    if draw(st.booleans()):  # biases that are not 0, gammas that are not 1
        params = jax.tree.map(
            lambda a: a + rng.normal(0, 0.3, a.shape).astype(np.float32), params
        )
    x = rng.normal(size=(batch, *shape)).astype(np.float32)
    x = x * np.float32(draw(st.sampled_from([1.0, 1.0, 1e-4, 100.0])))
    if draw(st.booleans()):  # exactly at kinks and in ties
        x = np.where(rng.random(x.shape) < 0.4, np.float32(0), np.round(x))
    if tokens:
        x = rng.integers(0, 5, (batch, *shape)).astype(np.int32)
    name = draw(st.sampled_from(sorted(losses.LOSSES)))
    if name in ("nll", "kl"):
        net = combine.serial(*net.parts, layers.log_softmax)
        params, state = (*params, ()), (*state, ())
    penalty = draw(st.sampled_from(
        [None, regularize.l2(0.1), regularize.l1(0.1), regularize.elastic_net(0.1)]
    ))  # fmt: skip
    y = rng.integers(0, 3, batch).astype(np.int32)
    if name == "kl":
        y = rng.dirichlet(np.ones(3), batch).astype(np.float32)
    # compiling for each precision is what takes time
    several = [("float64",)] * 4 + [("float32", "float64")] * 2 + [("bfloat16",)]
    dtypes = draw(st.sampled_from(several))
    return Case(
        net, losses.LOSSES[name], params, state, x, y, penalty,
        draw(st.sampled_from([True, True, False])), dtypes,
    )  # fmt: skip


def describe(case: Case) -> str:
    names = [part.name for part in case.net.parts]
    return (
        f"{names} x {case.x.shape} {case.loss.__name__} train={case.train} "
        f"{case.dtypes} penalty={case.penalty is not None}"
    )


CHUNKS, EACH = 20, 10  # 200 networks
QUIET = [
    HealthCheck.too_slow,
    HealthCheck.data_too_large,
    HealthCheck.large_base_example,
]


def assert_quiet(case):
    report = compare_gradients(
        case.net, case.loss, case.params, case.state, case.x, case.y,
        key=jax.random.key(5), train=case.train, penalty=case.penalty,
        dtypes=case.dtypes,
    )  # fmt: skip
    # too large for the precision: then neither right nor wrong, and said so
    quiet = report.passed or (report.not_finite and not report.findings)
    assert quiet, f"{describe(case)}\n{report.table()}"
    jax.clear_caches()  # every network is compiled once only


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_correct_networks_raise_no_alarm(chunk):
    @hypothesis.seed(chunk)
    @settings(
        max_examples=EACH, database=None, phases=[Phase.generate],
        suppress_health_check=QUIET,
    )  # fmt: skip
    @given(cases())
    def check(case):
        assert_quiet(case)

    check()
