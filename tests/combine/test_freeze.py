import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnn.combine import freeze, mlp, serial, stack
from jaxnn.errors import JaxnnError
from jaxnn.layers import batch_norm, dense, dropout, tanh
from jaxnn.regularize import l1, l2, max_norm, sum_penalties
from jaxnn.train import fit
from tests.layers.cases import KEY, drawn, traced_init
from tests.rules.common import assert_trees_close, normal

TRUNK = serial(dense(5), batch_norm(), tanh, dropout(0.5), dense(3))
X = normal(40, 4).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int32)


@pytest.fixture(scope="module")
def trained():
    """A trunk with values of its own, before and after training a head on it."""
    params, state = drawn(traced_init(TRUNK, (4,)), 3)
    state = jax.tree.map(jnp.exp, state)
    params, state = jax.tree.map(lambda a: a.astype(jnp.float32), (params, state))
    net = serial(stack(freeze(dense(4)), 2), freeze(TRUNK, params, state), dense(2))
    before = jax.tree.map(np.asarray, (params, state))
    start = jax.jit(lambda: net.init(jax.random.key(0), (4,)))
    history = fit(
        net, (X, Y), epochs=3, batch=8, project=max_norm(0.5), dtype=jnp.float32,
        optimizer=optax.adamw(0.1, weight_decay=0.1),
        penalty=sum_penalties(l1(0.1), l2(0.1)),
    )  # fmt: skip
    return net, start, before, history


def test_nothing_moves_what_is_frozen(trained):
    _, _, (params, state), history = trained
    kept = history.state[1]
    given = {"params": params, "state": state}
    assert jax.tree.structure(kept) == jax.tree.structure(given)
    for got, want in zip(*map(jax.tree.leaves, (kept, given)), strict=True):
        assert np.asarray(got).tobytes() == want.tobytes()
    stacked = history.state[0]["params"]
    assert np.abs(stacked["w"]).max() > 0.5  # max_norm has not been there either


def test_the_rest_is_trained(trained):
    _, start, _, history = trained
    before, _, _ = start()
    assert (np.asarray(history.params[2]["w"]) != before[2]["w"]).all()


def test_the_optimizer_keeps_nothing_for_what_is_frozen(trained):
    _, _, _, history = trained
    shapes = sorted(a.shape for a in jax.tree.leaves(history.last.opt))
    assert shapes == [(), (2,), (2,), (3, 2), (3, 2)]  # Adam's count and moments


def test_frozen_values_are_copies(trained):
    # training donates its state: what the user holds must live on
    net, _, (params, state), _ = trained
    _, state, _ = net.init(KEY, (4,))
    jax.tree.map(lambda a: a.delete(), state)
    again = net.init(KEY, (4,))[1]
    assert_trees_close(again[1]["params"], params, 0)


def test_frozen_layer_runs_in_evaluation_mode():
    params, state = drawn(traced_init(TRUNK, (4,)), 3)
    state = jax.tree.map(jnp.exp, state)
    net, x = freeze(TRUNK, params, state), jnp.asarray(normal(3, 4))
    y, kept, cache = net.forward((), {"params": params, "state": state}, x, train=True)
    want, _, want_cache = TRUNK.forward(params, state, x, train=False)
    assert_trees_close(y, want, 0)
    assert_trees_close(kept, {"params": params, "state": state}, 0)
    dx, grads = net.backward(cache, y)
    assert grads == ()
    assert_trees_close(dx, TRUNK.backward(want_cache, y)[0])


def test_no_gradient_is_computed_for_what_is_frozen():
    net = freeze(dense(8, bias=False))
    _, state, _ = jax.eval_shape(lambda: (*net.init(KEY, (8,))[:2], 0))

    def step(state, x):
        y, _, cache = net.forward((), state, x, train=True)
        return net.backward(cache, y)

    x = jax.ShapeDtypeStruct((4, 8), jnp.float32)
    text = jax.jit(step).lower(state, x).as_text()
    assert text.count("dot_general") == 2  # y and dx


def test_frozen_draws_are_those_of_the_layer():
    params, _, _ = dense(3).init(KEY, (4,))
    _, state, _ = freeze(dense(3)).init(KEY, (4,))
    assert_trees_close(state["params"], params, 0)


def test_parameters_not_yet_frozen_are_refused():
    net = mlp([4, 3, 2])
    params, state, _ = net.init(KEY, (4,))
    with pytest.raises(JaxnnError, match="before it was frozen"):
        freeze(net).forward(params, state, jnp.ones((2, 4)), train=True)
