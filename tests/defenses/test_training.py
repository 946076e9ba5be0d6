"""Every defense's gradients are those of the loss that it states, and it trains."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnn import defenses, fit, mlp
from jaxnn.defenses.adversarial import divergence
from jaxnn.defenses.interval import margins
from jaxnn.errors import JaxnnError
from jaxnn.losses import softmax_cross_entropy
from jaxnn.train import init_state, make_step, standard_training
from tests.layers.cases import drawn, traced_init
from tests.rules.common import assert_close, assert_trees_close, normal
from tests.train.problem import blobs

NET = mlp([6, 5, 3], "tanh")
KEY = jax.random.key(0)
X = jnp.asarray(np.random.default_rng(0).uniform(0, 1, (12, 6)))
Y = jnp.asarray(np.arange(12) % 3)
E = 0.2
PARAMS, STATE = drawn(traced_init(NET, (6,)), 5)


def loss_of(params, x):
    """softmax cross-entropy in jax's own words, differentiated by jax.grad."""
    z = NET.forward(params, STATE, x, train=True)[0]
    return -jnp.take_along_axis(jax.nn.log_softmax(z), Y[:, None], 1).mean()


def clipped(x_adv):
    return jnp.clip(jnp.clip(x_adv, X - E, X + E), 0, 1)


def climbed(objective, x_adv, size, steps):
    for _ in range(steps):
        x_adv = clipped(x_adv + size * jnp.sign(jax.grad(objective)(x_adv)))
    return x_adv


def by_pgd(params, steps, size, box=True):
    key = jax.random.split(KEY)[0]
    start = X + E * jax.random.uniform(key, X.shape, X.dtype, -1, 1)
    start = jnp.clip(start, 0, 1) if box else start
    x_adv = climbed(partial(loss_of, params), start, size, steps)
    return lambda p: loss_of(p, x_adv)


def by_mix(params):
    x_adv = climbed(partial(loss_of, params), X, E, 1)
    return lambda p: 0.3 * loss_of(p, X) + 0.7 * loss_of(p, x_adv)


def log_p(params, x):
    return jax.nn.log_softmax(NET.forward(params, STATE, x, train=True)[0])


def by_trades(params):
    def apart(params, x_adv, steady):
        return (jnp.exp(steady) * (steady - log_p(params, x_adv))).sum(-1).mean()

    steady = log_p(params, X)
    start = X + 1e-3 * jax.random.normal(jax.random.split(KEY, 3)[0], X.shape, X.dtype)
    x_adv = climbed(lambda a: apart(params, a, steady), start, E * 2.5 / 3, 3)
    return lambda p: loss_of(p, X) + 2 * apart(p, x_adv, log_p(p, X))


def by_free(params):
    del params
    x_adv = jnp.clip(X + MEMORY, 0, 1)
    return lambda p: loss_of(p, x_adv)


def by_ibp(params):
    del params

    def objective(p):
        (_, hidden, _, last) = p
        low, high = jnp.clip(X - E, 0, 1), jnp.clip(X + E, 0, 1)
        up, down = jnp.maximum(hidden["w"], 0), jnp.minimum(hidden["w"], 0)
        a = jnp.tanh(low @ up + high @ down + hidden["b"][None])
        b = jnp.tanh(high @ up + low @ down + hidden["b"][None])
        # every wrong class by itself: the joined last layer, written out
        d = last["w"][:, None, :] - last["w"][:, :, None]  # (H, y, j)
        d = jnp.transpose(d, (1, 0, 2))[Y]  # (B, H, j)
        most = jnp.where(d > 0, b[:, :, None] * d, a[:, :, None] * d).sum(1)
        worst = most + last["b"][None] - last["b"][Y][:, None]
        losses = -jnp.take_along_axis(jax.nn.log_softmax(worst), Y[:, None], 1)
        return 0.25 * loss_of(p, X) + 0.75 * losses.mean()

    return objective


MEMORY = jnp.asarray(np.random.default_rng(1).uniform(-E, E, X.shape))
CASES = {
    "pgd": (defenses.pgd(E, 3, 0.4), partial(by_pgd, steps=3, size=0.4 * E)),
    "fgsm_rs": (
        defenses.fgsm_rs(E),
        partial(by_pgd, steps=1, size=1.25 * E, box=False),
    ),
    "fgsm_mix": (defenses.fgsm_mix(E, 0.3), by_mix),
    "trades": (defenses.trades(E, 3, beta=2.0), by_trades),
    "free": (defenses.free(E), by_free),
    "ibp": (defenses.ibp(E, 0.25), by_ibp),
}


@pytest.fixture(scope="module")
def found():
    """All defenses and their references in one program: name -> (ours, reference)."""

    @jax.jit
    def everything(params):
        pairs = {}
        for name, (defense, reference) in CASES.items():
            value, dparams, _, memory = defense.gradients(
                NET, softmax_cross_entropy, params, STATE, X, Y,
                key=KEY, step=0, memory=MEMORY if name == "free" else (),
            )  # fmt: skip
            want = jax.value_and_grad(reference(params))(params)
            pairs[name] = ((value, dparams), want), memory
        return pairs

    return everything(PARAMS)


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_the_stated_loss(name, found):
    (got, want), _ = found[name]
    assert_trees_close(got, want)


def test_free_moves_its_perturbation_up_the_gradient(found):
    dx = jax.jit(jax.grad(lambda a: loss_of(PARAMS, a)))(jnp.clip(X + MEMORY, 0, 1))
    want = jnp.clip(MEMORY + E * jnp.sign(dx), -E, E)
    assert_close(found["free"][1], want)


@pytest.mark.parametrize("name", CASES)
def test_a_nan_pixel_is_seen_by_the_guard(name):
    defense = CASES[name][0]
    step = jax.jit(make_step(NET, softmax_cross_entropy, optax.sgd(0.1),
                             defense=defense))  # fmt: skip
    memory = defense.memory(X.shape, X.dtype)
    ts = init_state(NET, optax.sgd(0.1), (6,), KEY, memory=memory)
    after, metrics = step(ts, X.at[3, 2].set(jnp.nan), Y, KEY)
    assert not metrics["ok"]
    assert_trees_close((after.params, after.memory), (ts.params, ts.memory), 0)
    after, metrics = step(after, X, Y, KEY)
    assert metrics["ok"]
    assert bool((after.params[1]["w"] != ts.params[1]["w"]).any())


def test_divergence_and_both_its_gradients():
    a, b = jnp.asarray(normal(4, 5)), jnp.asarray(3 * normal(4, 5, seed=1))

    def reference(a, b):
        p, q = jax.nn.log_softmax(a), jax.nn.log_softmax(b)
        return (jnp.exp(p) * (p - q)).sum(-1)

    want, vjp = jax.vjp(reference, a, b)
    assert_trees_close(divergence(a, b), (want, *vjp(jnp.ones(4))))
    huge = jnp.array([[1e4, 0.0, -1e4]])  # a class of no share costs nothing
    assert all(jnp.isfinite(v).all() for v in divergence(huge, huge))


def test_replays_use_each_batch_again_and_seeds_do_not_mix():
    x, y = blobs(64)
    x = (x - x.min()) / (x.max() - x.min())
    options = {"defense": defenses.free(0.05, 3), "epochs": 2, "batch": 16,
               "optimizer": optax.adam(0.01)}  # fmt: skip
    both = fit(NET, (x, y), seeds=[4, 7], **options)
    assert int(both.last.step[0]) == 2 * 4 * 3
    alone = fit(NET, (x, y), seeds=7, **options)
    assert_trees_close(jax.tree.map(lambda a: a[1], both.params), alone.params, 1e-9)
    assert both.last.memory.shape == (2, 16, 6)
    assert 0 < float(jnp.abs(both.last.memory).max()) <= 0.05 + 1e-12


def test_a_ramp_grows_to_its_end():
    at = defenses.ramp(0.3, 10, 0.1)
    np.testing.assert_allclose([at(0), at(5), at(10), at(99)], [0.1, 0.2, 0.3, 0.3])
    defense = defenses.fgsm_mix(defenses.ramp(0.2, 4), 0.0)

    @jax.jit
    def value(step):
        return defense.gradients(
            NET, softmax_cross_entropy, PARAMS, STATE, X, Y,
            key=KEY, step=step, memory=(),
        )[0]  # fmt: skip

    assert_close(value(0), jax.jit(loss_of)(PARAMS, X))
    assert float(value(4)) > float(value(1)) > float(value(0))


def test_bad_settings_say_so():
    for make, words in (
        (lambda: defenses.pgd(-0.1), "epsilon"),
        (lambda: defenses.pgd(1e-310), "epsilon >= 2.2e-308"),
        (lambda: defenses.pgd(0.1, 0), "steps=0"),
        (lambda: defenses.free(0.1, 0), "replays=0"),
        (lambda: defenses.fgsm_mix(0.1, 1.5), "alpha"),
        (lambda: defenses.trades(0.1, beta=-1), "beta"),
        (lambda: defenses.ramp(0.1, 0), "steps"),
        (lambda: defenses.ibp(float("nan")), "epsilon"),
        (lambda: defenses.binarize(1.0), "threshold"),
        (lambda: margins(mlp([6, 5, 3], output="softmax")), "layer softmax"),
    ):
        with pytest.raises(JaxnnError, match=words):
            make()


def test_collapse_is_told_from_a_bad_network():
    y = np.arange(100) % 10
    honest = np.where(np.arange(100) < 40, (y + 1) % 10, y)
    assert defenses.find_collapse(honest, y) is None
    one = defenses.find_collapse(np.where(np.arange(100) < 60, 3, y), y)
    assert one is not None
    assert one.kind == "one class"
    assert "class 3" in one.message
    named = defenses.find_collapse(np.full(100, 3), y, names="abcdefghij")
    assert "class d" in named.message
    assert defenses.find_collapse(np.eye(10)[y], y) is None
    # labels that are mostly one class are no collapse
    uneven = np.where(np.arange(100) < 70, 1, y)
    assert defenses.find_collapse(uneven, uneven) is None
    with pytest.raises(JaxnnError, match="labels"):
        defenses.find_collapse(y, y[:3])
    # a single output says yes above 0, and no is not class 0 of a maximum
    yes = y > 6
    assert defenses.find_collapse(np.where(yes, 2.0, -1.0)[:, None], yes) is None
    none = np.full((100, 1), -1.0)
    assert defenses.find_collapse(none, y > 2).kind == "one class"
    lost = defenses.find_collapse(np.full((100, 10), np.nan), y)
    assert lost.kind == "not finite"
    assert "100 of 100 images are NaN or infinite" in lost.message


STEPS = {
    "standard_training": (standard_training, None), "ibp": (defenses.ibp(0.1), 0),
    "fgsm_mix": (defenses.fgsm_mix(0.1), 1), "fgsm_rs": (defenses.fgsm_rs(0.1), 1),
    "free": (defenses.free(0.1), 1), "pgd, one step": (defenses.pgd(0.1, 1), 1),
    "pgd": (defenses.pgd(0.1), 7), "trades": (defenses.trades(0.1), 10),
}  # fmt: skip


@pytest.mark.parametrize("kind", STEPS)
def test_the_words_of_a_collapse_fit_the_kind_of_training(kind):
    defense, steps = STEPS[kind]
    assert defense.attack_steps == steps
    y = np.arange(100) % 10
    gap = {"defense": defense, "one_step": 0.9, "many_steps": 0.01}
    over = defenses.find_collapse(y, y, **gap)
    assert (over is not None) == (steps == 1)  # only one step can be hidden from
    if over is not None:
        assert over.kind == "catastrophic overfitting"
    one = defenses.find_collapse(np.full(100, 3), y, **gap)
    assert one.kind == "one class"
    assert ("budget" in one.message) == (steps is not None)
    # weights of zeros: every image gets the outputs that the last bias says
    constant = defenses.find_collapse(np.tile(np.arange(10.0), (100, 1)), y, **gap)
    assert ("start from other weights" in constant.message) == (steps is None)
    small = gap | {"one_step": 0.6, "many_steps": 0.5}
    assert defenses.find_collapse(y, y, **small) is None


def test_binarized_pixels_pass_no_gradient_and_keep_nan():
    layer = defenses.binarize(0.4)
    x = jnp.array([[0.0, 0.4, 0.41, 1.0, jnp.nan]])
    y, _, cache = layer.forward((), (), x, train=False)
    np.testing.assert_array_equal(y, [[0, 0, 1, 1, np.nan]])
    assert not layer.backward(cache, jnp.ones_like(y))[0].any()
