import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn.combine import serial
from jaxnn.errors import JaxnnError
from jaxnn.layers import (
    LAYERS,
    avg_pool,
    conv,
    conv1d,
    conv_transpose,
    dense,
    depthwise_conv,
    flatten,
    global_avg_pool,
    max_pool,
    relu,
)
from tests.layers.cases import KEY

ONES = {  # how many elements of the input the first element of the output sums
    "same": (conv(1, 3), (5, 5, 1), 4),
    "valid": (conv(1, 3, padding="VALID"), (5, 5, 1), 9),
    "lower case": (conv(1, 3, padding="valid"), (5, 5, 1), 9),
    "a number": (conv(1, 3, padding=1), (5, 5, 1), 4),
    "numbers": (conv(1, 3, padding=(0, 2)), (5, 5, 1), 3),
    "pairs": (conv(1, 3, padding=((1, 0), (0, 0))), (5, 5, 1), 6),
    "groups": (conv(2, 3, padding="VALID", groups=2), (5, 5, 4), 18),
    "depthwise": (depthwise_conv(3, padding="VALID"), (5, 5, 4), 9),
    "sequence": (conv1d(1, 4, padding="VALID"), (5, 2), 8),
    "transposed": (conv_transpose(1, 3, 2, "VALID"), (5, 5, 2), 2),
}


@pytest.mark.parametrize("name", ONES)
def test_sum_over_the_window(name):
    layer, in_shape, count = ONES[name]
    params, state, out_shape = layer.init(KEY, in_shape)
    params["w"] = jnp.ones_like(params["w"])
    y, _, _ = layer.forward(params, state, jnp.ones((2, *in_shape)), train=True)
    assert y.shape == (2, *out_shape)
    assert y[1].reshape(-1)[0] == count


SHAPES = {  # layer, in_shape -> out_shape
    "stride 2 rounds up": (conv(4, 3, 2), (7, 8, 2), (4, 4, 4)),
    "stride for each axis": (conv(4, 3, (1, 3)), (7, 8, 2), (7, 3, 4)),
    "valid": (conv(4, (3, 5), padding="VALID"), (7, 8, 2), (5, 4, 4)),
    "dilation": (conv(4, 3, padding="VALID", dilation=3), (7, 8, 2), (1, 2, 4)),
    "sequence": (conv(4, (3,), 2), (7, 2), (4, 4)),
    "volume": (conv(4, (3, 3, 3), 2), (4, 5, 6, 2), (2, 3, 3, 4)),
    "multiplier": (depthwise_conv(3, multiplier=3), (7, 8, 2), (7, 8, 6)),
    "transposed": (conv_transpose(4, 3, 2), (7, 8, 2), (14, 16, 4)),
    "transposed, valid": (conv_transpose(4, 3, 2, "VALID"), (7, 8, 2), (15, 17, 4)),
    "pool leaves out a row": (max_pool(2), (7, 8, 2), (3, 4, 2)),
    "pool keeps it": (max_pool(2, padding="SAME"), (7, 8, 2), (4, 4, 2)),
    "overlapping pool": (max_pool(3, 2), (7, 8, 2), (3, 3, 2)),
    "pool of sequences": (avg_pool((2,)), (7, 2), (3, 2)),
    "global": (global_avg_pool, (7, 8, 2), (2,)),
}


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
        (conv(200, (3, 5)), 4, 60),
        (conv(200, 3, groups=4), 8, 18),
        (depthwise_conv(5, multiplier=50), 4, 25),
        (conv1d(300, 7), 5, 35),
        (conv_transpose(200, 3), 6, 54),
    ],
)
def test_he_divides_by_what_an_output_sums(layer, channels, fan_in):
    in_shape = (16,) * (1 if layer.name.startswith("conv1d") else 2) + (channels,)
    w = np.asarray(layer.init(KEY, in_shape)[0]["w"])
    std = np.sqrt(2 / fan_in)
    assert abs(w.std() - std) < 4.5 * std / np.sqrt(2 * w.size)


def test_bias_leaves_the_draw_of_w():
    draws = [conv(3, bias=b).init(KEY, (4, 4, 2))[0]["w"] for b in (True, False)]
    assert (draws[0] == draws[1]).all()


def test_command_line_names_make_the_layers():
    assert LAYERS["conv"](32, 5).name == "conv(32, 5)"
    assert LAYERS["max_pool"](2).name == "max_pool(2x2)"
    assert LAYERS["global_avg_pool"]().name == "global_avg_pool"


def classes_of(layer, digits):
    params, state, _ = layer.init(KEY, digits.shape[1:])
    return layer.forward(params, state, digits, train=False)[0]


def test_conv_sees_the_same_wherever_it_is():
    net = serial(conv(4, 3, padding="VALID"), relu, max_pool(2), global_avg_pool)
    image = np.zeros((2, 12, 12, 1))
    image[0, 2:5, 2:5] = image[1, 6:9, 4:7] = np.arange(9).reshape(3, 3, 1)
    first, second = classes_of(net, jnp.asarray(image))
    np.testing.assert_allclose(first, second, rtol=1e-12)


def ran(layer, in_shape, x_shape):
    def forward():
        params, state, _ = layer.init(KEY, in_shape)
        layer.forward(params, state, jnp.ones(x_shape), train=True)

    return jax.eval_shape(forward)


def init(layer, in_shape):
    return lambda: jax.eval_shape(lambda: layer.init(KEY, in_shape)[0])


ERRORS = {
    "no channel axis": (
        init(conv(32, 5), (28, 28)),
        r"conv\(32, 5\): got in_shape \(28, 28\), expected \(H, W, C\), channels last; "
        r"add reshape\(28, 28, 1\) first",
    ),
    "no channel axis, pool": (
        init(max_pool(2), (28, 28)),
        r"max_pool\(2x2\): got in_shape \(28, 28\).*add reshape\(28, 28, 1\) first",
    ),
    "no channel axis in the batch": (
        lambda: ran(conv(3), (8, 8, 1), (2, 8, 8)),
        r"conv\(3, 3x3\): got input without its batch axis \(8, 8\), expected "
        r"\(H, W, C\).*add reshape\(8, 8, 1\)",
    ),
    "flat input": (
        init(conv(3), (784,)),
        r"conv\(3, 3x3\): got in_shape \(784,\), expected \(H, W, C\)",
    ),
    "with the batch axis": (
        init(conv(3), (128, 28, 28, 1)),
        r"in_shape leaves out the batch axis",
    ),
    "sequence for images": (
        init(conv1d(3), (28, 28, 1)),
        r"conv1d\(3, 3\): got in_shape \(28, 28, 1\), expected \(T, C\)",
    ),
    "kernel larger than the input": (
        init(conv(3, 5, padding="VALID"), (4, 9, 1)),
        r"conv\(3, 5\): the kernel spans 5 x 5 but the input has 4 x 9.*SAME",
    ),
    "dilated kernel larger than the input": (
        init(conv(3, 3, padding="VALID", dilation=4), (8, 9, 1)),
        r"the kernel spans 9 x 9 but the input has 8 x 9",
    ),
    "pool larger than the input": (
        init(max_pool(5), (4, 4, 1)),
        r"max_pool\(5x5\): the kernel spans 5 x 5 but the input has 4 x 4",
    ),
    "no pixels": (init(conv(3), (0, 4, 1)), r"got in_shape \(0, 4, 1\)"),
    "no pixels, global": (
        init(global_avg_pool, (0, 4, 1)),
        r"global_avg_pool: got in_shape \(0, 4, 1\)",
    ),
    "groups do not divide": (
        init(conv(4, groups=2), (5, 5, 3)),
        r"got groups=2, expected a divisor of both the 3 channels in and the 4 out",
    ),
    "other channels": (
        lambda: ran(conv(4), (5, 5, 3), (2, 5, 5, 1)),
        r"conv\(4, 3x3\): input of shape \(2, 5, 5, 1\) needs w of shape "
        r"\(3, 3, 1, 4\), got \(3, 3, 3, 4\)\. Was init called with in_shape=\(5, 5, 1",
    ),
    "params of another layer": (
        lambda: conv(4).forward({"w": 0}, (), jnp.ones((1, 3, 3, 1)), train=True),
        r"conv\(4, 3x3\): got params.*expected a dict of b and w.*another network",
    ),
    "no channels": (
        lambda: conv(0),
        r"conv\(0, 3x3\): got channels=0, expected a whole",
    ),
    "channels not whole": (lambda: conv(2.5), r"got channels=2\.5"),
    "kernel 0": (lambda: conv(3, 0), r"conv\(3, 0\): got kernel=0"),
    "kernel of other axes": (
        lambda: conv1d(3, (3, 3)),
        r"conv1d\(3, 3x3\): got kernel=\(3, 3\), expected",
    ),
    "stride 0": (lambda: conv(3, stride=0), r"conv\(3, 3x3\): got stride=0"),
    "three strides": (lambda: conv(3, stride=(1, 2, 3)), r"got stride=\(1, 2, 3\)"),
    "dilation -1": (lambda: conv_transpose(3, dilation=-1), r"got dilation=-1"),
    "padding": (
        lambda: conv(3, padding="SAMME"),
        r"conv\(3, 3x3\): got padding='SAMME', expected \"SAME\", \"VALID\"",
    ),
    "negative padding": (lambda: conv(3, padding=-1), r"got padding=-1"),
    "padding of a pool": (
        init(max_pool(2, padding=2), (5, 5, 1)),
        r"max_pool\(2x2\): padding .* leaves windows of \(2, 2\) without an element",
    ),
    "everything cropped": (
        init(conv_transpose(3, 3, padding=4), (5, 5, 1)),
        r"conv_transpose\(3, 3\): padding=4 crops an input of 5 x 5 to -1 x -1",
    ),
    "initialiser": (lambda: conv(3, init="hee"), r"unknown initialiser 'hee'.*'he'"),
    "bias": (lambda: conv(3, bias="he"), r"conv\(3, 3x3\): bias='he' needs a matrix"),
}


@pytest.mark.parametrize(("call", "message"), ERRORS.values(), ids=ERRORS)
def test_error_says_where_got_and_expected(call, message):
    with pytest.raises(JaxnnError, match=message):
        call()


def test_training_step_of_a_network_computes_no_input_gradient():
    # the first layer's dx is a third of a convolution's work, and nobody reads it
    net = serial(conv(8, 3), relu, max_pool(2), conv(8, 3), flatten, dense(3))
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
