import functools

import jax
import jax.numpy as jnp
import pytest

from jaxnn.combine import remat, repeat, residual, serial, stack
from jaxnn.combine.depth import Replay
from jaxnn.layers import batch_norm, dense, relu, sigmoid, softplus, tanh
from jaxnn.losses import mse
from jaxnn.regularize import (
    elastic_net,
    l2,
    max_norm,
    max_spectral_norm,
    spectral_norm,
    weight_noise,
)
from tests.combine.cases import NOISY
from tests.layers.cases import KEY, cotangent, setup
from tests.rules.common import assert_close, assert_trees_close, normal

BLOCK = residual(serial(dense(256, bias=False), batch_norm(), relu, dense(256)))


@pytest.fixture
def optimized():
    """Buffers are assigned as they are for users, not as for quick compiling."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


def temp_bytes(net, batch=4096, width=256):
    """Temporary memory of a gradient of the parameters, float32."""
    trees = jax.eval_shape(lambda: net.init(KEY, (width,))[:2])
    x = jax.ShapeDtypeStruct((batch, width), jnp.float32)
    params, state = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, jnp.float32), trees
    )

    def step(params, state, x):
        y, state, cache = net.forward(params, state, x, train=True)
        return state, net.backward(cache, y)[1]

    compiled = jax.jit(step).lower(params, state, x).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_stack_of_remat_takes_half_the_memory(optimized):
    # so forward runs again behind a barrier: else XLA would find it is known already
    plain, again = temp_bytes(stack(BLOCK, 12)), temp_bytes(stack(remat(BLOCK), 12))
    assert again <= 0.5 * plain


def test_stack_keeps_an_array_once_that_two_layers_keep(optimized):
    # tanh keeps its output, the dense layer after it its input
    twice = temp_bytes(stack(serial(dense(256), tanh, dense(256), tanh), 12))
    one = 12 * 4096 * 256 * 4
    assert twice < 3.5 * one  # x, and the outputs of both


@functools.partial(jax.jit, static_argnums=0)
def run(net, params, state, x, dy):
    y, state, cache = net.forward(params, state, x, key=KEY, train=True)
    return y, state, net.backward(cache, dy)


def stacked(trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


@pytest.mark.parametrize("make", [stack, repeat])
def test_it_is_serial_with_its_own_or_with_equal_parameters(make):
    depth, x = 3, jnp.asarray(normal(4, 3))
    net, unrolled = make(NOISY, depth), serial(*[NOISY] * depth)

    @jax.jit
    def both():
        params, state, _ = net.init(KEY, (3,))
        wanted, states, _ = unrolled.init(KEY, (3,))
        if make is repeat:
            wanted, states = (params,) * depth, (NOISY.init(KEY, (3,))[1],) * depth
        of_net = (params, *run(net, params, state, x, jnp.cos(x)))
        return of_net, (wanted, *run(unrolled, wanted, states, x, jnp.cos(x)))

    (params, y, state, (dx, grads)), (each, *want, (want_dx, ds)) = both()
    if make is stack:
        assert_trees_close(params["stacked"], stacked(each))
        assert_trees_close(grads["stacked"], stacked(ds))
    else:
        assert_trees_close(grads, jax.tree.map(lambda *ds: sum(ds[1:], ds[0]), *ds))
    assert_trees_close((y, state, dx), (want[0], stacked(want[1]), want_dx))


REGULARIZERS = {  # a projection has no value
    "l2": l2(0.1), "elastic_net": elastic_net(0.1), "spectral_norm": spectral_norm(0.1),
    "max_norm": lambda params: (0.0, max_norm(0.3)(params)),
    "max_spectral_norm": lambda params: (0.0, max_spectral_norm(0.3)(params)),
}  # fmt: skip


@pytest.mark.parametrize("name", REGULARIZERS)
def test_regularizers_see_the_layers_of_a_stack(name):
    """A bias stays a bias, and each weight has its own norms."""
    layer = serial(dense(3), batch_norm())
    nets = stack(stack(layer, 2), 2), serial(*[layer] * 4)
    params = setup(nets[0], (3,), 2).params
    inner = params["stacked"]["stacked"]
    unstacked = tuple(
        jax.tree.map(lambda a, i=i, j=j: a[i, j], inner)
        for i in range(2)
        for j in range(2)
    )
    act = jax.jit(REGULARIZERS[name])
    (value, grads), (want, want_grads) = act(params), act(unstacked)
    assert_close(value, want)
    together = jax.tree.map(
        lambda *a: jnp.stack(a).reshape(2, 2, *a[0].shape), *want_grads
    )
    assert_trees_close(grads, {"stacked": {"stacked": together}})


def test_weight_noise_spares_the_biases_of_a_stack():
    params = setup(stack(dense(3), 2), (3,), 2).params
    noisy = weight_noise(1.0)(KEY, params)["stacked"]
    assert (noisy["w"] != params["stacked"]["w"]).all()
    assert (noisy["b"] == params["stacked"]["b"]).all()


def test_remat_changes_nothing_but_the_cache():
    case = setup(NOISY, (3,), 4)  # dropout masks and batch statistics come again
    dy = cotangent(case)
    plain, again = (
        run(net, case.params, case.state, case.x, dy) for net in (NOISY, remat(NOISY))
    )
    assert_trees_close(again, plain, 1e-15)
    _, _, cache = remat(NOISY).forward(
        case.params, case.state, case.x, key=KEY, train=True
    )
    assert isinstance(cache, Replay)
    kept = jax.tree.leaves(cache)
    given = jax.tree.leaves((case.params, case.state, case.x, KEY))
    assert [id(a) for a in kept] == [id(a) for a in given]


def test_stack_is_compiled_once_however_deep():
    def size(depth):
        net = stack(NOISY, depth)
        params, state = jax.eval_shape(lambda: net.init(KEY, (3,))[:2])
        x = jnp.ones((4, 3))
        lowered = jax.jit(lambda *args: run(net, *args, x)).lower(params, state, x)
        return len(lowered.as_text().splitlines())

    assert size(40) == size(4)


def test_jvp_through_backward_is_the_hessian():
    block = serial(dense(2, bias=False), batch_norm(), sigmoid)
    net = serial(block, stack(remat(serial(dense(2), tanh)), 2), softplus)
    case = setup(net, (2,), 4)
    direction, target = jax.tree.map(jnp.cos, case.params), jnp.asarray(normal(4, 2))

    def by_hand(params):
        y, _, cache = case.forward(params, case.x, True)
        return net.backward(cache, mse(y, target)[1])[1]

    def loss(params):
        return mse(case.forward(params, case.x, True)[0], target)[0]

    @jax.jit
    def products(params):
        return [
            jax.jvp(grad, (params,), (direction,))[1]
            for grad in (by_hand, jax.grad(loss))
        ]

    assert_trees_close(*products(case.params), 1e-11)
