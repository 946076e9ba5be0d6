"""Every layer with products in bfloat16, seeds side by side: near float32."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn.rules.products import PRECISIONS, policy
from tests.layers.cases import KEY, LAYER_CASES, LayerCase, cotangent, setup
from tests.rules.common import assert_trees_close

# the first case of each: compiling is what takes the time
CASES = {name: setup(*LayerCase(*cases[0])) for name, cases in LAYER_CASES.items()}


@functools.cache
def found():
    def both(given):
        made = {}
        for name, (params, state, x, dys) in given.items():

            def one(dy, key, layer=CASES[name].layer, at=(params, state, x)):
                y, new, cache = layer.forward(*at, key=key, train=True)
                return y, new, layer.backward(cache, dy)

            for precision in PRECISIONS:
                with policy(precision=precision):
                    made[name, precision] = jax.vmap(one)(dys, jax.random.split(KEY, 2))
        return made

    def narrow(a):
        a = np.asarray(a)
        return a.astype(np.float32) if a.dtype == np.float64 else a

    given = {
        name: jax.tree.map(
            narrow, (s.params, s.state, s.x, np.stack([cotangent(s)] * 2))
        )
        for name, s in CASES.items()
    }
    return jax.device_get(jax.jit(both)(given))


@pytest.mark.parametrize("name", CASES)
def test_mixed_precision_is_near_float32_and_of_its_types(name):
    exact, mixed = (found()[name, precision] for precision in PRECISIONS)
    assert_trees_close(mixed, exact, 0.05)
    kinds = [jax.tree.map(lambda a: a.dtype, tree) for tree in (mixed, exact)]
    assert kinds[0] == kinds[1]
    assert jnp.float64 not in jax.tree.leaves(kinds)
