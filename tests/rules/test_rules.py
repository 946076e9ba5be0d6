"""Every rule against `jax.vjp` of a reference written another way, in one harness."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import rules
from jaxnn.rules import RULES
from jaxnn.rules.products import few_outputs
from tests.rules.cases import CASES
from tests.rules.cases_elementwise import PAIRS
from tests.rules.common import (
    SHAPES,
    assert_close,
    check,
    inputs,
    run,
    vjp_of_reference,
)

ALL = [
    pytest.param(case, id=f"{name}: {case.name}")
    for name, cases in CASES.items()
    for case in cases
]
FIRST = [pytest.param(cases[0], id=name) for name, cases in CASES.items()]
NARROW = {"float32": 2e-6, "bfloat16": 3e-2}


@functools.cache
def compiled(name):
    """Case -> what the rule gives (None too), and by vjp: a program for each rule."""

    def all_cases(everything):
        results = []
        for case, (args, dy) in zip(CASES[name], everything, strict=True):
            y, cache = case.rule.fwd(*args)
            by_vjp = vjp_of_reference(case, args, dy)
            results.append((y, case.rule.bwd(cache, dy), by_vjp))
        return results

    results = jax.jit(all_cases)([inputs(case) for case in CASES[name]])
    return {case.name: r for case, r in zip(CASES[name], results, strict=True)}


def by_rule(case):
    """y and the cotangents that are not None."""
    y, cotangents, _ = compiled(case.rule.name)[case.name]
    return y, tuple(d for d in cotangents if d is not None)


def by_vjp(case):
    return compiled(case.rule.name)[case.name][2]


@pytest.mark.parametrize("case", ALL)
def test_rule_equals_vjp_of_its_reference(case):
    check(by_rule(case), by_vjp(case))
    _, cotangents, _ = compiled(case.rule.name)[case.name]
    assert isinstance(cotangents, tuple)
    for i, (arg, d) in enumerate(zip(case.args, cotangents, strict=True)):
        assert (d is not None) == (i in case.wrt)
        assert d is None or (d.shape, d.dtype) == (arg.shape, arg.dtype)


def test_every_rule_has_cases_and_its_name():
    assert set(CASES) == set(RULES)
    for name, rule in RULES.items():
        assert {name} == {rule.name, *(case.rule.name for case in CASES[name])}


PLAIN = "shapes (3, 4) and (3, 4)"


@pytest.mark.parametrize(
    "case", [p for p in FIRST if p.values[0].name in ("any shape", PLAIN)]
)
def test_rules_of_elements_take_any_shape(case):
    for given in PAIRS if case.name == PLAIN else zip(SHAPES, SHAPES, strict=True):
        args = [
            jax.ShapeDtypeStruct(shape, a.dtype)
            for shape, a in zip(given, case.args, strict=False)
        ]
        y, cotangents = jax.eval_shape(
            lambda *args: run(case.rule, args, case.rule.fwd(*args)[0]), *args
        )
        assert y.shape == np.broadcast_shapes(*(a.shape for a in args))
        assert [d.shape for d in cotangents] == [args[i].shape for i in case.wrt]


MUTANTS = {
    "negated": lambda d: -d,
    "one percent too large": lambda d: 1.01 * d,
    "zeroed": lambda d: 0 * d,
    "one element off": lambda d: d + 1e-9 * abs(d).max() * (np.arange(d.size) == 0)
    .reshape(d.shape),
}  # fmt: skip


@pytest.mark.parametrize("mutant", MUTANTS)
@pytest.mark.parametrize("case", FIRST)
def test_checker_fails_a_mutant_of_each_cotangent(case, mutant):
    y, cotangents = by_rule(case)
    for i, d in enumerate(cotangents):
        wrong = (*cotangents[:i], MUTANTS[mutant](np.asarray(d)), *cotangents[i + 1 :])
        with pytest.raises(AssertionError, match="Not equal to tolerance"):
            check((y, wrong), by_vjp(case))


@pytest.mark.parametrize("case", FIRST)
def test_checker_fails_a_mutant_of_the_forward_and_exchanged_cotangents(case):
    y, cotangents = by_rule(case)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check((np.asarray(y) * (1 + 1e-9), cotangents), by_vjp(case))
    if case.rule.name != "add" and len(cotangents) > 1:  # of add both are dy
        with pytest.raises(AssertionError):
            check((y, cotangents[::-1]), by_vjp(case))


@pytest.mark.parametrize("name", ["affine", "attention", "lstm", "max_pool", "power"])
def test_eager_equals_jit(name):
    case = CASES[name][0]
    eager = run.__wrapped__(case.rule, *inputs(case))
    jax.tree.map(assert_close, eager, by_rule(case))


@functools.cache
def narrow():
    """(name, dtype) -> what the rule gives in that type: one program for all."""

    def all_rules(everything):
        return {
            key: run(CASES[key[0]][0].rule, args, dy)
            for key, (args, dy) in everything.items()
        }

    def cast(a, dtype):
        return a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a

    given = {
        (name, dtype): jax.tree.map(functools.partial(cast, dtype=dtype), inputs(case))
        for name, (case, *_) in CASES.items()
        for dtype in NARROW
    }
    return jax.jit(all_rules)(given)


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("case", FIRST)
def test_narrow_floats_stay_narrow(case, dtype):
    y, cotangents = narrow()[case.rule.name, dtype]
    assert {str(a.dtype) for a in (y, *cotangents)} == {dtype}
    for got, want in zip((y, *cotangents), jax.tree.leaves(by_rule(case)), strict=True):
        assert_close(got, want, NARROW[dtype])


@pytest.mark.parametrize("rule", [rules.layer_norm(), rules.group_norm(1)])
def test_norms_keep_their_digits_far_from_zero(rule):
    # E[x^2] - E[x]^2 has no correct digit here in float32
    x = jnp.asarray(3000 + np.linspace(-1, 1, 64)[None], jnp.float32)  # (1, 64)
    wide, ones = np.asarray(x, np.float64), jnp.ones(64, jnp.float32)
    want = (wide - wide.mean()) / np.sqrt(wide.var() + 1e-5)
    assert_close(rule.fwd(x, ones, 0 * ones)[0], want, 1e-3)
    _, cache = rules.batch_norm().fwd(x.T, ones[:1], ones[:1])
    np.testing.assert_allclose(cache.var, [wide.var()], rtol=1e-4)


def test_batch_norm_sums_bfloat16_in_float32():
    # bfloat16 sums of ones stop growing at 256
    x, ones = jnp.ones((1024, 2), jnp.bfloat16), jnp.ones(2, jnp.bfloat16)
    _, cache = rules.batch_norm().fwd(x, ones, ones)
    assert cache.mean.dtype == jnp.float32
    assert cache.mean.tolist() == [1, 1]


ARRAY, SHAPE, MASK = ("float64", 12), ("float64", 0), ("bool", 12)
KEPT = {  # the dtypes and sizes of what the docstrings say the cache keeps
    "": "add sub standardize transpose pad upsample add_bias",
    (SHAPE,): "flatten mean reshape slice sum avg_pool global_avg_pool",
    (SHAPE, SHAPE): "concatenate",
    (MASK,): "dropout leaky_relu max relu where",
    (MASK, MASK): "maximum minimum",
    (ARRAY,): "abs elu exp gelu log log_softmax selu sigmoid softmax softplus sqrt "
    "square swish tanh",
    (ARRAY, ARRAY): "div mul",
    (ARRAY, ARRAY, ARRAY): "power",
    (ARRAY, ("float64", 1)): "logsumexp",
    (("uint8", 36), SHAPE): "max_pool",
    (("int32", 4), SHAPE): "global_max_pool",
    (("float64", 120), ("float64", 54)): "conv",
    (("float64", 48), ("float64", 54)): "conv_transpose",
}
KEPT = {name: list(kept) for kept, names in KEPT.items() for name in names.split()}


@pytest.mark.parametrize("name", KEPT)
def test_cache_holds_no_more_than_documented(name):
    case = CASES[name][0]
    _, cache = jax.eval_shape(case.rule.fwd, *(jnp.asarray(a) for a in case.args))
    assert [(str(a.dtype), a.size) for a in jax.tree.leaves(cache)] == KEPT[name]


def test_weights_of_up_to_64_outputs_lie_transposed_if_they_have_more_inputs():
    sizes = (100, 64), (100, 65), (64, 64), (65, 64)
    assert [few_outputs(*size) for size in sizes] == [True, False, False, True]
