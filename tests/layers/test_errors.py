"""What layers and networks say of what cannot work: where, got, expected."""

import math

import jax
import jax.numpy as jnp
import pytest

from jaxnn import layers as nn
from jaxnn.app.build import DataFacts, network
from jaxnn.app.config import TrainConfig
from jaxnn.combine import mlp, serial
from jaxnn.errors import JaxnnError
from jaxnn.layers.core import of_rule
from jaxnn.rules import Rule
from tests.layers.cases import KEY, traced_init


def ran(layer, in_shape, x_shape, *, train=True, key=KEY, params_of=None):
    """Trace init, then forward of an x of another shape."""

    def forward():
        params, state, _ = (params_of or layer).init(KEY, in_shape)
        layer.forward(params, state, jnp.ones(x_shape), key=key, train=train)

    return jax.eval_shape(forward)


def init(layer, in_shape):
    return lambda: jax.eval_shape(lambda: layer.init(KEY, in_shape)[0])


def built(*tokens):
    config = TrainConfig(model="serial", layers=tokens)
    return network(config, DataFacts((28, 28), 10, 0.1, 0.3))


ERRORS = {
    "dense: no units": (lambda: nn.dense(0),
        r"dense\(0\): got width=0, expected a whole"),
    "dense: unknown initializer": (lambda: nn.dense(3, "hee"),
        r"unknown initializer 'hee'\. Did you mean 'he'\? Valid names: he, he_normal, "
        r".*orthogonal.*zeros"),
    "dense: unknown bias initializer": (
        lambda: nn.dense(3, bias="none"),
        r"unknown initializer 'none'.*Valid names: he, ",
    ),
    "dense: no axis": (lambda: nn.dense(3).init(KEY, ()),
        r"dense\(3\): got in_shape=\(\), expected at least one axis"),
    "dense: other features": (lambda: ran(nn.dense(128), (512,), (2, 784)),
        r"dense\(128\): input of shape \(2, 784\) has 784 features but w has shape "
        r"\(512, 128\); expected \(batch, 512\)\. Was init called with "
        r"in_shape=\(784,\)\?"),
    "dense: no batch axis": (lambda: ran(nn.dense(128), (512,), (512,)),
        r"dense\(128\): input of shape \(512,\)"),
    "batch_norm: no channels": (lambda: nn.batch_norm().init(KEY, ()),
        r"batch_norm: got in_shape=\(\), expected a last axis of channels"),
    "batch_norm: other channels": (lambda: ran(nn.batch_norm(), (3,), (2, 4)),
        r"batch_norm: input of shape \(2, 4\), expected \(batch, \.\.\., 3\)"),
    "batch_norm: one row": (lambda: ran(nn.batch_norm(), (3,), (1, 3)),
        r"batch_norm: input of shape \(1, 3\) has 1 row .*expected at least 2.*"
        r"larger batch or train=False"),
    "dropout: rate 1": (lambda: nn.dropout(1),
        r"dropout\(1\): drop_rate is the fraction set to zero, expected 0 <= rate < 1"),
    "dropout: not a number": (lambda: nn.dropout(math.nan),
        r"dropout\(nan\): drop_rate"),
    "dropout: no key": (lambda: ran(nn.dropout(0.3), (3,), (2, 3), key=None),
        r"dropout\(0\.3\): got key=None, expected a PRNG key in training"),
    "mlp: one width": (lambda: mlp([3]), r"mlp: got widths \[3\], expected \[inputs"),
    "mlp: width 0": (lambda: mlp([3, 0, 2]), r"mlp: got widths \[3, 0, 2\].*at least 1",
    ),
    "mlp: other features": (lambda: traced_init(mlp([784, 10]), (28, 27)),
        r"mlp\(\[784, 10\]\): in_shape \(28, 27\) has 756 features, expected "
        r"widths\[0\] = 784"),
    "mlp: unknown activation": (lambda: mlp([3, 2, 1], "rellu"),
        r"unknown activation 'rellu'\. Did you mean 'relu'\? Valid names: "
        + ", ".join(sorted(nn.ACTIVATIONS))),
    "mlp: unknown output": (
        lambda: mlp([3, 2], output="argmax"), r"unknown \w+ 'argmax'\. Valid names: "),
    "conv: no channel axis": (init(nn.conv(32, 5), (28, 28)),
        r"conv\(32, 5\): got in_shape \(28, 28\), expected \(H, W, C\), channels last; "
        r"add reshape\(28, 28, 1\) first"),
    "conv: batch without channels": (lambda: ran(nn.conv(3), (8, 8, 1), (2, 8, 8)),
        r"conv\(3, 3x3\): got input without its batch axis \(8, 8\), expected "
        r"\(H, W, C\).*add reshape\(8, 8, 1\)"),
    "conv: with the batch axis": (
        init(nn.conv(3), (128, 28, 28, 1)), r"in_shape leaves out the batch axis"),
    "conv: sequence for images": (init(nn.conv1d(3), (28, 28, 1)),
        r"conv1d\(3, 3\): got in_shape \(28, 28, 1\), expected \(T, C\)"),
    "conv: kernel larger than the input": (
        init(nn.conv(3, 5, padding="VALID"), (4, 9, 1)),
        r"conv\(3, 5\): the kernel spans 5 x 5 but the input has 4 x 9.*SAME"),
    "conv: dilated kernel larger than the input": (
        init(nn.conv(3, 3, padding="VALID", dilation=4), (8, 9, 1)),
        r"the kernel spans 9 x 9 but the input has 8 x 9"),
    "conv: no pixels": (init(nn.conv(3), (0, 4, 1)), r"got in_shape \(0, 4, 1\)"),
    "conv: groups do not divide": (init(nn.conv(4, groups=2), (5, 5, 3)),
        r"got groups=2, expected a divisor of both the 3 channels in and the 4 out"),
    "conv: other channels": (lambda: ran(nn.conv(4), (5, 5, 3), (2, 5, 5, 1)),
        r"conv\(4, 3x3\): input of shape \(2, 5, 5, 1\) needs w of shape "
        r"\(3, 3, 1, 4\), got \(3, 3, 3, 4\)\. Was init called with in_shape=\(5, 5, 1",
    ),
    "conv: params of another layer": (
        lambda: nn.conv(4).forward({"w": 0}, (), jnp.ones((1, 3, 3, 1)), train=True),
        r"conv\(4, 3x3\): got params.*expected a dict of b and w.*another network"),
    "conv: no channels": (
        lambda: nn.conv(0), r"conv\(0, 3x3\): got channels=0, expected a whole"),
    "conv: kernel 0": (lambda: nn.conv(3, 0), r"conv\(3, 0\): got kernel=0"),
    "conv: kernel of other axes": (
        lambda: nn.conv1d(3, (3, 3)),
        r"conv1d\(3, 3x3\): got kernel=\(3, 3\), expected"),
    "conv: stride 0": (lambda: nn.conv(3, stride=0), r"conv\(3, 3x3\): got stride=0"),
    "conv: three strides": (
        lambda: nn.conv(3, stride=(1, 2, 3)), r"got stride=\(1, 2, 3\)"),
    "conv: dilation -1": (lambda: nn.conv_transpose(3, dilation=-1),
        r"got dilation=-1"),
    "conv: padding": (lambda: nn.conv(3, padding="SAMME"),
        r"conv\(3, 3x3\): got padding='SAMME', expected \"SAME\", \"VALID\""),
    "conv: negative padding": (lambda: nn.conv(3, padding=-1), r"got padding=-1"),
    "conv: padding of a pool": (init(nn.max_pool(2, padding=2), (5, 5, 1)),
        r"max_pool\(2x2\): padding .* leaves windows of \(2, 2\) without an element"),
    "conv: everything cropped": (init(nn.conv_transpose(3, 3, padding=4), (5, 5, 1)),
        r"conv_transpose\(3, 3\): padding=4 crops an input of 5 x 5 to -1 x -1"),
    "conv: bias": (
        lambda: nn.conv(3, bias="he"), r"conv\(3, 3x3\): bias='he' needs a matrix"),
    "recurrent: true units": (lambda: nn.rnn(True), r"rnn\(True\): got units=True"),
    "recurrent: unknown initializer": (lambda: nn.lstm(2, recurrent_init="orthogonl"),
        r"unknown initializer 'orthogonl'\. Did you mean 'orthogonal'"),
    "recurrent: unknown activation": (lambda: nn.rnn(2, activation="sigmoid"),
        r"unknown activation of rnn 'sigmoid'.*relu, tanh"),
    "recurrent: flat input": (lambda: nn.lstm(2).init(KEY, (784,)),
        r"lstm\(2\): got in_shape=\(784,\), expected \(steps, features\)"),
    "recurrent: other features": (lambda: ran(nn.lstm(2), (3, 4), (2, 3, 5)),
        r"lstm\(2\): input of shape \(2, 3, 5\), expected \(batch, steps, 4\)\. Was "
        r"init called with in_shape=\(3, 5\)\?"),
    "recurrent: other cell": (
        lambda: ran(nn.gru(2), (3, 4), (2, 3, 4), params_of=nn.lstm(2)),
        r"gru\(2\): got params of shapes .*expected a dict of b and c and u and w"),
    "recurrent: other width": (
        lambda: ran(nn.lstm(2), (3, 4), (2, 3, 4), params_of=nn.lstm(3)),
        r"lstm\(2\): got params of shapes .*for 2 units; were they made by another"),
    "attention: no heads": (lambda: nn.multi_head_attention(0),
        r"multi_head_attention\(0\): got heads=0, expected .* at least 1"),
    "attention: no width": (lambda: nn.multi_head_attention(2, 0),
        r"multi_head_attention\(2\): got head_width=0, expected .* at least 1"),
    "attention: features for no head": (
        lambda: nn.multi_head_attention(3).init(KEY, (5, 4)),
        r"multi_head_attention\(3\): 4 features cannot be shared among 3 heads"),
    "attention: no steps": (lambda: nn.multi_head_attention(2).init(KEY, (4,)),
        r"got in_shape=\(4,\), expected \(steps, features\)"),
    "attention: other features": (
        lambda: ran(nn.multi_head_attention(2), (3, 4), (2, 3, 6)),
        r"multi_head_attention\(2\): input of shape \(2, 3, 6\), expected \(batch, "
        r"steps, 4\)"),
    "attention: other network": (
        lambda: ran(nn.multi_head_attention(2), (3, 4), (2, 3, 4),
            params_of=nn.dense(4)),
        r"multi_head_attention\(2\): got params of .*expected a dict of b_in and"),
    "embedding: no rows": (
        lambda: nn.embedding(0, 3),
        r"embedding\(0, 3\): got count=0, expected a whole"),
    "embedding: other table": (
        lambda: ran(nn.embedding(5, 3), (2,), (1, 2), params_of=nn.embedding(6, 3)),
        r"embedding\(5, 3\): got params of shapes .*expected a dict of w \(5, 3\)"),
    "positions: longer": (lambda: ran(nn.positional_embedding(), (3, 2), (1, 4, 2)),
        r"positional_embedding: input of shape \(1, 4, 2\), expected \(batch, up to 3 "
        r"steps, 2\)"),
    "positions: no steps": (lambda: nn.positional_embedding().init(KEY, (3,)),
        r"positional_embedding: got in_shape=\(3,\)"),
    "positions: other network": (
        lambda: ran(nn.positional_embedding(), (3, 2), (1, 3, 2),
            params_of=nn.dense(2)),
        r"positional_embedding: got params of shapes"),
    "layer_norm: other features": (lambda: ran(nn.layer_norm(), (3,), (2, 4)),
        r"layer_norm: input of shape \(2, 4\), expected \(batch, \.\.\., 3\)"),
    "layer_norm: no features": (lambda: nn.layer_norm().init(KEY, ()),
        r"layer_norm: got in_shape=\(\), expected a last axis of channels"),
    "layer_norm: other network": (
        lambda: ran(nn.layer_norm(), (3,), (2, 3), params_of=nn.dense(3)),
        r"layer_norm: got params of shapes"),
    "group_norm: no groups": (lambda: nn.group_norm(0),
        r"group_norm\(0\): got groups=0"),
    "group_norm: channels left over": (lambda: nn.group_norm(3).init(KEY, (2, 4)),
        r"group_norm\(3\): got in_shape=\(2, 4\), .*divisible by 3"),
    "spatial_dropout: no channels": (lambda: ran(nn.spatial_dropout(0.3), (), (2,)),
        r"spatial_dropout\(0\.3\): input of shape \(2,\)"),
    "gaussian_noise: negative": (lambda: nn.gaussian_noise(-1),
        r"gaussian_noise\(-1\): std is a standard deviation"),
    "gaussian_noise: no number": (
        lambda: nn.gaussian_noise(math.nan), r"gaussian_noise\(nan\)"),
    "reshape": (init(nn.reshape(5, 5), (28, 28)),
        r"reshape\(5, 5\): shape \(28, 28\) has 784 elements, expected as many as in "
        r"\(5, 5\)"),
    "transpose": (init(nn.transpose(0, 2), (3, 4)),
        r"transpose\(0, 2\): expected each of the 2 axes once, 0 being the one after"),
    "pad: another number of axes": (init(nn.pad([1, 1]), (3, 4, 1)),
        r"pad\(\[1, 1\], zero\): got 2 widths for in_shape \(3, 4, 1\)"),
    "pad: no image": (init(nn.pad(), (3,)), r"pad\(1\): x has 2 axes, none between"),
    "pad: mode": (lambda: nn.pad(1, "mirror"), r"unknown padding mode 'mirror'"),
    "crop: nothing left": (init(nn.crop(2), (4, 9, 1)),
        r"crop\(2\): nothing is left of an x of shape \(1, 4, 9, 1\)"),
    "upsample": (init(nn.upsample(), (3,)), r"upsample\(2\): x has 2 axes"),
    "a word for a number": (lambda: built("elu:x"), "setting 'x' is not a number"),
}  # fmt: skip
ANOTHER_NETWORK = {
    "no parameters": (nn.dense(5), nn.relu),
    "no bias": (nn.dense(5), nn.dense(5, bias=False)),
    "too many parameters": (nn.dense(5, bias=False), nn.dense(5)),
    "other width": (nn.dense(128), nn.dense(5)),
    "of a dense layer": (nn.batch_norm(), nn.dense(3)),
}


@pytest.mark.parametrize(("call", "message"), ERRORS.values(), ids=ERRORS)
def test_error_says_where_got_and_expected(call, message):
    with pytest.raises(JaxnnError, match=message):
        call()
    assert issubclass(JaxnnError, ValueError)


@pytest.mark.parametrize(
    ("layer", "other"), ANOTHER_NETWORK.values(), ids=ANOTHER_NETWORK
)
def test_parameters_of_another_network_are_refused(layer, other):
    params, _ = traced_init(serial(other), (3,))
    _, state = traced_init(serial(layer), (3,))
    with pytest.raises(JaxnnError) as caught:
        jax.eval_shape(
            lambda params, state: serial(layer).forward(
                params, state, jnp.ones((2, 3)), key=KEY, train=True
            ),
            params,
            state,
        )
    assert layer.name in str(caught.value)


@pytest.mark.parametrize("names", [(), ("w",)])
def test_a_rule_that_gives_back_a_cotangent_too_many_is_refused(names):
    rule = Rule("twice", lambda x: (x, ()), lambda _, dy: (dy,) * (2 + len(names)))
    with pytest.raises(ValueError, match="longer"):
        of_rule(rule, names, lambda key, shape: ({}, (), shape)).backward((), 1.0)


def test_train_must_be_given():
    with pytest.raises(TypeError, match="train"):
        nn.relu.forward((), (), jnp.ones(2))
