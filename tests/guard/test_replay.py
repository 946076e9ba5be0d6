"""The replay: loops, any function, the file of a bad step."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnn import Classifier, attacks, graph, serial
from jaxnn.errors import JaxnnError
from jaxnn.guard import in_numpy, locate_in
from jaxnn.guard.backtrace import Replay
from jaxnn.guard.locate import guilty_rows
from jaxnn.guard.report import learning_rate
from jaxnn.guard.repro import replay, save_case
from jaxnn.layers import dense, relu, rnn
from jaxnn.losses import softmax_cross_entropy
from jaxnn.optimizers import OPTIMIZERS, optimizer_by_name
from jaxnn.train import fit, make_step
from tests.guard.test_guard import FIT, LOGS, data, faulty

KEY = jax.random.key(0)


def everything(x, w):
    """Most operations that a network is made of."""
    h = jnp.tanh(x @ w) + jax.nn.sigmoid(x)[:, :3] - jnp.exp(-(x[:, :3] ** 2))
    h = jnp.where(h > 0, h, jnp.expm1(h)) / (1 + jnp.abs(h)) + jax.lax.rsqrt(1 + h * h)
    h = jnp.concatenate([h, h[:, ::-1]], 1).reshape(2, -1, 6).transpose(1, 0, 2)
    h = jnp.log1p(jnp.square(h)) + jnp.sqrt(h.max((0, 2), keepdims=True) + 2)
    h = h + jnp.einsum("abc,adc->abd", h, h).sum(-1, keepdims=True)
    half = h.astype(jnp.float32).sum(0).astype(jnp.float64)
    done, _ = jax.lax.scan(lambda c, v: (c * 0.5 + v, c.min()), half[0], half)
    return jax.lax.fori_loop(0, 3, lambda i, v: v - i, done), half, jnp.sign(half) ** -3


def the_rest(x, w):
    """What NumPy does in the place of JAX besides; some in a way of their own."""
    whole, half = (10 * x).astype(jnp.int32), x.astype(jnp.float16)
    n = jnp.floor(x) + jnp.ceil(x) + jnp.cbrt(x) + jnp.exp2(x) + jnp.sin(x) * jnp.cos(x)
    b = (x > 0) & (x < 1) | (x == w[0, 0]) ^ (x != 1) & ~((x >= 2) | (x <= -1))
    n = n + jnp.abs(x) ** x + jax.lax.clamp(-0.5, x, 0.5) + jnp.log(jnp.abs(x))
    n = n + jnp.minimum(x, 0.1) - jnp.maximum(-x, 0.1) * jnp.squeeze(x[None], 0)
    c = b & jnp.isfinite(x) & (jnp.arange(6)[None] > 1), b.all(0), b.any(1), x.min(1)
    d = whole // 3, whole**3, half.sum(0), half @ w.astype(jnp.float16)
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    return n[::2, 1::3], c, d, bits, jax.lax.stop_gradient(x), jnp.copy(x)


@pytest.mark.parametrize("function", [everything, the_rest])
def test_a_replay_gives_what_jax_gives(function):
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(8, 6)), rng.normal(size=(6, 3))
    want = jax.tree.leaves(function(x, w))
    for exact in (False, True):
        made = jax.tree.leaves(Replay(function, x, w).run(x, w, exact=exact))
        for a, b in zip(made, want, strict=True):
            assert a.dtype == b.dtype
            rtol, atol = (1e-2, 2e-3) if a.dtype == "f2" else (1e-6, 0)
            np.testing.assert_allclose(a, b, rtol, atol)


def test_every_operation_in_numpy_is_compared_with_jax():
    x, w = jnp.ones((8, 6)), jnp.ones((6, 3))
    seen = set()
    for function in (everything, the_rest):
        replay = Replay(function, x, w)
        replay.run(x, w)
        for program in (replay.program, *replay.program.known.values()):
            seen |= {op.eqn.primitive.name for op in program.ops}
    rare = {"add_any", "copy", "copy_p", "stop_gradient"}
    assert {*in_numpy.PLAIN, *in_numpy.SET} - seen <= rare


def test_the_turn_of_a_loop_is_named():
    def f(x):
        return jax.lax.scan(lambda c, v: (jnp.log(c - v), c), 9.0, x)

    found = locate_in(f, jnp.array([1.0, 2.0, 0.5, 3.0, 1.0]))
    assert (found.op, found.turn) == ("log", "scan step 2")
    back = locate_in(lambda x: jax.lax.scan(
        lambda c, v: (c / v, c), 1.0, x, reverse=True), jnp.array([1.0, 0.0, 2.0])
    )  # fmt: skip
    assert (back.op, back.turn) == ("div", "scan step 1")

    def loop(x, end, by):  # with constants of the test and of the body
        return jax.lax.while_loop(lambda v: v[0] < end, lambda v: (v[0] + 1, v[1] * by),
                                  (0, x))  # fmt: skip

    found = locate_in(loop, jnp.ones(2), jnp.array(9), jnp.array(1e60))
    assert (found.op, found.turn) == ("mul", "loop turn 5")


def test_a_nan_inside_an_attack_is_found():
    net = serial(dense(4), faulty("bad", bwd=lambda dy: dy / (dy - dy)), dense(3))
    params, state, _ = net.init(KEY, (5,))
    x, y = jnp.full((6, 5), 0.5), jnp.arange(6) % 3

    def attack(x):
        return attacks.pgd(Classifier(net, params, state), x, y, epsilon=0.1, steps=3)

    found = locate_in(attack, x)
    assert (found.part, found.layer, found.op) == ("backward", "1 bad", "div")


def test_a_nan_that_is_masked_on_the_way_is_found():
    found = locate_in(lambda x: jnp.nan_to_num(jnp.sqrt(-x)) + x, jnp.ones(3))
    assert (found.op, found.nan) == ("sqrt", 3)


def test_a_node_of_a_graph_is_found():
    x = graph.feed("x")
    root = graph.sum(graph.log(graph.relu(x), name="unsafe"))
    found = locate_in(graph.function(root, x, (x,)), jnp.array([1.0, 0.0]))
    assert (found.part, found.layer, found.op) == ("forward", "unsafe", "log")


def test_a_mask_is_no_fault_and_a_sound_function_has_none():
    hide = jnp.arange(4)[None] == 1
    masked = lambda x: jax.nn.softmax(jnp.where(hide, -jnp.inf, x))  # noqa: E731
    assert locate_in(masked, jnp.ones((2, 4))) is None


def test_the_time_step_of_a_recurrent_layer_is_named():
    net = serial(rnn(3, activation="relu"), dense(2))
    params, state, _ = net.init(KEY, (5, 2))
    x = jnp.ones((4, 5, 2)).at[2, 3, 0].set(1e308)
    params[0]["w"] = jnp.abs(params[0]["w"]) * 1e10

    def f(x):
        return net.forward(params, state, x, train=True)[0]

    found = locate_in(f, x, batch=4)
    assert (found.layer, found.op) == ("0 rnn(3)", "dot_general")
    assert found.turn == "scan step 3"
    assert found.samples == [2]
    assert "samples         2" in found.lines()  # no targets, so no labels


def test_guilty_rows_are_those_that_spoil_alone():
    bad = {0, 11, 12}  # the first is the first donor, too
    x = np.arange(16)
    found = guilty_rows(lambda x, y: not bad & set(x.tolist()), x, x, None)
    assert sorted(found) == sorted(bad)
    assert guilty_rows(lambda x, y: False, x, x, None) is None
    suspects = np.isin(x, [3, 4])
    found = guilty_rows(lambda x, y: 3 not in x, x, x, suspects)
    assert found == [3]


def test_two_hundred_and_one_bad_rows_do_not_share_blame_with_sound_ones():
    x = np.arange(16.0)
    assert guilty_rows(lambda x, y: x.sum() < 100, x, x, None) == []


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_the_rate_of_every_optimizer_is_found(name):
    optimizer = optimizer_by_name(name, 0.03, "linear", 10)
    opt = jax.eval_shape(optimizer.init, jnp.zeros(3))
    opt = jax.tree.map(lambda a: jnp.full(a.shape, 5, a.dtype), opt)
    assert learning_rate(optimizer, opt) == pytest.approx(0.015)
    plain = optimizer_by_name(name, 0.03)
    assert learning_rate(plain, plain.init(jnp.zeros(3))) == pytest.approx(0.03)


def test_a_bad_step_is_found_again_from_its_file(tmp_path):
    history = fit(LOGS, data(bad=[17]), guard="skip", **FIT)
    found = history.findings[0]
    path = tmp_path / "repro.npz"
    save_case(path, found.case)
    step = make_step(LOGS, softmax_cross_entropy, FIT["optimizer"])
    again = replay(path, step)
    assert again == found.__class__(**(found.to_json() | {"seconds": None}))
    assert replay(path, replace(step, net=serial(relu, dense(3)))) is None
    with pytest.raises(JaxnnError, match="another network"):
        replay(path, replace(step, optimizer=optax.sgd(0.1)))
    with pytest.raises(JaxnnError, match="got no such file"):
        replay(tmp_path / "none.npz", step)
