"""A rule with its layer, and a loss, in one file outside the package."""

import importlib
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import compare_gradients, fit, graph, mlp
from jaxnn.app.checks import check as check_settings
from jaxnn.app.config import TrainConfig
from jaxnn.app.settings import resolved
from jaxnn.layers import ACTIVATIONS, LAYERS
from jaxnn.losses import LOSSES, loss_by_name
from jaxnn.rules import RULES
from tests.rules.common import Case, check, inputs, normal, run, vjp_of_reference

FILE = """
import jax.numpy as jnp
from jax import nn
from jaxnn import layers, losses, rules


def forward(x):
    return x * jnp.tanh(jnp.logaddexp(x, 0))


def back(x, dy):
    t, s = jnp.tanh(jnp.logaddexp(x, 0)), nn.sigmoid(x)
    return dy * (t + x * s * (1 - t * t))


rule = rules.keeps_x("mish", forward, back)
rules.register(rule)

mish = layers.value(f"{__name__}:mish", layers.pointwise(rule))
layers.register(mish, activations=True)


@losses.loss(outputs=(None, "relu"))
def cubic(pred, t):
    d = jnp.abs(pred - t)
    return (d**3).sum(-1), 3 * d**2 * jnp.sign(pred - t)
"""


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mine")
    (folder / "my_mish.py").write_text(FILE, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield importlib.import_module("my_mish")
    for table in (RULES, LAYERS, ACTIVATIONS):
        del table["mish"]
    del LOSSES["cubic"]


def test_its_rule_needs_one_row(mine):
    row = Case("mish", mine.rule, (normal(3, 4),), jax.nn.mish)
    args, dy = inputs(row)
    check(run(row.rule, args, dy), vjp_of_reference(row, args, dy))
    assert graph.mish(graph.constant(args[0])).rule is mine.rule


def test_its_layer_is_known_by_name(mine):
    net = mlp([4, 3, 2], "mish")
    assert mine.mish in net.parts
    assert pickle.loads(pickle.dumps(net)) == net
    assert LAYERS["mish"]() is mine.mish


def test_its_loss_trains_and_is_checked(mine):
    assert loss_by_name("cubic") is mine.cubic
    net, x, y = mlp([4, 3, 2], "mish"), normal(6, 4), normal(6, 2)
    params, state, _ = net.init(jax.random.key(0), (4,))
    assert compare_gradients(net, mine.cubic, params, state, x, jnp.asarray(y))
    found = fit(net, (x, y), loss=mine.cubic, epochs=2, batch=3)
    assert np.isfinite(np.asarray(jax.tree.leaves(found.params)[0])).all()


def test_the_command_line_knows_both(mine):
    config = TrainConfig(loss="cubic", activation="mish", output="relu", layers=("8",))
    check_settings(resolved(config))
