"""Who is fooled is said in full float32, where a GPU's attack steps may have TF32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxnn import Classifier, attacks, serial
from jaxnn.attacks import ATTACKS, classifier
from jaxnn.layers import conv, dense, flatten, relu, reshape
from jaxnn.losses import softmax_cross_entropy
from jaxnn.robustness import certify, masking
from jaxnn.traced import operations

NET = serial(reshape(4, 4, 1), conv(3, 2), relu, flatten, dense(5), relu, dense(3))
X = np.random.default_rng(0).random((6, 4, 4)).astype(np.float32)
Y = np.arange(6) % 3
HIGHEST = (lax.Precision.HIGHEST,) * 2


@pytest.fixture(scope="module")
def model():
    params, state, _ = NET.init(jax.random.key(0), (4, 4))
    as_float32 = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), params)
    return Classifier(NET, as_float32, state)


def precisions(function, *args):
    """How the products and convolutions of a program are made."""
    program = jax.make_jaxpr(function)(*args).jaxpr
    names = ("dot_general", "conv_general_dilated")
    return [e.params["precision"] for e in operations(program)
            if e.primitive.name in names]  # fmt: skip


def test_what_says_who_was_fooled_and_what_checks_it_is_exact(model):
    loss = softmax_cross_entropy
    for function, args in (
        (classifier._logits, (model, X)),
        (lambda m, x, y: classifier._gradient(loss, m, x, y), (model, X, Y)),
        (lambda m, x, y: masking._run(loss, m, x, y), (model, X, Y)),
        (lambda m, x, y: certify._proven((0.0, 1.0), m, 0.1, x, y), (model, X, Y)),
    ):
        found = precisions(function, *args)
        assert len(found) >= 3
        assert set(found) == {HIGHEST}


def test_the_steps_of_an_attack_are_as_fast_as_the_device_can(model):
    def steps(x, y):
        return ATTACKS["fgsm"].core(
            model, x, y, epsilon=0.1, loss=attacks.margin, norm="linf",
            box=(0.0, 1.0), targeted=False,
        )  # fmt: skip

    found = precisions(steps, X, Y)
    assert found
    assert HIGHEST not in found


def test_on_a_cpu_the_outputs_keep_their_bits(model):
    usual = jax.jit(lambda m, x: m.logits(x))(model, X)
    np.testing.assert_array_equal(model.outputs(X), usual)
