import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnn import rules
from jaxnn.rules import RULES
from tests.rules.cases import CASES, ELEMENTWISE, assert_close, cotangent

ALL = [
    pytest.param(case, id=f"{name}: {case.name}")
    for name, cases in CASES.items()
    for case in cases
]
FIRST = [pytest.param(cases[0], id=name) for name, cases in CASES.items()]


def run(rule, args, dy):
    """y and the cotangents of the arguments that have one."""
    y, cache = rule.fwd(*args)
    return y, tuple(d for d in rule.bwd(cache, dy) if d is not None)


def vjp_of_reference(case, args, dy):
    """y and the cotangents, by `jax.vjp` of the case's reference."""

    def reference(*inputs):
        everything = list(args)
        for i, value in zip(case.wrt, inputs, strict=True):
            everything[i] = value
        return case.reference(*everything)

    y, pull_back = jax.vjp(reference, *(args[i] for i in case.wrt))
    return y, pull_back(dy)


def inputs(case):
    args = [jnp.asarray(arg) for arg in case.args]
    return args, jnp.asarray(cotangent(case, jax.eval_shape(case.rule.fwd, *args)[0]))


@functools.cache
def compiled(name):
    """Case -> (by rule, by reference), in one program: compiling is what takes time."""
    cases = CASES[name]

    def all_cases(everything):
        return [
            (run(case.rule, *each), vjp_of_reference(case, *each))
            for case, each in zip(cases, everything, strict=True)
        ]

    results = jax.jit(all_cases)([inputs(case) for case in cases])
    return {case.name: r for case, r in zip(cases, results, strict=True)}


def check(got, want):
    """The forward value, and every cotangent, of a rule and of its reference."""
    (y, cotangents), (want_y, want_cotangents) = got, want
    assert_close(y, want_y)
    assert len(cotangents) == len(want_cotangents)
    for d, want_d in zip(cotangents, want_cotangents, strict=True):
        assert_close(d, want_d)


@pytest.mark.parametrize("case", ALL)
def test_rule_equals_vjp_of_its_reference(case):
    check(*compiled(case.rule.name)[case.name])


def test_every_rule_has_cases():
    assert set(CASES) == set(RULES)


@pytest.mark.parametrize("name", RULES)
def test_rule_carries_the_name_it_is_found_by(name):
    assert RULES[name].name == name
    assert {case.rule.name for case in CASES[name]} == {name}


@pytest.mark.parametrize("case", ALL)
def test_one_cotangent_an_argument_none_without_derivative(case):
    args, dy = inputs(case)
    cotangents = jax.eval_shape(lambda: case.rule.bwd(case.rule.fwd(*args)[1], dy))
    assert isinstance(cotangents, tuple)
    assert len(cotangents) == len(args)
    for i, (arg, d) in enumerate(zip(args, cotangents, strict=True)):
        if i in case.wrt:
            assert (d.shape, d.dtype) == (arg.shape, arg.dtype)
        else:
            assert d is None


MUTANTS = {
    "negated": lambda d: -d,
    "one percent too large": lambda d: 1.01 * d,
    "zeroed": jnp.zeros_like,
    "one element off": lambda d: d.at[(-1,) * d.ndim].add(1e-9 * abs(d).max()),
}


@pytest.mark.parametrize("mutant", MUTANTS)
@pytest.mark.parametrize("case", FIRST)
def test_checker_fails_a_mutant_of_each_cotangent(case, mutant):
    for i in case.wrt:

        def bwd(cache, dy, i=i):
            cotangents = list(case.rule.bwd(cache, dy))
            cotangents[i] = MUTANTS[mutant](cotangents[i])
            return tuple(cotangents)

        mutant_rule = case.rule._replace(bwd=bwd)
        with pytest.raises(AssertionError, match="Not equal to tolerance"):
            check(
                run(mutant_rule, *inputs(case)), compiled(case.rule.name)[case.name][1]
            )


@pytest.mark.parametrize("case", FIRST)
def test_checker_fails_a_mutant_of_the_forward(case):
    (y, cotangents), want = compiled(case.rule.name)[case.name]
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check((y * (1 + 1e-9), cotangents), want)


@pytest.mark.parametrize("case", [p for p in FIRST if len(p.values[0].wrt) > 1])
def test_checker_fails_exchanged_cotangents(case):
    (y, cotangents), want = compiled(case.rule.name)[case.name]
    if case.rule.name == "add":  # both are dy
        check((y, cotangents[::-1]), want)
    else:
        with pytest.raises(AssertionError):
            check((y, cotangents[::-1]), want)


def nan_at(array, where):
    array = np.array(array)
    array[where] = np.nan
    return jnp.asarray(array)


def expected_nans(name, where, shape):
    """Where one NaN may reach: its element, or its row if the rule sums over rows."""
    nans = np.zeros(shape, bool)
    nans[where[:-1] if name == "log_softmax" else where] = True
    return nans


@pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_nan_input_reaches_the_output(name, jitted):
    case, where = CASES[name][0], (1, 2)
    fwd = jax.jit(case.rule.fwd) if jitted else case.rule.fwd
    for i in case.wrt:
        args = [jnp.ones_like(a) if a.dtype == bool else a for a in case.args]
        args[i] = nan_at(args[i], where)
        y = fwd(*args)[0]
        np.testing.assert_array_equal(
            np.isnan(y), expected_nans(name, where, case.args[i].shape)
        )


@pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_nan_cotangent_comes_back(name, jitted):
    case, where = CASES[name][0], (1, 2)
    # Positive inputs, all kept: a unit that is switched off rightly blocks its dy.
    args = [jnp.ones_like(a) if a.dtype == bool else abs(a) for a in case.args]
    dy = nan_at(np.ones(case.args[0].shape), where)

    def cotangents(args, dy):
        return run(case.rule, args, dy)[1]

    for d in (jax.jit(cotangents) if jitted else cotangents)(args, dy):
        want = expected_nans(name, where, d.shape)
        np.testing.assert_array_equal(np.isnan(d), want)


@pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("name", ["relu", "leaky_relu"])
def test_nan_input_is_no_closed_gate(name, jitted):
    # The mask of a NaN lets dy through, whichever way the comparison is compiled.
    rule, x = RULES[name], jnp.array([[np.nan, -1.0, 1.0]])

    def dx(x):
        return run(rule, (x,), jnp.full_like(x, np.nan))[1][0]

    assert np.isnan((jax.jit(dx) if jitted else dx)(x))[0, 0]


def test_relu_is_flat_at_its_kink():
    x = jnp.zeros((1, 3))
    assert run(rules.relu, (x,), jnp.ones_like(x))[1][0].tolist() == [[0, 0, 0]]


def test_leaky_relu_has_slope_one_at_its_kink():
    x = jnp.array([[0.0, -0.0]])
    leaky = rules.leaky_relu(0.2)
    assert run(leaky, (x,), jnp.ones_like(x))[1][0].tolist() == [[1, 1]]


@pytest.mark.parametrize("case", FIRST)
def test_eager_equals_jit(case):
    eager = run(case.rule, *inputs(case))
    jax.tree.map(assert_close, eager, compiled(case.rule.name)[case.name][0])


@pytest.mark.parametrize("case", FIRST)
def test_vmap_equals_loop(case):
    args, dy = inputs(case)
    variants = [
        [~a if a.dtype == bool else a * factor for a in args] for factor in (1, 1.5, 2)
    ]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *variants)
    together = jax.jit(jax.vmap(lambda args: run(case.rule, args, dy)))(stacked)
    for i, each in enumerate(variants):
        member = jax.tree.map(lambda a, i=i: a[i], together)
        jax.tree.map(assert_close, member, run(case.rule, each, dy))


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(jnp.float32, 2e-6), (jnp.bfloat16, 3e-2)]
)
@pytest.mark.parametrize("case", FIRST)
def test_narrow_floats_stay_narrow(case, dtype, tolerance):
    def cast(tree):
        return jax.tree.map(lambda a: a if a.dtype == bool else a.astype(dtype), tree)

    args, dy = cast(inputs(case))
    y, cotangents = jax.jit(lambda args, dy: run(case.rule, args, dy))(args, dy)
    assert y.dtype == dtype
    assert {d.dtype for d in cotangents} == {jnp.dtype(dtype)}
    want = compiled(case.rule.name)[case.name][0]
    jax.tree.map(lambda g, w: assert_close(g, w, tolerance), (y, cotangents), want)


def test_batch_norm_keeps_its_digits_far_from_zero():
    # E[x^2] - E[x]^2 has no correct digit here in float32
    x = jnp.asarray(3000 + np.linspace(-1, 1, 64)[:, None], jnp.float32)  # (64, 1)
    ones = jnp.ones(1, jnp.float32)
    _, cache = rules.batch_norm().fwd(x, ones, ones)
    want = np.asarray(x, np.float64).var(0)
    np.testing.assert_allclose(cache.var, want, rtol=1e-4)


def test_batch_norm_sums_bfloat16_in_float32():
    # bfloat16 sums of ones stop growing at 256
    x = jnp.ones((1024, 2), jnp.bfloat16)
    ones = jnp.ones(2, jnp.bfloat16)
    _, cache = rules.batch_norm().fwd(x, ones, ones)
    assert cache.mean.dtype == jnp.float32
    assert cache.mean.tolist() == [1, 1]


KEPT = {  # the dtypes and sizes of what the docstrings say the cache keeps
    "add": [],
    "dropout": [("bool", 12)],
    "flatten": [("float64", 0)],
    "leaky_relu": [("bool", 12)],
    "log_softmax": [("float64", 12)],
    "relu": [("bool", 12)],
    "sigmoid": [("float64", 12)],
    "softplus": [("float64", 12)],
    "standardize": [],
    "tanh": [("float64", 12)],
}


@pytest.mark.parametrize("name", KEPT)
def test_cache_holds_no_more_than_documented(name):
    case = CASES[name][0]
    _, cache = case.rule.fwd(*(jnp.asarray(a) for a in case.args))
    assert [(str(a.dtype), a.size) for a in jax.tree.leaves(cache)] == KEPT[name]


UNARY = [
    cases[0]
    for name, cases in CASES.items()
    if name in ELEMENTWISE and len(cases[0].args) == 1
]


@jax.jit
def every_unary_rule(x, dy):
    return [(run(c.rule, [x], dy), vjp_of_reference(c, [x], dy)) for c in UNARY]


LEVELS = st.floats(-1e6, 1e6, allow_subnormal=False)


@settings(max_examples=30)
@given(
    x=st.lists(LEVELS, min_size=4, max_size=4),
    dy=st.lists(LEVELS, min_size=4, max_size=4),
)
def test_elementwise_rules_equal_vjp_anywhere(x, dy):
    for got, want in every_unary_rule(jnp.array(x), jnp.array(dy)):
        check(got, want)
