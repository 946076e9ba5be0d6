"""What rules do with NaN, at kinks, at poles and at overflow."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import rules
from jaxnn.rules import RULES
from tests.rules.cases import CASES
from tests.rules.common import normal, run

# y and dx at one place depend on x there, or (the softmaxes) in its row
ELEMENTWISE = [
    *("abs", "add", "div", "dropout", "elu", "exp", "gelu", "leaky_relu", "log"),
    *("log_softmax", "mul", "power", "relu", "selu", "sigmoid", "softmax", "softplus"),
    *("sqrt", "square", "standardize", "sub", "swish", "tanh"),
]


def nan_at(array, where):
    array = np.array(array)
    array[where] = np.nan
    return jnp.asarray(array)


def expected_nans(name, where, shape):
    """Where one NaN may reach: its element, or its row if the rule sums over rows."""
    nans = np.zeros(shape, bool)
    nans[where[:-1] if "softmax" in name else where] = True
    return nans


WHERE = (1, 2)


@functools.cache
def with_nans():
    """(name, i) -> y of a NaN in argument i; name -> cotangents of a NaN in dy.

    One program for all rules.
    """
    inputs, back = {}, {}
    for name in ELEMENTWISE:
        case = CASES[name][0]
        args = [jnp.ones_like(a) if a.dtype == bool else a for a in case.args]
        for i in case.wrt:
            inputs[name, i] = [*args[:i], nan_at(args[i], WHERE), *args[i + 1 :]]
        # Positive inputs, all kept: a unit that is switched off rightly blocks its dy.
        args = [a if a.dtype == bool else abs(a) for a in args]
        back[name] = args, nan_at(np.ones(case.args[0].shape), WHERE)

    @jax.jit
    def program(inputs, back):
        ys = {key: CASES[key[0]][0].rule.fwd(*a)[0] for key, a in inputs.items()}
        ds = {name: run(CASES[name][0].rule, *b)[1] for name, b in back.items()}
        return ys, ds

    return program(inputs, back)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_nan_input_reaches_the_output_and_nan_cotangent_comes_back(name):
    ys, ds = with_nans()
    for i in CASES[name][0].wrt:
        y = ys[name, i]
        np.testing.assert_array_equal(np.isnan(y), expected_nans(name, WHERE, y.shape))
    for d in ds[name]:
        np.testing.assert_array_equal(np.isnan(d), expected_nans(name, WHERE, d.shape))


INF, NAN = np.inf, np.nan
# rule, arguments, dy -> y, cotangents (None: no derivative)
EDGES = {
    # no closed gate: the mask of a NaN lets dy through
    "relu of a NaN": (rules.relu, [NAN], 2, NAN, [2]),
    "leaky_relu of a NaN": (rules.leaky_relu(0.2), [NAN], 2, NAN, [2]),
    "relu at 0": (rules.relu, [0], 1, 0, [0]),
    "leaky_relu at 0": (rules.leaky_relu(0.2), [0], 1, 0, [1]),
    "leaky_relu at -0": (rules.leaky_relu(0.2), [-0.0], 1, 0, [1]),
    "sqrt at 0": (rules.sqrt, [0], 2, 0, [INF]),
    "sqrt below 0": (rules.sqrt, [-1], 1, NAN, [NAN]),
    "log at 0": (rules.log, [0], -2, -INF, [-INF]),
    "log below 0": (rules.log, [-2], 1, NAN, [-0.5]),
    "exp overflows": (rules.exp, [1000], 2, INF, [INF]),
    "exp underflows": (rules.exp, [-1000], 2, 0, [0]),
    "abs at 0": (rules.abs, [0], 2, 0, [0]),
    "abs at -0": (rules.abs, [-0.0], 2, 0, [0]),
    "1 / 0": (rules.div, [1, 0], 2, INF, [INF, -INF]),
    "0 / 0": (rules.div, [0, 0], 2, NAN, [INF, NAN]),
    "large / large": (rules.div, [1e30, 1e30], 1e30, 1, [1, -1]),
    "0 ** 0": (rules.power, [0, 0], 2, 1, [0, 0]),
    "0 ** 1/2": (rules.power, [0, 0.5], 2, 0, [INF, 0]),
    "0 ** 1": (rules.power, [0, 1], 2, 0, [2, 0]),
    "0 ** 2": (rules.power, [0, 2], 2, 0, [0, 0]),
    "0 ** -1": (rules.power, [0, -1], 2, INF, [-INF, -INF]),
    "-2 ** 3": (rules.power, [-2, 3], 1, -8, [12, NAN]),
    "-2 ** 1/2": (rules.power, [-2, 0.5], 1, NAN, [NAN, NAN]),
    "maximum of a NaN": (rules.maximum, [NAN, 1], 2, NAN, [2, 0]),
    "maximum with a NaN": (rules.maximum, [1, NAN], 2, NAN, [0, 2]),
    "maximum of NaNs": (rules.maximum, [NAN, NAN], 2, NAN, [0, 2]),
    "maximum of 0 and -0": (rules.maximum, [0.0, -0.0], 2, 0, [1, 1]),
    "maximum of inf": (rules.maximum, [INF, INF], 2, INF, [1, 1]),
    "minimum of a NaN": (rules.minimum, [NAN, 1], 2, NAN, [2, 0]),
    "minimum with a NaN": (rules.minimum, [1, NAN], 2, NAN, [0, 2]),
    "where, a not taken": (rules.where, [False, NAN, 1], 2, 1, [None, 0, 2]),
    "where, b not taken": (rules.where, [True, 1, INF], 2, 1, [None, 2, 0]),
    "where, NaN taken": (rules.where, [True, NAN, 1], 2, NAN, [None, 2, 0]),
    "max with a NaN": (rules.max(), [[1, NAN, 3]], 2, NAN, [[0, 2, 0]]),
    "max of a tie": (rules.max(), [[3, 1, 3, 3]], 3, 3, [[1, 0, 1, 1]]),
    "max of -inf": (rules.max(), [[-INF, -INF]], 2, -INF, [[1, 1]]),
    "logsumexp of -inf": (rules.logsumexp(), [[-INF, -INF]], 2, -INF, [[0, 0]]),
    "logsumexp of inf": (rules.logsumexp(), [[INF, 1]], 2, INF, [[NAN, 0]]),
    "logsumexp of a NaN": (rules.logsumexp(), [[NAN, 1]], 2, NAN, [[NAN, NAN]]),
    "logsumexp of nothing": (rules.logsumexp(), [[]], 2, -INF, [[]]),
    "sum of nothing": (rules.sum(), [[]], 2, 0, [[]]),
    "mean of nothing": (rules.mean(), [[]], 2, NAN, [[]]),
    "softmax, masked": (rules.softmax, [[-INF, 5, 5]], [1, 2, 3],
        [0, 0.5, 0.5], [[0, -0.25, 0.25]]),
    "softmax, all masked": (
        rules.softmax, [[-INF] * 2], [1, 2], [NAN] * 2, [[NAN] * 2]),
    "log_softmax, all masked": (
        rules.log_softmax, [[-INF] * 2], [1, 2], [NAN] * 2, [[NAN] * 2]),
    "log_softmax, far apart": (rules.log_softmax, [[-1e4, 0, 1e4]], [1, 1, 1],
        [-2e4, -1e4, 0], [[1, 1, -2]]),
    "softplus far below": (rules.softplus, [-1e4], 2, 0, [0]),
    "softplus at 0": (rules.softplus, [0], 2, np.log(2), [1]),
    "softplus far above": (rules.softplus, [1e4], 2, 1e4, [2]),
    "elu at 0": (rules.elu(0.25), [0], 2, 0, [0.5]),
    "elu far below": (rules.elu(0.25), [-800], 2, -0.25, [0]),
    "elu far above": (rules.elu(0.25), [800], 2, 800, [2]),
    "elu of -inf": (rules.elu(0.25), [-INF], 2, -0.25, [0]),
    "selu at 0": (rules.selu, [0], 1, 0, [1.7580993408473766]),
    "gelu far below": (rules.gelu(), [-800], 2, 0, [0]),
    "gelu far above": (rules.gelu(), [800], 2, 800, [2]),
    "gelu of the largest": (rules.gelu(), [-1e38], 2, 0, [0]),
    "gelu tanh far below": (rules.gelu(True), [-800], 2, 0, [0]),
    "gelu tanh far above": (rules.gelu(True), [800], 2, 800, [2]),
    "gelu tanh of the largest": (rules.gelu(True), [1e38], 2, 1e38, [2]),
    "swish far below": (rules.swish(), [-800], 2, 0, [0]),
    "swish far above": (rules.swish(), [800], 2, 800, [2]),
    "swish of the largest": (rules.swish(2.0), [-1e38], 2, 0, [0]),
}  # fmt: skip


def arrays(tree, dtype):
    """Numbers and lists as arrays; a bool stays one."""
    return [jnp.asarray(a, None if isinstance(a, bool) else dtype) for a in tree]


@functools.cache
def edges(dtype):
    """Name -> y and cotangents: one program for all."""

    @jax.jit
    def program(everything):
        results = {}
        for name, (args, dy) in everything.items():
            y, cache = EDGES[name][0].fwd(*args)
            results[name] = y, EDGES[name][0].bwd(cache, dy)
        return results

    return program({
        name: (arrays(args, dtype), jnp.asarray(dy, dtype))
        for name, (_, args, dy, *_) in EDGES.items()
    })  # fmt: skip


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
@pytest.mark.parametrize("name", EDGES)
def test_value_and_slope_at_the_edge(name, dtype):
    y, cotangents = edges(dtype)[name]
    _, args, _, want_y, wants = EDGES[name]
    near = {"rtol": 1e-2 if dtype == "bfloat16" else 1e-6}
    assert y.dtype == dtype
    np.testing.assert_allclose(np.asarray(y, float), want_y, **near)
    assert len(cotangents) == len(args) == len(wants)
    for d, want in zip(cotangents, wants, strict=True):
        if want is None:
            assert d is None
        else:
            assert d.dtype == dtype
            np.testing.assert_allclose(np.asarray(d, float), want, **near)


HUGE = {"float64": 1e300, "float32": 1e38, "float16": 6e4, "bfloat16": 1e38}
WIDTHS = [
    d if d in ("float32", "float16") else pytest.param(d, marks=pytest.mark.slow)
    for d in HUGE
]


def extremes(big):
    """Rule, arguments: no value is NaN and every cotangent finite."""
    x, score, value = [[big, -big, 0.0]], [[[big**0.4] * 2] * 2], [[[1.0, 2.0]] * 2]
    same, ones, zeros = [[2.0, 2.0, 2.0]], [1.0] * 3, [0.0] * 3
    return [
        *((RULES[name], [x]) for name in (
            "softmax", "sigmoid", "tanh", "softplus", "elu", "gelu", "swish", "relu")),
        (rules.log_softmax, [[[big / 4, 0.0, big / 4]]]),
        (rules.selu, [[[big / 2, -big, 0.0]]]),
        (rules.logsumexp(-1), [x]),
        (rules.batch_norm(), [[[1.0, 2.0, 3.0]] * 4, ones, zeros]),  # no variance
        (rules.layer_norm(), [same, ones, zeros]),
        (rules.group_norm(1), [same, ones, zeros]),
        (rules.where, [[[True, False]], [[1.0, NAN]], [[NAN, 1.0]]]),
        (rules.attention(), [score, score, value]),
        (rules.attention(), [*[value] * 3, [[False, False]] * 2]),  # sees nothing
    ]  # fmt: skip


@pytest.mark.parametrize("dtype", WIDTHS)
def test_extremes_are_finite_both_ways(dtype):
    table = extremes(HUGE[dtype])

    def one(a):
        a = jnp.asarray(a)
        return a if a.dtype == bool else a.astype(dtype)

    @jax.jit
    def program(given):
        made = []
        for (rule, _), args in zip(table, given, strict=True):
            y, cache = rule.fwd(*args)
            made.append((y, rule.bwd(cache, jnp.ones_like(y))))
        return made

    made = program([[one(a) for a in args] for _, args in table])
    for (rule, _), (y, cotangents) in zip(table, made, strict=True):
        assert not np.isnan(np.asarray(y, float)).any(), rule.name
        for d in jax.tree.leaves(cotangents):
            assert np.isfinite(np.asarray(d, float)).all(), rule.name


def test_an_unused_output_sends_nothing_back_but_a_nan_does_come():
    # "nothing comes back where dy is 0" must not take a NaN for a 0
    values, poles = np.array([-1.0, 0, 2, -INF, INF, NAN]), jnp.array([0.0, 1.0, 1000])
    pairs = [a.reshape(-1) for a in np.meshgrid(values, values)]

    @jax.jit
    def program(values, pairs):
        unused = {
            name: run(RULES[name], args, jnp.zeros_like(args[0]))[1]
            for names, args in (
                ("abs exp log sqrt square", [values]),
                ("add div maximum minimum mul power sub", pairs),
            )
            for name in names.split()
        }
        bad = [run(RULES[name], [poles], jnp.full(3, NAN))[1][0]
               for name in ("exp", "log", "sqrt", "square")]  # fmt: skip
        return unused, bad

    unused, bad = program(jnp.asarray(values), list(map(jnp.asarray, pairs)))
    assert not [name for name, ds in unused.items() if any(d.any() for d in ds)]
    assert np.isnan(bad).all()


@pytest.mark.parametrize("inner", [rules.log, rules.sqrt, rules.mul, rules.power])
def test_what_where_puts_aside_sends_no_nan_back(inner):
    # where(x > 0, log x, 0): autodiff needs the "double where" for this
    def chain(x, dy):
        args = (x,) if inner in (rules.log, rules.sqrt) else (x, x)
        y, cache = inner.fwd(*args)
        y, outer_cache = rules.where.fwd(x > 0, y, jnp.zeros_like(x))
        _, d, _ = rules.where.bwd(outer_cache, dy)
        return y, inner.bwd(cache, d)

    x = jnp.array([0.0, -1.0, 2.0, NAN])
    y, cotangents = jax.jit(chain)(x, jnp.full(4, 3.0))
    assert np.isfinite(y).all()
    for d in cotangents:
        assert np.isfinite(d).all()
        assert (d != 0).tolist() == [False, False, True, False]


def test_abs_disagrees_with_jax_at_0_only():
    x = jnp.array([-1.0, 0.0, 2.0])
    ours = run(rules.abs, [x], jnp.ones(3))[1][0]
    assert ours.tolist() == [-1, 0, 1]
    assert jax.vmap(jax.grad(jnp.abs))(x).tolist() == [-1, 1, 1]


@pytest.mark.parametrize("name", ["maximum", "minimum"])
@pytest.mark.parametrize("n", [1, 3, 64, 1000])
def test_no_length_of_vector_swallows_a_nan(name, n):
    # the CPU's vector instructions for min and max would
    for i in {0, n // 2, n - 1}:
        x = nan_at(normal(n), i)
        for args in [(x, jnp.ones(n)), (jnp.ones(n), x)]:
            y = jax.jit(RULES[name].fwd)(*args)[0]
            assert np.flatnonzero(np.isnan(y)).tolist() == [i]
        assert np.isnan(jax.jit(rules.max().fwd)(x)[0])
        assert np.isnan(jax.jit(rules.logsumexp().fwd)(x)[0])


ARITHMETIC = ["add", "sub", "mul", "div", "maximum", "minimum", "power"]


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
@pytest.mark.parametrize("name", ARITHMETIC)
def test_numbers_stand_for_arrays(name, dtype):
    for number, place in itertools.product((2, 2.0), (0, 1)):

        def both(x, number=number, place=place):
            y, cache = RULES[name].fwd(*((x, number) if place else (number, x)))
            return y, RULES[name].bwd(cache, y)

        y, ds = jax.eval_shape(both, jnp.ones((1, 3), dtype))
        assert (y.dtype, ds[1 - place].dtype, ds[1 - place].shape) == (
            dtype, dtype, (1, 3),
        )  # fmt: skip
        if isinstance(number, int):
            assert ds[place] is None
        else:
            assert (ds[place].shape, ds[place].dtype) == ((), jnp.dtype(float))


@pytest.mark.parametrize("name", [*ARITHMETIC, "where"])
def test_cotangents_have_the_dtypes_of_their_arguments(name):
    args = [jnp.ones((2, 3), jnp.bfloat16), jnp.ones(3, jnp.float32)]
    args = [jnp.array([True, False, True])] * (name == "where") + args
    dy = jnp.ones((2, 3), jnp.float32)
    y, ds = jax.eval_shape(lambda *args: run(RULES[name], args, dy), *args)
    assert y.dtype == jnp.float32
    for arg, d in zip(args[-2:], ds, strict=True):
        assert (d.shape, d.dtype) == (arg.shape, arg.dtype)


def test_bfloat16_sums_of_a_broadcast_are_kept_in_float32():
    # a bfloat16 sum of ones would stop at 256
    _, cache = rules.add.fwd(
        jnp.ones((4096, 2), jnp.bfloat16), jnp.ones(2, jnp.bfloat16)
    )
    _, db = rules.add.bwd(cache, jnp.ones((4096, 2), jnp.bfloat16))
    assert db.tolist() == [4096, 4096]


def test_the_middle_of_an_enlarged_element_has_no_share_of_its_neighbors():
    # not even 0 times a NaN
    rule, at = rules.upsample(3, "linear"), jnp.arange(9).reshape(1, 9, 1)
    y, cache = rule.fwd(jnp.array([[[0.0], [NAN], [0.0]]]))
    assert np.flatnonzero(np.isnan(y)).tolist() == [2, 3, 4, 5, 6]
    (dx,) = rule.bwd(cache, jnp.where(at == 4, NAN, 0))
    assert np.flatnonzero(np.isnan(dx)).tolist() == [1]
