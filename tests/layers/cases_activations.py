"""Cases of the layers that act on each element, or on the last axis, alone."""

from jaxnn.layers import (
    elu,
    gelu,
    leaky_relu,
    log_softmax,
    relu,
    selu,
    sigmoid,
    softmax,
    softplus,
    swish,
    tanh,
)

CASES = {
    "elu": [(elu(), (5,), 3), (elu(0.3), (3, 1, 2), 1)],
    "gelu": [(gelu(), (5,), 3), (gelu(approximate=True), (5,), 3)],
    "leaky_relu": [(leaky_relu(), (5,), 3), (leaky_relu(0.2), (5,), 3)],
    "log_softmax": [(log_softmax, (5,), 3)],
    "relu": [(relu, (5,), 3), (relu, (3, 1, 2), 1)],
    "selu": [(selu, (5,), 3)],
    "sigmoid": [(sigmoid, (5,), 3)],
    "softmax": [(softmax, (5,), 3), (softmax, (2, 1), 1)],
    "softplus": [(softplus, (5,), 3)],
    "swish": [(swish(), (5,), 3), (swish(2.0), (5,), 3)],
    "tanh": [(tanh, (5,), 3)],
}
