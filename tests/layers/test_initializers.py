import math

import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn.errors import JaxnnError
from jaxnn.layers import INITIALIZERS, dense
from tests.layers.cases import KEY
from tests.rules.common import assert_close


def test_bias_leaves_the_draw_of_w():
    draws = [dense(3, bias=b).init(KEY, (4,))[0]["w"] for b in (True, False, "normal")]
    assert (draws[0] == draws[1]).all()
    assert (draws[0] == draws[2]).all()


SIZES = (200, 50)  # I, O
STD = {
    "normal": 1, "he": math.sqrt(2 / 200), "lecun": math.sqrt(1 / 200),
    "xavier": math.sqrt(2 / 250), "zeros": 0,
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(set(INITIALIZERS) - {"orthogonal"}))
def test_initializer_has_its_standard_deviation(name):
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
def test_bare_initializer_is_the_normal_one(name):
    w, same = (INITIALIZERS[n](KEY, (4, 3), float) for n in (name, f"{name}_normal"))
    assert (w == same).all()


def test_initializer_may_be_a_function():
    def ones(key, shape, dtype):
        return jnp.ones(shape, dtype)

    params, _, _ = dense(2, ones, bias=ones).init(KEY, (3,))
    assert params["w"].tolist() == [[1, 1]] * 3
    assert params["b"].tolist() == [1, 1]


@pytest.mark.parametrize("name", sorted(INITIALIZERS))
def test_bias_takes_every_initializer_or_says_which(name):
    try:
        params, _, _ = dense(3, bias=name).init(KEY, (4,))
    except JaxnnError as error:
        assert str(error).startswith("dense(3): ")  # noqa: PT017
    else:
        assert params["b"].shape == (3,)
