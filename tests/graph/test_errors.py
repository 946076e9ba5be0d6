import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn
from jaxnn import graph
from jaxnn.errors import JaxnnError
from jaxnn.layers import dense


def fails(*words):
    """Raises a JaxnnError whose message has all the words."""
    pattern = "".join(f"(?=.*{re.escape(word)})" for word in words)
    return pytest.raises(JaxnnError, match=f"(?s){pattern}")


X, N, W = graph.feed("x"), graph.feed("n"), graph.parameter(1.0, "w")
SHAPED = graph.feed("s", (None, 3))
PARAMS = {"w": graph.feed("w"), "b": graph.feed("b")}
H, Y, ROOT = graph.relu(X, name="h"), graph.relu(X, name="y"), X * W
F = graph.function(X * PARAMS["w"] + PARAMS["b"], PARAMS, (PARAMS, X))
TWO = np.ones(2)


def odd(fwd, bwd=None):
    return graph.apply(jaxnn.Rule("odd", fwd, bwd), X, name="mine")


def broken(*_):
    raise TypeError("cannot do this")


def sends_back(*cotangents):
    return odd(lambda x: (x, ()), lambda _, dy: tuple(map(jnp.asarray, cotangents)))


def through_a_target():
    w = graph.feed("w")
    return graph.bprop(graph.mse((w * 2)[None], (w * 3)[None]), w, {w: 1.0})


# what is called -> words of the error
CASES = {
    "shapes clash": (
        lambda: graph.run(graph.matmul(H, W), {X: np.ones((5, 3)), W: np.ones((4, 2))}),
        ("= matmul(h (5, 3), w (4, 2))", "test_errors.py:")),
    "shapes clash under jit": (
        lambda: jax.jit(lambda: graph.run(H + TWO, {X: np.ones((5, 3))}))(),
        ("add", "h (5, 3)", "(2,)", "do not fit", "test_errors.py:")),
    "a user's fwd": (lambda: graph.run(odd(broken), {X: 1.0}),
        ("mine = odd(x ())", "cannot do this")),
    "a user's bwd": (lambda: graph.bprop(odd(lambda x: (x, ()), broken), X, {X: 1.0}),
        ("backward of mine = odd(x ())", "cannot do this")),
    "no cotangent": (lambda: graph.bprop(sends_back(), X, {X: 1.0}),
        ("backward of mine", "0 cotangents came back for 1 inputs")),
    "two cotangents": (
        lambda: graph.bprop(sends_back(1.0, 1.0), X, {X: 1.0}), ("2 cotangents",)),
    "a cotangent's shape": (lambda: graph.bprop(sends_back(TWO), X, {X: 1.0}),
        ("x has shape (2,), expected ()",)),
    "no derivative": (through_a_target, ("mse has no derivative", "stop_gradient")),
    "missing": (lambda: graph.run(X * W - N),
        ("run: no value for x, n", "feeds={x: ..., n: ...}")),
    "of another graph": (lambda: graph.run(ROOT, {X: 1.0, N: 2.0}),
        ("a value for n", "not in this graph", "x, w")),
    "unknown name": (lambda: graph.run(ROOT, {"y": 1.0}), ("a value for y", "x, w")),
    "key": (lambda: graph.run(ROOT, {3: 1.0}), ("key 3 of type int",)),
    "twice": (lambda: graph.run(ROOT, {X: 1.0, "x": 1.0}), ("x is given twice",)),
    "two of a name": (lambda: graph.run(X * graph.feed("x"), {"x": 1.0}),
        ("2 nodes are called 'x'", "by node")),
    "text": (lambda: graph.run(ROOT, {X: "one"}), ("x is str",)),
    "None": (lambda: graph.run(ROOT, {X: None}), ("x is NoneType",)),
    "no dict": (lambda: graph.run(ROOT, [1.0]), ("feeds is list, expected a dict",)),
    "declared shape": (lambda: graph.run(SHAPED, {SHAPED: np.ones((7, 4))}),
        ("s has shape (7, 4)", "expected (None, 3)", "test_errors.py:")),
    "declared axes": (
        lambda: graph.run(SHAPED, {SHAPED: np.ones(3)}), ("s has shape (3,)",)),
    "no scalar": (lambda: graph.bprop(Y, X, {X: TWO}),
        ("y = relu(x) has shape (2,)", "scalar", "give dy")),
    "dy": (lambda: graph.bprop(Y, X, {X: TWO}, dy=np.ones(3)),
        ("dy has shape (3,), expected (2,) as y",)),
    "dy's type": (
        lambda: graph.bprop(Y, X, {X: TWO}, dy="one"), ("bprop: got dy of", "expected"),
    ),
    "whole root": (lambda: graph.bprop(Y, X, {X: 1}), ("y = relu(x) has dtype int",)),
    "root": (lambda: graph.bprop([Y], X, {X: 1.0}), ("root is list",)),
    "root of a picture": (lambda: graph.to_dot(1), ("order: the root is int",)),
    "root of a function": (
        lambda: graph.function([Y], X, (X,)), ("function: the root is list",)),
    "whole wrt": (lambda: graph.bprop(X * N, [X, N], {X: 1.0, N: 2}),
        ("feed n has dtype int", "no derivative")),
    "wrt by name": (
        lambda: graph.bprop(X * N, "x", {X: 1.0, N: 2}), ("got str, expected a node",)),
    "a set": (lambda: graph.bprop(X * N, {X}, {X: 1.0, N: 2}), ("got set",)),
    "function's values": (lambda: F({"w": 1.0, "b": 1.0}), ("got 1 values", "b, w")),
    "function's structure": (
        lambda: F({"w": 1.0}, 2.0), ("the value of b, w", "structure")),
    "function's feeds": (lambda: graph.function(X, X, ("x",)), ("function: got str",)),
    "rule": (lambda: graph.apply("relou", X), ("unknown rule 'relou'", "relu")),
    "loss": (lambda: graph.loss("msee", X, X), ("unknown loss 'msee'", "mse")),
    "no loss": (lambda: graph.loss(3, X, X), ("loss: got int, expected a loss",)),
    "no rule": (lambda: graph.apply(jnp.tanh, X), ("expected a Rule or a name",)),
    "no layer": (lambda: graph.from_layer(dense, X, ()),
        ("from_layer: got function, expected a layer",)),
    "a setting too many": (
        lambda: graph.relu(X, 2), ("relu: takes no settings, got 2",)),
    "a keyword": (
        lambda: graph.relu(X, slope=2), ("relu: takes no settings, got slope",)),
    "too few inputs": (lambda: graph.add(X), ("add: got 1 inputs, expected (a, b)",)),
    "unknown setting": (lambda: graph.leaky_relu(X, steep=1, name="both"),
        ("both: leaky_relu()", "steep")),
    "missing setting": (lambda: graph.standardize(X), ("standardize()", "missing")),
    "a node as setting": (
        lambda: graph.leaky_relu(X, slope=X), ("node x is given as a setting slope",)),
    "of a loss": (lambda: graph.softmax_cross_entropy(X, X, label_smoothing=X),
        ("x is given as a setting label_smoothing",)),
    "as index": (lambda: X[X], ("slice", "the node x is given as a setting")),
    "parameter": (lambda: graph.parameter("2", "w"), ("w: got str",)),
    "input": (lambda: graph.apply("add", X, None), ("got NoneType",)),
    "name": (lambda: graph.feed(3), ("a node's name is a string",)),
    "no name": (lambda: graph.feed(None), ("feed: needs a name",)),
    "shape": (lambda: graph.feed("f", 3), ("feed f: got shape=3, expected a tuple",)),
    "sides": (lambda: graph.feed("f", (2.5, None)),
        ("got shape=(2.5, None), expected a tuple of whole",)),
    "traced": (lambda: jax.jit(lambda value: graph.run(X * value, {X: 1.0}))(2.0),
        ("being traced", "make it a feed")),
    "traced parameter": (
        lambda: jax.vmap(lambda v: graph.parameter(v, "w"))(jnp.ones(2)),
        ("w: ", "being traced")),
}  # fmt: skip


@pytest.mark.parametrize(("call", "words"), CASES.values(), ids=CASES)
def test_what_is_wrong_is_named(call, words):
    with fails(*words):
        call()


def test_a_bug_in_a_rule_keeps_its_type_and_says_where():
    with pytest.raises(KeyError) as caught:
        graph.run(odd(lambda x: {}["no key"]), {X: 1.0})
    assert "mine = odd(x ()), made at tests" in caught.value.__notes__[0]


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


def test_an_op_that_does_not_exist_is_no_attribute():
    with pytest.raises(AttributeError, match=r"unknown op 'relou'.*mean 'relu'"):
        graph.relou(X)
    assert not hasattr(graph, "__wrapped__")


def test_operators_refuse_what_is_no_number():
    for wrong in ("2", None, [1.0], {}):
        with pytest.raises(TypeError, match="unsupported operand"):
            X + wrong
        with pytest.raises(TypeError, match="unsupported operand"):
            wrong - X
    with pytest.raises(TypeError):
        iter(X)
    with pytest.raises(TypeError):
        X < 2  # noqa: B015


def test_names():
    first, second = (int(graph.relu(X).name.removeprefix("relu_")) for _ in "ab")
    assert second == first + 1
    line = inspect.currentframe().f_lineno + 1
    assert f"test_errors.py:{line}" in repr(X + 2)
    assert repr(X + 2).split(",")[0].endswith("= add(x")
    assert (X * 0.5).inputs[1].name == "0.5"
    assert repr(graph.feed("y")).startswith("<feed y, made at tests")
