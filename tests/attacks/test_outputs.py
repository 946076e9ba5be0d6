"""Whatever a network ends in, its logits are attacked; and a random one on average."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import Classifier, attacks, mlp, serial
from jaxnn.layers import dense, log_softmax, sigmoid, softmax
from jaxnn.losses import mse
from tests.attacks.problem import NET, noisy, settings

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def sure(trained):
    """The trained network, so sure of itself that its probabilities are 0 and 1."""
    params, state, x, y = trained
    (scale, layers) = params
    *rest, last = layers
    last = jax.tree.map(lambda a: 2000.0 * a, last)
    params = (scale, (*rest, last))
    return (params, state), jnp.asarray(x), y


@pytest.mark.parametrize(
    ("name", "output"),
    [("pgd", softmax), ("pgd", log_softmax), ("pgd", sigmoid), ("apgd", log_softmax),
     ("deepfool", softmax), ("square", sigmoid)],
)  # fmt: skip
def test_an_output_that_changes_no_decision_hides_no_gradient(name, output, sure):
    (params, state), x, y = sure
    plain = Classifier(NET, params, state)
    ended = Classifier(serial(NET, output), (params, ()), (state, ()))
    given = settings(name, epsilon=0.2, steps=6, queries=10, loss=attacks.margin)
    attack = partial(attacks.ATTACKS[name].run, x=x, y=y, **given)
    want = attack(plain)
    assert bool((attack(ended) == want).all())
    assert plain.correct(want, y).mean() < plain.correct(x, y).mean()


def test_another_loss_sees_the_outputs_as_they_are(sure):
    (params, state), x, y = sure
    ended = Classifier(serial(NET, softmax), (params, ()), (state, ()))
    seen = []

    def loss(pred, target, *, reduction):
        seen.append(pred.shape)
        return mse(pred, target, reduction=reduction)

    x_adv = attacks.fgsm(ended, x, y, epsilon=0.1, loss=loss)
    assert seen
    assert bool((x_adv == x).all())  # all probabilities are 0 or 1: no gradient


@pytest.mark.parametrize("end", [(), (sigmoid,)])
def test_one_output_is_two_classes(end):
    net = mlp([4, 1]) if not end else mlp([4, 1], output="sigmoid")
    params, state, _ = net.init(KEY, (4,))
    model = Classifier(net, params, state)
    x = jnp.asarray(np.random.default_rng(0).uniform(0, 1, (30, 4)))
    logits = Classifier(mlp([4, 1]), params[:2], state[:2])
    y = (logits.outputs(x)[:, 0] > 0).astype(int)
    x_adv = attacks.pgd(model, x, y, epsilon=0.5, steps=5)
    assert logits.correct(x, y).all()
    assert logits.correct(x_adv, y).mean() < 0.7
    two = serial(mlp([4, 1]), dense(2))
    both = (params[:2], {"w": jnp.array([[0.0, 1.0]]), "b": jnp.zeros(2)})
    want = attacks.pgd(
        Classifier(two, both, (state[:2], ())), x, y, epsilon=0.5, steps=5
    )
    np.testing.assert_allclose(x_adv, want, atol=1e-9)


def test_one_output_of_a_sigmoid_says_yes_above_one_half_whatever_the_loss():
    def squared(pred, y, *, reduction):
        del reduction
        d = pred - y[:, None]
        return jnp.square(d[:, 0]), 2 * d

    net = mlp([4, 1], output="sigmoid")
    params, state, _ = net.init(KEY, (4,))
    model = Classifier(net, params, state)
    x = jnp.asarray(np.random.default_rng(0).uniform(0, 1, (30, 4)))
    y = (model.outputs(x)[:, 0] > 0.5).astype(int)
    assert 0 < y.mean() < 1
    x_adv = attacks.pgd(
        model, x, y, epsilon=0.01, steps=2, loss=squared, early_stop=True
    )
    assert model.correct(x, y).all()
    assert (x_adv != x).any(1).all()  # none was taken for fooled before it was moved


def test_a_network_that_is_random_at_test_is_attacked_on_average(trained):
    params, state, x, y = trained
    plain = Classifier(NET, params, state)
    model = Classifier(serial(noisy(0.02), NET), ((), params), ((), state), draws=8)
    assert model.facts(x).random
    assert not plain.facts(x).random
    assert model.correct(x, y).mean() > 0.8
    x_adv = attacks.pgd(model, x, y, epsilon=0.2, steps=5)
    again = attacks.pgd(model, x, y, epsilon=0.2, steps=5)
    assert bool((x_adv == again).all())
    assert model.correct(x_adv, y).mean() < model.correct(x, y).mean() - 0.2
    values, dx = model.gradient(x, y, attacks.margin)
    _, steady = plain.gradient(x, y, attacks.margin)
    cosine = (dx * steady).sum() / np.linalg.norm(dx) / np.linalg.norm(steady)
    assert cosine > 0.9
    assert np.isfinite(values).all()
