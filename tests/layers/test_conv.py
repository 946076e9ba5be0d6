import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import layers as nn
from jaxnn.combine import serial
from tests.layers.cases import KEY

ONES = {  # how many elements of the input the first element of the output sums
    "same": (nn.conv(1, 3), (5, 5, 1), 4),
    "lower case": (nn.conv(1, 3, padding="valid"), (5, 5, 1), 9),
    "numbers": (nn.conv(1, 3, padding=(0, 2)), (5, 5, 1), 3),
    "groups": (nn.conv(2, 3, padding="VALID", groups=2), (5, 5, 4), 18),
    "depthwise": (nn.depthwise_conv(3, padding="VALID"), (5, 5, 4), 9),
    "sequence": (nn.conv1d(1, 4, padding="VALID"), (5, 2), 8),
    "transposed": (nn.conv_transpose(1, 3, 2, "VALID"), (5, 5, 2), 2),
}  # fmt: skip


@pytest.mark.parametrize("name", ONES)
def test_sum_over_the_window(name):
    layer, in_shape, count = ONES[name]
    params, state, out_shape = layer.init(KEY, in_shape)
    params["w"] = jnp.ones_like(params["w"])
    y, _, _ = layer.forward(params, state, jnp.ones((2, *in_shape)), train=True)
    assert y.shape == (2, *out_shape)
    assert y[1].reshape(-1)[0] == count


SHAPES = {  # layer, in_shape -> out_shape
    "stride 2 rounds up": (nn.conv(4, 3, 2), (7, 8, 2), (4, 4, 4)),
    "stride for each axis": (nn.conv(4, 3, (1, 3)), (7, 8, 2), (7, 3, 4)),
    "valid": (nn.conv(4, (3, 5), padding="VALID"), (7, 8, 2), (5, 4, 4)),
    "dilation": (nn.conv(4, 3, padding="VALID", dilation=3), (7, 8, 2), (1, 2, 4)),
    "sequence": (nn.conv(4, (3,), 2), (7, 2), (4, 4)),
    "volume": (nn.conv(4, (3, 3, 3), 2), (4, 5, 6, 2), (2, 3, 3, 4)),
    "multiplier": (nn.depthwise_conv(3, multiplier=3), (7, 8, 2), (7, 8, 6)),
    "transposed": (nn.conv_transpose(4, 3, 2), (7, 8, 2), (14, 16, 4)),
    "transposed, valid": (nn.conv_transpose(4, 3, 2, "VALID"), (7, 8, 2), (15, 17, 4)),
    "pool leaves out a row": (nn.max_pool(), (7, 8, 2), (3, 4, 2)),
    "mean of four": (nn.avg_pool(), (7, 8, 2), (3, 4, 2)),
    "pool keeps it": (nn.max_pool(2, padding="SAME"), (7, 8, 2), (4, 4, 2)),
    "overlapping pool": (nn.max_pool(3, 2), (7, 8, 2), (3, 3, 2)),
    "pool of sequences": (nn.avg_pool((2,)), (7, 2), (3, 2)),
    "global": (nn.global_avg_pool, (7, 8, 2), (2,)),
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_shape_of_the_output(name):
    layer, in_shape, out_shape = SHAPES[name]

    def forward():
        params, state, found = layer.init(KEY, in_shape)
        assert found == out_shape
        return layer.forward(params, state, jnp.ones((3, *in_shape)), train=False)[0]

    assert jax.eval_shape(forward).shape == (3, *out_shape)


@pytest.mark.parametrize(
    ("layer", "channels", "fan_in"),
    [
        (nn.conv(200, (3, 5)), 4, 60),
        (nn.conv(200, 3, groups=4), 8, 18),
        (nn.depthwise_conv(5, multiplier=50), 4, 25),
        (nn.conv1d(300, 7), 5, 35),
        (nn.conv_transpose(200, 3), 6, 54),
    ],
)
def test_he_divides_by_what_an_output_sums(layer, channels, fan_in):
    in_shape = (16,) * (1 if layer.name.startswith("conv1d") else 2) + (channels,)
    w = np.asarray(layer.init(KEY, in_shape)[0]["w"])
    std = np.sqrt(2 / fan_in)
    assert abs(w.std() - std) < 4.5 * std / np.sqrt(2 * w.size)


def test_training_step_of_a_network_computes_no_input_gradient():
    # the first layer's dx is a third of a convolution's work, and nobody reads it
    net = serial(
        nn.conv(8, 3), nn.relu, nn.max_pool(2), nn.conv(8, 3), nn.flatten, nn.dense(3)
    )
    params, state, _ = net.init(KEY, (6, 6, 8))
    x = jnp.ones((2, 6, 6, 8))

    def flops(which):
        def step(params, x):
            y, _, cache = net.forward(params, state, x, train=True)
            return net.backward(cache, y)[which]

        return jax.jit(step).lower(params, x).compile().cost_analysis()["flops"]

    first = 2 * 2 * 36 * 72 * 8
    second, last = first / 4, 2 * 2 * 72 * 3
    assert flops(1) <= 1.2 * (2 * first + 3 * second + 3 * last)
