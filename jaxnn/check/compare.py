"""Hand-written against automatic gradients, leaf by leaf and layer by layer."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from jaxnn.check.audit import audit as audit_layers
from jaxnn.check.excuse import AS_GOOD
from jaxnn.check.job import Job
from jaxnn.check.measure import DTYPES, LeafComparison, compare_arrays, no_numbers
from jaxnn.check.report import Audit, GradientReport
from jaxnn.check.watch import Seen, named_leaves
from jaxnn.errors import lookup
from jaxnn.layers import Layer
from jaxnn.losses import Loss


def compare_gradients(
    net: Layer,
    loss: Loss,
    params: Any,
    state: Any,
    x: Any,
    y: Any,
    *,
    key: Any = None,
    train: bool = True,
    penalty: Callable | None = None,
    dtypes: Sequence[str] = ("float32", "float64"),
    audit: bool = True,
) -> GradientReport:
    """Compare the hand-written gradient of a network with `jax.grad` of its forward.

    First the whole gradients, leaf by leaf. Then, as a wrong layer spoils the gradients
    of all before it, each layer on its own with the exact cotangent from above, so that
    an error is pinned to the layer and argument it is made in; also at other inputs and
    parameters, since much is hidden where gamma is 1 and beta 0.

    Args:
      net: the network.
      loss: `(pred, target) -> (value, dpred)`; its own gradient is under test too.
      params: parameters; their values are carried into each precision exactly
        (float32 into float64) or rounded (float64 into float32).
      state: the network's state.
      x: inputs (B, ...), uint8 or float in [0, 1]; the gradient for them is compared
        as the leaf "input". Other integers are left as they are, for an embedding, and
        have no gradient.
      y: targets.
      key: PRNG key, the same for both ways; needed if the network draws in training.
      train: compare the training-mode program (dropout on, batch statistics) or the
        evaluation-mode one.
      penalty: `params -> (value, dparams)`, included if given.
      dtypes: of float64, float32 and bfloat16; float64 works without any global
        setting.
      audit: whether to ask each layer though the whole agrees; if it does not, they are
        asked anyway.

    Returns:
      A `GradientReport`; `.passed`, `.findings`, `.worst`, `.table()`, `.to_json()`.
      Where the loss or a gradient is not finite nothing agrees: it is not passed, and
      `.not_finite` says what it is.

    Raises:
      JaxnnError: an unknown dtype.
    """
    job = Job(net, loss, params, state, x, y, key, train, penalty)
    return compare_job(job, dtypes, audit)[0]


def compare_job(
    job: Job, dtypes: Sequence[str], audit: bool = True
) -> tuple[GradientReport, list[Seen]]:
    """`compare_gradients` of a job, and what was seen of its layers in float64."""
    found, truth, error, lost = {}, None, None, {}
    # float64 first: it is the truth that the others are measured against
    for name in sorted(dtypes, key=lambda name: name != "float64"):
        lookup("dtype", name, DTYPES)
        by_hand, by_jax, value, error = job.both_ways(name)
        if not np.isfinite(value):
            lost[f"the loss is {value} ({name})"] = None
        found[name] = _compare_trees(by_hand, by_jax, truth, name)
        truth = by_jax if name == "float64" else truth
    leaves = [leaf for name in dtypes for leaf in found[name]]
    if not audit and all(leaf.passed for leaf in leaves):
        return GradientReport(tuple(leaves), lost=tuple(lost)), []
    seen, elsewhere = job.watch()
    layers = audit_layers(seen, dtypes, elsewhere)
    if not layers.findings:
        leaves = [_forgiven(leaf, layers) for leaf in leaves]
    return GradientReport(
        tuple(leaves),
        layers.findings,
        layers.checks,
        layers.kinks,
        layers.excused,
        error,
        tuple(lost),
    ), seen


def _compare_trees(by_hand, by_jax, truth, dtype) -> list[LeafComparison]:
    ours, exact = dict(named_leaves(by_hand)), dict(named_leaves(truth))
    found = []
    for path, want in named_leaves(by_jax):
        got, name = ours.get(path), path.removeprefix("params/")
        if got is None or got.shape != want.shape:
            note = "missing" if got is None else f"{got.shape}, not {want.shape}"
            found.append(no_numbers(name, dtype, note))
            continue
        c = compare_arrays(name, got, want, dtype)
        if not c.passed and _as_good(got, want, exact.get(path)):
            note = "as close to the float64 gradient as jax.grad in this precision"
            c = replace(c, passed=True, note=note)
        found.append(c)
    return found


def _as_good(a, b, truth) -> bool:
    """Whether a is nearly as close to the truth as b is."""
    a, b = (np.asarray(c).astype(np.float64) for c in (a, b))
    if truth is None or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return False
    return bool(np.abs(a - truth).max() <= AS_GOOD * np.abs(b - truth).max())


def _forgiven(leaf: LeafComparison, seen: Audit) -> LeafComparison:
    """A leaf that differs though every layer, fed what is exact, is right.

    Then what is left is rounding, grown on its way down, or a kink. What is not finite
    is neither.
    """
    if leaf.passed or leaf.not_finite or not np.isfinite(leaf.manual):
        return leaf
    what = "a kink" if seen.excused else "rounding that grew on its way"
    note = f"{what}: every layer agrees on its own"
    return replace(leaf, passed=True, note=note)
