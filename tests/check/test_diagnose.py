"""Of many mistakes nearly all are found, most are explained, and none wrongly."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn.check.adapters import rule_layer
from jaxnn.check.audit import audit
from jaxnn.check.diagnose import Evidence, diagnose
from jaxnn.check.mutants import describe
from jaxnn.check.points import MORE_POINTS
from jaxnn.check.recorder import LayerInputs, LayerRecorder
from jaxnn.layers import relu
from jaxnn.rules import RULES
from tests.check.seeded import (
    FORMULAS,
    FRESH_FORMULAS,
    FRESH_MISTAKES,
    MISTAKES,
    rule,
    values,
)


def judged(rules):
    """Title -> its findings; all rules are recorded at work by one program."""
    layers = {one.name: rule_layer(one, list(args)) for one, args in rules}
    xs = {one.name: args for one, args in rules}

    def program(_, recorded, params, xs, dys):
        for title, layer in recorded.items():
            cache = layer.forward(params, (), xs[title], train=True)[2]
            layer.backward(cache, dys[title])

    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        draw, dys = np.random.default_rng(7), {}
        for title, layer in layers.items():
            forward = partial(layer.forward, (), (), train=True)
            dys[title] = draw.standard_normal(
                jax.eval_shape(forward, xs[title])[0].shape
            )
        records = LayerRecorder(program, relu, **layers)((), xs, dys)
        found = audit(records, points=MORE_POINTS)
    return {title: [f for f in found.findings if f.layer == title] for title in layers}


def explained(formulas, mistakes):
    """(found, rightly explained, not explained, wrongly explained)."""
    findings = judged(
        [(rule(m.title, formulas[m.formula], m.argument, m.wrong),
          values(formulas[m.formula])) for m in mistakes]
    )  # fmt: skip
    found, right, none, wrong = [], [], [], []
    for m in mistakes:
        causes = {f.argument: f.cause for f in findings[m.title]}
        if set(causes) == {m.argument}:
            found.append(m.title)
        said = causes.get(m.argument, "")
        if m.words and re.search(m.words, said):
            right.append(m.title)
        elif "no simple relation" in said or "guess: right but for" in said:
            none.append(m.title)
        else:
            wrong.append((m.title, said))
    return found, right, none, wrong


@pytest.mark.parametrize("formulas", [FORMULAS, FRESH_FORMULAS])
def test_right_formulas_are_not_blamed(formulas):
    found = judged([(rule(n, f), values(f)) for n, f in formulas.items()])
    assert {n: [f.line() for f in fs] for n, fs in found.items() if fs} == {}


def test_some_mistakes_are_found_and_explained():
    titles = {
        "sign of dw", "db a mean", "layer norm: mean path", "tanh: from x",
        "clip: passes above", "label off by one", "attention: q and k",
        "log-softmax: sum of dy left out",
    }  # fmt: skip
    some = [m for m in MISTAKES if m.title in titles]
    found, right, _, wrong = explained(FORMULAS, some)
    assert wrong == []
    assert set(found) == set(right) == titles


@pytest.mark.slow
@pytest.mark.parametrize(
    ("formulas", "mistakes", "least"),
    [(FORMULAS, MISTAKES, 105), (FRESH_FORMULAS, FRESH_MISTAKES, 30)],
)
def test_mistakes_are_found_and_explained(formulas, mistakes, least):
    found, right, none, wrong = explained(formulas, mistakes)
    assert len(found) == len(mistakes)
    assert len(right) >= least, none
    assert wrong == []


DRAW = np.random.default_rng(0)
X, W, DZ = (DRAW.standard_normal(shape) for shape in ((4, 5), (5, 5), (4, 5)))
TRANSPOSES = {  # what it is, what it should be, the cause
    "missing": (DZ @ W, DZ @ W.T, "a transpose is missing: it is a product with w, "),
    "too many": (DZ @ W.T, DZ @ W, "a transpose too many: it is a product with w^T, "),
    "from the left": (W @ DZ.T, W.T @ DZ.T, "a product with w"),
    "none": (DZ @ W, DZ @ W @ W, "no simple relation"),
}


@pytest.mark.parametrize("name", TRANSPOSES)
def test_a_missing_transpose_is_told_behind_any_derivative(name):
    got, want, words = TRANSPOSES[name]
    given = LayerInputs({"w": jnp.asarray(W)}, (), X, None, np.tanh(DZ))
    assert words in diagnose([Evidence("x", {"x": got}, {"x": want}, given, 1e-12)])


@pytest.mark.parametrize(
    "name", ["abs", "add", "div", "exp", "log", "mul", "sigmoid", "sqrt", "sub", "tanh"]
)
def test_a_step_of_a_rule_is_told_with_the_rules_own_line(name):
    args = [jnp.ones(3)] * (1 + (name in ("add", "div", "mul", "sub")))
    steps = jax.make_jaxpr(lambda *args: RULES[name].fwd(*args)[0])(*args).eqns
    assert any(f"{name} = " in describe(step) for step in steps)
