"""Hand-written against automatic gradients, leaf by leaf."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.errors import JaxnnError, lookup
from jaxnn.layers import Layer
from jaxnn.losses import Loss
from jaxnn.train.step import cast_floats, to_unit

DTYPES = {"float32": jnp.float32, "float64": jnp.float64}
LIMITS = {"float32": 1e-5, "float64": 1e-12}
"""Largest relative difference that passes, |manual - automatic| over the largest
|entry| of the leaf. 1e-5 is 84 units in the last place of that entry in float32."""

AS_GOOD = 4.0
"""Where float32 itself cannot do better (a trained network's gradient is a small
difference of large terms), by hand also passes if it is no more than so many times as
far from the float64 gradient as `jax.grad` in float32 is."""


@dataclass(frozen=True)
class LeafComparison:
    """One gradient array, computed both ways.

    Attributes:
      leaf: path in the params tree such as "1/w", or "input".
      dtype: "float32" or "float64".
      shape: of the array.
      max_abs: largest |manual - automatic|.
      max_relative: `max_abs` over the largest entry of either; 0 if both are all 0,
        infinite if one of them is not finite.
      index: where `max_abs` is.
      manual: the hand-written gradient there.
      automatic: what `jax.grad` says there.
      passed: whether `max_relative` is within `LIMITS`, or see `AS_GOOD`.
    """

    leaf: str
    dtype: str
    shape: tuple[int, ...]
    max_abs: float
    max_relative: float
    index: tuple[int, ...]
    manual: float
    automatic: float
    passed: bool


@dataclass(frozen=True)
class GradientReport:
    """What `compare_gradients` found: one entry a leaf and precision."""

    leaves: tuple[LeafComparison, ...]

    @property
    def passed(self) -> bool:
        """Whether every leaf passed."""
        return all(leaf.passed for leaf in self.leaves)

    @property
    def worst(self) -> LeafComparison:
        """The leaf furthest beyond, or nearest to, the limit of its precision."""
        return max(self.leaves, key=lambda c: c.max_relative / LIMITS[c.dtype])

    def max_relative(self, dtype: str) -> float:
        """Largest relative difference over the leaves in that precision."""
        return max(c.max_relative for c in self.leaves if c.dtype == dtype)

    def table(self) -> str:
        """The comparison as text, a line a leaf, failures marked."""
        head = f"{'leaf':<16}{'shape':<18}{'dtype':<9}{'max abs':>10}{'relative':>10}"
        lines = [head]
        for c in self.leaves:
            mark = (
                ""
                if c.passed
                else (
                    f"  FAIL at {list(c.index)}: by hand {c.manual:.6g}, "
                    f"jax.grad {c.automatic:.6g}"
                )
            )
            lines.append(
                f"{c.leaf:<16}{c.shape!s:<18}{c.dtype:<9}{c.max_abs:>10.1e}"
                f"{c.max_relative:>10.1e}{mark}"
            )
        return "\n".join(lines)

    def line(self) -> str:
        """The comparison in one line."""
        found = ", ".join(
            f"{dtype} {self.max_relative(dtype):.1e}"
            for dtype in dict.fromkeys(c.dtype for c in self.leaves)
        )
        if self.passed:
            count = len({c.leaf for c in self.leaves})
            return f"agree in all {count} arrays, largest relative difference: {found}"
        bad = self.worst
        return (
            f"DIFFER in {bad.leaf} ({bad.dtype}): by hand {bad.manual:.6g}, jax.grad "
            f"{bad.automatic:.6g} at {list(bad.index)}; relative: {found}"
        )

    def to_json(self) -> dict:
        """The report as plain JSON values."""
        return {
            "passed": self.passed,
            "worst": asdict(self.worst),
            "leaves": [asdict(c) for c in self.leaves],
        }


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
) -> GradientReport:
    """Compare the hand-written gradient of a network with `jax.grad` of its forward.

    Args:
      net: the network.
      loss: `(pred, target) -> (value, dpred)`; its own gradient is under test too.
      params: parameters; their values are carried into each precision exactly
        (float32 into float64) or rounded (float64 into float32).
      state: the network's state.
      x: inputs (B, ...), uint8 or float in [0, 1]; the gradient for them is compared
        as the leaf "input".
      y: targets.
      key: PRNG key, the same for both ways; needed if the network draws in training.
      train: compare the training-mode program (dropout on, batch statistics) or the
        evaluation-mode one.
      penalty: `params -> (value, dparams)`, included if given.
      dtypes: precisions to compare in; float64 works without any global setting.

    Returns:
      A `GradientReport`; `.passed`, `.worst`, `.table()`, `.to_json()`.

    Raises:
      JaxnnError: an unknown dtype, or dparams of another structure than params.
    """
    found, truth = [], None
    # float64 first: it is the truth that float32 is measured against
    for name in sorted(dtypes, key=lambda name: name != "float64"):
        dtype = lookup("dtype", name, DTYPES)
        # "highest": a GPU's default float32 product keeps ten bits only
        with jax.enable_x64(True), jax.default_matmul_precision("highest"):
            p, s = cast_floats(jax.tree.map(np.asarray, (params, state)), dtype)
            inputs = to_unit(jnp.asarray(np.asarray(x)), dtype)
            target = _target(y, dtype)
            manual, automatic = _both_ways(net, loss, penalty, train)
            by_hand = jax.device_get(manual(p, s, inputs, target, key))
            by_jax = jax.device_get(automatic(p, s, inputs, target, key))
        found.append(_compare_trees(by_hand, by_jax, truth, name))
        truth = by_jax if name == "float64" else truth
    return GradientReport(tuple(leaf for one in reversed(found) for leaf in one))


def _both_ways(net, loss, penalty, train):
    def forward(p, s, x, y, key):
        pred, _, cache = net.forward(p, s, x, key=key, train=train)
        value, dpred = loss(pred, y)
        return value, dpred, cache

    def manual(p, s, x, y, key):
        _, dpred, cache = forward(p, s, x, y, key)
        dx, grads = net.backward(cache, dpred)
        if penalty is not None:
            grads = jax.tree.map(jnp.add, grads, penalty(p)[1])
        return {"params": grads, "input": dx}

    def total(p, x, s, y, key):
        value = forward(p, s, x, y, key)[0]
        return value if penalty is None else value + penalty(p)[0]

    def automatic(p, s, x, y, key):
        grads, dx = jax.grad(total, (0, 1))(p, x, s, y, key)
        return {"params": grads, "input": dx}

    return jax.jit(manual), jax.jit(automatic)


def _target(y, dtype):
    y = np.asarray(y)
    if np.issubdtype(y.dtype, np.integer):
        return jnp.asarray(y.astype(np.int32))
    return jnp.asarray(y, dtype)


def _compare_trees(by_hand, by_jax, truth, dtype) -> list[LeafComparison]:
    ours, shape_ours = jax.tree_util.tree_flatten_with_path(by_hand)
    theirs, shape_theirs = jax.tree_util.tree_flatten_with_path(by_jax)
    if shape_ours != shape_theirs:
        raise JaxnnError(
            "backward returned gradients of another structure than params: got "
            f"{shape_ours}, expected {shape_theirs}"
        )
    exact = jax.tree.leaves(truth) if truth is not None else [None] * len(ours)
    found = []
    for (path, a), (_, b), t in zip(ours, theirs, exact, strict=True):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        found.append(_compare_arrays(name.removeprefix("params/"), a, b, t, dtype))
    return found


def _compare_arrays(leaf, a, b, truth, dtype) -> LeafComparison:
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape:
        raise JaxnnError(
            f"gradient of {leaf}: backward returned shape {a.shape}, expected {b.shape}"
        )
    if a.size == 0:
        return LeafComparison(leaf, dtype, a.shape, 0.0, 0.0, (), 0.0, 0.0, True)
    wide = np.float64
    gap = np.abs(a.astype(wide) - b.astype(wide))
    gap = np.where(np.isfinite(gap), gap, np.inf)
    index = np.unravel_index(int(gap.argmax()), gap.shape)
    worst = float(gap[index])
    scale = float(max(np.abs(a).max(), np.abs(b).max()))
    relative = (
        0.0 if worst == 0 else worst / scale if math.isfinite(scale) else math.inf
    )
    return LeafComparison(
        leaf,
        dtype,
        a.shape,
        worst,
        relative,
        tuple(map(int, index)),
        float(a[index]),
        float(b[index]),
        relative <= LIMITS[dtype] or _as_good(a, b, truth),
    )


def _as_good(a, b, truth) -> bool:
    """Whether a is nearly as close to the truth as b is."""
    if truth is None or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return False
    return bool(np.abs(a - truth).max() <= AS_GOOD * np.abs(b - truth).max())
