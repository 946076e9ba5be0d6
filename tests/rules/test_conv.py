"""The formulations of a convolution agree, and each is chosen where it should be."""

import importlib
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import rules
from jaxnn.rules import conv_cpu
from jaxnn.rules.conv import plan, xla_convolve, xla_gradients
from jaxnn.rules.conv_cpu import Sides, sides
from jaxnn.rules.window import windows
from tests.rules import cases_conv
from tests.rules.common import assert_close, normal, run

CONV = importlib.import_module("jaxnn.rules.conv")  # `rules.conv` is the rule


def placed(shape, kernel, stride=1, padding="SAME", dilation=1):
    return windows("test", shape[1:-1], kernel, stride, padding, dilation)


def arrays_of(shape, kernel, out, groups, at):
    x, w = normal(*shape), normal(*kernel, shape[-1] // groups, out, seed=1)
    return x, w, normal(shape[0], *at.out_sizes, out, seed=2)


@pytest.fixture
def tiny_blocks(monkeypatch):
    monkeypatch.setattr(conv_cpu, "BLOCK", 1000)


FORMS = {
    "xla": (xla_convolve, xla_gradients),
    "products": (conv_cpu.convolve, conv_cpu.gradients),
    "depthwise": (conv_cpu.depthwise_convolve, conv_cpu.depthwise_gradients),
}
SOME = {  # compiling all of them takes long, and test_rules.py has them all
    "even kernel", "kernel as large as the image", "1x1, stride 2",
    "stride larger than the kernel", "explicit pairs", "dilation, stride, padding",
    "2 groups", "depthwise, multiplier 2, stride 2", "one channel", "sequence, groups",
    "volume",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_blocks")
@pytest.mark.parametrize("form", FORMS)
def test_every_formulation_is_the_convolution(form):
    # those that this backend or shape does not choose are tested here all the same
    convolve, gradients = FORMS[form]
    cases = {}
    for name, (shape, kernel, out, how) in cases_conv.CONV.items():
        place, groups = dict(how), how.get("groups", 1)
        place.pop("groups", None)
        if name in SOME and (form != "depthwise" or groups == shape[-1]):
            at = placed(shape, kernel, **place)
            cases[name] = at, groups, how, arrays_of(shape, kernel, out, groups, at)
    assert cases

    @jax.jit
    def program(arrays):
        results = {}
        for name, (at, groups, how, _) in cases.items():
            x, w, dy = arrays[name]
            y = convolve(x, w, at, groups)
            dx, dw = gradients(x, dy, w, at, groups)
            want, pull_back = jax.vjp(cases_conv.conv(**how), x, w)
            results[name] = (y, dx, dw), (want, *pull_back(dy))
        return results

    for got, want in program({n: case[-1] for n, case in cases.items()}).values():
        jax.tree.map(assert_close, got, want)


def test_plan_follows_backend_and_shape(monkeypatch):
    deep = placed((8, 14, 14, 32), (5, 5))
    assert plan(deep, 32, 64) == (conv_cpu.convolve, conv_cpu.gradients)
    # few channels in: the patches are small, and XLA's forward is faster
    assert plan(placed((8, 28, 28, 1), (5, 5)), 1, 32).convolve is xla_convolve
    assert plan(deep, 32, 32, groups=32).gradients is conv_cpu.depthwise_gradients
    assert plan(deep, 32, 64, groups=2).gradients is conv_cpu.gradients
    monkeypatch.setattr(CONV, "default_backend", lambda: "gpu")
    assert plan(deep, 32, 64) == (xla_convolve, xla_gradients)


def test_sides_trade_patches_for_shifts():
    both = placed((8, 14, 14, 32), (5, 5))
    assert len(sides(both, 32, 64).behind) == 1
    assert sides(placed((8, 28, 28, 1), (5, 5)), 1, 32) == Sides((0, 1), ())
    # a shift behind would compute what the stride leaves out
    assert sides(placed((8, 14, 14, 32), (5, 5), (2, 1)), 32, 64).behind == (1,)
    assert sides(placed((8, 14, 14, 32), (1, 1)), 32, 64).behind == ()


@pytest.mark.parametrize("stride", [1, 2])
def test_backward_on_cpu_holds_no_convolution(stride):
    # XLA's kernel gradient is 30 times slower in a loop (jax-ml/jax#12868), its dx of a
    # strided convolution always
    rule, (x, w) = rules.conv(stride), (normal(4, 8, 8, 6), normal(3, 3, 6, 5))
    y, cache = jax.eval_shape(rule.fwd, x, w)
    program = str(jax.make_jaxpr(rule.bwd)(cache, y))  # programs within it included
    assert "dot_general" in program
    assert "conv_general_dilated" not in program


def flops(function, *args):
    return jax.jit(function).lower(*args).compile().cost_analysis()["flops"]


def test_gradient_that_nobody_reads_costs_nothing():
    rule = rules.conv()
    x, w = (
        normal(2, 6, 6, 8),
        normal(3, 3, 8, 8),
    )  # one block: no loop, which counts once
    y, cache = rule.fwd(x, w)
    one = 2 * 2 * 36 * 9 * 8 * 8
    both = flops(rule.bwd, cache, y)
    assert 2 * one <= both <= 2.3 * one
    for i in (0, 1):
        assert flops(lambda c, y, i=i: rule.bwd(c, y)[i], cache, y) <= 1.3 * one


@pytest.mark.usefixtures("tiny_blocks")
def test_unread_gradient_is_dropped_from_the_loop_over_blocks():
    rule = rules.conv()
    x, w = jnp.zeros((8, 6, 6, 8)), jnp.zeros((3, 3, 8, 8))
    y, cache = rule.fwd(x, w)

    def dots(read):
        text = jax.jit(read).lower(cache, y).compile().as_text()
        return text.count(" dot(")

    assert "while" in jax.jit(rule.bwd).lower(cache, y).as_text()
    both = dots(rule.bwd)
    assert dots(lambda c, y: rule.bwd(c, y)[0]) < both
    assert dots(lambda c, y: rule.bwd(c, y)[1]) < both


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 2, 7, 8, 13])
def test_blocks_cover_every_image_once(batch, monkeypatch):
    args = normal(batch, 4, 5, 3), normal(3, 3, 3, 4)
    dy = normal(batch, 4, 5, 4, seed=1)
    want = run(rules.conv(), args, dy)
    monkeypatch.setattr(conv_cpu, "BLOCK", 1200)  # 3 images of 4 x 5
    other = rules.conv()  # a program of its own
    jax.tree.map(assert_close, run(other, args, dy), want)


def test_block_is_a_divisor_of_the_batch_where_one_is_near(monkeypatch):
    monkeypatch.setattr(conv_cpu, "BLOCK", 3000)
    assert conv_cpu.block_size(128, 196) == 8
    assert conv_cpu.block_size(128, 190) == 16
    assert conv_cpu.block_size(100, 196) == 10
    assert conv_cpu.block_size(127, 196) == 15  # and a rest of 7
    assert conv_cpu.block_size(4, 196) == 4
    assert conv_cpu.block_size(4, 10**6) == 1


def test_zeros_stay_exact_and_a_nan_in_its_windows():
    x = np.zeros((1, 9, 9, 8))
    x[0, 4, 4, 3] = np.nan
    w = normal(3, 3, 8, 8)
    y, _ = rules.conv().fwd(x, w)
    reached = np.zeros((9, 9), bool)
    reached[3:6, 3:6] = True
    np.testing.assert_array_equal(np.isnan(y).any((0, 3)), reached)
    np.testing.assert_array_equal(np.asarray(y)[0, ~reached], 0)


def test_bfloat16_sums_in_float32():
    # bfloat16 sums of ones stop growing at 256
    x, w = jnp.ones((8, 16, 16, 2), jnp.bfloat16), jnp.ones((3, 3, 2, 8), jnp.bfloat16)
    dy = jnp.ones((8, 14, 14, 8), jnp.bfloat16)
    y, (dx, dw) = run(rules.conv(padding="VALID"), (x, w), dy)
    assert {a.dtype for a in (y, dx, dw)} == {jnp.dtype(jnp.bfloat16)}
    assert (dw == 8 * 14 * 14).all()


def test_same_padding_puts_the_odd_element_last():
    at = placed((1, 6, 5, 1), (4, 3), 2)
    assert at.pads == ((1, 1), (1, 1))
    assert at.out_sizes == (3, 3)
    assert placed((1, 6, 6, 1), (2, 2)).pads == ((0, 1), (0, 1))
    assert math.prod(placed((1, 1, 1, 1), (5, 5)).out_sizes) == 1
