"""Types of every layer in all its cases: floats of any width, and whole numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn.errors import JaxnnError
from jaxnn.layers import dense, embedding, flatten, relu, reshape
from tests.layers.cases import KEY, LAYER_CASES, is_one_mode, setup

CASES = {
    f"{name} {i}": (name, i, case)
    for name, cases in LAYER_CASES.items()
    for i, case in enumerate(cases)
}
FIRST = {name: cases[0] for name, cases in LAYER_CASES.items()}
FLOATS = [  # of params, of x: equal, wider and narrower ones; each traced anew
    ("bfloat16", "bfloat16"), ("float32", "float64"), ("float64", "float32"),
    ("bfloat16", "float32"), ("float16", "bfloat16"),
]  # fmt: skip


def in_type(tree, dtype):
    def one(a):
        floats = jnp.issubdtype(a.dtype, jnp.floating)
        return jax.ShapeDtypeStruct(a.shape, dtype if floats else a.dtype)

    return jax.tree.map(one, tree)


def traced(case, params, state, x, train):
    """y, dx and dparams, by shape and type only."""

    def run(params, state, x):
        forward = case.layer.forward
        y, _, cache = forward(params, state, x, key=KEY, train=train)
        return y, *case.layer.backward(cache, y)

    return jax.eval_shape(run, params, state, x)


@pytest.mark.parametrize(("name", "i", "case"), CASES.values(), ids=CASES)
def test_gradients_have_their_parameters_types_and_dx_that_of_x(name, i, case):
    s = setup(*case)
    modes = (True,) if is_one_mode(s) else (True, False)
    for of_params, of_x in FLOATS if i == 0 else [FLOATS[i % len(FLOATS)]]:
        params, x = in_type(s.params, of_params), in_type(s.x, of_x)
        state = in_type(s.state, of_params)
        for train in modes:
            y, dx, dparams = traced(case, params, state, x, train)
            assert in_type(params, of_params) == dparams, (of_params, of_x, train)
            assert dx is None or dx.dtype == x.dtype
            wide = jnp.result_type(*jax.tree.leaves((params, x)))
            assert y.dtype == (of_params if name == "embedding" else wide)


@pytest.mark.parametrize(("name", "case"), FIRST.items(), ids=FIRST)
@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool", "complex64"])
def test_whole_numbers_are_looked_up_moved_or_refused(name, case, dtype):
    s = setup(*case)
    x = jax.ShapeDtypeStruct(s.x.shape, dtype)
    for train in (True, False):

        def run(x, train=train):
            return case.layer.forward(s.params, s.state, x, key=KEY, train=train)[0]

        if case.layer.takes == "numbers":
            if dtype != "complex64":
                y = jax.eval_shape(run, x)
                assert y.dtype == (x.dtype if name != "embedding" else "float64")
            continue
        with pytest.raises(JaxnnError, match=f"an input of dtype {dtype}, expected fl"):
            jax.eval_shape(run, x)


@pytest.mark.parametrize("x", [[[1.0, 2.0]], "12", None, 3.5, {"x": 1}])
@pytest.mark.parametrize("layer", [dense(2), relu, flatten, embedding(3, 2)])
def test_what_is_no_array_is_refused(layer, x):
    params, state, _ = layer.init(KEY, (2,))
    with pytest.raises(JaxnnError, match=r"an input of type .*, expected an array"):
        layer.forward(params, state, x, train=False)


@pytest.mark.parametrize("layer", [dense(2), relu, reshape(-1)])
@pytest.mark.parametrize(
    "shape", [784, (0,), (-3,), (2.0,), ("2",), (True,), None, "28", ((2,),)]
)
def test_shapes_that_are_none_are_refused(layer, shape):
    with pytest.raises(JaxnnError, match=r"got in_shape .*, expected a tuple of whole"):
        layer.init(KEY, shape)


@pytest.mark.parametrize("key", [0, 1.5, None, "key", np.arange(3)])
def test_a_number_is_no_key(key):
    with pytest.raises(JaxnnError, match=r"got key .*jax\.random\.key\(0\)"):
        dense(2).init(key, (3,))


def test_keys_of_the_old_style_draw_the_same():
    old, new = jax.random.PRNGKey(3), jax.random.key(3)
    want = dense(2).init(new, (3,))[0]["w"]
    np.testing.assert_array_equal(dense(2).init(old, (3,))[0]["w"], want)
