"""What the guard has to say about a bad step: where, what, which samples, and why."""

from dataclasses import dataclass, field, fields
from itertools import zip_longest
from typing import Any

import jax
import numpy as np

TOLD = {
    "sound": "; the step is sound without",
    "chance": "no row: with other random numbers the step is sound, so a layer's own "
    "noise (or that of the augmentation) made it",
    "bad": "no row: the step is bad without those that look bad too",
}
"""What the experiment of leaving rows out told, as `Finding.experiment`."""


@dataclass
class Finding:
    """The first bad step of a run, and the first bad value in it.

    Attributes:
      epoch: counted from 1.
      step: of that epoch, counted from 1.
      seed: which network, where several train side by side.
      part: "data", "augmentation", "mixup", "weight noise", "forward", "loss",
        "backward", "regularizer", "update", or "evaluation": after the epoch, in
        evaluation mode only.
      layer: place and name, "" outside the network.
      op: the operation, "" if only the second path could tell.
      line: "file.py:31" of the operation, "" if unknown.
      shape: of the bad value.
      dtype: of the bad value.
      nan: how many NaN it has.
      plus_inf: how many +infinity.
      minus_inf: how many -infinity.
      index: of its first bad element.
      samples: rows of the training data that caused it, if the step is sound without
        them (of the validation data where part is "evaluation").
      labels: of those samples.
      inputs: (smallest, largest) finite value of what the operation was given.
      lr: learning rate at that step, if the optimizer tells.
      grad_norms: of the last 20 steps before it.
      agree: whether both ways of looking name the same part and layer.
      cause: in words, with what to do.
      replay: the command that shows it again, "" if nothing was written.
      experiment: what leaving out rows told: "sound" without `samples`, "bad" without
        any, or bad by "chance": sound with other random numbers; "" if none was made.
      turn: where in scans and loops, such as "scan step 3", "" outside.
      seconds: that it took to find this, from the state before the bad step.
      case: everything that the step was given, see `jaxnn.guard.repro`.
    """

    epoch: int
    step: int
    seed: int
    part: str
    layer: str
    op: str
    line: str
    shape: tuple[int, ...]
    dtype: str
    nan: int
    plus_inf: int
    minus_inf: int
    index: tuple[int, ...]
    samples: list[int] = field(default_factory=list)
    labels: list[Any] = field(default_factory=list)
    inputs: tuple[float, float] | None = None
    lr: float | None = None
    grad_norms: list[float] = field(default_factory=list)
    agree: bool = True
    cause: str = ""
    replay: str = ""
    experiment: str = ""
    turn: str = ""
    seconds: float | None = None
    case: Any = field(default=None, repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """All of it but the arrays of `case`, as plain values."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "case"}

    def lines(self) -> list[str]:
        """What a person reads."""
        where = self.part + (f" of layer {self.layer}" if self.layer else "")
        where += f", {self.turn}" if self.turn else ""
        where += f", operation {self.op}" if self.op else ""
        names = {"NaN": self.nan, "+inf": self.plus_inf, "-inf": self.minus_inf}
        made = ", ".join(f"{count:,} {name}" for name, count in names.items() if count)
        what = f"{made or 'finite, but its square overflows'} in {self.dtype}"
        what += f"{list(self.shape)}"
        rows = [
            ("first bad step", self._when()),
            ("where", where + (f" ({self.line})" if self.line else "")),
            ("what", what + (f", first at {list(self.index)}" if made else "")),
        ]
        if self.inputs is not None:
            low, high = self.inputs
            rows.append(("it was given", f"values from {low:.4g} to {high:.4g}"))
        if self.samples or self.experiment:
            labels = [f" (label {label})" for label in self.labels]
            pairs = list(zip_longest(self.samples, labels, fillvalue=""))
            shown = ", ".join(f"{row}{label}" for row, label in pairs[:8])
            shown += f" and {len(pairs) - 8} more" if len(pairs) > 8 else ""
            rows.append(("samples", shown + TOLD.get(self.experiment, "")))
        if self.lr is not None:
            rows.append(("learning rate", f"{self.lr:.4g}"))
        for start in range(0, len(self.grad_norms), 10):
            ten = ", ".join(f"{n:.3g}" for n in self.grad_norms[start : start + 10])
            rows.append(("" if start else "gradient norms", ten))
        rows.append(("likely cause", self.cause))
        if not self.agree:
            rows.append(("note", "the two ways of looking name different layers"))
        if self.replay:
            rows.append(("replay", self.replay))
        return [f"{name:<16}{text}" for name, text in rows]

    def _when(self):
        if not self.epoch:
            return "a single call"
        at = "in its evaluation" if self.part == "evaluation" else f"step {self.step}"
        return f"epoch {self.epoch}, {at}, seed {self.seed}"


def counts(value: np.ndarray) -> dict[str, Any]:
    """Shape, type and numbers of bad elements, as `Finding` has them."""
    wide = np.asarray(value, np.float64)
    bad = np.argwhere(~np.isfinite(wide))
    return {
        "shape": tuple(value.shape),
        "dtype": str(value.dtype),
        "nan": int(np.isnan(wide).sum()),
        "plus_inf": int(np.isposinf(wide).sum()),
        "minus_inf": int(np.isneginf(wide).sum()),
        "index": tuple(map(int, bad[0])) if len(bad) else (),
    }


def value_range(values: Any) -> tuple[float, float] | None:
    """Smallest and largest finite value among floating arrays."""
    low, high = np.inf, -np.inf
    for value in values:
        if not np.issubdtype(getattr(value, "dtype", np.dtype(object)), np.floating):
            continue
        wide = np.asarray(value, np.float64)
        finite = wide[np.isfinite(wide)]
        if finite.size:
            low, high = min(low, finite.min()), max(high, finite.max())
    return (float(low), float(high)) if low <= high else None


def learning_rate(optimizer: Any, opt: Any) -> float | None:
    """The rate that an optax optimizer used in a state; None if it cannot be found out.

    A rate kept in the state (`optax.inject_hyperparams`) is read there. Else it is
    looked up among what the optimizer's functions enclose: a number, or a schedule and
    the count in the state. `jaxnn.train.policy.Slowed` multiplies it.
    """
    counted, scale = [], 1.0
    for path, leaf in jax.tree_util.tree_leaves_with_path(opt):
        name = jax.tree_util.keystr(path)
        if "learning_rate" in name:
            return float(np.asarray(leaf))
        if name.endswith(".count"):
            counted.append(leaf)
        if name == ".scale":
            scale = float(np.asarray(leaf))
    try:
        for name, value in _enclosed(getattr(optimizer, "update", None), set()):
            if name == "step_size" and np.ndim(value) == 0:
                return abs(float(value)) * scale
            if name == "step_size_fn" and counted:
                # jit: one program to compile, not one for each operation
                return abs(float(jax.jit(value)(counted[-1]))) * scale
    except (TypeError, ValueError):
        return None
    return None


def _enclosed(function, seen):
    """Names and values that a function and the functions it encloses stand on."""
    if id(function) in seen:
        return
    seen.add(id(function))
    if isinstance(function, tuple | list):
        for one in function:
            yield from _enclosed(one, seen)
    code = getattr(function, "__code__", None)
    cells = getattr(function, "__closure__", None)
    if code is None or cells is None:
        return
    for name, cell in zip(code.co_freevars, cells, strict=True):
        try:
            value = cell.cell_contents
        except ValueError:  # not filled yet
            continue
        yield name, value
        yield from _enclosed(value, seen)
