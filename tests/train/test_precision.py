"""Mixed precision in training: products in bfloat16, everything else in float32."""

import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.extend.core import jaxprs_in_params

from jaxnn import compare_gradients, defenses, environment, mlp, serial
from jaxnn.check import compare_precision
from jaxnn.errors import JaxnnError
from jaxnn.layers import conv, dense, flatten, pointwise, relu, reshape
from jaxnn.losses import softmax_cross_entropy
from jaxnn.rules import Rule
from jaxnn.rules.products import policy
from jaxnn.train import Snapshots, fit, make_step
from jaxnn.train.step import compute_gradients
from tests.train.problem import blobs, same_bits

KEY = jax.random.key(0)
NET = mlp([6, 16, 3], normalize=True, drop_rate=0.1)
DATA = blobs(160)
pytestmark = pytest.mark.filterwarnings("ignore:precision bfloat16")


def train(precision="bfloat16", epochs=3, net=NET, **options):
    usual = {"dtype": jnp.float32, "batch": 32, "optimizer": optax.adam(0.02)}
    return fit(net, DATA, epochs=epochs, precision=precision, **(usual | options))


@pytest.fixture(scope="module")
def trained():
    return {p: train(p) for p in ("float32", "bfloat16")}


def test_it_learns_as_in_float32_but_not_the_same_numbers(trained):
    mixed, exact = trained["bfloat16"], trained["float32"]
    np.testing.assert_allclose(mixed["loss"], exact["loss"], rtol=0.02)
    assert mixed["loss"] != exact["loss"]
    kinds = [jax.tree.map(lambda a: a.dtype, h.last) for h in (mixed, exact)]
    assert kinds[0] == kinds[1]


def test_seeds_side_by_side_train_as_alone(trained):
    many = train(seeds=[0, 1, 2])
    np.testing.assert_allclose(
        [row[0] for row in many["loss"]], trained["bfloat16"]["loss"], rtol=1e-3
    )


def test_a_run_is_resumed_bit_for_bit(tmp_path, trained):
    train(epochs=2, snapshots=Snapshots(tmp_path))
    again = train(epochs=3, snapshots=Snapshots(tmp_path, resume=True))
    assert same_bits(again.params, trained["bfloat16"].params)


def dots(jaxpr):
    """Types of the operands and of the result of every product in a program."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in ("dot_general", "conv_general_dilated"):
            yield tuple(str(v.aval.dtype) for v in (*eqn.invars, *eqn.outvars))
        for inner in jaxprs_in_params(eqn.params):
            yield from dots(inner)


@pytest.mark.parametrize(
    "defense", [None, defenses.pgd(0.1, 2), defenses.trades(0.1, 2)]
)
def test_every_product_of_a_step_and_its_attack_is_mixed(defense):
    def program(precision):
        step = make_step(NET, softmax_cross_entropy, optax.adam(1e-3), defense=defense,
                         precision=precision)  # fmt: skip
        ts = step.start((32, 6), KEY, jnp.float32)
        x, y = DATA[0][:32], DATA[1][:32]
        return jax.make_jaxpr(partial(compute_gradients, step))(ts, x, y, KEY)

    mixed, exact = (list(dots(program(p).jaxpr)) for p in ("bfloat16", "float32"))
    assert set(mixed) == {("bfloat16", "bfloat16", "float32")}
    assert set(exact) == {("float32",) * 3}
    assert len(mixed) == len(exact)


IMAGES = serial(reshape(3, 2, 1), conv(6, 3), relu, flatten)
OVERFLOW = pointwise(
    Rule("overflow", lambda x: (x, x), lambda x, dy: (dy * jnp.log(x - x),))
)


@pytest.mark.parametrize("before", [dense(8), IMAGES])
def test_a_bad_step_is_located(before):
    net = serial(before, OVERFLOW, dense(3))
    for precision in ("float32", "bfloat16"):
        found = train(precision, epochs=1, net=net, guard="stop").findings[0]
        assert (found.part, found.layer) == ("backward", "1 overflow")
        assert found.op == "log"


def test_a_nan_in_a_weight_is_found_through_the_operands_of_its_products():
    start = train(epochs=1, net=IMAGES)
    params, state = start.params, start.state
    params = jax.tree.map(lambda a: a.at[(0,) * a.ndim].set(jnp.nan), params)
    found = train(net=IMAGES, guard="stop", start=(params, state)).findings[0]
    assert found.part == "forward"


def test_settings_that_make_no_sense_are_refused():
    for options, words in (
        ({"dtype": jnp.bfloat16}, "expected float32"),
        ({"dtype": jnp.float64}, "expected float32"),
        ({"dtype": jnp.float16}, "16 bits already"),
        ({"precision": "bfloat32"}, "valid: float32, bfloat16"),
    ):
        with pytest.raises(JaxnnError, match=words):
            train(**({"precision": "bfloat16"} | options))


def test_a_slow_processor_is_told_of_in_one_line(monkeypatch):
    monkeypatch.setattr(environment, "cpu_fact", lambda *names: "avx2 fma")
    with pytest.warns(UserWarning, match="will be slower than in float32") as said:
        environment.warn_if_slow("bfloat16")
    assert "\n" not in str(said[0].message)
    monkeypatch.setattr(environment, "cpu_fact", lambda *names: "avx2 avx512_bf16")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        environment.warn_if_slow("bfloat16")
        environment.warn_if_slow("float32")


def test_gradients_are_compared_with_float32_layer_by_layer(trained):
    history = trained["bfloat16"]
    given = NET, softmax_cross_entropy, history.params, history.state, *DATA
    whole, *leaves = compare_precision(*given, key=KEY)
    assert {e.leaf for e in leaves} > {"1/w", "5/b", "input"}
    for error in leaves:
        assert error.cosine > 0.99
        assert error.relative_norm < 0.1
    assert 1e-5 < whole.relative_norm < 0.05
    same = compare_precision(*given, key=KEY, precision="float32")
    assert {e.relative_norm for e in same} == {0}


def test_the_comparison_by_hand_and_automatic_knows_no_policy(trained):
    history = trained["bfloat16"]
    given = NET, softmax_cross_entropy, history.params, history.state, *DATA
    outside = compare_gradients(*given, key=KEY, audit=False)
    with policy(precision="bfloat16"):
        inside = compare_gradients(*given, key=KEY, audit=False)
    assert inside.to_json() == outside.to_json()
