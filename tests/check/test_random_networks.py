"""Random networks without a mistake raise no alarm: every layer, unkind values."""

import jax
import numpy as np
import pytest

from jaxnn import combine, compare_gradients, layers, losses, regularize

SMOOTH = [
    layers.tanh, layers.sigmoid, layers.softplus, layers.selu, layers.elu(),
    layers.gelu(), layers.gelu(True), layers.swish(), layers.softmax,
    layers.log_softmax, layers.standardize(0.3, 2.0),
]  # fmt: skip
KINKED = [layers.relu, layers.leaky_relu(0.2), layers.leaky_relu(0.0)]
RANDOM = [layers.dropout(0.3), layers.dropout(0.9), layers.gaussian_noise(0.5)]
ENDS = {
    "images": [layers.flatten, layers.global_avg_pool, layers.global_max_pool],
    "sequence": [layers.flatten, layers.lstm(2), layers.gru(3)],
}


class Draw:
    """Choices of one random network."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)

    def one(self, *several):
        return several[self.rng.integers(len(several))]

    def count(self, low, high):
        return int(self.rng.integers(low, high + 1))

    def flat(self, width):
        """A layer on (B, D)."""
        act, other = (self.one(*SMOOTH, *KINKED * 3) for _ in range(2))
        block = combine.serial(layers.dense(width), act)
        twice = combine.serial(layers.dense(width), other)
        merge = self.one("sum", "multiply", "maximum", "concatenate")
        dense = layers.dense(self.count(1, 5), bias=self.one(True, False))
        return self.one(
            dense, dense, act, layers.batch_norm(), layers.layer_norm(),
            layers.group_norm(width), self.one(*RANDOM), combine.residual(block),
            combine.parallel(block, twice, merge=merge), combine.remat(block),
            combine.stack(combine.remat(block), 2), combine.repeat(block, 2),
            combine.freeze(block), combine.share(
                layers.dense(width), lambda a: combine.serial(a, layers.tanh, a)
            ),
        )  # fmt: skip

    def image(self, h, w, channels):
        """A layer on images of at least 3 x 3."""
        small = min(h, w) <= 3
        return self.one(
            layers.conv(3, (3, 2)), layers.conv(2, 3, 2), layers.conv(2, 1),
            layers.conv(2, 2, padding=1) if small
            else layers.conv(4, 2, padding="VALID", dilation=2),
            layers.depthwise_conv(3, multiplier=2), layers.conv_transpose(2, 2, 2),
            layers.max_pool(2, 1), layers.avg_pool(2, padding="SAME"),
            layers.max_pool(3, 2, padding="SAME"), layers.batch_norm(),
            layers.group_norm(1), layers.layer_norm(), layers.pad(1),
            layers.upsample(2), layers.spatial_dropout(0.4), layers.relu, layers.tanh,
            combine.residual(layers.conv(channels, 3)), layers.relu,
        )  # fmt: skip

    def sequence(self, _, width):
        """A layer on (B, T, D)."""
        return self.one(
            layers.lstm(3, True), layers.gru(2, True), layers.rnn(3, True),
            layers.rnn(2, True, activation="relu"), layers.dense(3), layers.tanh,
            layers.lstm(2, True, go_backwards=True), layers.multi_head_attention(1),
            layers.multi_head_attention(2, 2, causal=True), layers.layer_norm(),
            layers.positional_embedding(), layers.conv1d(3, 2), layers.dropout(0.2),
            combine.residual(layers.multi_head_attention(1)),
            combine.serial(layers.reshape(-1, width)),
        )  # fmt: skip

    def network(self):
        """The layers of a network, the shape of its input, whether of tokens."""
        family = self.one("flat", "flat", "images", "sequence", "tokens")
        shape, parts = (self.count(1, 6),), []
        if family == "images":
            shape = (self.count(3, 6), self.count(3, 6), self.count(1, 2))
        elif family != "flat":
            shape = (self.count(1, 4), self.count(1, 3))
        tokens = family == "tokens"
        if tokens:
            shape, family = shape[:1], "sequence"
            parts = [layers.embedding(5, 3, padding=self.one(None, 0))]
        if family != "flat":
            more = self.image if family == "images" else self.sequence
            for _ in range(self.count(1, 3 if family == "images" else 2)):
                size = out_shape(parts, shape)
                if family != "images" or min(size[:2]) > 2:
                    parts.append(more(*size))
            parts.append(self.one(*ENDS[family]))
        for _ in range(self.count(1, 3)):
            parts.append(self.flat(out_shape(parts, shape)[-1]))
        return [*parts, layers.dense(3, init="lecun")], shape, tokens


def out_shape(parts, shape):
    made = [shape]

    def init(key):
        params, state, out = combine.serial(*parts).init(key, shape)
        made.append(out)
        return params, state

    if parts:
        jax.eval_shape(init, jax.random.key(0))
    return made[-1]


def assert_quiet(seed):
    """At a point that may be unkind: saturated, dead, at its kinks, tiny."""
    draw = Draw(seed)
    rng, (parts, shape, tokens) = draw.rng, draw.network()
    name = draw.one(*sorted(losses.LOSSES))
    if name in ("nll", "kl"):
        parts.append(layers.log_softmax)
    net, batch = combine.serial(*parts), draw.one(2, 3, 5, 8)
    params, state, _ = net.init(jax.random.key(draw.count(0, 2**31 - 1)), shape)
    size = draw.one(1.0, 1.0, 1.0, 0.0, 1e-3, 30.0, 1e3)
    noise = draw.one(0, 0.3)  # biases that are not 0, gammas that are not 1
    params = jax.tree.map(
        lambda a: np.float32(a * size + rng.normal(0, noise, a.shape)), params
    )
    x = np.float32(rng.normal(size=(batch, *shape)) * draw.one(1.0, 1.0, 1e-4, 100.0))
    if draw.one(True, False):  # exactly at kinks and in ties
        x = np.where(rng.random(x.shape) < 0.4, np.float32(0), np.round(x))
    if tokens:
        x = rng.integers(0, 5, (batch, *shape)).astype(np.int32)
    y = rng.integers(0, 3, batch).astype(np.int32)
    if name == "kl":
        y = rng.dirichlet(np.ones(3), batch).astype(np.float32)
    penalty = draw.one(
        None, regularize.l2(0.1), regularize.l1(0.1), regularize.elastic_net(0.1)
    )
    # compiling for each precision is what takes time
    several = ("float64",), ("float64",), ("float32", "float64"), ("bfloat16",)
    report = compare_gradients(
        net, losses.LOSSES[name], params, state, x, y, key=jax.random.key(5),
        train=draw.one(True, True, False), penalty=penalty,
        dtypes=draw.one(*several, *several, ("float64",), ("float64",)),
    )  # fmt: skip
    # too large for the precision: then neither right nor wrong, and said so
    quiet = report.passed or (report.not_finite and not report.findings)
    assert quiet, f"{[p.name for p in parts]} {x.shape} {name}\n{report.table()}"
    jax.clear_caches()  # every network is compiled once only


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(20))
def test_correct_networks_raise_no_alarm(chunk):
    for seed in range(10 * chunk, 10 * chunk + 10):
        assert_quiet(seed)
