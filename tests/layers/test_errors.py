import math

import jax
import jax.numpy as jnp
import pytest

from jaxnn.combine import mlp, residual, serial
from jaxnn.errors import JaxnnError
from jaxnn.layers import batch_norm, dense, dropout, flatten, relu
from tests.layers.cases import KEY, traced_init


def ran(layer, in_shape, x_shape, *, train=True, key=KEY, params_of=None):
    """Trace init, then forward of an x of another shape."""

    def forward():
        params, state, _ = (params_of or layer).init(KEY, in_shape)
        layer.forward(params, state, jnp.ones(x_shape), key=key, train=train)

    return jax.eval_shape(forward)


ERRORS = {
    "dense: no units": (
        lambda: dense(0),
        r"dense\(0\): got width=0, expected a whole",
    ),
    "dense: unknown initialiser": (
        lambda: dense(3, "hee"),
        r"unknown initialiser 'hee'\. Did you mean 'he'\? Valid names: he, he_normal, "
        r".*orthogonal.*zeros",
    ),
    "dense: unknown bias initialiser": (
        lambda: dense(3, bias="none"),
        r"unknown initialiser 'none'.*Valid names: he, ",
    ),
    "dense: no axis": (
        lambda: dense(3).init(KEY, ()),
        r"dense\(3\): got in_shape=\(\), expected at least one axis",
    ),
    "dense: other features": (
        lambda: ran(dense(128), (512,), (2, 784)),
        r"dense\(128\): input of shape \(2, 784\) has 784 features but w has shape "
        r"\(512, 128\); expected \(batch, 512\)\. Was init called with "
        r"in_shape=\(784,\)\?",
    ),
    "dense: no batch axis": (
        lambda: ran(dense(128), (512,), (512,)),
        r"dense\(128\): input of shape \(512,\)",
    ),
    "dense: a scalar": (lambda: ran(dense(2), (3,), ()), r"dense\(2\): input of shape"),
    "batch_norm: no channels": (
        lambda: batch_norm().init(KEY, ()),
        r"batch_norm: got in_shape=\(\), expected a channel axis",
    ),
    "batch_norm: other channels": (
        lambda: ran(batch_norm(), (3,), (2, 4)),
        r"batch_norm: input of shape \(2, 4\), expected \(batch, \.\.\., 3\)",
    ),
    "batch_norm: one row": (
        lambda: ran(batch_norm(), (3,), (1, 3)),
        r"batch_norm: input of shape \(1, 3\) has 1 row .*expected at least 2.*"
        r"larger batch or train=False",
    ),
    "batch_norm: no rows": (
        lambda: ran(batch_norm(), (3,), (0, 3)),
        r"batch_norm: input of shape \(0, 3\) has 0 row",
    ),
    "dropout: rate 1": (
        lambda: dropout(1),
        r"dropout\(1\): drop_rate is the fraction set to zero, expected 0 <= rate < 1",
    ),
    "dropout: negative rate": (lambda: dropout(-0.1), r"dropout\(-0\.1\): drop_rate"),
    "dropout: not a number": (lambda: dropout(math.nan), r"dropout\(nan\): drop_rate"),
    "dropout: no key": (
        lambda: ran(dropout(0.3), (3,), (2, 3), key=None),
        r"dropout\(0\.3\): got key=None, expected a PRNG key in training",
    ),
    "serial: fewer params": (
        lambda: ran(serial(relu, relu), (3,), (2, 3), params_of=serial(relu)),
        r"serial: got params for 1 layers, expected 2; were they made by another",
    ),
    "serial: fewer states": (
        lambda: serial(relu).forward(((),), (), jnp.ones((2, 3)), train=True),
        r"serial: got state for 0 layers, expected 1",
    ),
    "residual: another shape": (
        lambda: traced_init(residual(dense(3)), (4,)),
        r"residual\(dense\(3\)\): x has shape \(4,\) but inner makes \(3,\)",
    ),
    "mlp: one width": (lambda: mlp([3]), r"mlp: got widths \[3\], expected \[inputs"),
    "mlp: width 0": (
        lambda: mlp([3, 0, 2]),
        r"mlp: got widths \[3, 0, 2\].*at least 1",
    ),
    "mlp: other features": (
        lambda: traced_init(mlp([784, 10]), (28, 27)),
        r"mlp\(\[784, 10\]\): in_shape \(28, 27\) has 756 features, expected "
        r"widths\[0\] = 784",
    ),
    "mlp: other images": (
        lambda: ran(mlp([12, 2]), (4, 3), (5, 4, 4)),
        r"dense\(2\): input of shape \(5, 16\) has 16 features",
    ),
    "mlp: unknown activation": (
        lambda: mlp([3, 2, 1], "rellu"),
        r"unknown activation 'rellu'\. Did you mean 'relu'\? Valid names: elu, gelu, "
        r"leaky_relu, relu, selu, sigmoid, softplus, swish, tanh",
    ),
    "mlp: unknown output": (
        lambda: mlp([3, 2], output="argmax"),
        r"unknown \w+ 'argmax'\. Valid names: ",
    ),
    "mlp: rate 1": (lambda: mlp([3, 2, 1], drop_rate=1.0), r"dropout\(1\)"),
}
ANOTHER_NETWORK = {
    "no parameters": (dense(5), relu),
    "no bias": (dense(5), dense(5, bias=False)),
    "too many parameters": (dense(5, bias=False), dense(5)),
    "other width": (dense(128), dense(5)),
    "of a dense layer": (batch_norm(), dense(3)),
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


def test_error_notes_say_which_layer():
    inner = serial(relu, dense(128))
    net = serial(flatten, relu, inner)
    with pytest.raises(JaxnnError, match="784 features") as caught:
        ran(net, (512,), (2, 784))
    assert caught.value.__notes__[:2] == [
        "in layer 1 of serial: dense(128)",
        "in layer 2 of serial: serial(2 layers)",
    ]


def test_error_notes_of_init_say_which_layer():
    with pytest.raises(JaxnnError, match="residual") as caught:
        traced_init(serial(dense(3), residual(dense(4))), (2,))
    assert caught.value.__notes__[:1] == ["in layer 1 of serial: residual(dense(4))"]


def test_train_must_be_given():
    with pytest.raises(TypeError, match="train"):
        relu.forward((), (), jnp.ones(2))
