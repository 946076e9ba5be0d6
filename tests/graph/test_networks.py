import doctest
import importlib
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxnn
from jaxnn import graph, layers, losses
from jaxnn.losses import LOSSES
from jaxnn.rules import RULES
from tests.rules.cases import CASES
from tests.rules.common import assert_close, assert_trees_close, inputs, normal

WIDTHS = [12, 9, 7, 5]
X, LABELS = normal(6, 12), np.array([0, 4, 2, 2, 1, 3])


def by_hand(activation="relu"):
    """Nodes of a dense network: parameters in the tree of `jaxnn.mlp`, x, logits."""
    x, params = graph.feed("x", (None, WIDTHS[0])), []
    h = x
    for i in range(len(WIDTHS) - 1):
        w, b = graph.feed(f"w{i}"), graph.feed(f"b{i}")
        h = h @ w + b
        params.append({"w": w, "b": b})
        if i < len(WIDTHS) - 2:
            h = getattr(graph, activation)(h)
    # flatten, (dense, activation), ..., dense
    tree = [()]
    for i, p in enumerate(params):
        tree += [p, ()] if i < len(params) - 1 else [p]
    return tuple(tree), x, h


def by_layers(activation="relu", params_of=0):
    net = jaxnn.mlp(WIDTHS, activation)
    params, state, _ = net.init(jax.random.key(params_of), (WIDTHS[0],))

    def step(params, x, labels):
        logits, _, cache = net.forward(params, state, x, train=True)
        value, dlogits = losses.softmax_cross_entropy(logits, labels)
        return value, net.backward(cache, dlogits)[1]

    return params, step


def graph_step(activation="relu"):
    params, x, logits = by_hand(activation)
    t = graph.feed("t", (None,))
    loss = graph.softmax_cross_entropy(logits, t, name="loss")
    return graph.function(loss, params, (params, x, t))


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_dense_network_by_hand_equals_layers_in_gradients_and_flops(activation):
    params, step = by_layers(activation)
    args = (params, jnp.asarray(X), jnp.asarray(LABELS))
    compiled = [
        jax.jit(f).lower(*args).compile() for f in (graph_step(activation), step)
    ]
    assert_trees_close(compiled[0](*args), compiled[1](*args))
    flops = [c.cost_analysis()["flops"] for c in compiled]
    assert flops[0] == flops[1] > 0


def test_training_in_scan_equals_a_loop_and_leaks_nothing():
    params, _ = by_layers()
    step = graph_step()

    def body(params, batch):
        value, grads = step(params, *batch)
        return jax.tree.map(lambda p, d: p - 0.1 * d, params, grads), value

    batches = (jnp.stack([X, X + 1, X - 1]), jnp.stack([LABELS] * 3))
    with jax.checking_leaks():
        scanned = jax.jit(lambda p: lax.scan(body, p, batches))(params)
    values = []
    for i in range(3):
        params, value = jax.jit(body)(params, (batches[0][i], batches[1][i]))
        values.append(value)
    assert_trees_close(scanned, (params, jnp.stack(values)))
    assert values[-1] < values[0]


def test_any_name_goes_through_jit_and_is_seen_in_profiles():
    x = graph.feed('a "quoted" name\nin two lines')
    y = graph.tanh(x, name="squash it \\ please")
    lowered = jax.jit(graph.function(y, x, (x,))).lower(1.0)
    assert "fwd/squash it" in lowered.as_text(debug_info=True)
    assert lowered.compile()(0.0) == (0, 1)


@pytest.mark.parametrize(
    ("name", "reduction"),
    [(name, ("mean", "none")[i % 2]) for i, name in enumerate(sorted(LOSSES))],
)
def test_every_loss_is_a_node(name, reduction):
    pred, target = graph.feed("pred"), graph.feed("target")
    want, dpred = jax.jit(LOSSES[name].having(reduction=reduction))(X, LABELS)
    node = getattr(graph, name)(pred, target, reduction=reduction)
    root = node if reduction == "mean" else node.sum()
    value, d = graph.bprop(3 * root, pred, {pred: X, target: LABELS})
    assert_close(value, 3 * want.sum())
    assert_close(d, 3 * dpred)


def test_rows_of_a_loss_get_their_own_seeds():
    pred, seeds = graph.feed("pred"), normal(6)
    node = graph.mse(pred, np.zeros((6, 12)), reduction="none")
    _, d = graph.bprop(node, pred, {pred: X}, dy=seeds)
    _, dpred = losses.mse(X, jnp.zeros((6, 12)), reduction="none")
    assert_close(d, dpred * seeds[:, None])


def test_loss_of_a_users_own():
    def cubic(pred, target):
        return ((pred - target) ** 3).sum(), 3 * (pred - target) ** 2

    pred = graph.feed("pred")
    node = graph.loss(cubic, pred, 1.0)
    assert node.name.startswith("cubic_")
    value, d = graph.bprop(node, pred, {pred: 3.0})
    assert (float(value), float(d)) == (8, 12)


def test_a_layer_is_a_node():
    net = jaxnn.serial(layers.dense(4), layers.batch_norm(), layers.relu)
    values, state, _ = net.init(jax.random.key(0), (12,))
    params = jax.tree.map(graph.parameter, values)
    x = graph.feed("x")
    h = graph.from_layer(net, x, params, state=state, name="h")
    value, (dparams, dx) = graph.bprop((h * h).sum(), (params, x), {x: X})

    y, _, cache = net.forward(values, state, jnp.asarray(X), train=False)
    want_dx, want = net.backward(cache, 2 * y)
    assert_close(value, (y * y).sum())
    assert_trees_close((dparams, dx), (want, want_dx))


FIRST = {name: cases[0] for name, cases in CASES.items()}


@pytest.mark.parametrize("name", sorted(RULES))
def test_every_rule_as_a_node_is_the_rules_own_program(name):
    case = FIRST[name]

    def by_graph(dy, *args):
        feeds = [graph.feed(f"a{i}") for i in range(len(args))]
        root, wrt = graph.apply(case.rule, *feeds), [feeds[i] for i in case.wrt]
        return graph.bprop(root, wrt, dict(zip(feeds, args, strict=True)), dy=dy)

    def by_rule(dy, *args):
        y, cache = case.rule.fwd(*args)
        cotangents = case.rule.bwd(cache, dy)
        return y, [cotangents[i] for i in case.wrt]

    args, dy = inputs(case)
    got, want = (str(jax.make_jaxpr(f)(dy, *args)) for f in (by_graph, by_rule))
    assert got == want  # nothing has to be compiled to compare what it computes


SETTINGS = {"standardize": (0.5, 0.25), "broadcast_to": ((3, 4),)}  # no defaults


@pytest.mark.parametrize("name", sorted(RULES))
def test_every_rule_is_an_op_by_name(name):
    feeds = [graph.feed(f"a{i}") for i in range(len(FIRST[name].args))]
    op = getattr(graph, name)
    node = op(*feeds, *SETTINGS.get(name, ()), name="here")
    assert (node.name, node.rule.name, node.inputs) == ("here", name, tuple(feeds))
    assert op.__name__ == name
    assert op.__doc__


def test_settings_reach_the_rule():
    x = graph.feed("x")
    nodes = [
        graph.leaky_relu(x, slope=0.5),
        graph.leaky_relu(x, 0.5),
        graph.sum(x, axis=0, keepdims=True),
        graph.einsum("ij,kj->ik", x, np.ones((1, 2))),
        graph.reshape(x, (4, 1)),
    ]
    got = graph.run(nodes, {x: [[-2.0, 1.0], [4.0, -8.0]]})
    half = [[-1, 1], [4, -4]]
    wants = half, half, [[2, -7]], [[-1], [-4]], [[-2], [1], [4], [-8]]
    assert [v.tolist() for v in got] == list(wants)


MODULES = sorted(
    m.name for m in pkgutil.iter_modules(graph.__path__, graph.__name__ + ".")
)


@pytest.mark.parametrize("name", ["jaxnn.graph", *MODULES])
def test_docstrings_say_what_happens(name):
    module = importlib.import_module(name)
    assert doctest.testmod(module).failed == 0


def test_no_name_of_the_package_hides_an_op():
    ops = set(graph.ops.op_names())
    assert not ops & set(vars(graph))
    assert ops < set(dir(graph))
