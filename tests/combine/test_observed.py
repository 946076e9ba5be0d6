import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn.combine import repeat, residual, serial
from jaxnn.combine.parts import observed
from jaxnn.layers import Layer, dense, relu, tanh
from tests.combine.cases import EVERYTHING, NETWORKS


def program(net):
    """Outputs, state, and gradients of everything, in one jitted function."""

    @jax.jit
    def run(params, state, x, key):
        y, new, cache = net.forward(params, state, x, key=key, train=True)
        return y, new, net.backward(cache, jnp.cos(y))

    return run


def counted(calls):
    def count(call, inner):
        def forward(params, state, x, *, key=None, train):
            calls.append(("forward", call.path))
            return inner.forward(params, state, x, key=key, train=train)

        def backward(cache, dy):
            calls.append(("backward", call.path))
            return inner.backward(cache, dy)

        return inner._replace(forward=forward, backward=backward)

    return count


def doubled(path):
    """An observer that doubles what the layer at `path` makes."""

    def double(call, inner):
        def forward(*args, **options):
            y, state, cache = inner.forward(*args, **options)
            return 2 * y, state, cache

        return inner._replace(forward=forward) if call.path == path else inner

    return double


def single_paths(net: Layer, path=()):
    if not net.parts:
        return {path}
    return {p for i, q in enumerate(net.parts) for p in single_paths(q, (*path, i))}


@pytest.mark.parametrize(
    ("net", "in_shape", "batch"),
    [EVERYTHING, NETWORKS["share, nested"], NETWORKS["siamese"]],
)
def test_an_observed_network_computes_the_same_bits_and_every_layer_is_seen(
    net, in_shape, batch
):
    params, state, _ = net.init(jax.random.key(0), in_shape)
    x, key = jax.random.normal(jax.random.key(1), (batch, *in_shape)), jax.random.key(2)
    calls: list = []
    twin = observed(observed(net, counted(calls)), lambda call, inner: inner)
    want = program(net)(params, state, x, key)
    jax.tree.map(
        np.testing.assert_array_equal, program(twin)(params, state, x, key), want
    )
    for direction in ("forward", "backward"):
        seen = {path for d, path in calls if d == direction}
        assert single_paths(net) | {()} <= seen


def test_a_jitted_layer_is_not_taken_for_its_observed_self():
    # a program that jit keeps by its arguments alone would outlive its observer
    inner = residual(dense(3))
    jitted = inner._replace(forward=jax.jit(inner.forward, static_argnames="train"))
    net = serial(jitted, tanh)
    params, state, _ = net.init(jax.random.key(0), (3,))
    x = jnp.ones((2, 3))

    def output(net):
        return net.forward(params, state, x, train=False)[0]

    plain, calls = output(net), []
    output(observed(net, counted(calls)))
    assert ("forward", (0, 0)) in calls
    assert jnp.array_equal(output(observed(net, lambda call, inner: inner)), plain)
    changed = output(observed(net, doubled((0, 0))))
    assert not jnp.array_equal(changed, plain)
    calls.clear()
    assert jnp.array_equal(output(net), plain)
    assert not calls


def test_what_an_observer_computes_itself_is_not_observed():
    net = serial(residual(dense(3)), relu)
    params, state, _ = net.init(jax.random.key(0), (3,))
    x, calls = jnp.ones((2, 3)), []

    def asks_again(call, inner):
        def forward(params, state, x, *, key=None, train):
            call.layer.forward(params, state, x, key=key, train=train)
            return inner.forward(params, state, x, key=key, train=train)

        return inner._replace(forward=forward)

    twin = observed(observed(net, asks_again), counted(calls))
    twin.forward(params, state, x, train=False)
    assert [path for _, path in calls] == [(), (0,), (0, 0), (1,)]


def test_what_an_observer_does_to_the_cache_comes_back_to_it():
    """`repeat` asks for the shapes of its gradients: of the observed layer's, too."""

    def kept(call, inner):
        def forward(params, state, x, *, key=None, train):
            y, state, cache = inner.forward(params, state, x, key=key, train=train)
            return y, state, (cache, x)

        def backward(cache, dy):
            return inner.backward(cache[0], dy)

        return inner._replace(forward=forward, backward=backward)

    net = repeat(serial(dense(3), tanh), 4)
    params, state, _ = net.init(jax.random.key(0), (3,))
    x, key = jnp.ones((2, 3)), jax.random.key(1)
    jax.tree.map(
        np.testing.assert_array_equal,
        program(observed(net, kept))(params, state, x, key),
        program(net)(params, state, x, key),
    )


def test_a_call_says_where_it_is():
    labels = []

    def note(call, inner):
        labels.append(call.label)
        return inner

    net = serial(residual(dense(3)), relu)
    params, state, _ = net.init(jax.random.key(0), (3,))
    observed(net, note).forward(params, state, jnp.ones((2, 3)), train=False)
    assert labels == [
        "serial(2 layers)",
        "0 residual(dense(3))",
        "0 residual(dense(3)) > 0 dense(3)",
        "1 relu",
    ]


def test_a_combinator_that_calls_its_layers_itself_counts_as_one():
    inner, calls = serial(dense(3), relu), []
    past = inner._replace(parts=(inner,), name="past")
    net = serial(past, tanh)
    params, state, _ = net.init(jax.random.key(0), (3,))
    twin = observed(net, counted(calls))
    twin.forward(params, state, jnp.ones((2, 3)), train=False)
    assert [path for _, path in calls] == [(), (0,), (1,)]
