import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnn import losses
from jaxnn.combine import remat, residual, serial, stack
from jaxnn.errors import JaxnnError
from jaxnn.interop import as_jax, from_jax, layer_from_jax
from jaxnn.layers import batch_norm, dense, dropout, embedding, flatten, tanh
from jaxnn.rules import RULES, Rule
from tests.layers.cases import KEY, by_hand, by_vjp, cotangent, setup
from tests.rules.cases import CASES
from tests.rules.common import assert_close, assert_trees_close, normal

NET = serial(
    dense(4, bias=False),
    batch_norm(),
    dropout(0.3),
    stack(remat(residual(serial(dense(4), tanh))), 2),
    dense(2),
)


@pytest.mark.parametrize("name", RULES)
def test_every_rule_goes_as_jax(name):
    case = CASES[name][0]
    args = jax.tree.map(jnp.asarray, case.args)

    def both(*args):
        y, cache = case.rule.fwd(*args)
        return jax.vjp(as_jax(case.rule), *args)[1](y), case.rule.bwd(cache, y)

    for arg, got, want in zip(args, *jax.eval_shape(both, *args), strict=True):
        if want is None:  # zeros, or nothing at all for whole numbers
            assert got.shape == arg.shape
        else:
            assert (got.shape, got.dtype) == (arg.shape, arg.dtype)


def test_rules_as_jax_have_their_hand_written_gradient():
    names = ("affine", "batch_norm", "gelu", "max_pool", "where")
    cases = {name: CASES[name][0] for name in names}

    @jax.jit
    def program(args):
        results = []
        for name, case in cases.items():
            y, cache = case.rule.fwd(*args[name])
            got_y, pull_back = jax.vjp(as_jax(case.rule), *args[name])
            results.append((got_y, y))
            results += zip(pull_back(y), case.rule.bwd(cache, y), strict=True)
        return results

    args = {n: jax.tree.map(jnp.asarray, case.args) for n, case in cases.items()}
    for got, want in program(args):
        if want is not None:
            assert_trees_close(got, want, 1e-14)


def test_whole_numbers_and_masks_have_no_gradient():
    x, keep = jnp.ones(3), jnp.array([True, False, True])
    dx, dkeep = jax.vjp(as_jax(RULES["dropout"]), x, keep)[1](x)
    assert dx.tolist() == [2, 0, 2]
    assert dkeep.dtype == jax.dtypes.float0
    table, rows = jnp.ones((5, 2)), np.array([1, 1, 4])
    grads = jax.grad(lambda w: as_jax(RULES["embedding"])(rows, w).sum())(table)
    assert grads[:, 0].tolist() == [0, 2, 0, 0, 1]


def test_numbers_and_numpy_arrays_are_arguments_too():
    f = as_jax(RULES["mul"])
    assert f(np.float32(3), 2.0) == 6
    assert jax.grad(f)(3.0, 2.0) == 2


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients_have_the_dtype_of_their_argument(dtype):
    x, w = jnp.ones((2, 3), dtype), jnp.ones((3, 4), "float32")
    f = as_jax(RULES["matmul"])
    dx, dw = jax.grad(lambda x, w: f(x, w).sum(), (0, 1))(x, w)
    assert (dx.dtype, dw.dtype) == (x.dtype, w.dtype)


@pytest.mark.parametrize("train", [True, False])
def test_layer_as_jax_is_its_forward_with_its_backward(train):
    case = setup(NET, (3,), 5)
    f, dy = as_jax(NET), cotangent(case)

    @jax.jit
    def both():
        def value(params, x):
            y, state = f(params, case.state, x, key=KEY, train=train)
            return (y * dy).sum(), (y, state)

        grads, out = jax.grad(value, (0, 1), has_aux=True)(case.params, case.x)
        return out, grads[::-1], by_hand(case, case.x, dy, train)

    (y, state), got, (want_y, want_state, want) = both()
    assert_trees_close((y, state, got), (want_y, want_state, want), 1e-14)


def test_layer_as_jax_under_vmap_scan_checkpoint_and_optax():
    f, in_shape = as_jax(NET), (3,)
    optimizer = optax.adam(0.05)
    x, keys = jnp.asarray(normal(16, 3)), jax.random.split(KEY, 2)
    labels = (x[:, 0] > 0).astype(int)

    def train(key):
        params, state, _ = NET.init(key, in_shape)

        @jax.checkpoint
        def loss(params, state, key):
            y, state = f(params, state, x, key=key, train=True)
            return losses.softmax_cross_entropy(y, labels)[0], state

        def step(carry, key):
            params, state, opt = carry
            (value, state), grads = jax.value_and_grad(loss, has_aux=True)(
                params, state, key
            )
            updates, opt = optimizer.update(grads, opt, params)
            return (optax.apply_updates(params, updates), state, opt), value

        carry = (params, state, optimizer.init(params))
        return jax.lax.scan(step, carry, jax.random.split(key, 30))[1]

    values = jax.jit(jax.vmap(train))(keys)
    assert values.shape == (2, 30)
    assert (values[:, -5:].mean(1) < 0.5 * values[:, :5].mean(1)).all()


def test_second_derivatives_go_through_the_hand_written_backward():
    f = as_jax(RULES["tanh"])
    got = jax.grad(jax.grad(f))(0.3)
    assert_close(got, jax.grad(jax.grad(jnp.tanh))(0.3))


def test_layer_of_whole_numbers_as_jax():
    net = serial(embedding(5, 3), flatten, dense(2))
    params, state, _ = net.init(KEY, (4,))
    x = jnp.array([[0, 1, 1, 4]])
    grads = jax.jit(jax.grad(lambda p: as_jax(net)(p, state, x, train=True)[0].sum()))(
        params
    )
    assert (grads[0]["w"][jnp.array([2, 3])] == 0).all()
    assert (grads[0]["w"][jnp.array([0, 1, 4])] != 0).any()


def test_as_jax_refuses_what_is_neither():
    with pytest.raises(JaxnnError, match=r"got function, expected a rule or a layer"):
        as_jax(dense)


def swish(x, beta):
    return x * jax.nn.sigmoid(beta[None] * x)


def test_from_jax_is_a_rule_with_the_gradient_of_jax():
    rule = from_jax(swish)
    assert isinstance(rule, Rule)
    assert rule.name == "swish by jax.vjp"
    x, beta, dy = (jnp.asarray(normal(*s)) for s in ((4, 3), (3,), (4, 3)))
    y, cache = jax.jit(rule.fwd)(x, beta)  # the cache leaves jit as data
    got = jax.jit(rule.bwd)(cache, dy)
    want_y, pull_back = jax.vjp(swish, x, beta)
    assert_trees_close((y, got), (want_y, pull_back(dy)), 1e-14)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(cache))


def test_from_jax_gives_none_for_whole_numbers():
    rule = from_jax(lambda table, rows: table[rows], "look-up")
    _, cache = rule.fwd(jnp.ones((4, 2)), jnp.array([1, 1]))
    dtable, drows = rule.bwd(cache, jnp.ones((2, 2)))
    assert dtable[:, 0].tolist() == [0, 2, 0, 0]
    assert drows is None
    assert rule.name == "look-up by jax.vjp"


LEARNT = layer_from_jax(
    lambda params, x: swish(x, params["beta"]),
    init=lambda key, in_shape: {"beta": jnp.ones(in_shape[-1])},
    name="swish",
)


@pytest.mark.parametrize(
    "net",
    [
        serial(dense(3), LEARNT, layer_from_jax(jnp.sinc)),
        stack(serial(dense(3), LEARNT), 3),
        stack(remat(serial(dense(3), LEARNT)), 3),
    ],
    ids=["serial", "scan", "remat"],
)
def test_layer_from_jax_in_a_network(net):
    case = setup(net, (3,), 4)
    dy = cotangent(case)

    @jax.jit
    def both():
        return by_hand(case, case.x, dy, True)[2], by_vjp(case, case.x, dy, True)

    assert_trees_close(*both())


def test_layer_from_jax_says_its_shape_and_name():
    net = layer_from_jax(lambda x: x.reshape(x.shape[0], -1, 2), name="pairs")
    assert net.init(KEY, (3, 4))[2] == (6, 2)
    assert net.name == "pairs by jax.vjp"
    assert LEARNT.init(KEY, (3,))[0]["beta"].shape == (3,)
    with pytest.raises(JaxnnError, match=r"by jax\.vjp: got params of dtype int"):
        layer_from_jax(lambda p, x: x, lambda key, s: jnp.arange(2)).init(KEY, (3,))
