import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn.combine import parallel, remat, repeat, residual, serial, share, stack
from jaxnn.layers import dense, relu
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


SAME = serial()
VALUES = {  # network of layers without parameters, x -> y, dy -> dx
    "residual": (residual(relu), [1.0, -2], [2, -2], [1.0, 1], [2, 1]),
    # x * x * x by three branches that do nothing: at 0 no division will do
    "multiply": (parallel(SAME, SAME, SAME, merge="multiply"),
        [2.0, -3, 0], [8, -27, 0], [1.0, 1, 1], [12, 27, 0]),
    "concatenate": (parallel(SAME, relu, merge="concatenate"),
        [1.0, -2], [1, -2, 1, 0], [1.0, 10, 100, 1000], [101, 10]),
}  # fmt: skip


@pytest.mark.parametrize("name", VALUES)
def test_paths_are_joined_and_their_cotangents_summed(name):
    net, x, want_y, dy, want_dx = VALUES[name]
    params, state, _ = net.init(KEY, (len(x),))
    y, _, cache = net.forward(params, state, jnp.array([x]), train=True)
    assert y.tolist() == [want_y]
    assert net.backward(cache, jnp.array([dy]))[0].tolist() == [want_dx]


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

    @jax.jit
    def both(x, dy):
        return by_hand(case, x, dy, True)[2], by_vjp(case, x, dy, True)

    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_trees_close(*both(case.x, cotangent(case)))
