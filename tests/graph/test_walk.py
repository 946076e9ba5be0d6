import gc
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import graph
from jaxnn.rules import Rule
from tests.rules.common import assert_close, normal

X, W, B = normal(4, 3), normal(3, 2), normal(2)


def spy(calls, name="spy"):
    """y = 2 x, and a note of each direction it is asked for."""

    def fwd(x):
        calls.append(f"{name} fwd")
        return 2 * x, ()

    def bwd(_, dy):
        calls.append(f"{name} bwd")
        return (2 * dy,)

    return Rule(name, fwd, bwd)


def test_backward_is_pruned():
    calls = []
    x, w = graph.feed("x"), graph.parameter(1.0, "w")
    left = graph.apply(spy(calls, "left"), x)
    right = graph.apply(spy(calls, "right"), w)
    beside = graph.apply(spy(calls, "beside"), right)
    _, dw = graph.bprop(left * right, w, {x: 3.0})
    assert calls == ["left fwd", "right fwd", "right bwd"]
    assert float(dw) == 12
    assert right.consumers[0] is beside  # made, but not computed


def test_each_node_works_once_however_many_consumers():
    calls = []
    x = graph.feed("x")
    h = graph.apply(spy(calls), x)
    root = h * h + h * 3 + graph.tanh(h)
    graph.bprop(root, x, {x: 1.0})
    assert calls == ["spy fwd", "spy bwd"]


def test_what_is_not_reached_gets_zeros():
    x, y = graph.feed("x"), graph.parameter(np.ones((2, 3), np.float32))
    after = (x * x) * 2
    root = x * x
    inside = root * 0 + 1
    _, (dx, dy, dafter, dinside) = graph.bprop(root, [x, y, after, inside], {x: 3.0})
    assert float(dx) == 6
    assert dy.tolist() == np.zeros((2, 3)).tolist()
    assert dy.dtype == jnp.float32
    assert (float(dafter), float(dinside)) == (0, 0)


def test_root_itself_has_gradient_one():
    x = graph.feed("x")
    y = x * x
    assert graph.bprop(y, [y, x], {x: 3.0})[1] == [1, 6]
    assert graph.bprop(x, x, {x: 3.0}) == (3, 1)


def test_seed_of_any_shape():
    x = graph.feed("x")
    _, dx = graph.bprop(x @ W, x, {x: X}, dy=normal(4, 2))
    assert_close(dx, normal(4, 2) @ W.T)


def test_stop_gradient_stops_it():
    x = graph.feed("x")
    _, dx = graph.bprop(x * graph.stop_gradient(x), x, {x: 3.0})
    assert float(dx) == 3
    _, d = graph.bprop(graph.stop_gradient(x) * 2, x, {x: 3.0})
    assert float(d) == 0


def test_inner_node_may_be_fed():
    calls = []
    x = graph.feed("x")
    h = graph.apply(spy(calls), x, name="h")
    root = h * h + 1
    assert float(graph.run(root, {"h": 5.0})) == 26  # without x
    value, (dh, dx) = graph.bprop(root, (h, x), {h: 5.0, x: 1.0})
    assert (float(value), float(dh), float(dx)) == (26, 10, 0)
    assert calls == []


def test_a_chain_is_longer_than_python_recurses():
    x, length = graph.feed("x"), 2 * sys.getrecursionlimit()
    y = x
    for _ in range(length // 2):
        y = graph.relu(y * 1.0001)
    value, dx = graph.bprop(y, x, {x: 1.0})
    assert len(graph.order(y)) == 1 + length + length // 2  # the numbers are nodes
    np.testing.assert_allclose([value, dx], 1.0001 ** (length // 2), rtol=1e-12)
    assert graph.to_dot(y).count("->") == length + length // 2
    del y  # no recursion here either


def test_consumers_are_noted_and_forgotten():
    x, y = graph.feed("x"), graph.feed("y")
    a, b = x * y, x + x
    assert x.consumers == (a, b)
    assert y.consumers == (a,)
    assert a.inputs == (x, y)
    assert b.inputs == (x, x)
    a.inputs = (y, y)
    assert x.consumers == (b,)
    assert float(graph.run(a, {y: 3.0})) == 9
    del a, b
    gc.collect()
    assert x.consumers == y.consumers == ()


def test_order_is_inputs_first_and_repeatable():
    x = graph.feed("x")
    a = x * x
    b = graph.tanh(a) + a
    nodes = graph.order(b, a)
    assert nodes == graph.order(b)
    for i, node in enumerate(nodes):
        assert set(node.inputs) <= set(nodes[:i])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_narrow_floats_stay_narrow(dtype):
    params = {"w": graph.feed("w"), "b": graph.feed("b")}
    x, t = graph.feed("x"), graph.feed("t")
    h = graph.tanh((x @ params["w"] + params["b"]) * 2 - 1) ** 2 / 3
    loss = graph.mse(-h, t)
    values = {"w": jnp.asarray(W, dtype), "b": jnp.asarray(B, dtype)}
    f = jax.jit(graph.function(h.sum(), params, (params, x)))
    value, grads = f(values, jnp.asarray(X, dtype))
    assert {value.dtype, grads["w"].dtype, grads["b"].dtype} == {jnp.dtype(dtype)}
    f = jax.jit(graph.function(loss, params, (params, x, t)))
    value, grads = f(values, jnp.asarray(X, dtype), jnp.zeros((4, 2), dtype))
    assert value.dtype == jnp.float32  # a loss is summed in float32 at least
    assert {grads["w"].dtype, grads["b"].dtype} == {jnp.dtype(dtype)}


def test_mixed_floats_each_get_their_own_dtype_back():
    x, w = graph.feed("x"), graph.feed("w")
    feeds = {x: X, w: jnp.asarray(W, jnp.float32)}
    _, (dx, dw) = graph.bprop((x @ w).sum(), (x, w), feeds)
    assert (dx.dtype, dw.dtype) == (jnp.float64, jnp.float32)


def test_a_nan_reaches_value_and_gradients():
    x, w = graph.feed("x"), graph.feed("w")
    root = graph.relu(x * w).sum()
    value, dw = graph.bprop(root, w, {x: [np.nan, 1.0], w: [1.0, 1.0]})
    assert np.isnan(value)
    assert np.isnan(dw[0])
    assert float(dw[1]) == 1


def test_inspect_gives_every_value_and_what_flows_on_each_edge():
    x = graph.feed("x")
    labels = graph.feed("labels")
    square = x * x
    root = square + x * 3
    seen = graph.inspect(root, {x: 2.0})
    assert float(seen.values[square]) == 4
    assert float(seen.grads[x]) == 7
    parts = [d for (node, i), d in seen.edges.items() if node.inputs[i] is x]
    assert sorted(map(float, parts)) == [2, 2, 3]
    z = graph.feed("z")
    loss = graph.softmax_cross_entropy(z, labels)
    seen = graph.inspect(loss, {z: np.ones((2, 3)), labels: np.array([0, 2])})
    assert labels not in seen.grads
    assert seen.grads[z].shape == (2, 3)
