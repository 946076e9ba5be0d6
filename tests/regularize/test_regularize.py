import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn.errors import JaxnnError
from jaxnn.regularize import (
    NOISES,
    chain,
    clip_gradient,
    elastic_net,
    input_noise,
    l1,
    l2,
    max_norm,
    max_spectral_norm,
    mixup,
    spectral_norm,
    sum_penalties,
    weight_noise,
)
from tests.rules.common import assert_close, assert_trees_close, normal

PARAMS = {
    "dense": {"w": jnp.asarray(normal(4, 3)), "b": jnp.asarray(normal(3))},
    "conv": {"w": jnp.asarray(normal(3, 1, 2, 5))},
    "norm": {"gamma": jnp.asarray(normal(5)), "scalar": jnp.asarray(2.0)},
    "none": (),
}
WEIGHTS = (PARAMS["dense"]["w"], PARAMS["conv"]["w"])


def weights(params):
    return params["dense"]["w"], params["conv"]["w"]


def half_sum_of_squares(params):
    return sum(0.5 * jnp.vdot(w, w) for w in weights(params))


def sum_of_sizes(params):
    return sum(jnp.where(w > 0, w, -w).sum() for w in weights(params))


def largest_singular_values(params):
    # by all eigenvalues of w^T w
    return sum(
        jnp.sqrt(jnp.linalg.eigvalsh(m.T @ m)[-1])
        for m in (w.reshape(-1, w.shape[-1]) for w in weights(params))
    )


def mixed(l1, l2):
    """Shares of both: the reference of every sum."""
    return lambda params: l1 * sum_of_sizes(params) + l2 * half_sum_of_squares(params)


PENALTIES = {
    "l2": (l2(0.3), mixed(0, 0.3)),
    "l2 of nothing": (l2(0.0), mixed(0, 0.0)),
    "l1": (l1(0.2), mixed(0.2, 0)),
    "sum": (sum_penalties(l1(0.2), l2(0.3)), mixed(0.2, 0.3)),
    "sum of three": (sum_penalties(l2(0.1), l2(0.1), l2(0.1)), mixed(0, 0.3)),
    "elastic net": (elastic_net(0.5, l1_share=0.4), mixed(0.2, 0.3)),
    "spectral norm": (spectral_norm(0.7), lambda p: 0.7 * largest_singular_values(p)),
    "sum of one": (sum_penalties(l1(0.2)), mixed(0.2, 0)),
}


def check(got, want):
    assert_close(got[0], want[0])
    assert_trees_close(got[1], want[1])


@pytest.mark.parametrize(("penalty", "reference"), PENALTIES.values(), ids=PENALTIES)
def test_penalty_equals_grad_of_its_reference(penalty, reference):
    got, want = jax.jit(lambda p: (penalty(p), jax.value_and_grad(reference)(p)))(
        PARAMS
    )
    check(got, want)
    if want[0] == 0:
        return
    for factor in (-1, 1.01, 0):
        value, grads = got
        with pytest.raises(AssertionError, match="Not equal to tolerance"):
            check((value, jax.tree.map(lambda g: factor * g, grads)), want)  # noqa: B023


def test_l1_is_flat_at_its_kink():
    _, grads = l1(0.5)({"w": jnp.array([[0.0, -0.0, 2.0, -2.0]])})
    assert grads["w"].tolist() == [[0, 0, 0.5, -0.5]]


@pytest.mark.parametrize(
    "penalty", [l1(0.1), l2(0.1), sum_penalties(l1(0.1), l2(0.1)), spectral_norm(0.1)]
)
def test_biases_are_left_alone(penalty):
    value, grads = penalty({"b": jnp.ones(3), "gamma": jnp.ones(())})
    assert value == 0
    assert jax.tree.map(lambda g: g.tolist(), grads) == {"b": [0, 0, 0], "gamma": 0}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("penalty", [l1(0.1), l2(0.1), spectral_norm(0.1)])
def test_gradient_has_the_dtype_of_its_weight(penalty, dtype):
    params = {"w": jnp.ones((2, 2), dtype), "b": jnp.ones(2, dtype)}
    _, grads = jax.eval_shape(penalty, params)
    assert {g.dtype for g in jax.tree.leaves(grads)} == {jnp.dtype(dtype)}


def test_projections_in_turn_end_with_the_last():
    both = jax.jit(chain(max_spectral_norm(1.0), max_norm(0.2)))(PARAMS)
    for w in weights(both):
        assert column_norms(w).max() <= 0.2 + 1e-15


def column_norms(w):
    return np.sqrt((np.asarray(w) ** 2).sum(tuple(range(w.ndim - 1))))


@pytest.mark.parametrize("limit", [0.5, 1.5, 100.0])
def test_max_norm_shortens_long_columns_only(limit):
    projected = jax.jit(max_norm(limit))(PARAMS)
    assert jax.tree.structure(projected) == jax.tree.structure(PARAMS)
    for w, new in zip(WEIGHTS, weights(projected), strict=True):
        before, after = column_norms(w), column_norms(new)
        assert (after <= limit * (1 + 1e-15)).all()
        np.testing.assert_allclose(after, np.minimum(before, limit), rtol=1e-14)
        short = before <= limit
        np.testing.assert_array_equal(new[..., short], w[..., short])
        # only the length changes
        assert_close(
            new / after[(None,) * (w.ndim - 1)], w / before[(None,) * (w.ndim - 1)]
        )
    for path in ("norm", "none"):
        assert_trees_close(projected[path], PARAMS[path], 0)
    assert_close(projected["dense"]["b"], PARAMS["dense"]["b"], 0)


def test_max_norm_of_zero_column_is_zero():
    w = jnp.array([[0.0, 3.0], [0.0, 4.0]])
    assert max_norm(1.0)({"w": w})["w"].tolist() == [[0, 3 * 0.2], [0, 4 * 0.2]]
    # through the gradient as well, where a where alone would let 0/0 out
    grads = jax.jit(jax.grad(lambda w: max_norm(1.0)({"w": w})["w"].sum()))(w)
    assert np.isfinite(grads).all()


def test_max_norm_keeps_nan_in_sight():
    w = jnp.array([[jnp.nan, 3.0], [1.0, 4.0]])
    after = max_norm(1.0)({"w": w})["w"]
    assert np.isnan(after).tolist() == [[True, False], [False, False]]


def test_input_noise_has_its_mean_and_std():
    n, x = 100_000, 0.25
    noisy = input_noise(0.1, shift=0.3)(jax.random.key(0), jnp.full((n, 1), x))
    assert noisy.shape == (n, 1)
    assert abs(noisy.mean() - (x + 0.3)) < 4.5 * 0.1 / math.sqrt(n)
    assert abs(noisy.std() - 0.1) < 4.5 * 0.1 / math.sqrt(2 * n)
    assert noisy.max() > 0.9  # not clipped


def test_max_norm_of_a_huge_column_in_float32_is_the_limit_not_zero():
    w = max_norm(2.0)({"w": jnp.full((4, 1), 1e30, jnp.float32)})["w"]
    np.testing.assert_allclose(jnp.linalg.norm(w), 2.0, rtol=1e-6)


NAN = float("nan")
REFUSED = [
    *((lambda f=f: f(-1), f"{f.__name__}: got strength=-1, expected")
      for f in (l1, l2, elastic_net, spectral_norm)),
    *((lambda s=s: elastic_net(0.1, s), "elastic_net: got l1_share=")
      for s in (-0.1, 1.1, NAN)),
    (sum_penalties, "got no penalties"),
    *((lambda f=f, n=n: f(n), f"{f.__name__}: got limit={n:g}, expected")
      for f in (max_norm, max_spectral_norm) for n in (0, -1.0, NAN)),
    (lambda: spectral_norm(1.0, steps=0)({"w": jnp.ones((2, 2))}), "got steps=0"),
    *((lambda f=f: f(-0.1), r"_noise: got \w+=-0\.1, expected")
      for f in (*NOISES.values(), weight_noise)),
    (lambda: weight_noise(1e39), r"std=1e\+39, expected 0 <= std <= 3\.4e\+38"),
    *((lambda a=a: mixup(a, 3), "mixup: got alpha") for a in (0, -1.0, NAN)),
    (lambda: mixup(0.2, 3)(jax.random.key(0), normal(7, 3), np.ones((7, 4))),
     r"got targets \(7, 4\), expected .*\(B, 3\)"),
    (lambda: clip_gradient(norm=0), "clip_norm=0, expected a positive"),
    (lambda: clip_gradient(value=-1), "clip_value=-1"),
    (lambda: clip_gradient(norm=NAN), "clip_norm=nan"),
    (lambda: clip_gradient(1, 1), "clip_norm=1 and clip_value=1, expected one"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_settings_that_cannot_be_are_refused(call, message):
    with pytest.raises(JaxnnError, match=message):
        call()
