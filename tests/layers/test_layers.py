import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import layers, losses
from jaxnn.combine import mlp, residual, serial
from jaxnn.errors import JaxnnError
from jaxnn.layers import (
    INITIALIZERS,
    LAYERS,
    Layer,
    batch_norm,
    dense,
    dropout,
    flatten,
    relu,
    standardize,
    tanh,
)
from jaxnn.layers.noise import keep_mask
from jaxnn.rules import BatchStats, FixedStats
from tests.rules.cases import assert_close, assert_trees_close, normal

KEY = jax.random.key(7)


class Setup(NamedTuple):
    """A layer, and what its forward takes, all leaves drawn so that none is special."""

    layer: Layer
    params: object
    state: object
    x: jax.Array

    def forward(self, params, x, train, key=KEY):
        return self.layer.forward(params, self.state, x, key=key, train=train)


def drawn(tree, seed):
    """N(0, 1) for every leaf: gamma = 1 and beta = 0 would hide mistakes."""
    leaves, structure = jax.tree.flatten(tree)
    arrays = [
        jnp.asarray(normal(*leaf.shape, seed=seed + i)) for i, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(structure, arrays)


def traced_init(layer, in_shape):
    """Shapes of params and state; drawing them would only cost compile time."""
    return jax.eval_shape(lambda: layer.init(KEY, in_shape)[:2])


def setup(layer, in_shape, batch):
    params, state = traced_init(layer, in_shape)
    x = jnp.asarray(normal(batch, *in_shape, seed=5))
    # exp: keeps a running variance positive
    state = jax.tree.map(jnp.exp, drawn(state, 20))
    return Setup(layer, drawn(params, 10), state, x)


# name in LAYERS -> (layer, in_shape, batch)
LAYER_CASES = {
    "batch_norm": [(batch_norm(), (3,), 5), (batch_norm(0.5, 1e-3), (2, 3, 1), 2)],
    "dense": [
        (dense(3), (4,), 5),
        (dense(1), (1,), 1),
        (dense(2, "xavier", bias=False), (3,), 2),
        (dense(2, "lecun", bias="normal"), (3, 1, 5), 2),
    ],
    "dropout": [(dropout(0.3), (7,), 3), (dropout(0.0), (3,), 2)],
    "flatten": [(flatten, (3, 1, 2), 2), (flatten, (4,), 1), (flatten, (), 3)],
    "leaky_relu": [(layers.leaky_relu(), (5,), 3), (layers.leaky_relu(0.2), (5,), 3)],
    "log_softmax": [(layers.log_softmax, (5,), 3)],
    "relu": [(relu, (5,), 3), (relu, (3, 1, 2), 1)],
    "sigmoid": [(layers.sigmoid, (5,), 3)],
    "softplus": [(layers.softplus, (5,), 3)],
    "standardize": [(standardize(0.1307, 0.3081), (2, 3, 1), 3)],
    "tanh": [(tanh, (5,), 3)],
}
SMALL = [case for cases in LAYER_CASES.values() for case in cases]

NETWORKS = {
    "one layer": (mlp([3, 2]), (3,), 4),
    "narrow": (mlp([5, 1, 1, 3], "leaky_relu"), (5,), 4),
    "two hidden layers of 30, images": (mlp([784, 30, 30, 10]), (28, 28), 3),
    "five hidden layers": (mlp([3, 4, 3, 4, 3, 4, 2], "softplus"), (3,), 2),
    "xor": (
        mlp([2, 2, 1], "tanh", init="normal", bias="normal", output="sigmoid"),
        (2,),
        4,
    ),
    "no bias": (mlp([4, 3, 2], layers.leaky_relu(0.2), bias=False), (4,), 1),
    "batch norm and dropout": (
        mlp([6, 5, 3], normalize=True, drop_rate=0.3),
        (3, 2),
        5,
    ),
    "residual": (
        serial(dense(3), residual(serial(batch_norm(), relu, dense(3)))),
        (2,),
        4,
    ),
    "residual of residual": (residual(residual(dense(3))), (3,), 2),
    "nested": (
        serial(
            serial(dense(3), tanh), serial(), serial(serial(dropout(0.3)), dense(2))
        ),
        (4,),
        3,
    ),
    "no layers": (serial(), (3,), 2),
    "images": (
        serial(standardize(0.1, 0.3), batch_norm(), dense(2), flatten, dense(3)),
        (3, 1, 2),
        2,
    ),
}


def by_hand(case, x, dy, train):
    y, state, cache = case.forward(case.params, x, train)
    return y, state, case.layer.backward(cache, dy)


def by_vjp(case, x, dy, train):
    def forward(x, params):
        return case.forward(params, x, train)[0]

    return jax.vjp(forward, x, case.params)[1](dy)


def both(cases):
    """For train and eval: a list of (y, state, grads) by hand and grads by vjp."""

    # One program for all: compiling is what takes the time.
    @jax.jit
    def program(arrays):
        results = {True: [], False: []}
        for case, (params, state, x, *dys) in zip(cases, arrays, strict=True):
            case = case._replace(params=params, state=state)
            for train, dy in zip(results, dys, strict=True):
                each = by_hand(case, x, dy, train), by_vjp(case, x, dy, train)
                results[train].append(each)
        return results

    arrays = []
    for case in cases:
        y = jax.eval_shape(lambda c=case: c.forward(c.params, c.x, True)[0])
        dy = jnp.asarray(normal(*y.shape, seed=6))
        arrays.append((case.params, case.state, case.x, dy, dy))
    return program(arrays)


@functools.cache
def small_layers():
    return both([setup(*case) for case in SMALL])


@functools.cache
def network(name):
    (train,), (evaluation,) = both([setup(*NETWORKS[name])]).values()
    return {True: train, False: evaluation}


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(
    "i", range(len(SMALL)), ids=lambda i: f"{i} {SMALL[i][0].name}"
)
def test_backward_of_layer_equals_vjp(i, train):
    (_, _, grads), vjp = small_layers()[train][i]
    assert_trees_close(grads, vjp)


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", NETWORKS)
def test_backward_of_network_equals_vjp(name, train):
    (_, _, grads), vjp = network(name)[train]
    assert_trees_close(grads, vjp)
    # a dead relu would leave nothing to compare
    assert all(np.any(d) for d in jax.tree.leaves(vjp))


def test_every_layer_has_cases():
    assert set(LAYER_CASES) == set(LAYERS)


@pytest.mark.parametrize("name", LAYERS)
def test_layer_is_found_by_its_name(name):
    makers = {"dense": (3,), "dropout": (0.3,), "standardize": (0.5, 0.2)}
    layer = LAYERS[name](*makers.get(name, ()))
    assert isinstance(layer, Layer)
    assert layer.name.split("(")[0] == name


@pytest.mark.parametrize("factor", [-1, 1.01, 0])
def test_checker_fails_a_mutant_of_each_gradient(factor):
    (_, _, grads), vjp = network("residual")[True]
    leaves, structure = jax.tree.flatten(grads)
    assert len(leaves) == 7  # dx, two dense layers, a batch norm
    for i in range(len(leaves)):
        mutant = [factor * d if j == i else d for j, d in enumerate(leaves)]
        with pytest.raises(AssertionError, match="Not equal to tolerance"):
            assert_trees_close(jax.tree.unflatten(structure, mutant), vjp)


def test_residual_sums_both_paths():
    net = residual(dense(2))
    x, params = jnp.ones((1, 2)), {"w": 3 * jnp.eye(2), "b": jnp.zeros(2)}
    y, _, cache = net.forward(params, (), x, train=True)
    dx, _ = net.backward(cache, jnp.ones((1, 2)))
    assert y.tolist() == [[4, 4]]
    assert dx.tolist() == [[4, 4]]


@pytest.mark.parametrize("name", NETWORKS)
def test_params_gradients_and_shapes_agree(name):
    layer, in_shape, batch = NETWORKS[name]

    def step():
        params, state, out_shape = layer.init(KEY, in_shape)
        x = jnp.zeros((batch, *in_shape))
        y, new_state, cache = layer.forward(params, state, x, key=KEY, train=True)
        assert y.shape == (batch, *out_shape)
        return params, state, new_state, layer.backward(cache, y)

    params, state, new_state, (dx, dparams) = jax.eval_shape(step)

    def shapes(tree):
        return jax.tree.map(lambda a: (a.shape, a.dtype), tree)

    assert dx.shape == (batch, *in_shape)
    assert shapes(dparams) == shapes(params)
    assert shapes(new_state) == shapes(state)


@pytest.mark.parametrize(("momentum", "shape"), [(0.9, (5, 3)), (0.25, (2, 3, 1, 3))])
def test_batch_norm_averages_with_unbiased_variance(momentum, shape):
    case = setup(batch_norm(momentum), shape[1:], shape[0])
    _, new, _ = case.forward(case.params, case.x, True)
    rows = np.asarray(case.x).reshape(-1, 3)
    old = case.state
    mean = momentum * old["mean"] + (1 - momentum) * rows.mean(0)
    var = momentum * old["var"] + (1 - momentum) * rows.var(0, ddof=1)
    assert_trees_close(new, {"mean": mean, "var": var})


def test_batch_norm_starts_from_mean_0_and_var_1():
    params, state, _ = batch_norm().init(KEY, (2,))
    assert jax.tree.map(lambda a: a.tolist(), (params, state)) == (
        {"gamma": [1, 1], "beta": [0, 0]},
        {"mean": [0, 0], "var": [1, 1]},
    )


def test_batch_norm_evaluates_by_the_averages():
    case = setup(batch_norm(epsilon=1e-3), (3,), 1)  # one row: no statistics needed
    y, state, cache = case.forward(case.params, case.x, False)
    p, s = case.params, case.state
    x_hat = (np.asarray(case.x[0]) - s["mean"]) / np.sqrt(s["var"] + 1e-3)
    assert_close(y[0], p["gamma"] * x_hat + p["beta"])
    assert_trees_close(state, case.state, 0)
    assert isinstance(cache, FixedStats)


def test_cache_type_records_the_mode():
    case = setup(batch_norm(), (3,), 2)
    assert isinstance(case.forward(case.params, case.x, True)[2], BatchStats)


def test_float32_stays_float32():
    net = mlp([3, 4, 2], normalize=True, drop_rate=0.3)
    params, state = jax.tree.map(
        lambda a: jnp.zeros(a.shape, jnp.float32), traced_init(net, (3,))
    )

    def step():
        x = jnp.ones((4, 3), jnp.float32)
        y, new_state, cache = net.forward(params, state, x, key=KEY, train=True)
        return y, new_state, net.backward(cache, y)

    dtypes = {leaf.dtype for leaf in jax.tree.leaves(jax.eval_shape(step))}
    assert dtypes == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("drop_rate", [0.1, 0.3, 0.5, 0.9])
def test_keep_mask_drops_the_rate(drop_rate):
    n = 200_001  # odd: the last word gives one bit only
    keep = np.asarray(keep_mask(KEY, (n,), drop_rate))
    sigma = math.sqrt(drop_rate * (1 - drop_rate) / n)
    assert keep.dtype == bool
    assert abs(keep.mean() - (1 - drop_rate)) < 4.5 * sigma


def test_keep_mask_neighbours_are_independent():
    # two elements come from one random word
    keep = np.asarray(keep_mask(KEY, (200_000,), 0.5)).astype(float)
    for lag in (1, 2):
        correlation = np.corrcoef(keep[:-lag:2], keep[lag::2])[0, 1]
        assert abs(correlation) < 4.5 / math.sqrt(100_000)


def test_keep_mask_of_another_key_is_another():
    one, same, other = (keep_mask(jax.random.key(i), (64,), 0.5) for i in (0, 0, 1))
    assert (one == same).all()
    assert (one != other).any()


@pytest.mark.parametrize("shape", [(0,), (1,), (3, 5), (2, 0, 3)])
def test_keep_mask_of_rate_0_keeps_all(shape):
    keep = keep_mask(KEY, shape, 0.0)
    assert keep.shape == shape
    assert bool(keep.all())


@pytest.mark.parametrize("drop_rate", [0.999, 0.9999, 0.999995, 1 - 2**-30])
def test_keep_mask_near_1_drops_nearly_all(drop_rate):
    assert keep_mask(KEY, (1000,), drop_rate).mean() < 0.01


def test_dropout_keeps_the_expectation():
    n, rate = 200_000, 0.3
    y, _, cache = dropout(rate).forward((), (), jnp.ones((n, 1)), key=KEY, train=True)
    sigma = math.sqrt(rate / (1 - rate) / n)
    assert abs(y.mean() - 1) < 4.5 * sigma
    zero, kept = np.unique(y)
    assert zero == 0
    assert abs(kept * (1 - rate) - 1) < 2**-16  # the rate is drawn to 2^-17
    dx, _ = dropout(rate).backward(cache, jnp.ones((n, 1)))
    assert (dx == y).all()


def test_dropout_does_nothing_at_evaluation():
    x = jnp.ones((3, 2))
    for rate, train in ((0.3, False), (0.0, True)):
        y, _, cache = dropout(rate).forward((), (), x, train=train)
        assert (y == x).all()
        assert dropout(rate).backward(cache, x) == (x, ())


def test_appending_a_layer_leaves_earlier_draws():
    hidden = dense(4, "xavier_uniform")
    first = (hidden, dropout(0.5), hidden, dropout(0.5))
    nets = serial(*first), serial(*first, dropout(0.5), dense(3, "zeros"))

    @jax.jit
    def draws():
        results = []
        for net in nets:
            params, state, _ = net.init(KEY, (4,))
            x = jnp.ones((9, 4))
            caches = net.forward(params, state, x, key=KEY, train=True)[2]
            results.append((params[:4], caches[1], caches[3]))
        return results

    (params, *masks), (more_params, *more_masks) = draws()
    assert_trees_close(more_params, params, 0)
    assert_trees_close(more_masks, masks, 0)
    # equal layers draw differently all the same
    assert (masks[0] != masks[1]).any()
    assert (params[0]["w"] != params[2]["w"]).all()


def test_bias_leaves_the_draw_of_w():
    draws = [dense(3, bias=b).init(KEY, (4,))[0]["w"] for b in (True, False, "normal")]
    assert (draws[0] == draws[1]).all()
    assert (draws[0] == draws[2]).all()


def test_jvp_through_backward_is_the_hessian():
    net = serial(
        dense(3), layers.sigmoid, batch_norm(), layers.softplus, dense(2), tanh
    )
    case = setup(net, (2,), 4)
    target = jnp.asarray(normal(4, 2))
    direction = drawn(case.params, 30)

    def manual_grad(params):
        y, _, cache = case.forward(params, case.x, True)
        return net.backward(cache, losses.mse(y, target)[1])[1]

    def loss(params):
        return losses.mse(case.forward(params, case.x, True)[0], target)[0]

    @jax.jit
    def products(params):
        return [
            jax.jvp(grad, (params,), (direction,))[1]
            for grad in (manual_grad, jax.grad(loss))
        ]

    assert_trees_close(*products(case.params), 1e-11)


def sgd_step(net, params, state, x, key):
    y, state, cache = net.forward(params, state, x, key=key, train=True)
    value, dy = losses.mse(y, jnp.zeros_like(y))
    _, dparams = net.backward(cache, dy)
    return jax.tree.map(lambda p, d: p - 0.1 * d, params, dparams), state, value


@pytest.mark.slow
def test_vmap_over_seeds_equals_a_loop():
    net = mlp([3, 4, 2], init="xavier_uniform", normalize=True, drop_rate=0.3)
    x, keys = jnp.asarray(normal(5, 3)), jax.random.split(KEY, 3)

    def run(key):
        params, state, _ = net.init(key, (3,))
        return sgd_step(net, params, state, x, key)

    together = jax.jit(jax.vmap(run))(keys)
    run = jax.jit(run)
    for i, key in enumerate(keys):
        assert_trees_close(jax.tree.map(lambda a, i=i: a[i], together), run(key))


def test_scan_equals_a_loop():
    net = mlp([3, 4, 2], "tanh", normalize=True, drop_rate=0.3)
    _, params, state, _ = setup(net, (3,), 1)
    batches, keys = jnp.asarray(normal(4, 5, 3)), jax.random.split(KEY, 4)

    def body(carry, batch):
        params, state, value = sgd_step(net, *carry, *batch)
        return (params, state), value

    scanned, values = jax.lax.scan(body, (params, state), (batches, keys))
    step = jax.jit(lambda *args: sgd_step(net, *args))
    looped = []
    for x, key in zip(batches, keys, strict=True):
        params, state, value = step(params, state, x, key)
        looped.append(value)
    assert_trees_close(scanned, (params, state))
    assert_close(values, looped)


def test_backward_costs_no_more_than_autodiff():
    net = mlp([784, 30, 30, 10])
    params, state = traced_init(net, (784,))
    x = jax.ShapeDtypeStruct((32, 784), jnp.float32)
    labels = jax.ShapeDtypeStruct((32,), jnp.int32)

    def manual(params, x, labels):
        logits, _, cache = net.forward(params, state, x, train=True)
        value, dlogits = losses.softmax_cross_entropy(logits, labels)
        dx, dparams = net.backward(cache, dlogits)
        return value, (dparams, dx)

    def auto(params, x, labels):
        def loss(params, x):
            logits, _, _ = net.forward(params, state, x, train=True)
            return losses.softmax_cross_entropy(logits, labels)[0]

        return jax.value_and_grad(loss, (0, 1))(params, x)

    def flops(function, which):
        def chosen(*args):
            value, grads = function(*args)
            return value, grads[which]

        compiled = jax.jit(chosen).lower(params, x, labels).compile()
        return compiled.cost_analysis()["flops"]

    for which in (0, 1):  # training reads dparams, attacks read dx
        assert flops(manual, which) <= 1.01 * flops(auto, which)


SIZES = (200, 50)  # I, O
STD = {
    "normal": 1,
    "he": math.sqrt(2 / 200),
    "lecun": math.sqrt(1 / 200),
    "xavier": math.sqrt(2 / 250),
    "zeros": 0,
}


@pytest.mark.parametrize("name", sorted(set(INITIALIZERS) - {"orthogonal"}))
def test_initialiser_has_its_standard_deviation(name):
    w = np.asarray(dense(SIZES[1], name).init(KEY, SIZES[:1])[0]["w"])
    std = STD[name.split("_")[0]]
    assert w.shape == SIZES
    assert abs(w.mean()) <= 4.5 * std / math.sqrt(w.size)
    assert abs(w.std() - std) <= 4.5 * std / math.sqrt(2 * w.size)
    if name.endswith("uniform"):
        assert abs(w).max() <= math.sqrt(3) * std
    elif name not in ("normal", "zeros"):
        # cut at two sigma of the normal whose spread after the cut is std
        assert 1.7 * std < abs(w).max() <= 2.28 * std


def test_orthogonal_columns_are_orthonormal():
    w = dense(5, "orthogonal").init(KEY, (8,))[0]["w"]
    assert_close(w.T @ w, np.eye(5), 1e-13)


@pytest.mark.parametrize("name", ["he", "lecun", "xavier"])
def test_bare_initialiser_is_the_normal_one(name):
    w, same = (INITIALIZERS[n](KEY, (4, 3), float) for n in (name, f"{name}_normal"))
    assert (w == same).all()


def test_initialiser_may_be_a_function():
    def ones(key, shape, dtype):
        return jnp.ones(shape, dtype)

    params, _, _ = dense(2, ones, bias=ones).init(KEY, (3,))
    assert params["w"].tolist() == [[1, 1]] * 3
    assert params["b"].tolist() == [1, 1]


@pytest.mark.parametrize("name", sorted(INITIALIZERS))
def test_bias_takes_every_initialiser_or_says_which(name):
    try:
        params, _, _ = dense(3, bias=name).init(KEY, (4,))
    except JaxnnError as error:
        assert str(error).startswith("dense(3): ")  # noqa: PT017
    else:
        assert params["b"].shape == (3,)


def ran(layer, in_shape, x_shape, *, train=True, key=KEY, params_of=None):
    """Trace init, then forward of an x of another shape."""

    def forward():
        params, state, _ = (params_of or layer).init(KEY, in_shape)
        layer.forward(params, state, jnp.ones(x_shape), key=key, train=train)

    return jax.eval_shape(forward)


ERRORS = {
    "dense: no units": (lambda: dense(0), r"dense\(0\): width must be at least 1"),
    "dense: unknown initialiser": (
        lambda: dense(3, "hee"),
        r"unknown initialiser 'hee'\. Did you mean 'he'\? Valid names: he, he_normal, "
        r".*orthogonal.*zeros",
    ),
    "dense: unknown bias initialiser": (
        lambda: dense(3, bias="none"),
        r"unknown initialiser 'none'.*Valid names: he, ",
    ),
    "dense: no axis": (
        lambda: dense(3).init(KEY, ()),
        r"dense\(3\): got in_shape=\(\), expected at least one axis",
    ),
    "dense: other features": (
        lambda: ran(dense(128), (512,), (2, 784)),
        r"dense\(128\): input of shape \(2, 784\) has 784 features but w has shape "
        r"\(512, 128\); expected \(batch, 512\)\. Was init called with "
        r"in_shape=\(784,\)\?",
    ),
    "dense: no batch axis": (
        lambda: ran(dense(128), (512,), (512,)),
        r"dense\(128\): input of shape \(512,\)",
    ),
    "dense: a scalar": (lambda: ran(dense(2), (3,), ()), r"dense\(2\): input of shape"),
    "batch_norm: no channels": (
        lambda: batch_norm().init(KEY, ()),
        r"batch_norm: got in_shape=\(\), expected a channel axis",
    ),
    "batch_norm: other channels": (
        lambda: ran(batch_norm(), (3,), (2, 4)),
        r"batch_norm: input of shape \(2, 4\), expected \(batch, \.\.\., 3\)",
    ),
    "batch_norm: one row": (
        lambda: ran(batch_norm(), (3,), (1, 3)),
        r"batch_norm: input of shape \(1, 3\) has 1 row .*expected at least 2.*"
        r"larger batch or train=False",
    ),
    "batch_norm: no rows": (
        lambda: ran(batch_norm(), (3,), (0, 3)),
        r"batch_norm: input of shape \(0, 3\) has 0 row",
    ),
    "dropout: rate 1": (
        lambda: dropout(1),
        r"dropout\(1\): drop_rate is the fraction set to zero, expected 0 <= rate < 1",
    ),
    "dropout: negative rate": (lambda: dropout(-0.1), r"dropout\(-0\.1\): drop_rate"),
    "dropout: not a number": (lambda: dropout(math.nan), r"dropout\(nan\): drop_rate"),
    "dropout: no key": (
        lambda: ran(dropout(0.3), (3,), (2, 3), key=None),
        r"dropout\(0\.3\): got key=None, expected a PRNG key in training",
    ),
    "serial: fewer params": (
        lambda: ran(serial(relu, relu), (3,), (2, 3), params_of=serial(relu)),
        r"serial: got params for 1 layers, expected 2; were they made by another",
    ),
    "serial: fewer states": (
        lambda: serial(relu).forward(((),), (), jnp.ones((2, 3)), train=True),
        r"serial: got state for 0 layers, expected 1",
    ),
    "residual: another shape": (
        lambda: traced_init(residual(dense(3)), (4,)),
        r"residual\(dense\(3\)\): x has shape \(4,\) but inner makes \(3,\)",
    ),
    "mlp: one width": (lambda: mlp([3]), r"mlp: got widths \[3\], expected \[inputs"),
    "mlp: width 0": (
        lambda: mlp([3, 0, 2]),
        r"mlp: got widths \[3, 0, 2\].*at least 1",
    ),
    "mlp: other features": (
        lambda: traced_init(mlp([784, 10]), (28, 27)),
        r"mlp\(\[784, 10\]\): in_shape \(28, 27\) has 756 features, expected "
        r"widths\[0\] = 784",
    ),
    "mlp: other images": (
        lambda: ran(mlp([12, 2]), (4, 3), (5, 4, 4)),
        r"dense\(2\): input of shape \(5, 16\) has 16 features",
    ),
    "mlp: unknown activation": (
        lambda: mlp([3, 2, 1], "rellu"),
        r"unknown activation 'rellu'\. Did you mean 'relu'\? Valid names: leaky_relu, "
        r"relu, sigmoid, softplus, tanh",
    ),
    "mlp: unknown output": (
        lambda: mlp([3, 2], output="argmax"),
        r"unknown \w+ 'argmax'\. Valid names: ",
    ),
    "mlp: rate 1": (lambda: mlp([3, 2, 1], drop_rate=1.0), r"dropout\(1\)"),
}
ANOTHER_NETWORK = {
    "no parameters": (dense(5), relu),
    "no bias": (dense(5), dense(5, bias=False)),
    "too many parameters": (dense(5, bias=False), dense(5)),
    "other width": (dense(128), dense(5)),
    "of a dense layer": (batch_norm(), dense(3)),
}


@pytest.mark.parametrize(("call", "message"), ERRORS.values(), ids=ERRORS)
def test_error_says_where_got_and_expected(call, message):
    with pytest.raises(JaxnnError, match=message):
        call()
    assert issubclass(JaxnnError, ValueError)


@pytest.mark.parametrize(
    ("layer", "other"), ANOTHER_NETWORK.values(), ids=ANOTHER_NETWORK
)
def test_parameters_of_another_network_are_refused(layer, other):
    params, _ = traced_init(serial(other), (3,))
    _, state = traced_init(serial(layer), (3,))
    with pytest.raises(JaxnnError) as caught:
        jax.eval_shape(
            lambda params, state: serial(layer).forward(
                params, state, jnp.ones((2, 3)), key=KEY, train=True
            ),
            params,
            state,
        )
    assert layer.name in str(caught.value)


def test_error_notes_say_which_layer():
    inner = serial(relu, dense(128))
    net = serial(flatten, relu, inner)
    with pytest.raises(JaxnnError, match="784 features") as caught:
        ran(net, (512,), (2, 784))
    assert caught.value.__notes__[:2] == [
        "in layer 1 of serial: dense(128)",
        "in layer 2 of serial: serial(2 layers)",
    ]


def test_error_notes_of_init_say_which_layer():
    with pytest.raises(JaxnnError, match="residual") as caught:
        traced_init(serial(dense(3), residual(dense(4))), (2,))
    assert caught.value.__notes__[:1] == ["in layer 1 of serial: residual(dense(4))"]


def test_train_must_be_given():
    with pytest.raises(TypeError, match="train"):
        relu.forward((), (), jnp.ones(2))


def test_mlp_can_end_in_the_log_softmax_that_nll_wants():
    assert mlp([3, 2], output=layers.log_softmax).parts[-1] is layers.log_softmax
    assert mlp([3, 2], output="log_softmax").parts[-1].name == "log_softmax"


def test_network_names_its_parts():
    net = mlp([4, 3, 2], normalize=True, drop_rate=0.3, output="sigmoid")
    assert net.name == "mlp([4, 3, 2])"
    assert [part.name for part in net.parts] == [
        "flatten",
        "dense(3)",
        "batch_norm",
        "relu",
        "dropout(0.3)",
        "dense(2)",
        "sigmoid",
    ]


def test_no_bias_ahead_of_batch_norm():
    params, _, _ = mlp([4, 3, 2], normalize=True).init(KEY, (4,))
    assert set(params[1]) == {"w"}
    assert set(params[4]) == {"w", "b"}
