"""Weights of samples and classes: what they mean, and where they cannot be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn.errors import JaxnnError
from jaxnn.losses import LOSSES
from tests.losses.cases import KINDS, LABELS
from tests.losses.test_losses import PRED, check, compiled


@pytest.mark.parametrize("name", KINDS)
def test_checker_fails_a_mutant_of_the_weights(name):
    (value, dpred), want = compiled()[f"{name}: weighted labels", "none"]
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check((value, dpred.at[3].multiply(2)), want)
    unweighted = compiled()[f"{name}: labels", "none"][0]
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check(unweighted, want)


@pytest.mark.parametrize("name", KINDS)
def test_weights_of_one_change_nothing(name):
    loss = LOSSES[name]

    @jax.jit
    def both(pred, labels, ones, classes):
        return loss(pred, labels), loss(
            pred, labels, weights=ones, class_weights=classes
        )

    a, b = both(PRED, LABELS, jnp.ones(5), jnp.ones(4))
    check(a, b)


@pytest.mark.parametrize("name", KINDS)
def test_an_integer_weight_is_that_many_copies(name):
    loss, copies = LOSSES[name], np.array([2, 0, 1, 3, 1])

    @jax.jit
    def both(pred):
        one = loss(pred, LABELS, weights=copies)[0] * 5
        rows = np.repeat(np.arange(5), copies)
        return one, loss(pred[rows], LABELS[rows])[0] * copies.sum()

    np.testing.assert_allclose(*both(PRED), rtol=1e-14)


@pytest.mark.parametrize("name", KINDS)
def test_all_weights_zero_is_zero_not_nan(name):
    value, dpred = jax.jit(LOSSES[name])(PRED, LABELS, weights=jnp.zeros(5))
    assert value == 0
    assert not dpred.any()


def test_the_class_weight_of_an_answer_is_that_of_no_or_yes():
    loss, logits = LOSSES["sigmoid_cross_entropy"], jnp.array([[0.3], [-1.0]])
    plain, _ = loss(logits, jnp.array([1, 0]), reduction="none")
    values, _ = loss(
        logits, jnp.array([1, 0]), class_weights=[2.0, 5.0], reduction="none"
    )
    np.testing.assert_allclose(values, plain * np.array([5, 2]))


ERRORS = {
    "too few": ({"weights": np.ones(4)}, r"weights \(4,\), expected one a.*\(5,\)"),
    "a column": ({"weights": np.ones((5, 1))}, r"got weights \(5, 1\), expected"),
    "a number": ({"weights": 2.0}, r"got weights \(\), expected"),
    "few classes": ({"class_weights": np.ones(3)}, r"class_weights \(3,\), .* \(4,\)"),
}


@pytest.mark.parametrize(("options", "message"), ERRORS.values(), ids=ERRORS)
@pytest.mark.parametrize("name", KINDS)
def test_weights_of_another_shape_are_named(name, options, message):
    with pytest.raises(JaxnnError, match=f"^{name}: .*{message}"):
        jax.eval_shape(lambda: LOSSES[name](PRED, LABELS, **options))


@pytest.mark.parametrize("name", KINDS[1:])
def test_rows_of_values_have_no_class(name):
    with pytest.raises(JaxnnError, match=rf"^{name}: class_weights need labels \(5,\)"):
        jax.eval_shape(
            lambda: LOSSES[name](PRED, jnp.ones((5, 4)), class_weights=jnp.ones(4))
        )
