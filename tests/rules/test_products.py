"""Mixed precision: operands of products in bfloat16, sums and all else in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxnn import rules
from jaxnn.environment import fast_bfloat16
from jaxnn.rules import conv_cpu, linear, products, recurrent
from jaxnn.rules.products import policy
from tests.rules.cases import CASES
from tests.rules.common import assert_close, inputs, run

NAMES = (
    "affine", "matmul", "einsum", "conv", "conv_transpose", "attention", "rnn", "lstm",
    "gru",
)  # fmt: skip
ONE_PRODUCT = NAMES[:5]  # of the others one product rounds what another made
MORE = {
    *("stride 2", "2 groups", "one channel", "sequence, stride, dilation"),
    "...ij,...jk->...ik of (3, 2, 3, 4) and (2, 4, 5)",
}
ALL = [
    (name, i)
    for name in NAMES
    for i, case in enumerate(CASES[name])
    if i == 0 or case.name in MORE
]
HALF = 2**-8  # what rounding to bfloat16 is off by, of the largest value


def narrow(a):
    return a.astype(jnp.float32) if jnp.issubdtype(a.dtype, jnp.floating) else a


def all_cases(precision, seeds=None):
    """What every case gives: alone, or of many seeds that share some arguments."""

    def one(case, args, dy):
        return run(case.rule, args, dy)

    def everything(given):
        with policy(precision=precision):
            found = {}
            for (name, i), (args, dy) in given.items():
                case = CASES[name][i]
                if seeds is None:
                    found[name, i] = one(case, args, dy)
                    continue
                many = [jnp.stack([a] * 3, seeds) for a in args]
                axes = [seeds] * len(args)
                many[0], axes[0] = args[0], None
                by_seed = jax.vmap(
                    lambda *a, c=case: one(c, a[:-1], a[-1]), (*axes, None)
                )
                found[name, i] = by_seed(*many, dy)
            return found

    given = {key: inputs(CASES[key[0]][key[1]]) for key in ALL}
    return jax.device_get(jax.jit(everything)(jax.tree.map(narrow, given)))


@pytest.fixture(scope="module")
def found():
    return {precision: all_cases(precision) for precision in products.PRECISIONS}


@pytest.fixture(scope="module")
def rounded():
    """The same in float32, of operands that are rounded where products read them."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (products, linear, recurrent, conv_cpu):
            for name, change in {
                "operand": lambda a: lax.reduce_precision(a, 8, 7),
                "movable": lambda a: lax.reduce_precision(a, 8, 7),
            }.items():
                patch.setattr(module, name, change, raising=False)
        return all_cases("bfloat16")


def test_the_table_names_every_rule_with_products():
    # by what their programs hold
    with_products = set()
    for name, cases in CASES.items():
        args, dy = inputs(cases[0])
        program = str(jax.make_jaxpr(lambda *a, c=cases[0]: run(c.rule, a[:-1], a[-1]))(
            *args, dy
        ))  # fmt: skip
        if "dot_general" in program or "conv_general" in program:
            with_products.add(name)
    assert with_products == set(NAMES)


@pytest.mark.parametrize("key", ALL, ids=str)
def test_mixed_precision_is_near_float32(found, key):
    pairs = zip(*(jax.tree.leaves(found[p][key]) for p in found), strict=True)
    for exact, mixed in pairs:
        assert mixed.dtype == np.float32
        assert_close(mixed, exact, 8 * HALF)


@pytest.mark.parametrize("key", ALL, ids=str)
def test_only_operands_are_rounded(found, rounded, key):
    close = 1e-6 if key[0] in ONE_PRODUCT else 2 * HALF
    if not fast_bfloat16():  # there XLA may leave the rounding out
        close = 8 * HALF
    mixed, want = found["bfloat16"][key], rounded[key]
    for a, b in zip(*map(jax.tree.leaves, (mixed, want)), strict=True):
        assert_close(a, b, close)


def test_some_operand_is_rounded(found):
    differ = [
        name
        for name, i in ALL
        if any(
            (a != b).any()
            for a, b in zip(
                *(jax.tree.leaves(found[p][name, i]) for p in found), strict=True
            )
        )
    ]
    assert set(differ) == set(NAMES)


@pytest.mark.parametrize("seeds", [0, 1])
def test_seeds_side_by_side_get_the_same(found, seeds):
    # XLA's CPU backend ends with an error where such a product's result lies otherwise
    together = all_cases("bfloat16", seeds)
    for key in ALL:
        pairs = zip(*map(jax.tree.leaves, (together[key], found["bfloat16"][key])),
                    strict=True)  # fmt: skip
        for many, alone in pairs:
            for each in many:
                assert_close(each, alone, 1e-6 if key[0] in ONE_PRODUCT else 2 * HALF)


def test_the_policy_is_part_of_the_key_of_jit():
    x = jax.random.normal(jax.random.key(0), (8, 32), jnp.float32)
    w = jax.random.normal(jax.random.key(1), (32, 16), jnp.float32)
    product = jax.jit(lambda x, w: rules.matmul.fwd(x, w)[0])
    outside = product(x, w)
    with policy(precision="bfloat16"):
        inside = product(x, w)
    assert np.array_equal(product(x, w), outside)
    assert_close(inside, outside, 2 * HALF)
    assert not np.array_equal(inside, outside)
    with policy(precision="bfloat16"), policy(precision="float32"):
        assert np.array_equal(product(x, w), outside)


def test_an_einsum_sums_what_one_operand_has_alone_in_float32():
    ones = jnp.ones((1, 1000), jnp.float32)  # bfloat16 sums of ones stall at 256
    with policy(precision="bfloat16"):
        y, _ = rules.einsum("ij,k->k").fwd(ones, jnp.ones(2, jnp.float32))
    assert y.tolist() == [1000, 1000]


def test_weight_gradients_reach_xla_with_rows_that_lie_together():
    x, dy = (jnp.ones((128, n), jnp.float32) for n in (784, 512))
    with policy(precision="bfloat16"):
        program = jax.jit(products.weight_gradient).lower(x, dy).as_text()
    assert "LayoutConstraint" in program
    assert "784x128xbf16" in program.replace(" ", "")
