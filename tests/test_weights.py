"""What counts as a weight, and that only weights decay."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnn import serial
from jaxnn.combine import stack
from jaxnn.errors import JaxnnError
from jaxnn.layers import batch_norm, dense, lstm, multi_head_attention
from jaxnn.optimizers import WEIGHT_DECAY, optimizer_by_name
from jaxnn.regularize import l1, l2, max_norm, spectral_norm, weight_noise
from jaxnn.tree import weights
from tests.layers.cases import traced_init
from tests.rules.common import assert_trees_close, normal

PARAMS = {
    "w": jnp.asarray(normal(4, 3)),
    "b": jnp.asarray(normal(3)),
    "gamma": jnp.asarray(normal(3, seed=1)),
    "beta": jnp.asarray(normal(3, seed=2)),
}
MASK = {"w": True, "b": False, "gamma": False, "beta": False}
GRADS = jax.tree.map(np.cos, PARAMS)
OPTAX = {"adamw": optax.adamw, "lamb": optax.lamb, "lion": optax.lion}


def moved(optimizer, params=PARAMS, steps=3):
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for _ in range(steps):
        updates, state = update(GRADS, state, params)
        params = optax.apply_updates(params, updates)
    return params


@pytest.mark.parametrize("decay", [None, 0.3])
@pytest.mark.parametrize("name", OPTAX)
def test_only_weights_decay_as_with_a_mask_in_optax(name, decay):
    usual = WEIGHT_DECAY[name] if decay is None else decay
    want = moved(OPTAX[name](0.1, weight_decay=usual, mask=MASK))
    got = moved(optimizer_by_name(name, 0.1, weight_decay=decay))
    assert_trees_close(got, want)
    if usual:  # a decay of everything would show
        other = moved(OPTAX[name](0.1, weight_decay=usual))
        assert not np.allclose(other["gamma"], got["gamma"], rtol=1e-9)


def test_a_mask_says_what_decays():
    biases = {"w": False, "b": True, "gamma": False, "beta": False}
    got = moved(optimizer_by_name("adamw", 0.1, weight_decay=0.3, mask=biases))
    want = moved(optax.adamw(0.1, weight_decay=0.3, mask=biases))
    assert_trees_close(got, want)
    assert l2(1.0, mask=biases)(PARAMS)[0] == jnp.square(PARAMS["b"]).sum() / 2


@pytest.mark.parametrize(
    ("name", "decay", "message"),
    [
        ("adam", 0.1, "adam: got weight_decay=0.1, but only adamw, lamb, lion"),
        ("adamw", -1, "got weight_decay=-1, expected a finite number >= 0"),
        ("adamw", float("nan"), "got weight_decay=nan, expected"),
        ("lion", float("inf"), "got weight_decay=inf, expected"),
    ],
)
def test_weight_decay_that_cannot_be_is_refused(name, decay, message):
    with pytest.raises(JaxnnError, match=message):
        optimizer_by_name(name, 0.1, weight_decay=decay)


def test_weights_go_by_their_names_also_in_a_stack():
    net = serial(
        stack(serial(dense(4), batch_norm()), 2), multi_head_attention(1), lstm(3)
    )
    params, _ = traced_init(net, (5, 4))
    marks = weights(params)
    block, attention, recurrent = marks
    of_norm = {"gamma": False, "beta": False}
    assert block["stacked"] == ({"w": True, "b": False}, of_norm)
    assert recurrent == {"w": True, "u": True, "b": False}
    assert attention == {"w_in": True, "b_in": False, "w_out": True, "b_out": False}


@pytest.mark.parametrize(
    "act",
    [
        l1(0.1),
        l2(0.1),
        spectral_norm(0.1),
        max_norm(1.0),
        lambda params: weight_noise(0.1)(jax.random.key(0), params),
        optimizer_by_name("adamw").init,
    ],
)
def test_a_matrix_by_another_name_is_not_left_out_unseen(act):
    with pytest.raises(JaxnnError, match=r"leaf \['kernel'\] of shape \(2, 3\)"):
        act({"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)})


def test_a_mask_of_another_structure_is_refused():
    with pytest.raises(JaxnnError, match="got a mask of structure"):
        weights(PARAMS, mask={"w": True})
