"""A threat model reaches every attack, or is refused; not attacked is not robust."""

from functools import partial

import jax
import numpy as np
import pytest

from jaxnn import attacks
from jaxnn.errors import JaxnnError
from jaxnn.robustness import (
    Threat,
    evaluate,
    report,
    transfer_matrix,
    under,
    worst_case,
)
from tests.attacks.problem import NET, holed, model

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def problem():
    params, state, _ = NET.init(KEY, (4, 4))
    net = model(params, state)
    x = np.random.default_rng(0).uniform(0, 1, (30, 4, 4))
    return net, x, net.outputs(x).argmax(-1)


@pytest.mark.parametrize(
    ("attack", "threat"),
    [
        (partial(attacks.pgd, steps=3), Threat("l2", 0.7)),
        (partial(attacks.pgd, steps=3), Threat("l1", 2.0)),
        (partial(attacks.spsa, steps=2, directions=4), Threat("l2", 0.7)),
        (attacks.deepfool, Threat("l2", 0.3)),
        (attacks.deepfool, Threat("linf", 0.05)),
        (partial(attacks.ddn, steps=40), Threat("l2", 1.0)),
        (attacks.fgsm, Threat("linf", 0.1, None)),
    ],
)
def test_the_threat_model_reaches_the_attack(attack, threat, problem):
    net, x, y = problem
    x_adv = under(threat, attack, net, x, y, key=KEY)
    size = np.asarray(attacks.distance(x_adv, x, threat.norm))
    assert size.max() <= threat.epsilon + 1e-6
    assert size.max() > 0.5 * threat.epsilon
    found = transfer_matrix({"one": net}, x, y, threat=threat, attack=attack)
    assert found.matrix[0, 0] == net.correct(x_adv, y).mean()


@pytest.mark.parametrize(
    ("attack", "threat", "message"),
    [
        (attacks.square, Threat("l2", 1.0), "square keeps a budget in linf"),
        (attacks.ddn, Threat("linf", 0.1), "ddn keeps a budget in l2"),
        (attacks.corruptions, Threat("linf", 0.1), "keeps a budget in no norm"),
        (lambda *_: None, Threat("linf", 0.1), "is no attack of jaxnn.attacks"),
    ],
)
def test_what_cannot_keep_the_threat_model_is_refused(attack, threat, message, problem):
    net, x, y = problem
    with pytest.raises(JaxnnError, match=message):
        transfer_matrix({"one": net}, x, y, threat=threat, attack=attack)


@pytest.fixture(scope="module")
def half_blind():
    net, x = holed(), np.random.default_rng(0).uniform(0.5, 1, (20, 4))
    x[:7, 0] = 0.2
    return net, x, net.outputs(x).argmax(-1)


def test_an_image_whose_gradient_is_nan_is_not_robust(half_blind):
    net, x, y = half_blind
    found = worst_case(net, x, y, threat=Threat("linf", 0.01), key=KEY)
    assert np.flatnonzero(found.not_attacked).tolist() == list(range(7))
    assert found.clean.all()
    assert not found.stands[:7].any()


@pytest.mark.slow
def test_an_evaluation_says_what_was_not_attacked(half_blind):
    net, x, y = half_blind
    found = evaluate(net, x, y, threat=Threat("linf", 0.01))
    assert set(found.not_attacked) == {
        i for i in range(7) if not found.robust_images[i]
    }
    assert not found.robust_images[:7].any()
    assert report.lines(found)[0].startswith("NOT ATTACKED")
    assert report.to_json(found)["not_attacked_images"] == found.not_attacked.tolist()
