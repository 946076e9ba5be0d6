import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn
from jaxnn import graph
from jaxnn.errors import JaxnnError


def fails(*words):
    """Raises a JaxnnError whose message has all the words."""
    pattern = "".join(f"(?=.*{re.escape(word)})" for word in words)
    return pytest.raises(JaxnnError, match=f"(?s){pattern}")


def test_shape_clash_names_node_inputs_shapes_and_line():
    x, w = graph.feed("x"), graph.feed("w")
    h = graph.relu(x, name="h") @ w
    line = f"test_errors.py:{_line() - 1}"
    feeds = {x: np.ones((5, 3)), w: np.ones((4, 2))}
    with fails(f"{h.name} = matmul(h (5, 3), w (4, 2))", line):
        graph.run(h, feeds)
    with fails(h.name, "h (5, 3)", "w (4, 2)", line):
        jax.jit(lambda: graph.bprop(h.sum(), w, feeds))()
    with fails("add", "x (5, 3)", "b (4,)", "do not fit"):
        graph.run(x + graph.constant(np.ones(4), "b"), {x: feeds[x]})


def test_error_in_a_rule_of_ones_own_names_the_node_either_way():
    def broken(*_):
        raise TypeError("cannot do this")

    x = graph.feed("x")
    y = graph.apply(jaxnn.Rule("odd", broken, broken), x, name="mine")
    with fails("mine = odd(x ())", "cannot do this"):
        graph.run(y, {x: 1.0})
    y = graph.apply(jaxnn.Rule("odd", lambda x: (x, ()), broken), x, name="mine")
    with fails("backward of mine = odd(x ())", "cannot do this"):
        graph.bprop(y, x, {x: 1.0})


def test_a_bug_in_a_rule_keeps_its_type_and_says_where():
    x = graph.feed("x")
    bug = jaxnn.Rule("odd", lambda x: {}["no key"], None)
    with pytest.raises(KeyError) as caught:
        graph.run(graph.apply(bug, x, name="mine"), {x: 1.0})
    assert "mine = odd(x ()), made at tests" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    ("cotangents", "words"),
    [
        ((), "0 cotangents came back for 1 inputs"),
        ((1.0, 1.0), "2 cotangents"),
        ((np.ones(2),), "x has shape (2,), expected ()"),
    ],
)
def test_wrong_cotangents_of_a_rule_are_told(cotangents, words):
    rule = jaxnn.Rule(
        "odd", lambda x: (x, ()), lambda _, dy: tuple(map(jnp.asarray, cotangents))
    )
    x = graph.feed("x")
    with fails("backward of odd_", words):
        graph.bprop(graph.apply(rule, x), x, {x: 1.0})


def test_missing_feeds_are_all_listed():
    x, t, w = graph.feed("x"), graph.feed("t"), graph.parameter(1.0, "w")
    root = x * w - t
    with fails("run: no value for x, t", "feeds={x: ..., t: ...}"):
        graph.run(root)
    with fails("bprop: no value for t"):
        graph.bprop(root, w, {x: 1.0})


def test_unknown_feeds_are_named():
    x, other = graph.feed("x"), graph.feed("other")
    root = x * graph.parameter(1.0, "w")
    with fails("a value for other", "not in this graph", "x, w"):
        graph.run(root, {x: 1.0, other: 2.0})
    with fails("a value for y", "x, w"):
        graph.run(root, {"y": 1.0})
    with fails("key 3 of type int"):
        graph.run(root, {3: 1.0})
    with fails("x is given twice"):
        graph.run(root, {x: 1.0, "x": 1.0})
    twin = graph.feed("x")
    with fails("2 nodes are called 'x'", "by node"):
        graph.run(x * twin, {"x": 1.0})
    with fails("x is str"):
        graph.run(root, {x: "one"})
    with fails("x is NoneType"):
        graph.run(root, {x: None})


def test_declared_shape_is_checked():
    x = graph.feed("x", (None, 3))
    assert graph.run(x.sum(), {x: np.ones((7, 3))}) == 21
    for value in (np.ones((7, 4)), np.ones(3)):
        with fails("x has shape", "expected (None, 3)", "test_errors.py:"):
            graph.run(x.sum(), {x: value})


def test_cycles_are_found_and_written_out():
    x = graph.feed("x")
    a = graph.relu(x, name="a")
    b = graph.tanh(a, name="b")
    root = b * 2
    a.inputs = (b,)
    for call in (
        lambda: graph.run(root, {x: 1.0}),
        lambda: graph.bprop(root, a, {x: 1.0}),
        lambda: graph.to_dot(root),
    ):
        with fails("b is computed from itself: b <- a <- b"):
            call()
    a.inputs = (a,)
    with fails("a <- a"):
        graph.order(a)
    with fails("a.inputs: got int"):
        a.inputs = (1,)


def test_root_must_be_one_floating_scalar():
    x = graph.feed("x")
    y = graph.relu(x, name="y")
    with fails("y = relu(x) has shape (2,)", "scalar", "give dy"):
        graph.bprop(y, x, {x: np.ones(2)})
    with fails("y = relu(x) has shape (1,)"):
        graph.bprop(y, x, {x: np.ones(1)})
    with fails("dy has shape (3,), expected (2,) as y"):
        graph.bprop(y, x, {x: np.ones(2)}, dy=np.ones(3))
    with fails("y = relu(x) has dtype int"):
        graph.bprop(y, x, {x: 1})
    with fails("root is list"):
        graph.bprop([y], x, {x: 1.0})


def test_wrt_must_be_floating_nodes():
    x, n = graph.feed("x"), graph.feed("n")
    with fails("feed n has dtype int", "no derivative"):
        graph.bprop(x * n, [x, n], {x: 1.0, n: 2})
    with fails("got str, expected a node"):
        graph.bprop(x * n, "x", {x: 1.0, n: 2})
    with fails("got set"):
        graph.bprop(x * n, {x}, {x: 1.0, n: 2})


def test_no_silent_zero_through_an_argument_without_derivative():
    w = graph.feed("w")
    pred, target = w * 2, w * 3
    loss = graph.mse(pred[None], target[None])
    with fails("mse has no derivative with regard to", "stop_gradient"):
        graph.bprop(loss, w, {w: 1.0})
    loss = graph.mse(pred[None], graph.stop_gradient(target[None]))
    assert float(graph.bprop(loss, w, {w: 1.0})[1]) == 2 * (2 - 3) * 2


def test_ops_that_do_not_exist():
    x = graph.feed("x")
    with pytest.raises(
        AttributeError, match=r"unknown op 'relou'.*Did you mean 'relu'"
    ):
        graph.relou(x)
    with fails("unknown rule 'relou'", "relu"):
        graph.apply("relou", x)
    with fails("unknown loss 'msee'", "mse"):
        graph.loss("msee", x, x)
    with fails("expected a Rule or a name"):
        graph.apply(jnp.tanh, x)
    assert not hasattr(graph, "__wrapped__")


def test_inputs_and_settings_that_do_not_fit():
    x = graph.feed("x")
    with fails("relu: takes no settings, got 2"):
        graph.relu(x, 2)
    with fails("relu: takes no settings, got slope"):
        graph.relu(x, slope=2)
    with fails("add: got 1 inputs, expected (a, b)"):
        graph.add(x)
    with fails("both: leaky_relu()", "steep"):
        graph.leaky_relu(x, steep=1, name="both")
    with fails("standardize()", "missing"):
        graph.standardize(x)
    with fails("node x is given as a setting"):
        graph.leaky_relu(x, slope=x)
    with fails("setting label_smoothing is the node x"):
        graph.softmax_cross_entropy(x, x, label_smoothing=x)
    with fails("slice", "the node x is given as a setting"):
        x[x]
    with fails("relu: got 2 inputs, expected (x)"):
        graph.apply("relu", x, x)


def test_values_that_are_no_numbers():
    x = graph.feed("x")
    for wrong in ("2", None, [1.0], {}):
        with pytest.raises(TypeError, match="unsupported operand"):
            x + wrong
    with fails("w: got str"):
        graph.parameter("2", "w")
    with fails("got NoneType"):
        graph.apply("add", x, None)
    for name in ("", 3):
        with fails("a node's name is a string"):
            graph.feed(name)
    with fails("feed: needs a name"):
        graph.feed(None)
    with pytest.raises(TypeError):
        iter(x)
    with pytest.raises(TypeError):
        x < 2  # noqa: B015


def test_a_traced_value_cannot_get_into_a_node():
    x = graph.feed("x")

    @jax.jit
    def leaky(value):
        return graph.run(x * value, {x: 1.0})

    with fails("being traced", "make it a feed"):
        leaky(2.0)
    with fails("w: ", "being traced"):
        jax.vmap(lambda v: graph.parameter(v, "w"))(jnp.ones(2))


def test_function_says_what_it_takes():
    x, params = graph.feed("x"), {"w": graph.feed("w"), "b": graph.feed("b")}
    f = graph.function(x * params["w"] + params["b"], params, (params, x))
    with fails("got 1 values, expected 2", "b, w"):
        f({"w": 1.0, "b": 1.0})
    with fails("the value of b, w", "structure"):
        f({"w": 1.0}, 2.0)
    with fails("function: got str"):
        graph.function(x, x, ("x",))


def test_names():
    x = graph.feed("x")
    a, b = graph.relu(x), graph.relu(x)
    first, second = (int(n.name.removeprefix("relu_")) for n in (a, b))
    assert second == first + 1
    assert repr(x + 2).split(",")[0].endswith("= add(x")
    assert f"test_errors.py:{_line()}" in repr(x + 2)
    assert (x * 0.5).inputs[1].name == "0.5"
    assert repr(graph.feed("y")).startswith("<feed y, made at tests")


def _line():
    import inspect

    return inspect.currentframe().f_back.f_lineno
