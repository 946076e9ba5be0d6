import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import rules
from jaxnn.rules import RULES
from tests.rules.cases import CASES
from tests.rules.common import assert_close, check, inputs, run, vjp_of_reference

ALL = [
    pytest.param(case, id=f"{name}: {case.name}")
    for name, cases in CASES.items()
    for case in cases
]
FIRST = [pytest.param(cases[0], id=name) for name, cases in CASES.items()]


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


def floating(a):
    """Whether it is neither a mask nor indices."""
    return jnp.issubdtype(a.dtype, jnp.floating)


@pytest.mark.parametrize("case", FIRST)
def test_eager_equals_jit(case):
    eager = run(case.rule, *inputs(case))
    jax.tree.map(assert_close, eager, compiled(case.rule.name)[case.name][0])


@pytest.mark.parametrize("case", FIRST)
def test_vmap_equals_loop(case):
    args, dy = inputs(case)

    def variant(a, factor):
        if a.dtype == bool:
            return ~a
        return a * factor if floating(a) else a

    variants = [[variant(a, factor) for a in args] for factor in (1, 1.5, 2)]
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
        return jax.tree.map(lambda a: a.astype(dtype) if floating(a) else a, tree)

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


ARRAY, SHAPE, MASK = ("float64", 12), ("float64", 0), ("bool", 12)
KEPT = {  # the dtypes and sizes of what the docstrings say the cache keeps
    "": "add sub standardize transpose pad upsample",
    (SHAPE,): "flatten mean reshape slice sum",
    (SHAPE, SHAPE): "concatenate",
    (MASK,): "dropout leaky_relu max relu where",
    (MASK, MASK): "maximum minimum",
    (ARRAY,): "abs elu exp gelu log log_softmax selu sigmoid softmax softplus sqrt "
    "square swish tanh",
    (ARRAY, ARRAY): "div mul",
    (ARRAY, ARRAY, ARRAY): "power",
    (ARRAY, ("float64", 1)): "logsumexp",
}
KEPT = {name: list(kept) for kept, names in KEPT.items() for name in names.split()}


@pytest.mark.parametrize("name", KEPT)
def test_cache_holds_no_more_than_documented(name):
    case = CASES[name][0]
    _, cache = case.rule.fwd(*(jnp.asarray(a) for a in case.args))
    assert [(str(a.dtype), a.size) for a in jax.tree.leaves(cache)] == KEPT[name]
