"""The gradient comparison: quiet where all is well, and never where it is not."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnn import Layer, compare_gradients, mlp, residual, serial
from jaxnn.check.recorder import LayerRecorder
from jaxnn.errors import JaxnnError
from jaxnn.layers import batch_norm, dense, relu, sigmoid, tanh
from jaxnn.losses import LOSSES, softmax_cross_entropy
from jaxnn.regularize import l1, l2, sum_penalties
from jaxnn.train import fit
from tests.train.problem import blobs

X, Y = blobs(24)
KEY = jax.random.key(0)


def report(net, loss=softmax_cross_entropy, **options):
    params, state, _ = net.init(KEY, (6,))
    return compare_gradients(net, loss, params, state, X, Y, key=KEY, **options)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(
    "net",
    [
        mlp([6, 3]),
        mlp([6, 8, 8, 3], normalize=True, drop_rate=0.3),
        serial(dense(4), residual(serial(dense(4), sigmoid)), tanh, dense(3)),
    ],
    ids=lambda net: net.name,
)
def test_correct_networks_agree_in_both_precisions(net, train):
    found = report(net, train=train)
    assert found.passed, found.table()
    assert found.max_relative("float64") <= 1e-12
    assert found.max_relative("float32") <= 1e-5
    assert {c.leaf for c in found.leaves} > {"input"}


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_every_loss_agrees(name):
    net = mlp([6, 5, 3], output=None if name != "nll" else "sigmoid")
    assert report(net, LOSSES[name]).passed


def test_the_derivative_of_the_other_mode_is_told():
    norm = batch_norm()

    def forward(params, state, x, *, key=None, train):
        y, new, _ = norm.forward(params, state, x, key=key, train=train)
        return y, new, norm.forward(params, state, x, train=False)[2]

    net = serial(dense(4), norm._replace(forward=forward), dense(3))
    causes = [found.cause for found in report(net).findings]
    assert any("training and evaluation are mixed up" in cause for cause in causes)


def test_penalties_are_included():
    found = report(mlp([6, 5, 3]), penalty=sum_penalties(l1(0.1), l2(0.2)))
    assert found.passed, found.table()


def broken(change):
    """A network whose first dense layer's backward is spoilt by `change`."""
    good = dense(5)

    def backward(cache, dy):
        dx, grads = good.backward(cache, dy)
        return change(dx, grads)

    spoilt = Layer(good.init, good.forward, backward, "spoilt")
    return serial(dense(6), relu, spoilt, tanh, dense(3))


@pytest.mark.parametrize(
    ("change", "leaf"),
    [
        (lambda dx, g: (dx, {**g, "w": g["w"] * (1 + 1e-4)}), "2/w"),
        (lambda dx, g: (dx, {**g, "b": jnp.zeros_like(g["b"])}), "2/b"),
        (lambda dx, g: (dx, {**g, "w": g["w"] * jnp.nan}), "2/w"),
    ],
)
def test_a_wrong_leaf_is_named_in_both_precisions(change, leaf):
    found = report(broken(change))
    assert not found.passed
    for dtype in ("float32", "float64"):
        assert {c.leaf for c in found.leaves if c.dtype == dtype and not c.passed} == {
            leaf
        }
    assert found.worst.leaf == leaf
    assert "FAIL" in found.table()
    assert leaf in found.line()


def test_a_wrong_dx_shows_in_everything_before_it():
    found = report(broken(lambda dx, g: (-dx, g)))
    bad = {c.leaf for c in found.leaves if not c.passed}
    assert bad == {"0/w", "0/b", "input"}
    # but only one layer is to blame
    assert [(f.layer, f.argument) for f in found.findings] == [("2 spoilt", "x")]
    assert "the sign is wrong" in found.findings[0].cause
    assert found.worst.leaf == "2/x"


@pytest.mark.parametrize("lost", ["params", "input", "target"])
def test_what_is_not_finite_neither_agrees_nor_passes(lost):
    net = mlp([6, 5, 3])
    params, state, _ = net.init(KEY, (6,))
    x, y = np.array(X), np.eye(3)[Y]
    if lost == "params":
        params = jax.tree.map(lambda a: a * np.nan, params)
    if lost == "input":
        x[3, 2] = np.inf
    if lost == "target":
        y[0, 0] = np.nan
    for array in (np.asarray, jnp.asarray):
        found = compare_gradients(
            net, softmax_cross_entropy, params, state, array(x), array(y), audit=False
        )
        assert not found.passed
        assert found.line().startswith("NOT FINITE")
        assert found.max_relative("float64") == np.inf
        assert all(c.ulp_max == np.inf for c in found.leaves if c.not_finite)
        plain = found.to_json()
        assert plain["passed"] is False
        assert "the loss is nan" in plain["not_finite"]


def test_a_wrong_structure_or_shape_is_reported_with_its_layer():
    found = report(broken(lambda dx, g: (dx, {"w": g["w"]})))
    assert not found.passed
    assert "2 spoilt: db (2/b): it returns no gradient for it" in found.table()
    (none,) = (c for c in found.leaves if c.leaf == "2/b" and c.dtype == "float64")
    assert not any(none.ulp_within)
    assert none.ulp_max == np.inf
    assert np.isnan(none.cosine)
    found = report(broken(lambda dx, g: (dx, {**g, "w": g["w"].T})))
    assert "2 spoilt: dw (2/w): dw has shape (5, 6), not (6, 5)" in found.line()
    assert "a transpose is missing" in found.line()
    found = report(broken(lambda dx, g: (dx, {**g, "c": g["b"]})))
    assert "2 spoilt: dc (2/c): it returns dc, but has no argument c" in found.line()


def test_a_backward_that_raises_is_named_and_the_others_are_judged():
    def backward(dx, g):
        raise TypeError("shapes (5, 6) and (5, 6) do not fit")

    found = report(broken(backward))
    assert not found.passed
    assert "TypeError: shapes (5, 6)" in found.error
    assert [f.layer for f in found.findings] == ["2 spoilt"]
    assert "2 spoilt: dx (2/x): its backward raised TypeError" in found.line()
    json.dumps(found.to_json())


def test_the_report_is_json_and_names_its_worst_element():
    found = report(broken(lambda dx, g: (dx, {**g, "b": g["b"].at[1].add(1.0)})))
    plain = json.loads(json.dumps(found.to_json()))
    assert plain["passed"] is False
    assert plain["worst"]["leaf"] == "2/b"
    assert found.worst.index == (1,)
    assert found.worst.manual - found.worst.automatic == pytest.approx(1.0)


def test_uint8_images_and_float32_parameters_are_compared_in_float64_too():
    net = mlp([6, 5, 3])
    params, state, _ = net.init(KEY, (6,))
    params = jax.tree.map(lambda a: a.astype(jnp.float32), params)
    pixels = np.arange(24 * 6, dtype=np.uint8).reshape(24, 6)
    found = compare_gradients(net, softmax_cross_entropy, params, state, pixels, Y)
    assert found.max_relative("float64") <= 1e-12


def test_an_unknown_dtype_lists_the_valid_ones():
    with pytest.raises(JaxnnError, match="float32, float64"):
        report(mlp([6, 3]), dtypes=("float8",))


def test_a_gradient_lost_to_rounding_is_no_false_alarm_and_no_excuse():
    """Labels smoothed, network converged: float32 has few digits left, float64 all."""
    net = mlp([6, 16, 3])
    y = jax.nn.one_hot(Y, 3) * 0.9 + 0.1 / 3
    history = fit(net, (X, y), optimizer=optax.adam(0.02), epochs=400, batch=24)
    params, state = history.params, history.state
    found = compare_gradients(net, softmax_cross_entropy, params, state, X, y)
    assert found.passed, found.table()

    def off(pred, target):
        value, dpred = softmax_cross_entropy(pred, target)
        return value, dpred * 1.001

    assert not compare_gradients(net, off, params, state, X, y).passed


def test_a_bias_that_batch_norm_takes_out_does_not_spoil_the_number():
    net = serial(dense(4, bias="normal"), batch_norm(), dense(3))
    params, state, _ = net.init(jax.random.key(0), (5,))
    draw = np.random.default_rng(0)
    x, y = draw.standard_normal((16, 5)), np.arange(16) % 3
    report = compare_gradients(net, softmax_cross_entropy, params, state, x, y)
    assert report.passed
    assert {c.leaf for c in report.leaves if c.waived} == {"0/b"}
    assert report.max_relative("float64") < 1e-12
    assert "but for rounding" in report.line()


@pytest.fixture
def float32_by_default():
    """As users have it: a thread of JAX's own then knows no float64."""
    jax.config.update("jax_enable_x64", False)
    yield
    jax.config.update("jax_enable_x64", True)


@pytest.mark.usefixtures("float32_by_default")
def test_what_layers_were_given_is_recorded_in_float64_whichever_thread_records_it():
    net = mlp([300, 300, 300, 300, 5], "tanh")

    def program(net, beside, params, x, dy):
        del beside
        _, _, cache = net.forward(params, net_state, x, train=True)
        net.backward(cache, dy)

    with jax.enable_x64(True):
        params, net_state, _ = net.init(jax.random.key(0), (300,))
        draw = np.random.default_rng(0)
        params = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), params)
        x, dy = draw.random((64, 300)), draw.random((64, 5))
        record = LayerRecorder(program, net)
        found = [record(params, x, dy) for _ in range(5)]
    rows = [s for records in found for s in records]
    arrays = jax.tree.leaves([(s.given._replace(key=None), s.got) for s in rows])
    assert {a.dtype for a in arrays} == {np.dtype(np.float64)}
    roots = [s for s in found[0] if s.where.path == ()]
    np.testing.assert_array_equal(roots[0].given.x, x)
