"""Backward passes in plain NumPy, against finite differences entry by entry."""

from dataclasses import replace
from typing import Any

import numpy as np

from jaxnn.check.alone import argument_names
from jaxnn.check.findings import AS_CALLED, Audit, Check, Finding
from jaxnn.check.guess import Clue, guess
from jaxnn.check.measure import compare_arrays, no_numbers
from jaxnn.check.watch import Given
from jaxnn.errors import JaxnnError
from jaxnn.rules import Rule

LIMIT = 1e-6  # of the largest entry: what differences can tell in float64
STEP = 1e-5
LARGE = 100_000  # entries from which differences take too long


def audit_numpy(rule: Rule, *args: Any, seed: int = 77) -> Audit:
    """Judge a rule that JAX cannot trace, by central differences in float64.

    Entries at a kink, where the two one-sided differences disagree, are left out and
    counted.

    Raises:
      JaxnnError: too many entries.
    """
    names = argument_names(rule.fwd, len(args))
    inputs = {n: np.array(a) for n, a in zip(names, args, strict=True)}
    inputs = {
        n: a.astype(np.float64) if np.issubdtype(a.dtype, np.floating) else a
        for n, a in inputs.items()
    }
    real = [n for n, a in inputs.items() if np.issubdtype(a.dtype, np.floating)]
    if sum(inputs[n].size for n in real) > LARGE:
        raise JaxnnError(
            f"{rule.name}: it calls NumPy, so it is compared with differences, two "
            f"runs an entry; expected at most {LARGE:,} entries: give smaller inputs"
        )
    y, cache = rule.fwd(*(a.copy() for a in inputs.values()))
    # a rule that calls NumPy is given NumPy's arrays
    dy: Any = np.random.default_rng(seed).standard_normal(np.shape(y))
    cotangents = rule.bwd(cache, dy)
    if not isinstance(cotangents, tuple | list):
        cotangents = (cotangents,)
    got = {
        n: np.asarray(d)
        for n, d in zip(names, cotangents, strict=False)
        if d is not None
    }
    want, kinks, checks = {}, 0, []
    for name in real:
        want[name], kinked = _differences(rule, inputs, name, dy)
        kinks += int(kinked.sum())
        if name in got and got[name].shape == want[name].shape:
            want[name] = np.where(kinked, got[name], want[name])
        checks.append(_check(rule.name, name, got.get(name), want[name]))
    given = Given({}, (), inputs, None, dy)
    findings = tuple(
        Finding(c.layer, c.argument, c.at, c.comparison, _cause(c, got, want, given),
                ("float64",))
        for c in checks
        if not c.comparison.passed
    )  # fmt: skip
    return Audit(tuple(checks), findings, {rule.name: kinks} if kinks else {}, ())


def _differences(rule, inputs, name, dy):
    """Gradient of sum(dy y) for one argument, and where it has a kink."""

    def value():
        y = rule.fwd(*(a.copy() for a in inputs.values()))[0]
        return float((dy * y).sum())

    a, start = inputs[name], value()
    found, kinked = np.empty(a.shape), np.empty(a.shape, bool)
    for index in np.ndindex(a.shape):
        old = a[index]
        h = STEP * max(1.0, abs(old))
        a[index] = old + h
        ahead = (value() - start) / h
        a[index] = old - h
        behind = (start - value()) / h
        a[index] = old
        found[index] = (ahead + behind) / 2
        kinked[index] = abs(ahead - behind) > 1e-3 * max(abs(ahead), abs(behind), 1e-6)
    return found, kinked


def _check(layer, name, got, want) -> Check:
    if got is None:
        c = no_numbers(name, "float64", "it returns no gradient for it")
    elif got.shape != want.shape:
        note = f"d{name} has shape {got.shape}, not {want.shape}"
        c = no_numbers(name, "float64", note)
    else:
        c = compare_arrays(name, got, want, "float64")
        wrong = int((np.abs(got - want) > LIMIT * np.abs(want).max(initial=1e-9)).sum())
        bad = wrong > 0 or not np.isfinite(got).all()
        c = replace(c, wrong=wrong, passed=not bad)
    return Check(layer, name, AS_CALLED, c)


def _cause(check, got, want, given) -> str:
    if check.argument not in got:
        return "return one gradient for each argument"
    clue = Clue(check.argument, got, want, given, 1e-5)
    return guess(clue)
