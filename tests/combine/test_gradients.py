import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn.combine import parallel, remat, repeat, residual, serial, share, stack
from jaxnn.layers import dense, relu
from jaxnn.rules import Rule
from tests.combine.cases import NETWORKS
from tests.layers.cases import KEY, by_hand, by_vjp, cotangent, setup, traced_init
from tests.rules.common import assert_trees_close

# where the mode changes what a combinator has to do
EVALUATED = (
    "mlp, noisy", "stack, noisy", "stack of remat", "repeat", "freeze", "share, frozen",
)  # fmt: skip


# one combinator in another: seconds to compile
SLOW = {
    "branches in branches", "concatenate, images", "freeze in a stack", "maximum",
    "remat of remat", "remat of stack", "repeat of stack, stack of repeat",
    "residual, conv", "share, images of two sizes", "stack of a stack", "stack, noisy",
}  # fmt: skip


def marked(names):
    return [
        pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name
        for name in names
    ]


def found(name, train=True):
    return gradients(name in SLOW)[name, train]


@functools.cache
def gradients(slow):
    """(name, train) -> gradients by hand and by vjp; one program, compiled once."""
    wanted = [(name, True) for name in NETWORKS] + [(name, False) for name in EVALUATED]
    wanted = [each for each in wanted if (each[0] in SLOW) == slow]
    cases = {name: setup(*NETWORKS[name]) for name, _ in wanted}
    arrays = {n: (c.params, c.state, c.x, cotangent(c)) for n, c in cases.items()}

    @jax.jit
    def program(arrays):
        results = {}
        for name, train in wanted:
            params, state, x, dy = arrays[name]
            case = cases[name]._replace(params=params, state=state)
            _, new_state, grads = by_hand(case, x, dy, train)
            results[name, train] = grads, by_vjp(case, x, dy, train), new_state
        return results

    return program(arrays)


@pytest.mark.parametrize("name", marked(NETWORKS))
def test_backward_equals_vjp(name):
    grads, vjp, _ = found(name)
    assert_trees_close(grads, vjp)
    assert all(np.any(d) for d in jax.tree.leaves(vjp))


@pytest.mark.parametrize("name", marked(EVALUATED))
def test_backward_equals_vjp_in_evaluation(name):
    grads, vjp, state = found(name, False)
    assert_trees_close(grads, vjp)
    assert_trees_close(state, setup(*NETWORKS[name]).state, 0)


@pytest.mark.parametrize("name", NETWORKS)
def test_shapes_dtypes_and_structures_agree(name):
    layer, in_shape, batch = NETWORKS[name]
    # bfloat16: what came in as such has to come out as such
    params, state = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, jnp.bfloat16),
        traced_init(layer, in_shape),
    )
    x = jax.ShapeDtypeStruct((batch, *in_shape), jnp.bfloat16)

    def step(params, state, x):
        y, new_state, cache = layer.forward(params, state, x, key=KEY, train=True)
        return y, new_state, layer.backward(cache, y)

    y, new_state, (dx, dparams) = jax.eval_shape(step, params, state, x)
    out_shape = []
    jax.eval_shape(lambda: out_shape.extend(layer.init(KEY, in_shape)[2]))
    assert y.shape == (batch, *out_shape)
    assert_same_avals((dx, dparams, new_state), (x, params, state))
    assert y.dtype == jnp.bfloat16


def assert_same_avals(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert (g.shape, g.dtype) == (w.shape, w.dtype)


def test_residual_sums_both_paths():
    net = residual(dense(2))
    x, params = jnp.ones((1, 2)), {"w": 3 * jnp.eye(2), "b": jnp.zeros(2)}
    y, _, cache = net.forward(params, (), x, train=True)
    dx, _ = net.backward(cache, jnp.ones((1, 2)))
    assert y.tolist() == [[4, 4]]
    assert dx.tolist() == [[4, 4]]


def test_parallel_sums_the_cotangents_of_every_branch():
    # y = x * x * x by three branches that do nothing
    same = serial()
    net = parallel(same, same, same, merge="multiply")
    x = jnp.asarray([[2.0, -3.0, 0.0]])  # at 0 no division will do
    y, _, cache = net.forward(((),) * 3, ((),) * 3, x, train=True)
    dx, _ = net.backward(cache, jnp.ones((1, 3)))
    assert y.tolist() == [[8, -27, 0]]
    assert dx.tolist() == [[12, 27, 0]]


def test_concatenate_joins_in_the_order_of_the_branches():
    net = parallel(serial(), relu, merge="concatenate")
    x = jnp.asarray([[1.0, -2.0]])
    y, _, cache = net.forward(((), ()), ((), ()), x, train=True)
    dx, _ = net.backward(cache, jnp.asarray([[1.0, 10.0, 100.0, 1000.0]]))
    assert y.tolist() == [[1, -2, 1, 0]]
    assert dx.tolist() == [[101, 10]]


def test_merge_may_be_a_rule_of_the_users():
    average = Rule("average", lambda a, b: ((a + b) / 2, ()), lambda _, d: (d / 2,) * 2)
    case = setup(parallel(dense(3), relu, merge=average), (3,), 4)
    dy = cotangent(case)
    assert_trees_close(
        by_hand(case, case.x, dy, True)[2], by_vjp(case, case.x, dy, True)
    )


@pytest.mark.parametrize("make", [stack, repeat, remat, residual, share])
def test_a_wrong_backward_inside_is_not_hidden(make):
    """A checker that passes whatever is inside would pass here too."""
    wrong = dense(3)._replace(
        backward=lambda cache, dy: jax.tree.map(
            lambda d: 1.01 * d, dense(3).backward(cache, dy)
        )
    )
    more = {stack: (2,), repeat: (2,), share: (lambda d: serial(d, d),)}
    case = setup(make(wrong, *more.get(make, ())), (3,), 4)
    dy = cotangent(case)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_trees_close(
            by_hand(case, case.x, dy, True)[2], by_vjp(case, case.x, dy, True)
        )
