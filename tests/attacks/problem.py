"""Networks of the tests of attacks and robustness, and settings that are quick."""

import functools

import jax
import jax.numpy as jnp
import optax

from jaxnn import Classifier, mlp, serial
from jaxnn.attacks import ATTACKS
from jaxnn.interop import layer_from_jax
from jaxnn.layers import Layer, dense, standardize
from jaxnn.train import fit, predict
from tests.train.problem import pixels

NET = serial(standardize(0.4, 0.2), mlp([16, 12, 3]))
QUICK = {
    "epsilon": 0.1, "key": jax.random.key(0), "kind": "uniform", "amount": 1.0,
    "steps": 4, "queries": 5, "directions": 4, "draws": 3,
}  # fmt: skip
NEEDED = {"carlini_wagner": {"steps": 20, "searches": 3}, "ddn": {"steps": 20}}


def settings(name, **more):
    """With which an attack is quick; of `more` those that it takes."""
    given = QUICK | NEEDED.get(name, {}) | more
    return {k: v for k, v in given.items() if k in ATTACKS[name].takes}


@functools.cache
def trained(count):
    """Parameters and state of NET, so many of the images it was trained on, labels."""
    x, y = pixels(400)
    history = fit(NET, (x, y), optimizer=optax.adam(0.02), epochs=8, batch=50)
    return history.params, history.state, x[:count] / 255.0, y[:count]


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
