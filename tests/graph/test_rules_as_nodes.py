import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import graph
from jaxnn.rules import RULES
from tests.rules.cases import CASES
from tests.rules.common import assert_trees_close, cotangent

FIRST = {name: cases[0] for name, cases in CASES.items()}


@jax.jit
def every_rule(inputs):
    """Cotangents of each rule's first case, by a graph and straight from the rule."""
    found = {}
    for name, (args, dy) in inputs.items():
        case = FIRST[name]
        feeds = [graph.feed(f"a{i}") for i in range(len(args))]
        root, wrt = graph.apply(case.rule, *feeds), [feeds[i] for i in case.wrt]
        fed = dict(zip(feeds, args, strict=True))
        cotangents = case.rule.bwd(case.rule.fwd(*args)[1], dy)
        found[name] = (
            graph.bprop(root, wrt, fed, dy=dy)[1],
            [cotangents[i] for i in case.wrt],
        )
    return found


def test_every_rule_works_as_a_node():
    inputs = {}
    for name, case in FIRST.items():
        args = [jnp.asarray(a) for a in case.args]
        y = jax.eval_shape(case.rule.fwd, *args)[0]
        inputs[name] = (args, jnp.asarray(cotangent(case, y)))
    found = every_rule(inputs)
    assert set(found) == set(RULES)
    for got, want in found.values():
        assert_trees_close(got, want)


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
    assert [v.tolist() for v in got] == [
        [[-1.0, 1.0], [4.0, -4.0]],
        [[-1.0, 1.0], [4.0, -4.0]],
        [[2.0, -7.0]],
        [[-1.0], [-4.0]],
        [[-2.0], [1.0], [4.0], [-8.0]],
    ]
