"""Networks of the tests of attacks and robustness."""

import jax
import jax.numpy as jnp

from jaxnn import Classifier, mlp, serial
from jaxnn.interop import layer_from_jax
from jaxnn.layers import Layer, dense, standardize
from jaxnn.train import predict

NET = serial(standardize(0.4, 0.2), mlp([16, 12, 3]))


def model(params, state):
    return Classifier(NET, params, state)


def fooled(params, state, x, y):
    return predict(NET, params, state, x).argmax(-1) != y


def noisy(scale):
    """A layer that adds noise in evaluation, too."""

    def forward(params, state, x, *, key=None, train):
        del params, train
        return x + scale * jax.random.normal(key, x.shape, x.dtype), state, ()

    return Layer(
        lambda key, shape: ((), (), shape), forward, lambda cache, dy: (dy, ()), "noisy"
    )


def holed():
    """A network whose gradient is NaN for pixels below 0.4, its outputs are not."""
    root = layer_from_jax(lambda x: jnp.where(x > 0.4, jnp.sqrt(x - 0.4), 0))
    net = serial(root, dense(3))
    params, state, _ = net.init(jax.random.key(0), (4,))
    return Classifier(net, params, state)
