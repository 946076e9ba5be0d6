import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import layers as nn
from jaxnn.app.build import DataFacts, network
from jaxnn.app.config import TrainConfig
from jaxnn.combine import serial
from jaxnn.errors import JaxnnError
from tests.layers.cases import KEY
from tests.rules.common import normal


def output(layer, x):
    return np.asarray(layer.forward((), (), jnp.asarray(x), train=True)[0])


X = normal(2, 3, 4, 5)
VALUES = {
    "reshape": (nn.reshape(5, -1), X.reshape(2, 5, 12)),
    "reshape to pixels": (nn.reshape(-1), X.reshape(2, 60)),
    "transpose": (nn.transpose(2, 0, 1), X.transpose(0, 3, 1, 2)),
    "transpose reversed": (nn.transpose(), X.transpose(0, 3, 2, 1)),
    "pad": (nn.pad(2), np.pad(X, [(0, 0), (2, 2), (2, 2), (0, 0)])),
    "pad edge": (
        nn.pad([(1, 0), 0, 2], "edge"),
        np.pad(X, [(0, 0), (1, 0), (0, 0), (2, 2)], "edge"),
    ),
    "pad reflect": (
        nn.pad(1, "reflect"),
        np.pad(X, [(0, 0), (1, 1), (1, 1), (0, 0)], "reflect"),
    ),
    "crop": (nn.crop(1), X[:, 1:-1, 1:-1]),
    "crop sides": (nn.crop([(0, 2), 1, 0]), X[:, :1, 1:-1]),
    "upsample": (nn.upsample((1, 3)), X.repeat(3, 2)),
}


@pytest.mark.parametrize("name", VALUES)
def test_layer_moves_elements_as_numpy_does(name):
    layer, want = VALUES[name]
    np.testing.assert_array_equal(output(layer, X), want)


@pytest.mark.parametrize("name", VALUES)
def test_init_tells_the_shape_that_forward_makes(name):
    layer, want = VALUES[name]
    assert layer.init(KEY, X.shape[1:]) == ((), (), want.shape[1:])


@pytest.mark.parametrize("name", VALUES)
def test_a_batch_may_be_empty(name):
    layer, want = VALUES[name]
    y, _, cache = layer.forward((), (), jnp.ones((0, *X.shape[1:])), train=True)
    assert y.shape == (0, *want.shape[1:])
    assert layer.backward(cache, y)[0].shape == (0, *X.shape[1:])


def built(*tokens):
    config = TrainConfig(model="serial", layers=tokens)
    return network(config, DataFacts((28, 28), 10, 0.1, 0.3))


WORDS = {
    "reshape:28:28:1": (28, 28, 1), "reshape:-1:4": (196, 4), "transpose:1:0": (28, 28),
    "elu:0.5": (28, 28), "gelu:1": (28, 28), "swish:1.5": (28, 28), "selu": (28, 28),
    "softmax": (28, 28),
}  # fmt: skip
IMAGE_WORDS = {
    "pad:2": (32, 32, 1), "pad:2:reflect": (32, 32, 1), "crop:4": (20, 20, 1),
    "upsample:2": (56, 56, 1), "upsample:2:linear": (56, 56, 1),
}  # fmt: skip


@pytest.mark.parametrize(
    ("tokens", "shape"),
    [((word,), s) for word, s in WORDS.items()]
    + [(("reshape:28:28:1", word), s) for word, s in IMAGE_WORDS.items()],
)
def test_layers_are_made_from_words_of_the_command_line(tokens, shape):
    assert built(*tokens).init(KEY, (28, 28))[2] == shape


def test_an_input_of_another_size_is_refused_where_it_enters():
    net = serial(nn.reshape(2, 3, 1), nn.pad(1), nn.flatten, nn.dense(2))
    params, state, _ = net.init(KEY, (6,))
    with pytest.raises(JaxnnError, match="7 elements") as caught:
        jax.eval_shape(
            lambda: net.forward(params, state, jnp.ones((5, 7)), train=False)
        )
    assert "in layer 0 of serial: reshape(2, 3, 1)" in caught.value.__notes__
