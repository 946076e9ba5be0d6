"""Of many mistakes nearly all are found, most are explained, and none wrongly."""

import re
from functools import partial

import jax
import numpy as np

from jaxnn.check.alone import rule_layer
from jaxnn.check.audit import MORE_POINTS, audit
from jaxnn.check.watch import Given, Place, Seen, arguments, by_hand, exact
from tests.check.seeded import FORMULAS, MISTAKES, rule, values


def seen_at_work(rules):
    """Each rule as if it had been watched, all by one program: (rule, arguments)."""
    places, givens = [], []
    draw = np.random.default_rng(7)
    for i, (one, args) in enumerate(rules):
        layer = rule_layer(one, list(args))
        places.append(Place((i,), ("", one.name), layer, True))
        y = jax.eval_shape(partial(layer.forward, (), (), train=True), args)[0]
        givens.append(Given((), (), args, None, draw.standard_normal(y.shape)))

    @jax.jit
    def program(givens):
        both = zip(places, givens, strict=True)
        return [
            (arguments(by_hand(p.layer, g, True)), arguments(exact(p.layer, g, True)))
            for p, g in both
        ]

    found = jax.device_get(program(givens))
    each = zip(places, givens, found, strict=True)
    return [Seen(p, g, got, want, None) for p, g, (got, want) in each]


def judged(rules):
    """Title -> its findings."""
    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        found = audit(seen_at_work(rules), points=MORE_POINTS)
    by_title = {one.name: [] for one, _ in rules}
    for finding in found.findings:
        by_title[finding.layer.partition(" ")[2]].append(finding)
    return by_title


def test_right_formulas_are_not_blamed():
    rules = [(rule(n, f), values(f)) for n, f in FORMULAS.items()]
    found = judged(rules)
    assert {n: [f.line() for f in fs] for n, fs in found.items() if fs} == {}
    assert len(found) >= 20


def test_mistakes_are_found_and_explained():
    rules = [
        (rule(m.title, FORMULAS[m.formula], m.argument, m.wrong),
         values(FORMULAS[m.formula]))
        for m in MISTAKES
    ]  # fmt: skip
    found = judged(rules)
    counts = {"found": 0, "right": 0, "none": [], "wrong": []}
    for m in MISTAKES:
        causes = {f.argument: f.cause for f in found[m.title]}
        counts["found"] += set(causes) == {m.argument}
        said = causes.get(m.argument, "")
        if m.words and re.search(m.words, said):
            counts["right"] += 1
        elif "no simple relation" in said or re.match("guess: right but for", said):
            counts["none"].append((m.title, said))
        else:
            counts["wrong"].append((m.title, said))
    print(len(MISTAKES), counts["found"], counts["right"])
    print("NONE", *counts["none"], sep="\n  ")
    print("WRONG", *counts["wrong"], sep="\n  ")
    assert counts["found"] == len(MISTAKES)
    assert counts["right"] >= 0.75 * len(MISTAKES)
    assert counts["wrong"] == []
