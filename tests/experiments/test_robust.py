"""What the robustness experiments share: verdicts, their table, steps to the border."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common import Line, verdicts
from experiments.report import render
from experiments.robust import accuracy, table, until_fooled
from experiments.tricking import LOGITS, NET
from jaxnn.check.adapters import automatic
from jaxnn.files import write_json
from tests.attacks.problem import model, trained

LINES = [
    Line("accuracy", 0.9, 0.85),
    Line("error", 0.3, high=0.25),
    Line("ratio", 1.5, 1.0, 2.0),
]


def result(name, lines, percent=True):
    expected = verdicts(*lines, percent=percent)
    return {"experiment": name, "values": {"expected": expected}}


def test_a_number_outside_its_range_is_a_miss(capsys):
    found = verdicts(*LINES)
    assert [line["passed"] for line in found] == [True, False, True]
    out = capsys.readouterr().out
    assert "pass  accuracy: 90% (>= 85%)" in out
    assert "MISS  error: 30% (<= 25%)" in out


def test_nan_is_a_miss():
    (line,) = verdicts(Line("lost", float("nan"), 0.0))
    assert not line["passed"]


def test_the_table_shows_misses_and_keeps_units():
    rows = table(result("one", LINES[:2]), result("two", LINES[2:], percent=False))
    assert rows[1:] == [
        ["`one`", "accuracy", ">= 85%", "90%"],
        ["", "error", "<= 25%", "**30%**, missed"],
        ["`two`", "ratio", ">= 1, <= 2", "1.5"],
    ]


def test_one_table_is_made_of_several_results(tmp_path):
    for name in ("one", "two"):
        write_json(tmp_path / f"{name}.json", result(name, LINES[:1]))
    text = render("<!-- table robust:one,two -->\n<!-- /table -->", tmp_path)
    assert text.count("| accuracy | >= 85% | 90% |") == 2


@pytest.fixture(scope="module")
def network():
    params, state, x, y = trained(80)
    return model(params, state), x, y


def test_the_attack_stops_just_behind_the_border(network):
    net, x, y = network
    length = 0.1
    x_adv = until_fooled(net, x, y, length)
    right = net.correct(x, y)
    assert right.mean() > 0.9
    assert accuracy(net, x_adv, y) == 0
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    # an eighth of a step (and what the box cuts off) towards the image: right again
    far = (x_adv - x).reshape(len(x), -1)
    size = np.linalg.norm(far, axis=-1)
    back = np.clip(1 - 1.5 * length / 8 / np.maximum(size, 1e-9), 0, 1)
    nearer = x + (x_adv - x) * back[:, None, None]
    assert accuracy(net, nearer[right], y[right]) > 0.9


def test_the_logits_of_the_lesson_have_the_true_gradient():
    params, state, _ = NET.init(jax.random.key(0), (28, 28))
    x = jax.random.uniform(jax.random.key(1), (3, 28, 28))
    logits, _, cache = LOGITS.forward(params, state, x, train=False)
    outputs, *_ = NET.forward(params, state, x, train=False)
    np.testing.assert_allclose(jax.nn.sigmoid(logits), outputs, rtol=1e-12)
    dy = jax.random.normal(jax.random.key(2), logits.shape)
    by_hand = LOGITS.backward(cache, dy)
    _, _, cache = automatic(LOGITS).forward(params, state, x, train=False)
    for a, b in zip(
        jax.tree.leaves(by_hand),
        jax.tree.leaves(automatic(LOGITS).backward(cache, dy)),
        strict=True,
    ):
        np.testing.assert_allclose(jnp.asarray(a), b, rtol=1e-9, atol=1e-12)
