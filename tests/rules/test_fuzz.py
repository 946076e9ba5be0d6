"""Settings and inputs that nobody thought of, against `jax.vjp` of jax.numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnn import rules
from jaxnn.errors import JaxnnError
from tests.rules.cases import CASES
from tests.rules.common import assert_close, check, normal, run, vjp_of_reference

UNARY = [
    CASES[name][0]
    for name in (
        *("abs", "elu", "gelu", "leaky_relu", "log_softmax", "relu", "selu"),
        *("sigmoid", "softmax", "softplus", "square", "standardize", "swish", "tanh"),
    )
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
    for (y, (dx,)), (want_y, (want,)) in every_unary_rule(jnp.array(x), jnp.array(dy)):
        assert_close(y, want_y)
        # where a rule saturates dx is far below the rounding of dy, s (1 - s) for one
        scale = max(np.abs(want).max(), np.abs(dy).max())
        np.testing.assert_allclose(dx, want, rtol=0, atol=1e-12 * scale)


def agree(rule, reference, *shapes):
    """A rule on normal draws equals `jax.vjp` of the reference."""

    @jax.jit
    def program(args, dy):
        y, pull_back = jax.vjp(reference, *args)
        return run(rule, args, dy), (y, pull_back(dy))

    args = [normal(*shape, seed=i) for i, shape in enumerate(shapes)]
    dy = normal(*jax.eval_shape(reference, *args).shape, seed=9)
    check(*program(args, dy))


SIZES = st.integers(0, 4)
SHAPES = st.lists(SIZES, min_size=1, max_size=4).map(tuple)


@st.composite
def products(draw):
    """Subscripts of two operands and their shapes."""
    sizes = dict(
        zip("ijkl", draw(st.lists(SIZES, min_size=4, max_size=4)), strict=True)
    )
    a, b = (draw(st.text("ijkl", max_size=3)) for _ in "ab")
    out = draw(st.permutations(sorted(set(a + b))).map("".join))
    out = out[: draw(st.integers(0, len(out)))]
    return f"{a},{b}->{out}", *([sizes[c] for c in term] for term in (a, b))


@settings(max_examples=25)
@given(products())
def test_einsum_equals_vjp_for_any_subscripts(product):
    subscripts, *shapes = product
    agree(rules.einsum(subscripts), lambda a, b: jnp.einsum(subscripts, a, b), *shapes)


@st.composite
def pieces(draw):
    """A shape and an index of it."""
    shape = draw(SHAPES)
    end = st.none() | st.integers(-6, 6)
    step = st.none() | st.integers(-3, 3).filter(bool)
    index = []
    for n in draw(st.sampled_from([shape, shape[:1], shape[:0]])):
        entries = [st.builds(slice, end, end, step)]
        if n:
            entries.append(st.integers(-n, n - 1))
        index.append(draw(st.one_of(entries)))
        if draw(st.booleans()):
            index.append(None)
    if draw(st.booleans()):
        index.insert(draw(st.integers(0, len(index))), ...)
    return shape, tuple(index)


@settings(max_examples=25)
@given(pieces())
def test_slice_equals_vjp_for_any_index(piece):
    shape, index = piece
    try:
        np.empty(shape)[index]
    except IndexError:  # "..." has moved a number to a shorter axis
        with pytest.raises(JaxnnError):
            rules.slice(index).fwd(jnp.ones(shape))
        return
    agree(rules.slice(index), lambda x: x[index], shape)


@st.composite
def frames(draw):
    """A shape, widths for each axis, a mode."""
    mode = draw(st.sampled_from(["zero", "edge", "reflect"]))
    shape = draw(SHAPES)
    pair = st.tuples(*[st.integers(0, 9)] * 2)
    copies = mode != "zero"
    widths = [(0, 0) if copies and n == 0 else draw(pair) for n in shape]
    return shape, widths, mode


@settings(max_examples=25)
@given(frames())
def test_pad_equals_vjp_for_any_widths(frame):
    shape, widths, mode = frame
    numpy_mode = "constant" if mode == "zero" else mode
    # jax.numpy reflects an axis of one element into zeros, NumPy repeats it
    size = 2 if mode == "reflect" else 0
    shape = [n and max(n, size) for n in shape]
    agree(rules.pad(widths, mode), lambda x: jnp.pad(x, widths, numpy_mode), shape)


@settings(max_examples=15)
@given(SHAPES.flatmap(lambda s: st.tuples(st.just(s), st.permutations(range(len(s))))))
def test_transpose_equals_vjp_for_any_order(case):
    shape, axes = case
    agree(rules.transpose(axes), lambda x: jnp.transpose(x, axes), shape)


@settings(max_examples=15)
@given(
    shape=SHAPES,
    sizes=st.lists(SIZES, min_size=1, max_size=5),
    axis=st.integers(0, 3),
)
def test_concatenate_equals_vjp_for_any_parts(shape, sizes, axis):
    axis = axis % len(shape)
    shapes = [(*shape[:axis], n, *shape[axis + 1 :]) for n in sizes]
    for each in (axis, axis - len(shape)):
        agree(
            rules.concatenate(each),
            lambda *xs, each=each: jnp.concatenate(xs, each),
            *shapes,
        )


@settings(max_examples=15)
@given(shape=SHAPES, data=st.data())
def test_reductions_equal_vjp_for_any_axes(shape, data):
    axes = data.draw(st.sets(st.sampled_from(range(len(shape)))).map(tuple))
    keep = data.draw(st.booleans())
    agree(rules.sum(axes, keep), lambda x: x.sum(axes, keepdims=keep), shape)
    agree(rules.mean(axes, keep), lambda x: x.mean(axes, keepdims=keep), shape)
    if 0 not in np.take(shape, axes):
        agree(rules.max(axes, keep), lambda x: x.max(axes, keepdims=keep), shape)


@st.composite
def broadcastable(draw):
    shape = draw(SHAPES)
    both = []
    for _ in "ab":
        kept = [draw(st.sampled_from([n, 1])) for n in shape]
        both.append(tuple(kept[draw(st.integers(0, len(kept))) :]))
    return both


@settings(max_examples=15)
@given(broadcastable(), st.sampled_from(["add", "sub", "mul", "maximum", "minimum"]))
def test_arithmetic_equals_vjp_for_any_shapes(shapes, name):
    plain = {"sub": jnp.subtract, "mul": jnp.multiply}.get(name) or getattr(jnp, name)
    agree(
        getattr(rules, name),
        lambda a, b: plain(*jnp.broadcast_arrays(a, b)),
        *shapes,
    )
