"""Every layer in every way that training runs it: the table is `LAYER_CASES`."""

import functools

import jax
import numpy as np
import pytest

from tests.layers.cases import KEY, LAYER_CASES, LayerCase, cotangent, setup
from tests.rules.common import assert_trees_close

# the first case of each: compiling is what takes the time
CASES = {name: LayerCase(*cases[0]) for name, cases in LAYER_CASES.items()}
STEPS, SEEDS = 2, 2
KEYS = jax.random.split(KEY, (STEPS, SEEDS))


def step(layer, params, state, x, dy, key):
    """What training runs: y and the new state, dx and dparams."""
    y, state, cache = layer.forward(params, state, x, key=key, train=True)
    return y, state, layer.backward(cache, dy)


def each_layer(run):
    """`run(layer, *arrays, key)` of all layers, as one program."""

    @jax.jit
    def program(everything, key):
        return {
            name: run(case.layer, *everything[name], key)
            for name, case in CASES.items()
        }

    return program


jitted = each_layer(step)


@each_layer
def as_trained(layer, *arrays):
    """Seeds side by side in every step of a scan."""
    seeds = jax.vmap(functools.partial(step, layer))
    return jax.lax.scan(lambda _, each: (None, seeds(*each)), None, arrays)[1]


@functools.cache
def arrays(i=0):
    """For each layer params, state, x, dy; other ones for another i.

    By NumPy, here and below: each operation of JAX on another shape is a program.
    """

    def changed(params, state, x, dy):
        # rolled, not scaled: indices stay in range and masks on whole rows
        params = jax.tree.map(lambda a: a * (1 + i / 2), params)
        return params, state, jax.tree.map(lambda a: np.roll(a, i, 0), x), dy

    setups = {name: setup(*case) for name, case in CASES.items()}
    return {
        name: changed(*jax.tree.map(np.asarray, (s.params, s.state, s.x, cotangent(s))))
        for name, s in setups.items()
    }


@functools.cache
def one_by_one():
    keys = KEYS.reshape(-1)
    return [jax.device_get(jitted(arrays(i), key)) for i, key in enumerate(keys)]


@functools.cache
def together():
    everything = map(arrays, range(STEPS * SEEDS))
    stacked = jax.tree.map(
        lambda *each: np.stack(each).reshape(STEPS, SEEDS, *each[0].shape), *everything
    )
    found = jax.device_get(as_trained(stacked, KEYS))
    return jax.tree.map(lambda a: a.reshape(STEPS * SEEDS, *a.shape[2:]), found)


@pytest.mark.parametrize("name", CASES)
def test_scan_of_seeds_by_vmap_equals_one_by_one(name):
    for i, want in enumerate(one_by_one()):
        member = jax.tree.map(lambda a, i=i: a[i], together()[name])
        assert_trees_close(member, want[name])


@pytest.mark.parametrize("name", CASES)
def test_the_arrays_compared_differ(name):
    # or seeds and steps that were mixed up would not show
    ys = [result[name][0] for result in one_by_one()]
    others = [np.array_equal(ys[0], y) for y in ys[1:]]
    assert not all(others)
