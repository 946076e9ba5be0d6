"""Smoothing says what it can prove, and the transfer matrix who fools whom."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import Classifier, serial
from jaxnn.defenses import binarize
from jaxnn.errors import JaxnnError
from jaxnn.layers import dense
from jaxnn.robustness import smoothing, transfer_matrix
from jaxnn.robustness.threat import Threat
from tests.attacks.problem import NET, model

KEY = jax.random.key(0)
LINE = dense(2)  # says class 1 where x_0 > 0.5
PARAMS = {"w": jnp.array([[0.0, 1.0], [0.0, 0.0]]), "b": jnp.array([0.0, -0.5])}


def test_clopper_pearson_is_the_share_at_which_so_many_are_rare():
    from scipy.stats import binom

    for count, total in ((1, 10), (50, 100), (9990, 10_000)):
        p = smoothing.clopper_pearson(count, total, 0.01)
        assert abs(binom.sf(count - 1, total, p) - 0.01) < 1e-6
    assert smoothing.clopper_pearson(0, 10, 0.01) == 0
    # all of n: p^n = alpha
    want = 0.001 ** (1 / 100)
    assert abs(smoothing.clopper_pearson(100, 100, 0.001) - want) < 1e-12
    with pytest.raises(JaxnnError, match="3 of 2"):
        smoothing.clopper_pearson(3, 2, 0.1)


def test_the_binomial_test_is_scipys():
    from scipy.stats import binomtest

    for count, total in ((5, 10), (60, 100), (700, 1001), (10, 10)):
        want = binomtest(count, total).pvalue
        assert abs(smoothing.binomial_test(count, total) - want) < 1e-9


def test_the_radius_of_a_line_is_the_distance_to_it():
    """Of a half plane the bound is tight: the distance, less the doubt."""
    x = jnp.array([[0.9, 0.0], [0.5, 0.3], [0.2, 1.0]])
    found = smoothing.certify(Classifier(LINE, PARAMS), x, sigma=0.25, key=KEY, n=4500)
    assert found.labels.tolist() == [1, smoothing.ABSTAIN, 0]
    distance = np.array([0.4, 0.0, 0.3])
    assert (found.radii <= distance + 1e-9).all()
    assert (found.radii >= distance - 0.05)[[0, 2]].all()
    y = np.array([1, 1, 1])
    assert abs(found.average_radius(y) - found.radii[0] / 3) < 1e-12
    assert found.accuracy_at(y, 0.0) == 1 / 3
    assert found.accuracy_at(y, 1.0) == 0
    alone = smoothing.certify(
        Classifier(LINE, PARAMS), x[:1], sigma=0.25, key=KEY, n=4500
    )
    assert alone.radii[0] == found.radii[0]  # whatever its company


def test_a_close_vote_abstains():
    x = jnp.array([[0.9, 0.0], [0.5, 0.3]])
    said = smoothing.predict(Classifier(LINE, PARAMS), x, sigma=0.25, key=KEY, n=300)
    assert said.tolist() == [1, smoothing.ABSTAIN]
    broken = jax.tree.map(lambda a: a * jnp.nan, PARAMS)
    said = smoothing.predict(Classifier(LINE, broken), x, sigma=0.25, key=KEY, n=300)
    assert said.tolist() == [smoothing.ABSTAIN] * 2
    with pytest.raises(JaxnnError, match="sigma"):
        smoothing.predict(Classifier(LINE, PARAMS), x, sigma=0, key=KEY)
    with pytest.raises(JaxnnError, match="n0=0"):
        smoothing.certify(Classifier(LINE, PARAMS), x, sigma=1, key=KEY, n0=0)


@pytest.fixture(scope="module")
def matrix():
    params, state, _ = NET.init(KEY, (4, 4))
    other = jax.tree.map(lambda a: -a, params)
    x = np.random.default_rng(0).uniform(0, 1, (40, 4, 4))
    z, *_ = NET.forward(params, state, jnp.asarray(x), train=False)
    y = np.asarray(z).argmax(-1)
    nets = {"one": model(params, state), "opposite": model(other, state)}
    return transfer_matrix(nets, x, y, threat=Threat("linf", 0.1), steps=5), nets, x, y


def test_own_examples_harm_most(matrix):
    found, _, _, _ = matrix
    assert found.names == ("one", "opposite")
    assert found.matrix.shape == (2, 2)
    assert found.matrix[0, 0] < 1
    assert found.check.id == "K9"
    assert found.check.verdict == "pass"
    assert found.matrix[0, 0] <= found.matrix[1, 0]


def test_a_network_that_hides_its_gradient_fails_the_check():
    params, state, _ = NET.init(KEY, (4, 4))
    masked = serial(binarize(0.5), NET)
    x = np.random.default_rng(0).uniform(0, 1, (60, 4, 4))
    z, *_ = masked.forward(((), params), ((), state), jnp.asarray(x), train=False)
    nets = {
        "masked": Classifier(masked, ((), params), ((), state)),
        "open": model(params, state),
    }
    found = transfer_matrix(
        nets, x, np.asarray(z).argmax(-1), threat=Threat("linf", 0.3), steps=10
    )
    assert found.check.verdict == "fail"
    assert found.check.images
    assert "open leave masked" in found.check.message
    with pytest.raises(JaxnnError, match="labels"):
        transfer_matrix(nets, x, np.zeros(3, int))
