"""With x64 off, as users have it: float64 images are read as float32, and stay so.

All other tests run in float64, where an array of NumPy and one of JAX have one type.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import Classifier, attacks, fit, mlp
from jaxnn.attacks import ATTACKS
from jaxnn.robustness import Threat, worst_case
from jaxnn.train import evaluate, predict
from tests.attacks.problem import settings

EPSILON = 0.1
NET = mlp([6, 5, 3], "tanh")
X = np.random.default_rng(0).uniform(size=(8, 6))  # no float32 has these values
Y = np.arange(8) % 3


@pytest.fixture(autouse=True)
def float32():
    with jax.enable_x64(False):
        yield


@pytest.fixture
def model(float32):
    return Classifier(NET, *NET.init(jax.random.key(1), (6,))[:2])


def same_as_float32(function, x=X):
    """What `function` makes of float64 images, which must be what float32 ones give."""
    found, wanted = function(x), function(x.astype(np.float32))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert np.asarray(a).dtype == np.asarray(b).dtype
        assert np.array_equal(a, b, equal_nan=True)
    return found


# one of a kind: what reads their images is the same
@pytest.mark.parametrize(
    "name",
    ["carlini_wagner", "ddn", "deepfool", "apgd", "noise", "pgd", "spsa", "square"],
)
def test_an_attack_reads_float64_images_as_float32(name, model):
    x_adv = same_as_float32(lambda x: ATTACKS[name].run(model, x, Y, **settings(name)))
    assert x_adv.dtype == jnp.float32
    assert 0 <= float(x_adv.min()) <= float(x_adv.max()) <= 1
    if "epsilon" in settings(name):
        assert np.abs(x_adv - X).max() <= EPSILON + 1e-6


def test_no_budget_leaves_float64_images_as_they_are(model):
    found = attacks.pgd(model, X, Y, epsilon=0.0)
    assert np.array_equal(found, X.astype(np.float32))


def test_the_worst_case_of_float64_images_is_that_of_float32(model):
    threat, key = Threat("linf", EPSILON), jax.random.key(3)
    same_as_float32(lambda x: worst_case(model, x, Y, threat=threat, key=key, steps=3))


def test_training_on_float64_is_training_on_float32(float32):
    def train(x):
        history = fit(NET, (x, Y), epochs=2, batch=4, validation=(x, Y))
        params, state = history.params, history.state
        tested = evaluate(NET, params, state, x, Y)
        return params, tested, predict(NET, params, state, x)

    params = same_as_float32(train)[0]
    assert {a.dtype for a in jax.tree.leaves(params)} == {jnp.dtype("float32")}


def test_a_fault_is_caught():
    """An attack that keeps NumPy's type, as a distance of float64 images did."""
    with pytest.raises(AssertionError):
        same_as_float32(lambda x: np.clip(x + EPSILON, 0, 1))
