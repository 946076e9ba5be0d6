"""NaN never wins, and a gradient too small to be squared is followed all the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import Classifier, attacks
from jaxnn.attacks import ATTACKS
from jaxnn.interop import layer_from_jax
from jaxnn.layers import dense
from tests.attacks.problem import holed, settings

KEY = jax.random.key(0)
NAMES = sorted(set(ATTACKS) - {"corruptions"})  # of flat images there is none


def run(name, model, x, y, **more):
    return ATTACKS[name].run(model, x, y, **settings(name, **more))


@pytest.fixture(scope="module")
def problem():
    x = jnp.array([[0.2, 0.6, 0.5, 0.7], [0.9, 0.6, 0.5, 0.7], [0.45, 0.6, 0.5, 0.7]])
    return holed(), x, holed().outputs(x).argmax(-1)


@pytest.mark.parametrize("name", [*NAMES, "pgd early", "pgd l2", "pgd l1"])
def test_no_attack_returns_a_pixel_that_is_nan(name, problem):
    name, *rest = name.split()
    more = {"norm": rest[0]} if rest else {}
    more = {"early_stop": True} if rest == ["early"] else more
    x_adv = run(name, *problem, **more)
    assert bool(jnp.isfinite(x_adv).all())


def test_a_point_with_a_nan_pixel_or_score_is_not_kept():
    from jaxnn.attacks.core import Best

    x = jnp.zeros((3, 2))
    best = Best.of_nothing(x).with_point(x, jnp.zeros(3, bool), jnp.zeros(3))
    x_adv = jnp.array([[jnp.nan, 1.0], [1.0, 1.0], [1.0, 1.0]])
    score = jnp.array([1.0, jnp.nan, 1.0])
    kept = best.with_point(x_adv, jnp.array([True, True, True]), score)
    assert kept.fooled.tolist() == [False, False, True]
    assert kept.x.tolist() == [[0, 0], [0, 0], [1, 1]]


def test_an_output_of_nan_is_no_answer_and_fools_nobody():
    net = layer_from_jax(lambda x: jnp.where(x < 0.5, jnp.nan, x))
    model = Classifier(net, *net.init(KEY, (3,))[:2])
    x = np.array([[0.9, 0.6, 0.6], [0.9, 0.6, 0.1]])
    assert model.correct(x, np.array([0, 2])).tolist() == [True, False]
    x_adv = attacks.square(model, x, [0, 0], epsilon=0.05, key=KEY, queries=5)
    assert bool(jnp.isfinite(model.outputs(x_adv)[0]).all())


FOLLOWED = {
    "fgsm": "l2", "pgd": "l2", "apgd": "l2", "mifgsm": "l2", "ddn": None,
    "carlini_wagner": None, "deepfool": None, "bim": "l1",
}  # fmt: skip


@pytest.mark.parametrize("size", [1e-30, 1e-20, 1e25])
@pytest.mark.parametrize("name", FOLLOWED)
def test_a_gradient_of_any_size_is_followed(name, size):
    """float32: squares below 1e-38 are 0, above 1e38 infinite."""
    w = jnp.asarray(np.random.default_rng(0).normal(0, size, (6, 2)), jnp.float32)
    model = Classifier(dense(2), {"w": w, "b": -0.5 * w.sum(0)})
    x = jnp.full((1, 6), 0.5, jnp.float32).at[0, 0].add(0.02)
    y = model.outputs(x).argmax(-1)
    more = {"norm": FOLLOWED[name]} if FOLLOWED[name] else {}
    if size > 1:  # a network so sure has no gradient of its cross-entropy left
        more["loss"] = attacks.margin
        if name == "ddn":
            return
    x_adv = run(name, model, x, y, **{"epsilon": 1.0} | more)
    assert not model.correct(x_adv, y).any()


def test_norms_of_ordinary_numbers_keep_their_bits():
    from jaxnn.attacks.core import l2_norm

    rng = np.random.default_rng(0)
    delta = jnp.asarray(rng.standard_normal((200, 50)), jnp.float32)
    delta = delta * jnp.asarray(10.0 ** rng.uniform(-6, 6, (200, 1)), jnp.float32)
    plain = jnp.sqrt(jnp.square(delta).sum(-1))
    assert np.asarray(l2_norm(delta)).tobytes() == np.asarray(plain).tobytes()
