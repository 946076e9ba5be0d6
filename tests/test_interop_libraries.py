"""jaxnn's layers inside modules of Flax and Equinox, where these are installed."""

import importlib.util

import jax
import jax.numpy as jnp
import pytest

from jaxnn.combine import serial
from jaxnn.interop import as_jax
from jaxnn.layers import batch_norm, dense, tanh
from tests.layers.cases import KEY
from tests.rules.common import assert_close, assert_trees_close, normal


def needs(name):
    missing = importlib.util.find_spec(name) is None
    return pytest.mark.skipif(missing, reason=f"{name} is not installed")


@needs("flax")
def test_a_layer_in_a_flax_module():
    import flax.linen as nn

    class Module(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(4)(x)
            trunk = serial(dense(5), batch_norm(), tanh)
            init = lambda key: trunk.init(key, x.shape[1:])  # noqa: E731
            params = self.param("trunk", lambda key: init(key)[0])
            state = self.variable("batch_stats", "trunk", lambda: init(KEY)[1])
            y, state.value = as_jax(trunk)(params, state.value, x, train=True)
            return nn.Dense(2)(y)

    module, x = Module(), jnp.asarray(normal(6, 3))
    variables = module.init(KEY, x)

    @jax.jit
    def gradient(params, stats, x):
        def loss(params):
            variables = {"params": params, "batch_stats": stats}
            y, new = module.apply(variables, x, mutable=["batch_stats"])
            return (y**2).sum(), new

        return jax.grad(loss, has_aux=True)(params)

    grads, new = gradient(variables["params"], variables["batch_stats"], x)

    class Twin(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(4)(x)
            x = nn.Dense(5)(x)
            x = nn.BatchNorm(use_running_average=False, epsilon=1e-5, momentum=0.9)(x)
            return nn.Dense(2)(nn.tanh(x))

    p = variables["params"]
    inner, norm, _ = p["trunk"]
    twin = {
        "Dense_0": p["Dense_0"],
        "Dense_1": {"kernel": inner["w"], "bias": inner["b"]},
        "BatchNorm_0": {"scale": norm["gamma"], "bias": norm["beta"]},
        "Dense_2": p["Dense_1"],
    }
    stats = Twin().init(KEY, x)["batch_stats"]

    @jax.jit
    def twin_gradient(params):
        def loss(params):
            variables = {"params": params, "batch_stats": stats}
            return (Twin().apply(variables, x, mutable=["batch_stats"])[0] ** 2).sum()

        return jax.grad(loss)(params)

    want = twin_gradient(twin)
    first = (tree["Dense_0"]["kernel"] for tree in (grads, want))
    assert_close(*first, 1e-10)
    assert_close(grads["trunk"][0]["w"], want["Dense_1"]["kernel"], 1e-10)
    assert_close(grads["trunk"][1]["gamma"], want["BatchNorm_0"]["scale"], 1e-10)
    assert (new["batch_stats"]["trunk"][1]["mean"] != 0).all()


@needs("equinox")
def test_a_layer_in_an_equinox_module():
    import equinox as eqx

    class Module(eqx.Module):
        first: eqx.nn.Linear
        trunk: tuple

        def __init__(self, key):
            self.first = eqx.nn.Linear(3, 4, key=key)
            self.trunk = TRUNK.init(key, (4,))[0]

        def __call__(self, x):
            y, _ = as_jax(TRUNK)(self.trunk, STATE, jax.vmap(self.first)(x), train=True)
            return y

    module, x = Module(KEY), jnp.asarray(normal(6, 3))

    @eqx.filter_jit
    @eqx.filter_grad
    def gradient(module):
        return (module(x) ** 2).sum()

    @eqx.filter_jit
    @eqx.filter_grad
    def by_jax(module):
        h = jax.vmap(module.first)(x)
        return (TRUNK.forward(module.trunk, STATE, h, train=True)[0] ** 2).sum()

    assert_trees_close(gradient(module), by_jax(module))


TRUNK = serial(dense(5), tanh, dense(2))
STATE = ((),) * 3
