import functools

import jax
import numpy as np
import pytest

from jaxnn.layers import LAYERS, Layer
from tests.layers.cases import ALL, LAYER_CASES, both, setup
from tests.rules.common import assert_trees_close

# what the command line must give the layers that cannot do without, `dense:3`
SETTINGS = {
    "conv": (32, 5), "conv1d": (8,), "conv_transpose": (4, 3, 2), "dense": (3,),
    "dropout": (0.3,), "embedding": (5, 3), "gaussian_noise": (0.1,),
    "group_norm": (2,), "gru": (3,), "lstm": (3,), "multi_head_attention": (2,),
    "rnn": (3,), "spatial_dropout": (0.3,), "standardize": (0.5, 0.2),
}  # fmt: skip


@functools.cache
def small_layers():
    return both([setup(*case) for case in ALL])


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("i", range(len(ALL)), ids=lambda i: f"{i} {ALL[i].layer.name}")
def test_backward_of_layer_equals_vjp(i, train):
    (_, _, grads), vjp = small_layers()[train][i]
    assert_trees_close(grads, vjp)


@pytest.mark.parametrize("name", LAYERS)
def test_checker_fails_a_mutant_of_each_gradient(name):
    i = [case.layer for case in ALL].index(LAYER_CASES[name][0][0])
    (_, _, grads), vjp = small_layers()[True][i]
    leaves, structure = jax.tree.flatten(grads)
    mutable = [j for j, d in enumerate(leaves) if np.any(d)]
    assert mutable
    for j in mutable:
        mutant = [d * (1.01 if j == k else 1) for k, d in enumerate(leaves)]
        with pytest.raises(AssertionError, match="Not equal to tolerance"):
            assert_trees_close(jax.tree.unflatten(structure, mutant), vjp)


def test_every_layer_has_cases():
    assert set(LAYER_CASES) == set(LAYERS)


@pytest.mark.parametrize("name", LAYERS)
def test_layer_is_found_by_its_name(name):
    layer = LAYERS[name](*SETTINGS.get(name, ()))
    assert isinstance(layer, Layer)
    assert layer.name.split("(")[0] == name
